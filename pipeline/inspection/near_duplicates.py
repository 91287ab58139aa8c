"""Find tracks of a store that are the same recording: first by the digests of their files, then by their sound."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.inspection.duplicate_candidates import Prints, candidates
from melzarr.pipeline.inspection.time_alignment import BANDS, MAX_WINDOWS, SAME, Levels, Outline, alike, outline
from melzarr.pipeline.storage.digests import SHA256
from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES
from melzarr.pipeline.zarr_store.reader import Store

MAX_COMPARED = 100_000  # pairs of tracks that are compared over time, the nearest first: a minute
MAX_READ = 20_000  # tracks that are read again for this: some minutes
DIGEST = re.compile(f"({SHA256})?[0-9a-f]{{64}}")
HELD = 100_000_000  # bytes of prepared tracks that are held at a time, for 300 tracks at the defaults

# Starts a step with a name and a number of tracks; returns a callback for its progress.
Step = Callable[[str, int], Callable[[int], object]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tracks that are the same recording.

    Parameters
    ----------
    first, second : int
        Their numbers; the second track is the earlier one in the store.
    likeness : float
        Similarity of their levels over time, from `SAME` to 1; infinite if their files are identical.
    shift : int
        Delay of the second track's content within the first, in windows.
    is_across : bool
        Whether they are in different splits.
    is_relabelled : bool
        Whether they have different labels.
    """

    first: int
    second: int
    likeness: float
    shift: int
    is_across: bool
    is_relabelled: bool


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Result of a search for duplicates.

    Parameters
    ----------
    pairs : list of Pair
        Those in different splits first, then those with different labels, then the others; the most alike first. Of
        several identical files from which the same start is taken, each is paired only with the first, and only the
        first is compared with other tracks.
    n_left : int
        Pairs with near fingerprints that were not compared over time, because there are too many.
    """

    pairs: list[Pair]
    n_left: int


def load_search() -> None:
    """Import what the search needs; this takes half a second."""
    for module in ("scipy.fft", "scipy.spatial"):
        importlib.import_module(module)


def find_duplicates(
    store: Store,
    parts: npt.NDArray[np.integer],
    labels: npt.NDArray[Any],
    prints: Prints,
    kept: Mapping[int, Levels],
    read: Callable[[int], Levels | None],
    step: Step,
) -> Duplicates:
    """Find tracks that are the same recording, in different splits or in the same split.

    Parameters
    ----------
    store : Store
        The store.
    parts : np.ndarray [shape=(n_tracks,)]
        Split of each track, as a number; a track with a negative number is left out.
    labels : np.ndarray [shape=(n_tracks,)]
        Label of each track.
    prints : np.ndarray [shape=(n_tracks, size), dtype=float16], in dB
        Fingerprints, from which candidates are found.
    kept : mapping of int to np.ndarray
        Envelopes of some tracks, by track number.
    read : callable
        Returns the envelope of another track by its number; None if it cannot be read.
    step : callable
        Called with the name and the number of tracks of each step; returns a callback for its progress.
    """
    copies, firsts = _same_bytes(store, parts)
    found = [(int(copy), int(first), np.inf, 0) for copy, first in copies]
    longest = min(store.spec.n_windows, MAX_WINDOWS)
    bytes_of_one = 16 * longest * BANDS  # levels, their sums and their spectrum, in single precision

    @lru_cache(maxsize=max(4, HELD // bytes_of_one))
    def prepared(number: int) -> Outline | None:
        track = kept[number] if number in kept else read(number)
        return None if track is None else outline(track, longest)

    parts_of_firsts = np.where(firsts, parts, -1)
    search = step("search copies", int((parts_of_firsts >= 0).sum()))
    near = candidates(prints, parts_of_firsts, progress=search)
    n_read = np.cumsum([sum(number not in kept for number in pair) for pair in near[:MAX_COMPARED].tolist()])
    compared = near[: np.count_nonzero(n_read <= MAX_READ)]
    progress = step("compare copies", len(np.unique(compared[:, 0])))

    # In order, so that a track is prepared once for consecutive pairs. Threads would take longer: the steps are short.
    for earlier, pairs_of in itertools.groupby(sorted(compared.tolist()), key=lambda pair: pair[0]):
        second = prepared(earlier)
        for _, later in pairs_of:
            first = prepared(later)
            if first is not None and second is not None:
                likeness, shift = alike(first, second)
                if likeness >= SAME:
                    found.append((later, earlier, likeness, shift))
        progress(1)
    pairs = [Pair(*one, bool(parts[one[0]] != parts[one[1]]), bool(labels[one[0]] != labels[one[1]])) for one in found]
    pairs.sort(key=lambda p: (not p.is_across, not p.is_relabelled, -round(p.likeness, 4), p.first, p.second))
    return Duplicates(pairs, len(near) - len(compared))


def _same_bytes(store: Store, parts: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Find the same starts of identical files: return pairs of each copy and the first, and which are not copies."""
    keys = np.zeros(store.n_tracks, np.uint64)
    for start in range(0, store.n_tracks, CHUNK_VALUES):
        for number, digest in enumerate(store.values("source_blake3", slice(start, start + CHUNK_VALUES)), start):
            if parts[number] >= 0 and DIGEST.fullmatch(str(digest)):  # a foreign store may contain any text
                keys[number] = int(digest[-16:], 16)  # 64 bits: no two of a million files share them by chance
    known = np.flatnonzero(keys)
    starts = store.values("start").astype(np.float64)
    keys ^= starts.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # an odd number spreads the bits; 0 stays 0
    _, first, inverse = np.unique(keys[known], return_index=True, return_inverse=True)
    first_of = known[first][inverse]
    is_copy = first_of != known
    firsts = np.ones(store.n_tracks, bool)
    firsts[known[is_copy]] = False
    return np.stack([known, first_of], axis=1)[is_copy], firsts
