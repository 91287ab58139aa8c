"""Find what has changed since a store was finished: spec, versions, tracks, the bytes of their files."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.builder.plan import Plan
from melzarr.pipeline.builder.publish import attributes
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import FIELDS, TEXT, Tracks, matches
from melzarr.pipeline.storage.directory import source_sha256
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES
from melzarr.pipeline.zarr_store.reader import Store


def changes(
    store: Store, plan: Plan, catalog: Catalog, progress: Callable[[int], object] = lambda _: None
) -> list[str]:
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
    found = [line for name in ("spec", "versions", "split") for line in _differing(name, before[name], after[name])]
    if before["recipe"] != after["recipe"] and not found:
        found.append("the recipe has changed")
    if store.tracks_per_shard != plan.tracks_per_shard:
        found.append(f"tracks per shard was {store.tracks_per_shard}, is {plan.tracks_per_shard}")
    return found + _track_changes(store, plan, catalog, progress)


def _differing(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {key} was {before.get(key)}, is {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _track_changes(store: Store, plan: Plan, catalog: Catalog, progress: Callable[[int], object]) -> list[str]:
    tracks = Tracks.of(plan.tracks)
    before, after = store.text("track"), tracks.column("id")
    here, now = matches(before, after)
    order = np.argsort(here)
    here, now = here[order], now[order]  # in the order of the store, because it is read in blocks
    other, changed = np.zeros(here.size, bool), np.zeros(here.size, bool)
    for some, rows, there in _blocks(here):
        for field in FIELDS[1:]:
            was = store.column(field, rows)[there].astype(TEXT)
            other[some] |= was != tracks.column(field)[now[some]]
    sources = (str(tracks.column("source")[number]) for number in now)
    n_threads = max(catalog.root.io_threads, os.cpu_count() or 1)  # hashing releases the interpreter lock
    after_sha256 = in_order(lambda name: source_sha256(catalog.root, name), sources, n_threads)
    for some, rows, there in _blocks(here):
        before_sha256 = store.column("source_sha256", rows)[there].tolist()
        for place, digest in enumerate(before_sha256, some.start):
            changed[place] = digest != next(after_sha256)
            progress(1)
    return [
        *count_tracks("new", np.delete(after, now)),
        *count_tracks("gone", np.delete(before, here)),
        *count_tracks("now with another label, path, group or split", before[here[other]]),
        *count_tracks("whose files have changed", before[here[changed]]),
    ]


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
