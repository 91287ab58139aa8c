"""The command `melzarr job-array`: the stages of a build, for job arrays and other schedulers without Dask."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from melzarr.pipeline.cli.inputs import prepare
from melzarr.pipeline.cli.options import AS_JSON, FORCE, MAX_FAILED, SOURCE, STORE, WORKERS, InOrder, source_options
from melzarr.pipeline.cli.output import as_text, next_step, show
from melzarr.pipeline.cli.progress import SHOWN, beside_bar, building, show_made
from melzarr.pipeline.human_units import count
from melzarr.pipeline.storage.directory import Directory

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Summary


@click.group("job-array", cls=InOrder)
def job_array() -> None:
    """Build STORE in independent parts, for job arrays and other schedulers without Dask.

    \b
      melzarr job-array init SOURCE STORE   write the plan of what to compute
      melzarr job-array part I/N STORE      compute one of N parts, on any machine, at any time
      melzarr job-array finish STORE        publish the store, if all parts are there
    """


class PartType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Type of a parameter that is one part of many, such as 3/16."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return the number of the part, from 1, and the number of parts."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(value))
        number, n_parts = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= n_parts:
            self.fail(f"{value!r} is not a part; give one such as 3/16, from 1/16 to 16/16", param, ctx)
        return number, n_parts


@job_array.command("init")
@SOURCE
@STORE
@FORCE
@source_options
def init_stage(source: str, store: Directory, force: bool, **options: Any) -> None:
    """Write the plan of what to compute from SOURCE into STORE.

    The parts read the plan from STORE.building, and do not list SOURCE again.

    \b
      melzarr job-array init ~/Music/genres music.zarr
    """
    from melzarr.pipeline.builder.job_array import write_plan
    from melzarr.pipeline.builder.up_to_date import is_up_to_date
    from melzarr.pipeline.publishing.open_workspace import open_workspace
    from melzarr.pipeline.sources.catalog import missing_splits

    catalog, plan = prepare(source, options)
    if open_workspace(store).occupied() and is_up_to_date(store, plan, catalog, replace=force, feedback=SHOWN):
        click.echo(f"{store} is finished and up to date: same files, spec and versions")
        return
    show([*catalog.remarks, *missing_splits(catalog)])
    write_plan(plan, catalog, store, replace=force)
    click.echo(
        f"{count(len(plan.tracks), 'track')}, {count(plan.n_shards, 'shard')} of {plan.tracks_per_shard}; at most "
        f"{count(plan.n_shards, 'part')}"
    )
    next_step("job-array", "part", f"1/{min(16, plan.n_shards)}", store)


@job_array.command("part")
@click.argument("part", type=PartType())
@STORE
@WORKERS
@MAX_FAILED
@AS_JSON
def part_stage(
    part: tuple[int, int], store: Directory, workers: int | None, max_failed: float | None, as_json: bool
) -> None:
    """Compute PART of STORE, such as 3/16: the third of sixteen.

    Parts are independent: they run on any machine, at any time, in any order, and again after they were killed. They
    only need the same version of melzarr, and access to the audio and STORE by the same paths.

    \b
      melzarr job-array part 3/16 music.zarr
      melzarr job-array part $SLURM_ARRAY_TASK_ID/16 music.zarr
    """
    from melzarr.pipeline.builder.job_array import make_part, read_plan
    from melzarr.pipeline.cli.messages import part_lines
    from melzarr.pipeline.clusters.task_runner import connect

    written, (number, n_parts) = read_plan(store), part
    shards = list(written.part(number, n_parts))
    n_tracks = sum(len(shard.tracks) for shard in shards)
    click.echo(f"part {number} of {n_parts}: {count(n_tracks, 'track')}, {count(len(shards), 'shard')}", err=as_json)
    if not shards:
        return
    with (
        connect("local", workers, written.plan.worker_bytes) as runner,
        building(n_tracks, f"part {number}/{n_parts}") as progress,
    ):
        summary = make_part(written, store, number, n_parts, runner, max_failed=max_failed, progress=progress)
    click.echo(as_text(_facts(summary))) if as_json else show(part_lines(summary, n_tracks))
    if not as_json:
        next_step("job-array", "finish", store)


@job_array.command("finish")
@STORE
@MAX_FAILED
@AS_JSON
def finish_stage(store: Directory, max_failed: float | None, as_json: bool) -> None:
    """Publish STORE, if all parts are there; otherwise name what is missing.

    \b
      melzarr job-array finish music.zarr
    """
    from melzarr.pipeline.builder.job_array import finish, read_plan
    from melzarr.pipeline.publishing.open_workspace import open_workspace

    workspace = open_workspace(store)
    workspace.cleanup_after_crash()
    if workspace.occupied() and not workspace.root.exists():
        click.echo(f"{store} is finished", err=as_json)
        return
    written = read_plan(store)
    with building(len(written.plan.tracks), "finish") as progress:
        summary = finish(written, store, max_failed=max_failed, progress=progress)
    if as_json:
        click.echo(as_text(_facts(summary)))
        if summary.remark:
            beside_bar(summary.remark)
        return
    show_made(summary)
    next_step("verify", store)


def _facts(summary: Summary) -> dict[str, Any]:
    """Return a summary as plain values."""
    return {
        "store": str(summary.target),
        "tracks": dict(summary.statuses),
        "reused": summary.n_reused,
        "outdated": sorted(set(summary.outdated)),
        "troubled": [dict(zip(("source", "status", "error"), row, strict=True)) for row in summary.troubled],
        "seconds": summary.seconds,
    }
