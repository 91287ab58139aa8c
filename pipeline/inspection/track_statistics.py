"""Read all tracks of a store once: mean levels of each label, a fingerprint of each track, examples to draw."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.features.decibels import mean_levels, quick_levels
from melzarr.pipeline.inspection.duplicate_candidates import fingerprint, heard_levels, print_size
from melzarr.pipeline.inspection.time_alignment import Levels, envelope
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store

MAX_DRAWN = 24  # labels with examples
FEW_LABELS = 12  # up to this number of labels, each has two examples
SECONDS = 10.0  # s, duration of each example
COLUMNS = 500  # maximum number of time columns in each example
BLOCK = 256  # tracks that are read before their results are added up
KEPT = 200_000_000  # bytes of envelopes that are kept, for 5000 tracks at the defaults; others are read again
NAMED = 50  # damaged tracks whose errors are kept

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    """The first seconds of a track.

    Parameters
    ----------
    track, label : str
        Id and label of the track.
    seconds : float, in s
        Duration of the example.
    levels : np.ndarray [shape=(n_mels, n_columns), dtype=float32], in dB
        Mean level of each band; NaN if there is no valid window.
    """

    track: str
    label: str
    seconds: float
    levels: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sound:
    """Results of reading all tracks of a store.

    Parameters
    ----------
    mean_db : np.ndarray [shape=(n_labels, n_mels)], in dB
        Mean level of each label; NaN if none of its tracks counts.
    all_db : np.ndarray [shape=(n_mels,)], in dB
        Mean level of all tracks that count.
    prints : np.ndarray [shape=(n_tracks, size), dtype=float16], in dB
        Fingerprint of each track; NaN if the track does not count.
    envelopes : dict of int to np.ndarray
        Envelopes of the first tracks, by track number.
    unreadable : list of (int, str)
        Number and error of the first damaged tracks.
    n_unreadable : int
        Number of all damaged tracks.
    """

    mean_db: Floats
    all_db: Floats
    prints: npt.NDArray[np.float16]
    envelopes: dict[int, Levels]
    unreadable: list[tuple[int, str]]
    n_unreadable: int


def listen(
    store: Store, heard: npt.NDArray[np.bool_], classes: npt.NDArray[np.intp], n_labels: int,
    progress: Callable[[int], object],
) -> Sound:  # fmt: skip
    """Read every track once, and collect levels, fingerprints and envelopes.

    Parameters
    ----------
    store : Store
        The store.
    heard : np.ndarray [shape=(n_tracks,), dtype=bool]
        Tracks that count; the others are only read to check that they can be read.
    classes : np.ndarray [shape=(n_tracks,)]
        Number of each track's label; -1 if it is not one of the `n_labels`.
    n_labels : int
        Number of labels whose levels are computed.
    progress : callable
        Called with 1 after each track.
    """
    n_mels = store.spec.n_mels
    totals, windows = np.zeros((n_labels + 1, n_mels)), np.zeros(n_labels + 1, np.int64)  # the last of all other labels
    prints = np.full((store.n_tracks, print_size(n_mels)), np.nan, np.float16)
    unreadable: list[tuple[int, str]] = []
    n_unreadable, room = 0, KEPT
    envelopes: dict[int, Levels] = {}
    for number, sound in _sounds(store, progress):
        if isinstance(sound, str):
            n_unreadable += 1
            unreadable += [(number, sound)] if len(unreadable) < NAMED else []
        elif sound and heard[number]:
            total, n_windows, print_, levels = sound
            totals[classes[number]] += total
            windows[classes[number]] += n_windows
            prints[number] = print_
            if (room := room - levels.nbytes) >= 0:
                envelopes[number] = levels
    with np.errstate(invalid="ignore"):
        return Sound(
            totals[:-1] / np.where(windows, windows, np.nan)[:-1, None],
            totals.sum(axis=0) / (windows.sum() or np.nan),
            prints,
            envelopes,
            unreadable,
            n_unreadable,
        )


def n_valid(store: Store) -> npt.NDArray[np.int64]:
    """Return the number of valid windows of each track, clipped to the spec: a foreign store may contain anything."""
    return np.asarray(np.clip(store.values("n_windows"), 0, store.spec.n_windows), np.int64)


def envelope_reader(store: Store) -> Callable[[int], Levels | None]:
    """Return a function that returns a track's envelope by its number, or None if the track cannot be read."""
    listener = _listener(store)

    def one(number: int) -> Levels | None:
        sound = listener(number)
        return sound[3] if isinstance(sound, tuple) else None

    return one


