"""Find what has changed since a store was finished: spec, versions, tracks, the bytes of their files."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.builder.feedback import SILENT, Advance, Feedback
from melzarr.pipeline.builder.plan import Plan
from melzarr.pipeline.builder.publish import attributes
from melzarr.pipeline.errors import BuildError, StorageError, StoreError
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import FIELDS, Tracks, matches
from melzarr.pipeline.storage.directory import Directory, source_digest
from melzarr.pipeline.threads import in_order_once
from melzarr.pipeline.versions import differing
from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES
from melzarr.pipeline.zarr_store.reader import Store, is_store, open_store


def is_up_to_date(
    target: Directory, plan: Plan, catalog: Catalog, *, replace: bool = False, feedback: Feedback = SILENT
) -> bool:
    """Return whether what is at a target is the store that would be built; False if it must be replaced.

    Raises
    ------
    BuildError
        If it is not, and `replace` is False.
    """
    if not is_store(target):
        raise BuildError(f"{target} exists and is not a melzarr store; choose another path, or remove it yourself")
    try:
        with feedback.counting(len(catalog.tracks), "compare") as progress:
            found = changes(open_store(target), plan, catalog, progress)
    except StorageError:
        raise
    except StoreError as error:
        found = [str(error)]
    if replace:
        for line in found:
            feedback.say(f"  {line}")
        return False
    if found:
        raise BuildError(
            f"{target} is finished, but differs from what would be built now:\n  " + "\n  ".join(found) + "\n"
            f"choose another path, or replace it with {feedback.force}: the shards that are still valid are kept, and "
            f"the old store stays until the new one is complete"
        )
    return True


def changes(store: Store, plan: Plan, catalog: Catalog, progress: Advance = lambda _: None) -> list[str]:
    """Return how a finished store differs from what would be built now; an empty list if nothing differs.

    Parameters
    ----------
    store : Store
        The finished store.
    plan : Plan
        What would be built.
    catalog : Catalog
        The plan's tracks; all of their files are read to compare digests.
    progress : callable
        Called with the number of files read since the last call.
    """
    before, after = store.attributes, attributes(plan, catalog)
    found = [
        f"{name}: {key} was {before[name].get(key)}, is {after[name].get(key)}"
        for name in ("spec", "versions", "split")
        for key in differing(before[name], after[name])
    ]
    if before["recipe"] != after["recipe"] and not found:
        found.append("the recipe has changed")
    if store.tracks_per_shard != plan.tracks_per_shard:
        found.append(f"tracks per shard was {store.tracks_per_shard}, is {plan.tracks_per_shard}")
    return found + _track_changes(store, catalog, progress)


def _track_changes(store: Store, catalog: Catalog, progress: Advance) -> list[str]:
    shared = compare_tracks(store, catalog, progress)
    before, after = store.text("track"), Tracks.of(catalog.tracks).column("id")
    return [
        *count_tracks("new", np.delete(after, shared.now)),
        *count_tracks("gone", np.delete(before, shared.here)),
        *count_tracks("now with another label, path, group, split or excerpt", before[shared.here[shared.other]]),
        *count_tracks("whose files have changed", before[shared.here[shared.changed]]),
    ]


@dataclass(frozen=True, slots=True)
class SharedTracks:
    """The tracks that are in both a store and a source, in the order of the store.

    Parameters
    ----------
    here, now : np.ndarray [shape=(n,)]
        Their numbers in the store and in the source.
    other, changed : np.ndarray [shape=(n,), dtype=bool]
        Whether label, path, group, split, start or end differ, and whether the bytes of the file do.
    """

    here: npt.NDArray[np.intp]
    now: npt.NDArray[np.intp]
    other: npt.NDArray[np.bool_]
    changed: npt.NDArray[np.bool_]


def compare_tracks(store: Store, catalog: Catalog, progress: Advance = lambda _: None) -> SharedTracks:
    """Compare the tracks that are in both a store and a source; all of their files are read.

    Parameters
    ----------
    store : Store
        The store.
    catalog : Catalog
        The source.
    progress : callable
        Called with the number of files read since the last call.
    """
    tracks = Tracks.of(catalog.tracks)
    here, now = matches(store.text("track"), tracks.column("id"))
    order = np.argsort(here)
    here, now = here[order], now[order]  # in the order of the store, because it is read in blocks
    other, changed = np.zeros(here.size, bool), np.zeros(here.size, bool)
    for some, rows, there in _blocks(here):
        for field in FIELDS[1:]:
            other[some] |= store.field(field, rows)[there] != tracks.column(field)[now[some]]
    files = (
        (str(tracks.column("source")[number]), digest)
        for some, rows, there in _blocks(here)
        for number, digest in zip(now[some], store.column("source_blake3", rows)[there].tolist(), strict=True)
    )
    n_threads = max(catalog.root.io_threads, os.cpu_count() or 1)  # hashing releases the interpreter lock
    differ = in_order_once(lambda file: source_digest(catalog.root, *file) != file[1], files, n_threads)
    for place, differs in enumerate(differ):
        changed[place] = differs
        progress(1)
    return SharedTracks(here, now, other, changed)


def _blocks(numbers: npt.NDArray[np.intp]) -> Iterator[tuple[slice, slice, npt.NDArray[np.intp]]]:
    """Divide ascending track numbers by chunks of a column: slice of numbers, rows to read, positions in these rows."""
    for start in range(0, int(numbers[-1]) + 1 if numbers.size else 0, CHUNK_VALUES):
        first, last = np.searchsorted(numbers, [start, start + CHUNK_VALUES]).tolist()
        if first < last:
            yield slice(first, last), slice(start, start + CHUNK_VALUES), numbers[first:last] - start


def count_tracks(what: str, names: npt.NDArray[Any] | Sequence[str]) -> list[str]:
    """Return a line with the first three tracks and the number of others; an empty list if there are none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"tracks {what}: {', '.join(heapq.nsmallest(3, map(str, names)))}{more}"] if len(names) else []
