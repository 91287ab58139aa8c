"""The command `melzarr features`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from melzarr.pipeline.cli.inputs import prepare
from melzarr.pipeline.cli.options import (
    CLUSTER,
    DASHBOARD,
    FORCE,
    MAX_FAILED,
    MEMORY,
    SOURCE,
    STORE,
    WALLTIME,
    WORKERS_ANYWHERE,
    Guarded,
    source_options,
)
from melzarr.pipeline.cli.output import count, next_step, show
from melzarr.pipeline.cli.progress import beside_bar, build_progress, progress_bar
from melzarr.pipeline.errors import BuildError, StorageError, StoreError
from melzarr.pipeline.storage.directory import Directory

if TYPE_CHECKING:
    from melzarr.pipeline.builder.plan import Plan
    from melzarr.pipeline.builder.run_build import Summary
    from melzarr.pipeline.shard_receipt import Receipt
    from melzarr.pipeline.sources.catalog import Catalog


@click.command(cls=Guarded)
@SOURCE
@STORE
@CLUSTER
@WORKERS_ANYWHERE
@DASHBOARD
@MEMORY
@WALLTIME
@FORCE
@MAX_FAILED
@source_options
def features(
    source: str,
    store: Directory,
    cluster: str,
    workers: int | None,
    dashboard: bool,
    memory: int | None,
    walltime: float | None,
    force: bool,
    max_failed: float | None,
    **options: Any,
) -> None:
    """Compute the mel windows of SOURCE into STORE.

    A build that was stopped continues where it was. STORE appears under its name only when it is complete. A file that
    cannot be used is named and counted, and its track is NaN.

    \b
      melzarr features demo demo.zarr
      melzarr features ~/Music/genres music.zarr --n-mels 64
      melzarr features tracks.csv music.zarr --group album --cluster tcp://10.0.0.1:8786
      melzarr features tracks.csv music.zarr --cluster slurm --workers 100 --walltime 01:00:00

    For schedulers without Dask, see melzarr job-array.
    """
    from melzarr.pipeline.clusters.task_runner import connect
    from melzarr.pipeline.publishing.open_workspace import open_workspace
    from melzarr.pipeline.publishing.target_guard import refuse_place
    from melzarr.pipeline.sources.catalog import missing_splits

    catalog, plan = prepare(source, options)
    workspace = open_workspace(store)
    if workspace.occupied() and is_up_to_date(store, catalog, plan, force):
        workspace.cleanup_after_crash(_receipts(store))
        click.echo(f"{store} is finished and up to date: same files, spec and versions")
        next_step("inspect", store)
        return
    refuse_place(workspace, replace=force, catalog=catalog)  # before workers are started
    show(missing_splits(catalog))
    earlier = workspace.n_receipts()
    click.echo(f"{len(plan.tracks)} tracks, {count(plan.n_shards, 'shard')} of {plan.tracks_per_shard}")
    if earlier:
        click.echo(f"continuing: {count(earlier, 'shard')} from an earlier run; each is checked before it is kept")
    resources: dict[str, Any] = {"memory": memory, "walltime": walltime, "say": beside_bar, "dashboard": dashboard}
    with connect(cluster, workers, plan.worker_bytes, **resources) as runner:
        from melzarr.pipeline.builder.run_build import build  # while the workers start
        from melzarr.pipeline.cli.messages import summary_lines
        from melzarr.pipeline.zarr_store.reader import open_store

        click.echo(f"{count(runner.n_workers, 'worker')}{runner.dashboard and f'; dashboard at {runner.dashboard}'}")
        n_workers = runner.n_workers
        with build_progress(len(plan.tracks)) as progress:
            summary = build(plan, catalog, store, runner, replace=force, max_failed=max_failed, progress=progress)
    show(summary_lines(summary, open_store(store).n_bytes))
    note_how_fast(store, summary, n_workers)
    next_step("verify", store, "--source", source, "--sample", 20, datasets=options["datasets"])


def note_how_fast(store: Directory, summary: Summary, n_workers: int | None) -> None:
    """Write the timings of a build beside its store; if that fails, only print why, because the store is finished."""
    from melzarr.pipeline.builder.build_timings import write_built
    from melzarr.pipeline.zarr_store.reader import open_store

    if problem := write_built(open_store(store), summary, n_workers):
        click.echo(problem, err=True)


def _receipts(store: Directory) -> Iterable[Receipt]:
    """Return the receipts of a finished store."""
    from melzarr.pipeline.zarr_store.reader import open_store

    return open_store(store).receipts()


def is_up_to_date(store: Directory, catalog: Catalog, plan: Plan, force: bool) -> bool:
    """Return whether a finished store is what would be built; raise BuildError if it is not, unless forced."""
    from melzarr.pipeline.builder.up_to_date import changes
    from melzarr.pipeline.zarr_store.reader import is_store, open_store

    if not is_store(store):
        raise BuildError(f"{store} exists and is not a melzarr store; choose another path, or remove it yourself")
    try:
        with progress_bar(len(catalog.tracks), "compare") as bar:
            found = changes(open_store(store), plan, catalog, bar.update)
    except StorageError:
        raise
    except StoreError as error:
        found = [str(error)]
    if force:
        show(f"  {line}" for line in found)
        return False
    if found:
        raise BuildError(
            f"{store} is finished, but differs from what would be built now:\n  " + "\n  ".join(found) + "\n"
            "choose another path, or replace it with --force: the shards that are still valid are kept, and the old "
            "store stays until the new one is complete"
        )
    return True
