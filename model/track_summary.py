"""The summary of a whole track: how each band's level is on average, how it varies, and how it changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from melzarr.model.track_memory import read_track, readers
from melzarr.pipeline.features.decibels import quick_levels
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

N_STATISTICS = 3  # of each band: mean and deviation of its level, and deviation of the level's differences
BLOCK = 256  # tracks that are submitted at a time, so that the queue does not grow with the store

Summary = npt.NDArray[np.float32]


def track_summary(levels: npt.NDArray[np.floating]) -> Summary:
    """Summarise the levels of a track.

    Parameters
    ----------
    levels : np.ndarray [shape=(n_windows, n_mels)], in dB
        Level of each band in the middle frame of each valid window, in order of time; see `middle_frame`.

    Returns
    -------
    np.ndarray [shape=(N_STATISTICS * n_mels,), dtype=float32], in dB
        For all bands the mean over time, then the standard deviation over time, then the standard deviation of the
        differences from one window to the next.

    Notes
    -----
    Deviations are those of the windows as the population, divided by their number (``ddof=0``). Those of a single
    window are 0.
    """
    levels = levels.astype(np.float64, copy=False)
    changes = np.diff(levels, axis=0) if len(levels) > 1 else np.zeros_like(levels)
    return np.concatenate([levels.mean(axis=0), levels.std(axis=0), changes.std(axis=0)]).astype(np.float32)


def middle_frame(n_frames: int) -> int:
    """Return the number of the frame in the middle of a window, whose samples are least affected by padding."""
    return n_frames // 2


def track_summaries(
    store: ReadableStore, numbers: npt.NDArray[np.intp], progress: Callable[[int], object] = lambda _: None
) -> Summary:
    """Read tracks of a store, several at a time, and summarise each.

    Parameters
    ----------
    store : ReadableStore
        The store, of any scale.
    numbers : np.ndarray [shape=(n,)]
        Numbers of the tracks, which must be ok, so that all their windows are valid.
    progress : callable
        Called with 1 after each track.

    Returns
    -------
    np.ndarray [shape=(n, N_STATISTICS * n_mels), dtype=float32], in dB
        One row per track; see `track_summary`.

    Raises
    ------
    StoreError
        If a track is damaged or missing.
    """
    spec, read = store.spec, store.reader()
    frame = middle_frame(spec.n_frames)

    def one(number: int) -> Summary:
        windows = np.empty(spec.shape, np.float32)
        read_track(store, read, number, windows)
        return track_summary(quick_levels(windows[:, frame], spec))

    found = np.empty((len(numbers), N_STATISTICS * spec.n_mels), np.float32)
    with readers(store, None) as threads:
        for start in range(0, len(numbers), BLOCK):
            block = numbers[start : start + BLOCK].tolist()
            for place, summary in enumerate(threads.map(one, block), start=start):
                found[place] = summary
                progress(1)
    return found
