"""The commands `melzarr append` and `melzarr merge`, which make a store from existing stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melzarr.pipeline.cli.options import (
    AS_JSON,
    CLUSTER,
    DASHBOARD,
    DATASETS,
    FORCE,
    GROUP,
    MAX_FAILED,
    MEMORY,
    SOURCE,
    STORE,
    WALLTIME,
    WORKERS_ANYWHERE,
    Address,
    Guarded,
)
from melzarr.pipeline.cli.output import as_text, count, next_step, show
from melzarr.pipeline.cli.progress import beside_bar, build_progress, progress_bar
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.storage.directory import Directory

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Summary
    from melzarr.pipeline.derive.append import Addition
    from melzarr.pipeline.publishing.workspace import Workspace
    from melzarr.pipeline.zarr_store.reader import Store


@click.command(cls=Guarded)
@STORE
@SOURCE
@CLUSTER
@WORKERS_ANYWHERE
@DASHBOARD
@MEMORY
@WALLTIME
@MAX_FAILED
@GROUP
@DATASETS
@AS_JSON
def append(
    store: Directory,
    source: str,
    cluster: str,
    workers: int | None,
    dashboard: bool,
    memory: int | None,
    walltime: float | None,
    max_failed: float | None,
    group_column: str,
    datasets: Path,
    as_json: bool,
) -> None:
    """Add the tracks of SOURCE that STORE lacks to STORE.

    New tracks are computed with the spec of STORE and come after its tracks, which keep their splits. New tracks are
    split by the column split of SOURCE's manifest, if it has one, and otherwise by the rule of STORE. A group is never
    separated. Tracks that STORE already has from the same files are skipped: SOURCE can be a folder that has grown.

    The old STORE stays until the new one is complete. An append that was stopped continues if it is run again.

    \b
      melzarr append music.zarr ~/Music/genres
      melzarr append music.zarr new.csv --group album --cluster slurm --workers 20
    """
    from melzarr.pipeline.derive.append import growing

    with growing(store) as workspace:
        resources = {"memory": memory, "walltime": walltime, "dashboard": dashboard}
        _append(workspace, source, cluster, workers, resources, max_failed, group_column, datasets, as_json)


def _append(
    workspace: Workspace, source: str, cluster: str, workers: int | None, resources: dict[str, Any],
    max_failed: float | None, group_column: str, datasets: Path, as_json: bool,
) -> None:  # fmt: skip
    """Add to a store that is locked."""
    from melzarr.pipeline.builder.up_to_date import count_tracks
    from melzarr.pipeline.cli.inputs import read_source
    from melzarr.pipeline.derive.append import addition, clean, is_built, shares_of
    from melzarr.pipeline.derive.append import append as append_tracks
    from melzarr.pipeline.derive.merge import differing
    from melzarr.pipeline.zarr_store.reader import open_store

    store, opened = workspace.target, open_store(workspace.target)
    catalog = read_source(source, datasets, group_column=group_column, named_split=None, shares=shares_of(opened))
    with progress_bar(len(catalog.tracks), "compare") as bar:
        added = addition(workspace, opened, catalog, bar.update)
    kept = count_tracks(f"kept unchanged, although {source} gives another label, path, group or split", added.differing)
    n_new = len(added.catalog.tracks)
    if not n_new:
        clean(added)
        facts = {"store": str(store), "new": 0, "there": added.n_there}
        click.echo(as_text(facts)) if as_json else show(
            [*kept, f"nothing to add: {store} already has all tracks of {source}"]
        )
        return
    different = differing([opened.attributes["versions"], added.plan.versions])
    if not as_json:
        show([*kept, *(f"computed by different versions: {line}" for line in different)])
        click.echo(f"{count(n_new, 'new track')}, {added.n_there} already there")
    if not is_built(added):
        _build_new(added, cluster, workers, resources, max_failed, as_json)
    with build_progress(opened.n_tracks + n_new, "append") as progress:
        summary = append_tracks(added, progress)
    _say(summary, as_json, new=n_new, there=added.n_there, versions=different)


def _build_new(
    added: Addition, cluster: str, workers: int | None, resources: dict[str, Any], max_failed: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Compute the new tracks."""
    from melzarr.pipeline.cli.messages import summary_lines
    from melzarr.pipeline.clusters.task_runner import connect
    from melzarr.pipeline.derive.append import build_new
    from melzarr.pipeline.zarr_store.reader import open_store

    with connect(cluster, workers, added.plan.worker_bytes, say=beside_bar, **resources) as runner:
        at = runner.dashboard and f"; dashboard at {runner.dashboard}"
        click.echo(f"{count(runner.n_workers, 'worker')}{at}", err=as_json)
        with build_progress(len(added.catalog.tracks)) as progress:
            summary = build_new(added, runner, max_failed=max_failed, progress=progress)
    if not as_json:
        show(summary_lines(summary, open_store(added.sibling).n_bytes))