_Heard = tuple[Floats, int, npt.NDArray[np.float32], Levels]  # sum of levels, number of windows, fingerprint, envelope


def _sounds(store: Store, progress: Callable[[int], object]) -> Iterator[tuple[int, _Heard | str | None]]:
    """Read tracks in several threads; yield each track's number and results, or what is wrong with it, in order."""
    listener = _listener(store)
    with ThreadPoolExecutor(max(store.directory.io_threads, os.cpu_count() or 1)) as pool:
        for start in range(0, store.n_tracks, BLOCK):
            numbers = range(start, min(start + BLOCK, store.n_tracks))
            for number, sound in zip(numbers, pool.map(listener, numbers), strict=True):
                progress(1)
                yield number, sound


def _listener(store: Store) -> Callable[[int], _Heard | str | None]:
    """Return a thread-safe function that reads a track by its number.

    It returns an error sentence if the track is damaged, and None if it has no valid window. A thread uses its memory
    again for each track, because new memory is provided page by page, which takes longer than the arithmetic.
    """
    read, spec, valid, own = store.reader(), store.spec, n_valid(store), threading.local()

    def listen_to(number: int) -> _Heard | str | None:
        if not hasattr(own, "mel"):
            own.mel = np.empty(spec.shape, spec.dtype)
        n = int(valid[number])
        try:
            read(number, own.mel)
        except FileNotFoundError:
            return "the file of its shard is missing"
        except (OSError, ValueError, RuntimeError) as error:
            return f"it is damaged: {error}"
        return _heard(own.mel[:n], spec) if n else None

    return listen_to


def _heard(mel: npt.NDArray[Any], spec: FeatureSpec) -> _Heard | str:
    """Return what is kept of valid windows."""
    with np.errstate(all="ignore"):  # values that are not finite are reported below
        levels, loudness = mean_levels(mel, spec)
    if not math.isfinite(loudness):
        return "it is damaged: its windows are not finite numbers"
    heard = heard_levels(levels, loudness)
    return levels.sum(axis=0, dtype=np.float64), len(levels), fingerprint(heard), envelope(heard)


def examples(
    store: Store, label: npt.NDArray[Any], status: npt.NDArray[Any], labels: Sequence[str]
) -> Iterator[Example]:
    """Read the first seconds of the first ok track of each label, and of one from its middle if there are few labels.

    Parameters
    ----------
    store : Store
        The store.
    label, status : np.ndarray [shape=(n_tracks,)]
        Label and status of each track.
    labels : sequence of str
        The labels; only the first `MAX_DRAWN` are used. A damaged track is skipped.
    """
    spec, read, ok = store.spec, store.reader(), status == "ok"
    n_windows = min(spec.n_windows, max(1, round(SECONDS * spec.sample_rate / spec.stride)))
    step = -(-n_windows // COLUMNS)
    for name in labels[:MAX_DRAWN]:
        numbers = np.flatnonzero(ok & (label == name))
        wanted = {0, len(numbers) // 2} if len(labels) <= FEW_LABELS else {0}
        for number in numbers[sorted(wanted)].tolist() if numbers.size else []:
            mel = np.empty(spec.shape, spec.dtype)
            try:
                read(number, mel)
            except (OSError, ValueError, RuntimeError):
                continue
            with np.errstate(all="ignore"):
                levels = quick_levels(mel[:n_windows], spec).mean(axis=1)
            columns = np.add.reduceat(levels, np.arange(0, n_windows, step))
            columns /= np.diff(np.append(np.arange(0, n_windows, step), n_windows))[:, None]
            track = str(store.column("track", slice(number, number + 1))[0])
            yield Example(track, name, n_windows * spec.stride / spec.sample_rate, columns.T.astype(np.float32))
