"""The commands `melzarr append` and `melzarr merge`, which make a store from existing stores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melzarr.pipeline.cli.options import (
    AS_JSON,
    CLUSTER,
    DASHBOARD,
    FORCE,
    MAX_FAILED,
    MEMORY,
    SOURCE,
    STORE,
    WALLTIME,
    WORKERS_ANYWHERE,
    Address,
    Guarded,
    listing_options,
)
from melzarr.pipeline.cli.output import as_text, next_step, show
from melzarr.pipeline.cli.progress import QUIET, SHOWN
from melzarr.pipeline.cli.progress import workers as start_workers
from melzarr.pipeline.storage.directory import Directory

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Summary


@click.command(cls=Guarded)
@STORE
@SOURCE
@CLUSTER
@WORKERS_ANYWHERE
@DASHBOARD
@MEMORY
@WALLTIME
@MAX_FAILED
@listing_options
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
    datasets: Path,
    as_json: bool,
    **listing: Any,
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
    from melzarr.pipeline.cli.inputs import read_source
    from melzarr.pipeline.derive.append import append as append_tracks

    resources = {"memory": memory, "walltime": walltime, "dashboard": dashboard}
    added, summary = append_tracks(
        store,
        source,
        partial(read_source, source, datasets, **listing),
        partial(start_workers, cluster, workers, resources, as_json),
        max_failed=max_failed,
        feedback=QUIET if as_json else SHOWN,
    )
    facts: dict[str, Any] = {"new": len(added.catalog.tracks), "there": added.n_there}
    if summary:
        _say(summary, as_json, **facts, versions=added.versions)
    elif as_json:
        click.echo(as_text({"store": str(added.workspace.target), **facts}))
    else:
        show([f"nothing to add: {added.workspace.target} already has all tracks of {source}"])


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
    from melzarr.pipeline.derive.merge import merge as merge_stores
    from melzarr.pipeline.zarr_store.reader import open_store

    if len(stores) < 2:
        raise click.UsageError("give two or more stores, and then the path of the new store")
    summary, versions = merge_stores(stores, out, replace=force, feedback=QUIET if as_json else SHOWN)
    if summary:
        _say(summary, as_json, versions=versions)
        return
    click.echo(f"{out} is finished and up to date: the same tracks of the same files", err=as_json)
    n_tracks = open_store(out).n_tracks
    click.echo(as_text({"store": str(out), "kept": n_tracks, "packed": 0})) if as_json else next_step("verify", out)


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
