"""Run a plan: check and keep existing shards, compute missing ones, and publish the store in one step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melzarr.pipeline.builder.feedback import Progress
from melzarr.pipeline.builder.plan import Plan, Shard
from melzarr.pipeline.builder.publish import attributes, publish
from melzarr.pipeline.builder.receipt_table import ReceiptTable
from melzarr.pipeline.builder.resume import seeded
from melzarr.pipeline.builder.worker import ShardJob, make_shard, make_shard_apart
from melzarr.pipeline.clusters.task_runner import Runner
from melzarr.pipeline.defaults import ALWAYS_ALLOWED, MAX_FAILED
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.features.decoder_subprocess import TRACK_SECONDS
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.staging import PLAN
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import TEXT
from melzarr.pipeline.storage.directory import Directory

NAMED = 1000  # maximum number of tracks that are not ok in a summary; the store names all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Result of a build.

    Parameters
    ----------
    target : Directory
        The store.
    shape : tuple of int
        Shape of its array `mel`.
    statuses : Counter of str
        Number of tracks by status.
    troubled : tuple of (str, str, str)
        Source, status and error of the first thousand tracks that are not ok.
    n_reused : int
        Number of tracks in existing shards that were checked and kept.
    outdated : tuple of str
        Why shards of an earlier run were not kept, one sentence per shard.
    seconds : dict of str to float, in s
        Wall time as "wall", and total time of the workers in "fetch", "decode", "mel" and "write".
    remark : str
        What went wrong although the store is complete, as a sentence; empty if nothing did.
    """

    target: Directory
    shape: tuple[int, ...]
    statuses: Counter[str]
    troubled: tuple[tuple[str, str, str], ...]
    n_reused: int
    outdated: tuple[str, ...]
    seconds: dict[str, float]
    remark: str = ""


def build(
    plan: Plan,
    catalog: Catalog,
    target: str | Path | Directory | Workspace,
    runner: Runner,
    *,
    replace: bool = False,
    max_failed: float | None = None,
    progress: Progress = lambda _: None,
) -> Summary:
    """Build a store, or resume an interrupted build.

    Parameters
    ----------
    plan : Plan
        The spec and the tracks to compute.
    catalog : Catalog
        The plan's tracks, with their labels and their root.
    target : str, Path, Directory or Workspace
        Location of the new store.
    runner : Runner
        Runs the jobs.
    replace : bool
        Whether an existing store is replaced, once the new one is complete. Its shards that are still valid are kept.
    max_failed : float in [0, 1], optional
        Share of tracks that may fail; by default 5 %, or ten tracks if that is more, but never all.
    progress : callable
        Called with the receipt of each shard.

    Returns
    -------
    Summary
        Its shape, the statuses of its tracks, and times.

    Raises
    ------
    CallError
        If a store at the target would destroy something else.
    BuildError
        If another build holds the store or has just finished it, too many tracks fail, or the workers are lost.
        Finished shards are kept.
    """
    start = time.perf_counter()
    workspace = open_workspace(target)
    target = workspace.target
    refuse_place(workspace, replace=replace, catalog=catalog)
    with workspace.locked():
        workspace.refuse_occupied(replace)
        workspace.adopt_receipts()
        workspace.root.remove([PLAN])  # parts of another build that still run stop with an error
        jobs = shard_jobs(plan, catalog.root, workspace, plan.shards(), runner)
        if replace:
            jobs = seeded(jobs, workspace)
        with ReceiptTable(
            len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, workspace.root.folder
        ) as receipt_table:
            compute(plan, jobs, runner, receipt_table, max_failed=max_failed, progress=progress)
            publish(plan, attributes(plan, catalog), workspace, receipt_table, replace=replace)
            return summarise(plan, target, receipt_table, time.perf_counter() - start)


def compute(
    plan: Plan,
    jobs: Iterable[ShardJob],
    runner: Runner,
    receipt_table: ReceiptTable,
    *,
    max_failed: float | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Compute shards, or keep valid ones of an earlier run, and collect the receipts.

    Parameters
    ----------
    plan : Plan
        The plan that the shards belong to.
    jobs : iterable of ShardJob
        One job per shard.
    runner : Runner
        Runs the jobs.
    receipt_table : ReceiptTable
        Table that receives the receipts.
    max_failed, progress
        As for `build`.

    Raises
    ------
    BuildError
        If too many tracks fail, or the workers are lost.
    """
    for receipt in runner.run(make_shard, jobs, make_shard_apart):
        progress(receipt)
        receipt_table.add(receipt)
        require_few_failed(plan, receipt_table, max_failed)
    runner.release()  # the workers end while the store is published


def require_few_failed(plan: Plan, receipt_table: ReceiptTable, max_failed: float | None) -> None:
    """Raise a BuildError if more of a plan's tracks have failed than are allowed."""
    allowed = _failures_allowed(len(plan.tracks), max_failed)
    if receipt_table.n_failed > allowed:
        raise BuildError(_too_many_failed(plan, receipt_table, allowed))


def shard_jobs(
    plan: Plan, root: Directory, workspace: Workspace, shards: Iterable[Shard], runner: Runner
) -> Iterator[ShardJob]:
    """Yield one job per shard.

    Parameters
    ----------
    plan : Plan
        The plan that the shards belong to.
    root : Directory
        Directory of the audio files.
    workspace : Workspace
        Workspace that receives the shards.
    shards : iterable of Shard
        Shards to compute.
    runner : Runner
        Runner of the jobs. If its workers can be replaced, each track has a time limit.
    """
    for shard in shards:
        yield ShardJob(
            spec=plan.spec,
            versions=plan.versions,
            root=root.with_retries(),
            target=workspace.target.with_retries(),
            tracks_per_shard=plan.tracks_per_shard,
            shard=shard,
            key=plan.key(shard),
            track_seconds=TRACK_SECONDS if runner.expendable else None,
            plan_id=workspace.plan_id,
        )


def _failures_allowed(n_tracks: int, max_failed: float | None) -> float:
    if max_failed is None:
        return min(max(MAX_FAILED * n_tracks, ALWAYS_ALLOWED), n_tracks - 1)
    return max_failed * n_tracks


def _too_many_failed(plan: Plan, receipt_table: ReceiptTable, allowed: float) -> str:
    first = int(np.argmax(receipt_table.status == b"failed"))
    seen = f"{receipt_table.n_failed} of the first {receipt_table.n_seen} tracks have failed"
    return (
        f"{seen}, more than the {allowed:g} that are allowed; for example {plan.tracks[first].source}: "
        f"{receipt_table.error[first]}. What was finished is kept; fix the files, or allow more with --max-failed"
    )


def summarise(plan: Plan, target: Directory, receipt_table: ReceiptTable, wall: float) -> Summary:
    """Return a summary of the receipts of a build.

    Parameters
    ----------
    plan : Plan
        The plan of the build.
    target : Directory
        The store.
    receipt_table : ReceiptTable
        Contents of the receipts.
    wall : float, in s
        Wall time of the build.
    """
    troubled = receipt_table.troubled()[:NAMED].tolist()
    facts = zip(
        *(column[troubled].astype(TEXT).tolist() for column in (receipt_table.status, receipt_table.error)), strict=True
    )
    return Summary(
        target=target,
        shape=(len(plan.tracks), *plan.spec.shape),
        statuses=receipt_table.statuses(),
        troubled=tuple((plan.tracks[n].source, *fact) for n, fact in zip(troubled, facts, strict=True)),
        n_reused=receipt_table.n_reused,
        outdated=receipt_table.outdated(),
        seconds={"wall": wall, **receipt_table.seconds},
    )
