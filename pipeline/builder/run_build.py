"""Runs a plan: what is there is checked and kept, what is missing is made, and the whole is published in one step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melzarr.pipeline.builder.plan import Plan, Shard
from melzarr.pipeline.builder.publish import attributes, publish
from melzarr.pipeline.builder.receipt_table import ReceiptTable
from melzarr.pipeline.builder.worker import ShardJob, make_shard, make_shard_apart
from melzarr.pipeline.clusters.task_runner import Runner
from melzarr.pipeline.errors import BuildError, StorageError, StoreError
from melzarr.pipeline.features.decoder_subprocess import TRACK_SECONDS
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.workspace import PLAN, Workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import TEXT
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.reader import open_store

MAX_FAILED = 0.05  # share of tracks that may fail
ALWAYS_ALLOWED = 10  # failed tracks that are no sign of anything, where no share was asked for
NAMED = 1000  # tracks that are not ok and that a summary names; the store names them all

Progress = Callable[[Receipt], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a build did.

    Parameters
    ----------
    target : Directory
        The store.
    shape : tuple of int
        Shape of its array `mel`.
    statuses : Counter of str
        Tracks by status.
    troubled : tuple of (str, str, str)
        Source, status and sentence of the first thousand tracks that are not ok.
    n_reused : int
        Tracks in shards that were found, checked and kept.
    outdated : tuple of str
        Why shards of an earlier run were not kept, a sentence each.
    seconds : dict of str to float, in s
        Wall time as "wall", and the workers' time in "decode", "mel" and "write".
    """

    target: Directory
    shape: tuple[int, ...]
    statuses: Counter[str]
    troubled: tuple[tuple[str, str, str], ...]
    n_reused: int
    outdated: tuple[str, ...]
    seconds: dict[str, float]


def build(
    plan: Plan,
    catalog: Catalog,
    target: str | Path | Directory,
    runner: Runner,
    *,
    replace: bool = False,
    max_failed: float | None = None,
    progress: Progress = lambda _: None,
) -> Summary:
    """Build a store, or go on with a build that was interrupted.

    Parameters
    ----------
    plan : Plan
        What to compute.
    catalog : Catalog
        The plan's tracks, with their labels and their root.
    target : str, Path or Directory
        Where the store will be.
    runner : Runner
        Where it is computed.
    replace : bool
        Whether a store that is there is replaced, once the new one is complete; shards of it that still fit are kept.
    max_failed : float in [0, 1], optional
        Share of tracks that may fail; by default 5 %, but never fewer than ten tracks.
    progress : callable
        Called with each shard's receipt.

    Returns
    -------
    Summary
        What was done.

    Raises
    ------
    CallError
        Where the store cannot be there without something else being lost.
    BuildError
        Where another build holds the store or has just finished it, too many tracks fail, or the workers are lost.
        What was finished is kept.
    """
    start = time.perf_counter()
    workspace = open_workspace(target)
    target = workspace.target
    refuse_place(workspace, replace=replace, catalog=catalog)
    with workspace.locked():
        workspace.refuse_occupied(replace)
        workspace.adopt_receipts()
        workspace.root.remove([PLAN])  # parts of another build that still run come to an end
        jobs = shard_jobs(plan, catalog.root, workspace, plan.shards(), runner)
        if replace:
            jobs = seeded(jobs, workspace)
        with ReceiptTable(len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, workspace.root.folder) as ledger:
            compute(plan, jobs, runner, ledger, max_failed=max_failed, progress=progress)
            publish(plan, attributes(plan, catalog), workspace, ledger, replace=replace)
            return summarise(plan, target, ledger, time.perf_counter() - start)


def compute(
    plan: Plan,
    jobs: Iterable[ShardJob],
    runner: Runner,
    ledger: ReceiptTable,
    *,
    max_failed: float | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Have shards made, or kept where an earlier run has made them.

    Parameters
    ----------
    plan : Plan
        What they are part of.
    jobs : iterable of ShardJob
        The shards.
    runner : Runner
        Where they are computed.
    ledger : ReceiptTable
        Takes what becomes of them.
    max_failed, progress
        As for `build`.

    Raises
    ------
    BuildError
        Where too many tracks fail, or the workers are lost.
    """
    for receipt in runner.run(make_shard, jobs, make_shard_apart):
        progress(receipt)
        ledger.add(receipt)
        require_few_failed(plan, ledger, max_failed)


def require_few_failed(plan: Plan, ledger: ReceiptTable, max_failed: float | None) -> None:
    """Raise BuildError where more of a plan's tracks have failed than may."""
    allowed = _failures_allowed(len(plan.tracks), max_failed)
    if ledger.n_failed > allowed:
        raise BuildError(_too_many_failed(plan, ledger, allowed))


def seeded(jobs: Iterable[ShardJob], workspace: Workspace) -> Iterator[ShardJob]:
    """Before each job goes out, offer it the shard of the finished store; a worker checks before it keeps one."""
    receipts = _readable(workspace.target)
    for job in jobs:  # which are in order, as receipts are
        if receipt := next((receipt for receipt in receipts if receipt.index == job.shard.index), None):
            workspace.reuse_published_shard(receipt)
        yield job


def _readable(target: Directory) -> Iterator[Receipt]:
    """Receipts of a finished store; where there is none, or a damaged one, nothing of it can be kept."""
    try:
        yield from open_store(target).receipts()
    except StorageError:
        raise
    except StoreError:
        return


def shard_jobs(
    plan: Plan, root: Directory, workspace: Workspace, shards: Iterable[Shard], runner: Runner
) -> Iterator[ShardJob]:
    """Make the jobs of some shards.

    Parameters
    ----------
    plan : Plan
        What they are part of.
    root : Directory
        Below which the audio files lie.
    workspace : Workspace
        Where they go.
    shards : iterable of Shard
        The shards.
    runner : Runner
        Where they will be computed.
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


def _too_many_failed(plan: Plan, ledger: ReceiptTable, allowed: float) -> str:
    first = int(np.argmax(ledger.status == b"failed"))
    return (
        f"{ledger.n_failed} of the first {ledger.n_seen} tracks have failed, more than the {allowed:g} that may; for "
        f"example {plan.tracks[first].source}: {ledger.error[first]}. What was finished is kept; mend the "
        f"files, or allow more with --max-failed"
    )


def summarise(plan: Plan, target: Directory, ledger: ReceiptTable, wall: float) -> Summary:
    """Say what a ledger says.

    Parameters
    ----------
    plan : Plan
        What was computed.
    target : Directory
        The store.
    ledger : ReceiptTable
        What became of it.
    wall : float, in s
        Time that it took.
    """
    troubled = ledger.troubled()[:NAMED].tolist()
    facts = zip(*(column[troubled].astype(TEXT).tolist() for column in (ledger.status, ledger.error)), strict=True)
    return Summary(
        target=target,
        shape=(len(plan.tracks), *plan.spec.shape),
        statuses=ledger.statuses(),
        troubled=tuple((plan.tracks[n].source, *fact) for n, fact in zip(troubled, facts, strict=True)),
        n_reused=ledger.n_reused,
        outdated=ledger.outdated(),
        seconds={"wall": wall, **ledger.seconds},
    )
