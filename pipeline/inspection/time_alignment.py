"""Decide whether two tracks are the same recording: shift their levels in time to where they are most alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.inspection.duplicate_candidates import band_means

BANDS = 32  # bands that are compared; more are averaged
MAX_WINDOWS = 4096  # windows that are compared; only the first ones of longer tracks
FEWEST = 50  # windows that two tracks must have in common; fewer may be alike by chance
ENOUGH = 200  # common windows that are always enough; for short tracks, two thirds of the shorter one
STEP = 6  # windows between the levels whose differences are compared
STEADY_DB = 0.1  # added to a band's deviation, in quadrature: a steady band carries no information

# Measured on 100 clips of real music and the demo's thousand tracks, 24 s each. Copies have a likeness of 0.82 or more:
# by MP3, Vorbis and Opus at usual quality, at another level, with noise 20 dB below, with a start 0.02 to 10 s later,
# and excerpts of 6 to 15 s. Different clips of music have at most 0.46. The nearest synthesised tracks, which include
# drums in one tempo and metre, have at most 0.59. The table is in docs/gtzan.md.
SAME = 0.78

Levels = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float64]


def envelope(heard: npt.NDArray[np.float32]) -> Levels:
    """Return the level of a track in a few broad bands, over its windows.

    Parameters
    ----------
    heard : np.ndarray [shape=(n, n_mels), dtype=float32], in dB
        From `heard_levels`.

    Returns
    -------
    np.ndarray [shape=(min(n, MAX_WINDOWS), min(n_mels, BANDS)), dtype=float16], in dB
        Means over neighbouring bands.
    """
    return band_means(heard[:MAX_WINDOWS], BANDS).astype(np.float16)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Precomputed data of a track that is compared with several tracks.

    Parameters
    ----------
    levels : np.ndarray [shape=(n, n_bands)], in dB
        Its envelope minus each band's mean.
    sums : np.ndarray [shape=(n + 1, n_bands)]
        Cumulative sums of the levels of each band, from 0 on; the last ones are 0 too.
    squares : np.ndarray [shape=(n + 1,)]
        Cumulative sums of squared levels over all bands, from 0 on.
    heads, tails : np.ndarray [shape=(n + 1,)]
        Norms of the first k windows, and of the last k windows; see `_norms`.
    spectrum : np.ndarray [shape=(n_fft / 2 + 1, n_bands)]
        Fourier transform of each band over time.
    """

    levels: npt.NDArray[np.float32]
    sums: npt.NDArray[np.float32]
    squares: Floats
    heads: Floats
    tails: Floats
    spectrum: npt.NDArray[np.complex64]


def outline(track: Levels, longest: int) -> Outline:
    """Prepare a track for comparison with tracks of up to `longest` windows."""
    from scipy import fft  # noqa: PLC0415  (slow to import)

    levels = track.astype(np.float32)  # half the time of double precision; a likeness is exact to 1e-5
    levels -= levels.mean(axis=0)
    sums = np.zeros((len(levels) + 1, levels.shape[1]), np.float32)
    levels[:-1].cumsum(axis=0, out=sums[1:-1])
    squares = np.concatenate([np.zeros(1), np.vecdot(levels, levels).cumsum(dtype=np.float64)])
    count, square_sums = np.arange(len(squares)), np.vecdot(sums, sums)
    heads = _norms(squares, square_sums, count, levels.shape[1])
    tails = _norms(squares[-1] - squares[::-1], square_sums[::-1], count, levels.shape[1])
    spectrum = fft.rfft(levels, 2 * fft.next_fast_len(longest, real=True), axis=0)
    return Outline(levels, sums, squares, heads, tails, spectrum)


def _norms(
    squares: Floats, square_sums: npt.NDArray[np.floating], count: npt.NDArray[np.integer], n_bands: int
) -> Floats:
    """Return the norms of sections of a track, with each band centred within its section.

    Parameters
    ----------
    squares : np.ndarray [shape=(n,)]
        Sum of all squared levels of each section.
    square_sums : np.ndarray [shape=(n,)]
        Sum of the squared sums of its bands.
    count : np.ndarray [shape=(n,)]
        Number of its windows.
    n_bands : int > 0
        Number of bands; each adds `STEADY_DB` in quadrature.
    """
    count = np.maximum(count, 1)
    return np.asarray(np.sqrt(np.maximum(squares - square_sums / count, 0) + count * n_bands * STEADY_DB**2))


