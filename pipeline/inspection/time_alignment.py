"""Whether two tracks are one recording: their levels laid over one another where they are most alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.inspection.duplicate_candidates import RANGE_DB, band_means

BANDS = 32  # that are compared; more are averaged
MAX_WINDOWS = 4096  # that are compared; of longer tracks the first
FEWEST = 50  # windows that two tracks must have in common: fewer are alike by chance
ENOUGH = 200  # windows in common that are always enough; of shorter tracks two thirds of the shorter one
STEP = 6  # windows between the levels whose differences are compared
STEADY_DB = 0.1  # by which the level of a band moves at least: what does not move says nothing

# Measured on 100 clips of real music and the demo's thousand tracks, 24 s each. Copies by MP3, Vorbis and Opus at usual
# quality, at another level, with noise 20 dB below, that begin 0.02 to 10 s later, and excerpts of 6 to 15 s: from 0.82
# on. Different clips of music: up to 0.46; the nearest of synthesised tracks, among which are drums in one tempo and
# metre: up to 0.59. docs/gtzan.md has the table.
SAME = 0.78

Levels = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float64]


def envelope(levels: npt.NDArray[np.floating], loudness: float) -> Levels:
    """Level of a track in some broad bands over its windows.

    Parameters
    ----------
    levels : np.ndarray [shape=(n, n_frames, n_mels)], in dB
        Level of each frame of its valid windows.
    loudness : float, in dB
        Level of their mean power.

    Returns
    -------
    np.ndarray [shape=(min(n, MAX_WINDOWS), min(n_mels, BANDS)), dtype=float16], in dB
        Mean level of the frames of each window, relative to the track's loudness; what lies more than 30 dB below that
        counts as if it lay there.
    """
    heard = levels[:MAX_WINDOWS].mean(axis=1) - loudness
    return band_means(np.maximum(heard, -RANGE_DB), BANDS).astype(np.float16)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """What is computed once of a track that is compared with several.

    Parameters
    ----------
    levels : np.ndarray [shape=(n, n_bands)], in dB
        Its envelope, less each band's mean.
    sums : np.ndarray [shape=(n + 1, n_bands)]
        Sums of the first levels of each band.
    squares : np.ndarray [shape=(n + 1,)]
        Sums of the squares of all bands.
    spectrum : np.ndarray [shape=(n_fft / 2 + 1, n_bands)]
        Fourier transform of each band over time.
    """

    levels: Floats
    sums: Floats
    squares: Floats
    spectrum: npt.NDArray[np.complex128]


def outline(track: Levels, longest: int) -> Outline:
    """Prepare a track to be compared with others of up to so many windows."""
    from scipy import fft  # noqa: PLC0415  (slow to import)

    levels = track.astype(np.float64)
    levels -= levels.mean(axis=0)
    sums = np.concatenate([np.zeros((1, levels.shape[1])), levels.cumsum(axis=0)])
    squares = np.concatenate([np.zeros(1), np.square(levels).sum(axis=1).cumsum()])
    return Outline(levels, sums, squares, fft.rfft(levels, 2 * fft.next_fast_len(longest, real=True), axis=0))


def alike(first: Outline, second: Outline) -> tuple[float, int]:
    """Compare two tracks at the shift at which their levels are most alike.

    Parameters
    ----------
    first, second : Outline
        The tracks, prepared for the same longest length.

    Returns
    -------
    likeness : float
        The lower of two figures: the mean of the correlations of the levels and of their differences over 0.24 s, at
        the defaults; and the correlation of the spectrum's shape, which is the levels less the mean of their window.
        1 if one is the other, about 0 for unlike tracks; -1 if they are too short to be compared.
    shift : int
        By how many windows what is in the second comes later in the first.

    Notes
    -----
    Each band is centred over what the two have in common, so that a filter or another level changes nothing. Shifts
    are whole windows and a half: at a half, neighbours of the second are averaged. The shape tells apart what has but
    one rise and fall of its loudness in common, such as noises that are clapped or faded in one rhythm.
    """
    n, m = len(first.levels), len(second.levels)
    least = max(FEWEST, min(ENOUGH, 2 * min(n, m) // 3))
    if min(n, m) < least:
        return -1.0, 0
    shift, likeness = _best_shift(first, second, least)
    if likeness < 2 * SAME - 1.1:  # the mean would be too low even if the differences were the same
        return likeness / 2, shift
    x = first.levels[max(shift, 0) : shift + m]
    y = second.levels[max(-shift, 0) :][: len(x)]
    x = (x[:-2] + 2 * x[1:-1] + x[2:]) / 4  # as smooth as means of neighbours are, nearly
    half = (y[:-1] + y[1:]) / 2
    return max(_likeness(x, other) for other in ((half[:-1] + half[1:]) / 2, half[1:], half[:-1])), shift


def _best_shift(first: Outline, second: Outline, least: int) -> tuple[int, float]:
    """Find the shift of the highest correlation, by the Fourier transform; overlaps have so many windows at least."""
    from scipy import fft  # noqa: PLC0415  (slow to import)

    n, m = len(first.levels), len(second.levels)
    n_fft = 2 * (len(first.spectrum) - 1)
    products = fft.irfft(np.einsum("fb,fb->f", first.spectrum, second.spectrum.conj()), n_fft)
    shifts = np.arange(least - m, n - least + 1)
    x = np.maximum(shifts, 0), np.minimum(shifts + m, n)
    y = x[0] - shifts, x[1] - shifts
    count = x[1] - x[0]
    sum_x, sum_y = first.sums[x[1]] - first.sums[x[0]], second.sums[y[1]] - second.sums[y[0]]
    covariance = products[shifts] - np.einsum("sb,sb->s", sum_x, sum_y) / count
    variance_x = first.squares[x[1]] - first.squares[x[0]] - np.einsum("sb,sb->s", sum_x, sum_x) / count
    variance_y = second.squares[y[1]] - second.squares[y[0]] - np.einsum("sb,sb->s", sum_y, sum_y) / count
    steady = count * first.levels.shape[1] * STEADY_DB**2
    correlation = covariance / np.sqrt((np.maximum(variance_x, 0) + steady) * (np.maximum(variance_y, 0) + steady))
    best = int(np.argmax(correlation))
    return int(shifts[best]), float(correlation[best])


def _likeness(x: Floats, y: Floats) -> float:
    """Return the lower one of how alike levels with their differences are, and spectral shapes."""
    levels = (_correlation(x, y) + _correlation(x[STEP:] - x[:-STEP], y[STEP:] - y[:-STEP])) / 2
    if x.shape[1] == 1:  # a single band has no shape
        return levels
    return min(levels, _correlation(x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)))


def _correlation(x: Floats, y: Floats) -> float:
    """Correlation over time and bands, each band centred."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    steady = x.size * STEADY_DB**2
    return float((x * y).sum() / np.sqrt((np.square(x).sum() + steady) * (np.square(y).sum() + steady)))
