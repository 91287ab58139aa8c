"""A store of tracks of other stores: whole shards are kept as they are, the others packed anew from their chunks."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.build import Progress, Summary, summarise
from pipeline.catalog import refuse_separated_groups
from pipeline.chunk import compressed, decode_chunk, encode_chunk, pack, shard_name
from pipeline.errors import BuildError, CallError, CatalogError, SpecError, StorageError, StoreError
from pipeline.ledger import Ledger
from pipeline.mel import level_db
from pipeline.plan import Plan, Shard, as_json, make_plan
from pipeline.publish import Explain, publish
from pipeline.receipt import BandSums, Receipt, TrackReceipt
from pipeline.spec import FeatureSpec
from pipeline.store import Store
from pipeline.tracks import FIELDS, TEXT, Tracks
from pipeline.tree import Tree
from pipeline.worker import Stopwatch, add_sums, padded, sum_levels
from pipeline.workspace import Workspace
from pipeline.workspaces import open_workspace

DERIVED = "derived.json"  # file of the workspace: what is being made there, and of what
ROOM = 1 << 29  # bytes that the shards in work may take together; one is always worked on
CONVERSIONS = {"scale": {("power", "db")}, "dtype": {("float32", "float16")}}  # of a store's fields, from what to what


@dataclass(frozen=True, slots=True)
class Part:
    """Some tracks of a store.

    Parameters
    ----------
    store : Store
        The store.
    numbers : np.ndarray [shape=(n,), dtype=int]
        Numbers of its tracks, ascending.
    """

    store: Store
    numbers: npt.NDArray[np.intp]

    def __post_init__(self) -> None:
        """Refuse numbers that are no tracks, or in no order."""
        inside = not self.numbers.size or (self.numbers[0] >= 0 and self.numbers[-1] < self.store.n_tracks)
        if not inside or (np.diff(self.numbers) < 1).any():
            raise ValueError(f"numbers of tracks of {self.store.tree} must be ascending, below {self.store.n_tracks}")

    @classmethod
    def whole(cls, store: Store) -> Part:
        """All tracks of a store."""
        return cls(store, np.arange(store.n_tracks))


def derive(
    parts: Sequence[Part],
    target: str | Path | Tree,
    about: Mapping[str, Any],
    *,
    spec: FeatureSpec | None = None,
    tracks_per_shard: int | None = None,
    sharded: bool = True,
    replace: bool = False,
    explain: Explain | None = None,
    progress: Progress = lambda _: None,
) -> Summary:
    """Make a store of tracks of other stores, or go on where that was interrupted.

    A shard of whose tracks a part has a shard of its own is kept as it is: linked, copied or found where it is. Every
    other is packed from chunks as they are, once their checksums were held against them. So the bytes depend on the
    tracks, their order and `about` alone, and are those of a build of the same.

    Parameters
    ----------
    parts : sequence of Part
        The tracks, in this order.
    target : str, Path or Tree
        Where the store will be.
    about : mapping of str to value
        Attributes of its group, as another store has them; spec and UUID are put in here.
    spec : FeatureSpec, optional
        What its tracks are, by default what they are in the parts; levels in place of power, and float16 in place of
        float32, are made of what is there.
    tracks_per_shard : int > 0, optional
        By default as the first part has it.
    sharded : bool
        False for each track in a file of its own.
    replace : bool
        Whether a store that is there is replaced, once the new one is complete. It may be one of the parts.
    explain : callable, optional
        Called with the whole store before it appears, and with the folder of all of it but its shards, into which it
        may write further files: they appear with the store.
    progress : callable
        Called with each shard's receipt.

    Returns
    -------
    Summary
        What was done.

    Raises
    ------
    CallError, SpecError, CatalogError
        Where there are no tracks, two specs do not go together, an id comes twice, or a group is in two splits;
        nothing was done then.
    StoreError
        Where a part is damaged; the track or the shard is named, and nothing appears.
    BuildError
        Where the target is there and is not to be replaced, or is being built.
    """
    start = time.perf_counter()
    parts = [part for part in parts if part.numbers.size]
    plan = _plan(parts, about, spec, tracks_per_shard, sharded)
    facts = {**{name: value for name, value in about.items() if name != "uuid"}, "spec": plan.spec.to_dict()}
    workspace = open_workspace(target)
    with workspace.locked():
        workspace.refuse_occupied(replace)
        _refuse_replaced(parts)
        _begin(workspace, plan, parts)
        with Ledger(len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, workspace.root.folder) as ledger:
            for receipt in _bounded(lambda job: _make(job, plan, workspace), _jobs(plan, parts), _threads(plan, parts)):
                progress(receipt)
                ledger.add(receipt)
            publish(plan, facts, workspace, ledger, replace=replace, explain=explain)
            return summarise(plan, workspace.target, ledger, time.perf_counter() - start)


# Before any work: do the parts go together?


def _plan(
    parts: Sequence[Part], about: Mapping[str, Any], spec: FeatureSpec | None, tracks_per_shard: int | None,
    sharded: bool,
) -> Plan:  # fmt: skip
    """Plan the new store; refuse what cannot be one."""
    if not parts:
        raise CallError("there are no tracks to make a store of; choose others")
    first = parts[0].store
    for part in parts:
        _require_spec(first, part.store, spec)
    tracks = tracks_of(parts)
    _refuse_duplicates(tracks, parts)
    refuse_separated_groups(tracks)
    if tracks_per_shard is None and first.is_sharded:
        tracks_per_shard = first.tracks_per_shard
    return make_plan(spec or first.spec, tracks, about["versions"], tracks_per_shard, sharded=sharded)


def _require_spec(first: Store, other: Store, spec: FeatureSpec | None) -> None:
    """Refuse a store whose tracks are not what is to be made, nor can become it."""
    before, after = other.spec.to_dict(), (spec or first.spec).to_dict()
    differing = [name for name in before if before[name] != after[name]]
    if spec is None and differing:
        named = ", ".join(f"{name}={after[name]} and {before[name]}" for name in differing)
        raise SpecError(f"{first.tree} and {other.tree} differ in {named}; make one of them again, as the other is")
    lost = [name for name in differing if (before[name], after[name]) not in CONVERSIONS.get(name, ())]
    if lost:
        named = ", ".join(f"{name}={before[name]}" for name in lost)
        asked = ", ".join(f"{name}={after[name]}" for name in lost)
        raise SpecError(f"{other.tree} has {named}, of which {asked} cannot be made; compute it from the audio")


def tracks_of(parts: Sequence[Part]) -> Tracks:
    """Tracks of all parts, one after the other, in columns."""
    columns = {}
    for field in FIELDS:
        found = (part.store.column("track" if field == "id" else field)[part.numbers] for part in parts)
        columns[field] = np.concatenate([values.astype(TEXT) for values in found])
    if np.array_equal(columns["group"], columns["id"]):
        columns["group"] = columns["id"]  # where nobody names groups, they need no memory of their own
    return Tracks(columns)


def _refuse_duplicates(tracks: Tracks, parts: Sequence[Part]) -> None:
    ids = tracks.column("id")
    order = np.argsort(ids, kind="stable")
    for place in np.flatnonzero(ids[order][1:] == ids[order][:-1])[:1].tolist():
        ends = np.cumsum([part.numbers.size for part in parts])
        first, second = (parts[int(np.searchsorted(ends, n, "right"))].store for n in order[place : place + 2])
        raise CatalogError(
            f"{str(ids[order[place]])!r} is the id of a track of {first.tree} and of one of {second.tree}; leave one "
            f"of them out"
        )


def _refuse_replaced(parts: Sequence[Part]) -> None:
    """Refuse a store that became another one after it was opened, as by an append that ran at the same time."""
    for part in parts:
        try:
            now = json.loads(part.store.tree.read("zarr.json"))["attributes"]["uuid"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            now = ""
        if now != part.store.attributes["uuid"]:
            raise BuildError(f"{part.store.tree} was replaced or removed while it was read; run the same command again")


def _begin(workspace: Workspace, plan: Plan, parts: Sequence[Part]) -> None:
    """Note what is being made, and of what; forget the work of an earlier run that was to make something else."""
    facts = {
        "parts": [
            [part.store.attributes["uuid"], hashlib.sha256(part.numbers.astype("<i8").tobytes()).hexdigest()]
            for part in parts
        ],
        "spec": plan.spec.to_dict(),
        "versions": plan.versions,
        "tracks_per_shard": plan.tracks_per_shard,
        "sharded": plan.sharded,
    }
    note = as_json(facts).encode()
    try:
        same = workspace.root.read(DERIVED) == note
    except FileNotFoundError:
        same = False
    if not same:
        workspace.forget()
        workspace.root.write(DERIVED, note)


# Shards: what each is made of, in the order of the tracks, so that no more than some receipts are held.


class _Source:
    """One of the stores that tracks are taken from.

    Parameters
    ----------
    store : Store
        The store.
    plan : Plan
        What is being made.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store, self.step = store, store.tracks_per_shard
        self.read, chunks = store.reader(), store.chunks()
        self.chunks = chunks if store.spec == plan.spec else None  # those that can be taken as they are
        layout = store.tracks_per_shard, store.is_sharded
        self.same_shards = self.chunks is not None and layout == (plan.tracks_per_shard, plan.sharded)