def alike(first: Outline, second: Outline) -> tuple[float, int]:
    """Compare two tracks at the shift at which their levels are most alike.

    Parameters
    ----------
    first, second : Outline
        The tracks, prepared for the same longest length.

    Returns
    -------
    likeness : float
        The lower of two values: the mean of the correlations of the levels and of their differences over 0.24 s, with
        the default spec; and the correlation of the spectrum's shape, which is the levels minus the mean of their
        window. 1 for the same track, about 0 for unlike tracks, -1 if they are too short to be compared.
    shift : int
        Delay of the second track's content within the first, in windows.

    Notes
    -----
    Each band is centred over the common windows, so that a filter or another level has no effect. Shifts are multiples
    of half a window: at a half, neighbouring windows of the second track are averaged. The shape separates tracks that
    share only the rise and fall of their loudness, such as noises that are clapped or faded in one rhythm.
    """
    n, m = len(first.levels), len(second.levels)
    least = max(FEWEST, min(ENOUGH, 2 * min(n, m) // 3))
    if min(n, m) < least:
        return -1.0, 0
    shift, likeness = _best_shift(first, second, least)
    if likeness < 2 * SAME - 1.1:  # the mean would be too low even with identical differences
        return likeness / 2, shift
    x: npt.NDArray[np.floating] = first.levels[max(shift, 0) : shift + m]
    y = second.levels[max(-shift, 0) :][: len(x)]
    x = (x[:-2] + 2 * x[1:-1] + x[2:]) / 4  # nearly as smooth as means of neighbours
    half = (y[:-1] + y[1:]) / 2
    return max(_likeness(x, other) for other in ((half[:-1] + half[1:]) / 2, half[1:], half[:-1])), shift


def _best_shift(first: Outline, second: Outline, least: int) -> tuple[int, float]:
    """Find the shift of the highest correlation by Fourier transform, with at least `least` common windows."""
    from scipy import fft  # noqa: PLC0415  (slow to import)

    n, m = len(first.levels), len(second.levels)
    if n < m:  # so that the second track is the shorter one
        shift, correlation = _best_shift(second, first, least)
        return -shift, correlation
    # In order of the shifts, the second track overlaps the start of the first, is within it, and overlaps its end.
    n_in, n_within = m - least, n - m + 1
    n_fft = 2 * (len(first.spectrum) - 1)
    products = fft.irfft(np.vecdot(second.spectrum, first.spectrum), n_fft)
    products = np.concatenate([products[n_fft - n_in :], products[: n_within + n_in]])
    count = np.concatenate([np.arange(least, m), np.full(n_within, m), np.arange(m - 1, least - 1, -1)])
    # The sums of a whole track are 0, and those of its end are minus those of its start.
    sums = np.zeros(len(count), np.float32)
    sums[:n_in] = np.vecdot(first.sums[least:m], second.sums[n_in:0:-1])
    sums[n_in + n_within :] = np.vecdot(first.sums[n - m + 1 :][:n_in], second.sums[m - 1 :: -1][:n_in])
    starts = np.arange(n_within)
    inner = _norms(
        first.squares[starts + m] - first.squares[starts],
        np.square(first.sums[starts + m] - first.sums[starts]).sum(axis=1),
        np.full(n_within, m),
        first.levels.shape[1],
    )
    norm_x = np.concatenate([first.heads[least:m], inner, first.tails[m - 1 : least - 1 : -1]])
    norm_y = np.concatenate(
        [second.tails[least:m], np.full(n_within, second.heads[m]), second.heads[m - 1 : least - 1 : -1]]
    )
    correlation = (products + sums / count) / (norm_x * norm_y)
    best = int(np.argmax(correlation))
    return best - n_in, float(correlation[best])


def _likeness(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> float:
    """Return the lower one of two correlations: of levels with their differences, and of spectral shapes."""
    levels = (_correlation(x, y) + _correlation(x[STEP:] - x[:-STEP], y[STEP:] - y[:-STEP])) / 2
    if x.shape[1] == 1:  # a single band has no shape
        return levels
    return min(levels, _correlation(x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)))


def _correlation(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> float:
    """Return the correlation over time and bands, with each band centred."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    steady = x.size * STEADY_DB**2
    return float((x * y).sum() / np.sqrt((np.square(x).sum() + steady) * (np.square(y).sum() + steady)))
