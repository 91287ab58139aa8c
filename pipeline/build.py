"""Runs a plan: what is there is checked and kept, what is missing is made, and the whole is published in one step."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.apart import TRACK_SECONDS
from pipeline.catalog import Catalog
from pipeline.chunk import shard_name
from pipeline.cluster import Runner
from pipeline.errors import BuildError, StoreError
from pipeline.files import naming, write_whole
from pipeline.ledger import Ledger
from pipeline.plan import Plan, Shard
from pipeline.publish import publish
from pipeline.receipt import Receipt
from pipeline.store import open_store
from pipeline.tracks import TEXT
from pipeline.worker import ShardJob, make_shard, make_shard_apart
from pipeline.workspace import Workspace

MAX_FAILED = 0.05  # share of tracks that may fail
ALWAYS_ALLOWED = 10  # failed tracks that are no sign of anything, where no share was asked for
NAMED = 1000  # tracks that are not ok and that a summary names; the store names them all

Progress = Callable[[Receipt], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a build did.

    Parameters
    ----------
    target : Path
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

    target: Path
    shape: tuple[int, ...]
    statuses: Counter[str]
    troubled: tuple[tuple[str, str, str], ...]
    n_reused: int
    outdated: tuple[str, ...]
    seconds: dict[str, float]


def build(
    plan: Plan,
    catalog: Catalog,
    target: Path,
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
    target : Path
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
    BuildError
        Where another build holds the store or has just finished it, too many tracks fail, or the workers are lost.
        What was finished is kept.
    """
    start = time.perf_counter()
    target = target.resolve()
    workspace = Workspace(target)
    with workspace.locked(), naming(workspace.root):
        if target.exists() and not replace:
            raise BuildError(f"{target} has appeared meanwhile; look at it, and replace it with --force if you like")
        seconds = TRACK_SECONDS if runner.expendable else None
        fresh = (_job(plan, catalog, target, shard, seconds) for shard in plan.shards())
        jobs = _seeded(fresh, workspace, target) if target.exists() else fresh
        allowed = _failures_allowed(len(plan.tracks), max_failed)
        with Ledger(len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, workspace.root) as ledger:
            for receipt in runner.run(make_shard, jobs, make_shard_apart):
                progress(receipt)
                ledger.add(receipt)
                workspace.settle(receipt)
                if ledger.n_failed > allowed:
                    raise BuildError(_too_many_failed(plan, ledger, allowed))
            publish(plan, catalog, workspace, ledger)
            return _summary(plan, target, ledger, time.perf_counter() - start)


def _seeded(jobs: Iterable[ShardJob], workspace: Workspace, target: Path) -> Iterator[ShardJob]:
    """Before each job goes out, offer it the shard of the finished store; a worker checks before it keeps one."""
    receipts = _readable(target)
    for job in jobs:
        if receipt := next(receipts, None):
            _offer(receipt, workspace, target)
        yield job


def _readable(target: Path) -> Iterator[Receipt]:
    """Receipts of a finished store; where it is damaged there are none, and nothing of it can be kept."""
    try:
        yield from open_store(target).receipts()
    except StoreError:
        return


def _offer(receipt: Receipt, workspace: Workspace, target: Path) -> None:
    """Put a shard of the finished store where a worker looks for one of an earlier run."""
    published, shard = target / shard_name(receipt.index), workspace.written(receipt)
    earlier = workspace.read_receipt(receipt.index)
    if not published.exists() or (earlier and workspace.has(earlier)):
        return
    shard.parent.mkdir(parents=True, exist_ok=True)
    shard.unlink(missing_ok=True)
    try:
        os.link(published, shard)
    except OSError:  # a file system without links
        shutil.copyfile(published, shard)
    write_whole(workspace.receipt(receipt.index), receipt.to_json())


def _job(plan: Plan, catalog: Catalog, target: Path, shard: Shard, track_seconds: float | None) -> ShardJob:
    return ShardJob(
        spec=plan.spec,
        versions=plan.versions,
        root=catalog.root.absolute(),
        target=target,
        tracks_per_shard=plan.tracks_per_shard,
        shard=shard,
        key=plan.key(shard),
        track_seconds=track_seconds,
    )


def _failures_allowed(n_tracks: int, max_failed: float | None) -> float:
    if max_failed is None:
        return min(max(MAX_FAILED * n_tracks, ALWAYS_ALLOWED), n_tracks - 1)
    return max_failed * n_tracks


def _too_many_failed(plan: Plan, ledger: Ledger, allowed: float) -> str:
    first = int(np.argmax(ledger.status == b"failed"))
    return (
        f"{ledger.n_failed} of the first {ledger.n_seen} tracks have failed, more than the {allowed:g} that may; for "
        f"example {plan.tracks[first].source}: {ledger.error[first]}. What was finished is kept; mend the "
        f"files, or allow more with --max-failed"
    )


def _summary(plan: Plan, target: Path, ledger: Ledger, wall: float) -> Summary:
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