@dataclass(frozen=True, slots=True)
class _Row:
    """One track of a new shard: its store, the receipt of its shard there, and its place in that."""

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
class _Job:
    """One new shard."""

    shard: Shard
    key: str
    rows: tuple[_Row, ...]

    @property
    def kept(self) -> Receipt | None:
        """Receipt of the shard that has the same tracks and is kept, if there is one."""
        source, receipt = self.rows[0].source, self.rows[0].receipt
        same = source.same_shards and len(self.rows) == len(receipt.tracks)
        return receipt if same and all(row.receipt is receipt for row in self.rows) else None


def _jobs(plan: Plan, parts: Sequence[Part]) -> Iterator[_Job]:
    rows = itertools.chain.from_iterable(_rows(_Source(part.store, plan), part.numbers) for part in parts)
    for shard in plan.shards():
        yield _Job(shard, plan.key(shard), tuple(itertools.islice(rows, len(shard.tracks))))


def _rows(source: _Source, numbers: npt.NDArray[np.intp]) -> Iterator[_Row]:
    shards, starts = np.unique(numbers // source.step, return_index=True)
    ends = [*starts[1:].tolist(), numbers.size]
    for receipt, start, end in zip(source.store.receipts(shards), starts.tolist(), ends, strict=True):
        for number in numbers[start:end].tolist():
            yield _Row(source, receipt, number - receipt.index * source.step)


def _threads(plan: Plan, parts: Sequence[Part]) -> int:
    """So many that reading and packing keep up with each other, and no more than there is room for."""
    wanted = max(os.cpu_count() or 1, *(part.store.tree.readers for part in parts))
    return max(1, min(wanted, ROOM // plan.shard_bytes))


def _bounded(function: Callable[[_Job], Receipt], jobs: Iterable[_Job], n_threads: int) -> Iterator[Receipt]:
    """Call a function in threads, for as many jobs at a time as keep them busy."""
    waiting, running = iter(jobs), deque[Future[Receipt]]()
    with ThreadPoolExecutor(n_threads, thread_name_prefix="melzarr-derive") as pool:
        try:
            while True:
                for job in itertools.islice(waiting, 2 * n_threads - len(running)):
                    running.append(pool.submit(function, job))
                if not running:
                    return
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


# One shard, in a thread.


def _make(job: _Job, plan: Plan, workspace: Workspace) -> Receipt:
    """Make one shard, or keep the one that an earlier run or a part has."""
    earlier, kept = workspace.read_receipt(job.shard.index), job.kept
    if earlier is not None:
        if _fits(earlier, job, kept) and workspace.holds(earlier):
            return replace(earlier, reused=True)
        workspace.drop(earlier)
    if kept is None:
        return _packed(job, plan, workspace)
    receipt, store = replace(kept, index=job.shard.index), job.rows[0].source.store
    if workspace.holds(receipt):  # as where the store is replaced that it is taken from, and does not lie on a disk
        workspace.keep(receipt)
    else:
        name = shard_name(kept.index)
        with _blaming(store, f"the shard {name}, with the tracks {', '.join(t.id for t in job.shard.tracks)},"):
            workspace.take(receipt, store.tree, name)
    return replace(receipt, reused=True)


def _fits(earlier: Receipt, job: _Job, kept: Receipt | None) -> bool:
    """Whether the shard of an earlier run is the one that would be made now."""
    expected = (kept.key, kept.sha256) if kept else (job.key, earlier.sha256)
    same_tracks = repr(earlier.tracks) == repr(tuple(row.entry for row in job.rows))  # NaN is not equal to itself
    return same_tracks and (earlier.key, earlier.sha256) == expected


def _packed(job: _Job, plan: Plan, workspace: Workspace) -> Receipt:
    """Pack a shard from the chunks of its tracks."""
    watch, chunks, sums = Stopwatch(), [], []
    with watch.step("read"):
        for track, row in zip(job.shard.tracks, job.rows, strict=True):
            with _blaming(row.source.store, f"track {track.id}"):
                chunk, levels = _chunk(row, plan.spec, wants_sums=track.split == "train")
            chunks.append(chunk)
            sums += [levels] if levels else []
    parts, digest = pack(chunks, plan.tracks_per_shard) if plan.sharded else chunks, hashlib.sha256()
    with watch.step("write"):
        for part in parts:
            digest.update(part)
        receipt = Receipt(
            index=job.shard.index,
            key=job.key,
            sha256=digest.hexdigest(),
            n_bytes=sum(map(len, parts)),
            tracks=tuple(row.entry for row in job.rows),
            sums=add_sums(sums, plan.spec.n_mels),
        )
        workspace.write(parts, receipt)
    return replace(receipt, seconds=watch.seconds)


def _chunk(row: _Row, spec: FeatureSpec, *, wants_sums: bool) -> tuple[bytes, BandSums | None]:
    """Give the chunk of a track, as it is where that can be; with the sums of its levels, where they are wanted."""
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
    """Say which part of a store cannot be read."""
    try:
        yield
    except StorageError:  # the server's fault, and not the store's
        raise
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else error
        raise StoreError(
            f"{store.tree}: {what} cannot be taken ({reason}); see: melzarr verify {store.tree}"
        ) from error
