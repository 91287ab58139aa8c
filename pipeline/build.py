"""Runs a plan: what is there is checked and kept, what is missing is made, and the whole is published in one step."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.catalog import Catalog
from pipeline.cluster import Runner
from pipeline.errors import BuildError, StoreError
from pipeline.files import write_whole
from pipeline.layout import shard_name
from pipeline.plan import Plan, Shard
from pipeline.publish import publish
from pipeline.receipt import Receipt, TrackReceipt
from pipeline.store import open_store
from pipeline.worker import ShardJob, make_shard
from pipeline.workspace import Workspace

MAX_FAILED = 0.05  # share of tracks that may fail
ALWAYS_ALLOWED = 10  # failed tracks that are no sign of anything, where no share was asked for

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
        Source, status and sentence of every track that is not ok.
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
    with workspace.locked():
        if target.exists():
            if not replace:
                raise BuildError(
                    f"{target} has appeared meanwhile; look at it, and replace it with --force if you like"
                )
            _seed(workspace, target)
        jobs = (_job(plan, catalog, target, shard) for shard in plan.shards())
        tally = _Tally(plan, _failures_allowed(len(plan.tracks), max_failed))
        for receipt in runner.run(make_shard, jobs):
            progress(receipt)
            tally.add(receipt)
        receipts = tally.in_order()
        publish(plan, catalog, workspace, receipts)
    return _summary(plan, target, receipts, time.perf_counter() - start)


def _seed(workspace: Workspace, target: Path) -> None:
    """Offer the shards of a finished store to the build that will replace it; a worker checks before it keeps one."""
    try:
        receipts = open_store(target).receipts()
    except StoreError:
        return  # it is damaged, and nothing of it can be kept
    for receipt in receipts:
        published, shard = target / shard_name(receipt.index), workspace.shard(receipt.index)
        earlier = workspace.read_receipt(receipt.index)
        if not published.exists() or (earlier and workspace.holds(earlier)):
            continue
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.unlink(missing_ok=True)
        try:
            os.link(published, shard)
        except OSError:  # a file system without links
            shutil.copyfile(published, shard)
        write_whole(workspace.receipt(receipt.index), receipt.to_json())


def _job(plan: Plan, catalog: Catalog, target: Path, shard: Shard) -> ShardJob:
    return ShardJob(
        spec=plan.spec,
        versions=plan.versions,
        root=catalog.root.absolute(),
        target=target,
        n_tracks=len(plan.tracks),
        tracks_per_shard=plan.tracks_per_shard,
        shard=shard,
        key=plan.key(shard),
    )


def _failures_allowed(n_tracks: int, max_failed: float | None) -> float:
    if max_failed is None:
        return min(max(MAX_FAILED * n_tracks, ALWAYS_ALLOWED), n_tracks - 1)
    return max_failed * n_tracks


class _Tally:
    """Receipts as they come; it gives up once more tracks have failed than may."""

    def __init__(self, plan: Plan, allowed: float) -> None:
        self.plan, self.allowed = plan, allowed
        self.receipts: list[Receipt] = []
        self.failed: list[str] = []

    def add(self, receipt: Receipt) -> None:
        """Take one receipt."""
        self.receipts.append(receipt)
        self.failed += [
            f"{source}: {entry.error}" for source, entry in _entries(self.plan, receipt) if entry.status == "failed"
        ]
        if len(self.failed) > self.allowed:
            n_tracks = sum(len(receipt.tracks) for receipt in self.receipts)
            raise BuildError(
                f"{len(self.failed)} of the first {n_tracks} tracks have failed, more than the {self.allowed:g} that "
                f"may; for example {self.failed[0]}. What was finished is kept; mend the files, or allow more "
                f"with --max-failed"
            )

    def in_order(self) -> list[Receipt]:
        """All receipts in the order of the shards."""
        return sorted(self.receipts, key=lambda receipt: receipt.index)


def _entries(plan: Plan, receipt: Receipt) -> list[tuple[str, TrackReceipt]]:
    """Source and receipt of each track of a shard."""
    tracks = plan.shard(receipt.index).tracks
    return [(track.source, entry) for track, entry in zip(tracks, receipt.tracks, strict=True)]


def _summary(plan: Plan, target: Path, receipts: list[Receipt], wall: float) -> Summary:
    entries = [pair for receipt in receipts for pair in _entries(plan, receipt)]
    seconds = Counter({"wall": wall})
    for receipt in receipts:
        if not receipt.reused:
            seconds.update(receipt.seconds)
    return Summary(
        target=target,
        shape=(len(plan.tracks), *plan.spec.shape),
        statuses=Counter(entry.status for _, entry in entries),
        troubled=tuple((source, entry.status, entry.error) for source, entry in entries if entry.status != "ok"),
        n_reused=sum(len(receipt.tracks) for receipt in receipts if receipt.reused),
        outdated=tuple(receipt.outdated for receipt in receipts if receipt.outdated),
        seconds=dict(seconds),
    )
