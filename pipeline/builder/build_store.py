"""Build a store from start to end: compare what is there, start workers, run the build, and keep its timings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.builder.plan import Plan
from melzarr.pipeline.builder.up_to_date import is_up_to_date
from melzarr.pipeline.human_units import count
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.sources.catalog import Catalog, missing_splits
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.reader import open_store

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Summary
    from melzarr.pipeline.clusters.task_runner import Connect


def build_store(
    plan: Plan,
    catalog: Catalog,
    target: Directory,
    connect: Connect,
    *,
    replace: bool = False,
    max_failed: float | None = None,
    feedback: Feedback = SILENT,
) -> Summary | None:
    """Build a store, resume an interrupted build, or find that a finished store is up to date.

    Parameters
    ----------
    plan, catalog, target, replace, max_failed
        As for `build`.
    connect : callable
        Called with the memory of a worker, in bytes, if tracks must be computed; returns a context manager that
        yields the runner.
    feedback : Feedback
        What the caller is told.

    Returns
    -------
    Summary, optional
        What was done; None if the store is up to date.

    Raises
    ------
    CallError, BuildError
        As for `build`; also if a finished store differs from what would be built.
    """
    workspace = open_workspace(target)
    if workspace.occupied() and is_up_to_date(target, plan, catalog, replace=replace, feedback=feedback):
        workspace.cleanup_after_crash(open_store(target).receipts())
        return None
    refuse_place(workspace, replace=replace, catalog=catalog)  # before workers are started
    for line in (*catalog.remarks, *missing_splits(catalog)):
        feedback.warn(line)
    feedback.say(f"{count(len(plan.tracks), 'track')}, {count(plan.n_shards, 'shard')} of {plan.tracks_per_shard}")
    if earlier := workspace.n_receipts():
        feedback.say(f"continuing: {count(earlier, 'shard')} from an earlier run; each is checked before it is kept")
    with connect(plan.worker_bytes) as runner:
        from melzarr.pipeline.builder.build_timings import write_built  # noqa: PLC0415  (while the workers start)
        from melzarr.pipeline.builder.run_build import build  # noqa: PLC0415

        with feedback.building(len(plan.tracks), "features") as progress:
            summary = build(plan, catalog, workspace, runner, replace=replace, max_failed=max_failed, progress=progress)
        n_workers = runner.n_workers
    summary = dataclasses.replace(summary, remark=write_built(open_store(target), summary, n_workers))
    feedback.made(summary)
    return summary
