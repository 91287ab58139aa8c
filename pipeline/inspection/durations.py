"""Summarise the durations of tracks: total, extremes and histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 24

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Durations of tracks.

    Parameters
    ----------
    n, n_unknown : int
        Number of tracks with a known duration, and of the others.
    hours, shortest, median, longest : float
        Total in h, the others in s; NaN if no duration is known.
    edges, counts : np.ndarray
        Histogram of the durations; edges in s.
    """

    n: int
    n_unknown: int
    hours: float
    shortest: float
    median: float
    longest: float
    edges: Floats
    counts: npt.NDArray[np.int64]


def lengths(duration: Floats) -> Lengths:
    """Summarise durations in s; an unknown duration is NaN.

    The bins of the histogram have equal widths, or equal ratios if a few tracks are very much longer than most.
    """
    known = np.sort(duration[np.isfinite(duration) & (duration >= 0)])
    n_unknown, nan = int(duration.size - known.size), float("nan")
    if not known.size:
        return Lengths(0, n_unknown, nan, nan, nan, nan, np.zeros(0), np.zeros(0, np.int64))
    shortest, median, longest = float(known[0]), float(np.median(known)), float(known[-1])
    if longest > 10 * median:
        edges = np.geomspace(max(shortest, 1e-3, 1e-6 * longest), longest, BINS + 1)
        edges[0], edges[-1] = min(shortest, edges[0]), longest
    else:
        edges = np.linspace(shortest, longest, BINS + 1)
    if not longest - shortest > 1e-6 * longest:
        edges = np.array([shortest, longest])
    counts = np.diff(np.append(np.searchsorted(known, edges[:-1], "left"), known.size))
    return Lengths(known.size, n_unknown, float(known.sum()) / 3600, shortest, median, longest, edges, counts)
