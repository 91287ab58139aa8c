"""Decide what is kept of an earlier run: shards of a build that was stopped, and of the store that is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from blake3 import blake3

from melzarr.pipeline.errors import StorageError, StoreError
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.directory import Directory, source_digest

if TYPE_CHECKING:
    from melzarr.pipeline.builder.worker import ShardJob


def outdated(earlier: Receipt, job: ShardJob, workspace: Workspace) -> str:
    """Return why an earlier run's shard cannot be kept; empty if everything that it depends on is unchanged."""
    if earlier.key != job.key:
        return "the spec, the versions or the tracks have changed"
    if not workspace.holds(earlier):
        return "its bytes are not those that were written"
    for track, entry in zip(job.shard.tracks, earlier.tracks, strict=True):
        if source_digest(job.root, track.source) != entry.source_blake3:
            return f"{track.source} has changed"
    return ""


def seeded(jobs: Iterable[ShardJob], workspace: Workspace) -> Iterator[ShardJob]:
    """Yield each job after offering it the finished store's shard, which a worker checks before keeping it."""
    receipts = _readable(workspace.target)
    for job in jobs:  # jobs and receipts are both in order of the shards
        if receipt := next((receipt for receipt in receipts if receipt.index == job.shard.index), None):
            workspace.reuse_published_shard(receipt)
        yield job


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
