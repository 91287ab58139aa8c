"""Decide what is kept of an earlier run: shards of a build that was stopped, and of the store that is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from blake3 import blake3

from melzarr.pipeline.errors import StorageError, StoreError
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.directory import Directory, source_digest
from melzarr.pipeline.threads import in_order, in_order_once

if TYPE_CHECKING:
    from melzarr.pipeline.builder.worker import ShardJob


def outdated(earlier: Receipt, job: ShardJob, workspace: Workspace) -> str:
    """Return why an earlier run's shard cannot be kept; empty if everything that it depends on is unchanged."""
    if earlier.key != job.key:
        return "the spec, the versions or the tracks have changed"
    if not workspace.holds(earlier):
        return "its bytes are not those that were written"
    sources = (track.source for track in job.shard.tracks)
    digests = in_order_once(lambda name: source_digest(job.root, name), sources, job.root.io_threads)
    for track, entry, digest in zip(job.shard.tracks, earlier.tracks, digests, strict=True):
        if digest != entry.source_blake3:
            return f"{track.source} has changed"
    return ""


def seeded(jobs: Iterable[ShardJob], workspace: Workspace) -> Iterator[ShardJob]:
    """Yield each job after offering it the finished store's shard, which a worker checks before keeping it."""
    receipts = _readable(workspace.target)

    def offered(job_receipt: tuple[ShardJob, Receipt | None]) -> ShardJob:
        job, receipt = job_receipt
        if receipt:
            workspace.reuse_published_shard(receipt)
        return job

    # Jobs and receipts are both in order of the shards.
    pairs = ((job, next((found for found in receipts if found.index == job.shard.index), None)) for job in jobs)
    return in_order(offered, pairs, workspace.root.io_threads)


def _readable(target: Directory) -> Iterator[Receipt]:
    """Yield the receipts of a finished store; none if it is missing or damaged, or has other digests."""
    from melzarr.pipeline.zarr_store.reader import open_store  # noqa: PLC0415  (imports zarr, which no worker needs)

    try:
        store = open_store(target)
        if store.algorithm is blake3:
            yield from store.receipts()
    except StorageError:
        raise
    except StoreError:
        return