@click.command(cls=Guarded)
@click.argument("stores", nargs=-1, required=True, type=Address(), metavar="STORE STORE…")
@click.argument("out", type=Address())
@FORCE
@AS_JSON
def merge(stores: tuple[Directory, ...], out: Directory, force: bool, as_json: bool) -> None:
    """Join STOREs of one spec into OUT, with their tracks in this order; nothing is computed again.

    A shard is copied unchanged if the tracks before it fill whole shards; other shards are packed again. Each track
    keeps its split, and the statistics are those of all train tracks. A merge that was stopped continues if it is run
    again.

    \b
      melzarr merge jazz.zarr rock.zarr music.zarr
      melzarr merge s3://music/a.zarr s3://music/b.zarr s3://music/all.zarr
    """
    from melzarr.pipeline.derive.merge import differing
    from melzarr.pipeline.derive.merge import merge as merge_stores
    from melzarr.pipeline.publishing.open_workspace import open_workspace
    from melzarr.pipeline.publishing.target_guard import refuse_place
    from melzarr.pipeline.zarr_store.reader import open_store

    if len(stores) < 2:
        raise click.UsageError("give two or more stores, and then the path of the new store")
    refuse_place(open_workspace(out), stores, replace=True)
    opened = [open_store(store) for store in stores]
    if _is_there(out, opened, force):
        click.echo(f"{out} is finished and up to date: the same tracks of the same files", err=as_json)
        n_tracks = open_store(out).n_tracks
        click.echo(as_text({"store": str(out), "kept": n_tracks, "packed": 0})) if as_json else next_step("verify", out)
        return
    versions = differing([store.attributes["versions"] for store in opened])
    if not as_json:
        show(f"computed by different versions: {line}" for line in versions)
    with build_progress(sum(store.n_tracks for store in opened), "merge") as progress:
        summary = merge_stores(opened, out, replace=force, progress=progress)
    _say(summary, as_json, versions=versions)


def _is_there(out: Directory, opened: list[Store], force: bool) -> bool:
    """Return whether OUT is already this merge; raise BuildError if it is something else, unless forced."""
    from melzarr.pipeline.derive.merge import is_merged
    from melzarr.pipeline.publishing.open_workspace import open_workspace
    from melzarr.pipeline.zarr_store.reader import open_store

    workspace = open_workspace(out)
    if not workspace.occupied():
        return False
    if force:
        return False
    finished = open_store(out)
    if not is_merged(finished, opened):
        raise BuildError(
            f"{out} is finished, but is not the merge of these stores; choose another path, or replace it with "
            f"--force: it stays until the new one is complete"
        )
    workspace.cleanup_after_crash(finished.receipts())
    return True


def _say(summary: Summary, as_json: bool, *next_options: object, **facts: Any) -> None:
    """Print what was made, and the next command."""
    from melzarr.pipeline.cli.messages import derived_lines
    from melzarr.pipeline.zarr_store.reader import open_store

    if as_json:
        found = {
            "store": str(summary.target),
            "tracks": dict(summary.statuses),
            "kept": summary.n_reused,
            "packed": summary.shape[0] - summary.n_reused,
            "seconds": summary.seconds["wall"],
        }
        click.echo(as_text({**found, **facts}))
        return
    show(derived_lines(summary, open_store(summary.target).n_bytes))
    next_step("verify", summary.target, *next_options)
