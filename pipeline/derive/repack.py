"""Make one shard from tracks of other stores: keep a shard unchanged, or repack it from their chunks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from melzarr.pipeline.builder.plan import Plan, Shard
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.errors import StorageError, StoreError
from melzarr.pipeline.features.decibels import add_sums, level_db, sum_levels
from melzarr.pipeline.features.extract import Stopwatch, padded
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.shard_receipt import BandSums, Receipt, TrackReceipt, counts
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.digests import Hash, digests_of
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.shard import compressed, decode_chunk, encode_chunk, pack, shard_name


class _Source:
    """A store that tracks are taken from.

    Parameters
    ----------
    store : Store
        The store.
    plan : Plan
        Plan of the new store.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store, self.step = store, store.tracks_per_shard
        self.read, chunks = store.reader(), store.chunks()
        self.chunks = chunks if store.spec == plan.spec else None  # set if chunks can be copied unchanged
        # A shard of an older schema has another digest; it is packed again, to the same bytes.
        same_digests = store.algorithm is blake3
        self.same_shards = same_digests and self.chunks is not None and self.step == plan.tracks_per_shard


@dataclass(frozen=True, slots=True)
class _Row:
    """One track of a new shard: its store, the receipt of its shard there, and its position in that shard."""

    source: _Source
    receipt: Receipt
    place: int

    @property
    def number(self) -> int:
        return self.receipt.index * self.source.step + self.place

    @property
    def entry(self) -> TrackReceipt:
        return self.receipt.tracks[self.place]


@dataclass(frozen=True, slots=True)
class Job:
    """One new shard, and where its tracks are now."""

    shard: Shard
    key: str
    rows: tuple[_Row, ...]

    @property
    def kept(self) -> Receipt | None:
        """Receipt of an existing shard with the same tracks, which is kept; None if there is none."""
        source, receipt = self.rows[0].source, self.rows[0].receipt
        same = source.same_shards and len(self.rows) == len(receipt.tracks)
        return receipt if same and all(row.receipt is receipt for row in self.rows) else None


def jobs_of(plan: Plan, parts: Sequence[TrackSelection]) -> Iterator[Job]:
    """Yield a job for each shard of a plan, in order; only a few receipts are held in memory at a time.

    Parameters
    ----------
    plan : Plan
        Plan of the new store.
    parts : sequence of TrackSelection
        Selections that together are the plan's tracks.
    """
    rows = itertools.chain.from_iterable(_rows(_Source(part.store, plan), part.numbers) for part in parts)
    for shard in plan.shards():
        yield Job(shard, plan.key(shard), tuple(itertools.islice(rows, len(shard.tracks))))


def _rows(source: _Source, numbers: npt.NDArray[np.intp]) -> Iterator[_Row]:
    shards, starts = np.unique(numbers // source.step, return_index=True)
    ends = [*starts[1:].tolist(), numbers.size]
    for receipt, start, end in zip(source.store.receipts(shards), starts.tolist(), ends, strict=True):
        for number in numbers[start:end].tolist():
            yield _Row(source, receipt, number - receipt.index * source.step)


def make_repacked(job: Job, plan: Plan, workspace: Workspace, algorithms: Sequence[Hash] = (blake3,)) -> Receipt:
    """Make one shard, or keep one of an earlier run or of a source store.

    Parameters
    ----------
    job : Job
        The shard.
    plan : Plan
        Plan of the new store.
    workspace : Workspace
        Where to write the shard.
    algorithms : sequence of Hash
        Digests that the receipt gets if the shard is written.

    Raises
    ------
    StoreError
        If a source store is damaged; the message names the track or the shard.
    """
    earlier, kept = workspace.read_receipt(job.shard.index), job.kept
    if earlier is not None:
        if _fits(earlier, job, kept) and workspace.holds(earlier):
            return replace(earlier, reused=True)
        workspace.drop(earlier)
    if kept is None:
        return _packed(job, plan, workspace, algorithms)
    receipt, store = replace(kept, index=job.shard.index), job.rows[0].source.store
    if workspace.holds(receipt):  # already in place, as in an object store if its source is the replaced store
        workspace.keep(receipt)
    else:
        name = shard_name(kept.index)
        with _blaming(store, f"the shard {name}, with the tracks {', '.join(t.id for t in job.shard.tracks)},"):
            receipt = workspace.copy_shard(receipt, store.directory, name, algorithms)
    return replace(receipt, reused=True)


def _fits(earlier: Receipt, job: Job, kept: Receipt | None) -> bool:
    """Whether the shard of an earlier run equals the one that would be made now."""
    expected = (kept.key, kept.blake3) if kept else (job.key, earlier.blake3)
    same_tracks = repr(earlier.tracks) == repr(tuple(row.entry for row in job.rows))  # NaN is not equal to itself
    return same_tracks and (earlier.key, earlier.blake3) == expected


def _packed(job: Job, plan: Plan, workspace: Workspace, algorithms: Sequence[Hash]) -> Receipt:
    """Pack a shard from the chunks of its tracks."""
    watch, chunks, sums = Stopwatch(), [], []
    with watch.step("read"):
        for track, row in zip(job.shard.tracks, job.rows, strict=True):
            with _blaming(row.source.store, f"track {track.id}"):
                chunk, levels = _chunk(row, plan.spec, wants_sums=counts(track.split, row.entry.status))
            chunks.append(chunk)
            sums += [levels] if levels else []
    parts = pack(chunks, plan.tracks_per_shard)
    with watch.step("write"):
        digests = digests_of(parts, *algorithms)
        receipt = Receipt(
            index=job.shard.index,
            key=job.key,
            blake3=digests["blake3"],
            sha256=digests.get("sha256", ""),
            n_bytes=sum(map(len, parts)),
            tracks=tuple(row.entry for row in job.rows),
            sums=add_sums(sums, plan.spec.n_mels),
        )
        workspace.write(parts, receipt)
    return replace(receipt, seconds=watch.seconds)


def _chunk(row: _Row, spec: FeatureSpec, *, wants_sums: bool) -> tuple[bytes, BandSums | None]:
    """Return the chunk of a track, unchanged if possible, and the sums of its levels if `wants_sums`."""
    source, n_valid = row.source, row.entry.n_windows
    if not 0 <= n_valid <= spec.n_windows:
        raise ValueError(f"it cannot have {n_valid} valid windows of {spec.n_windows}")
    stored = np.empty(spec.shape, source.store.spec.dtype)
    if source.chunks:
        chunk = source.chunks(row.number)
        if not wants_sums:
            compressed(chunk, stored.nbytes)
            return chunk, None
        decode_chunk(chunk, stored)
        windows = stored[:n_valid]
    else:
        source.read(row.number, stored)
        windows = stored[:n_valid]
        if spec.scale != source.store.spec.scale:
            windows = level_db(windows, spec)
        windows = windows.astype(spec.dtype, copy=False)
        chunk = encode_chunk(padded(windows, spec))
    if not wants_sums:
        return chunk, None
    sums = sum_levels(windows, spec)
    if not np.isfinite(sums.square).all():
        raise ValueError(f"one of its {n_valid} valid windows is not finite")
    return chunk, sums


@contextmanager
def _blaming(store: Store, what: str) -> Iterator[None]:
    """Re-raise read errors as a StoreError that names the damaged track or shard."""
    try:
        yield
    except StorageError:  # an error of the server, not of the store
        raise
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else error
        raise StoreError(
            f"{store.directory}: {what} cannot be copied ({reason}); see: melzarr verify {store.directory}"
        ) from error
