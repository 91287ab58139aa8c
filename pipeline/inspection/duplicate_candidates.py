"""Find candidates for duplicate tracks: reduce each track to a fingerprint that copies share, and find the nearest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

GROUPS = 128  # maximum number of bands; more are averaged, so that a million tracks take half a gigabyte
RANGE_DB = 30.0  # below a track's mean power; a codec drops quieter content first

# Measured on 100 clips of real music: copies by MP3, Vorbis and Opus at medium quality are within 0.6 dB of their
# originals. Copies that begin 5 s later or last 15 s instead of 24 s are mostly within 2 dB. Different music is mostly
# further apart, but all white noise is within 0.2 dB. Near tracks are therefore candidates, to be compared over time.
NEAR_DB = 3.2
NEAREST = 3  # candidates for each track, in each split

WAVES = 6  # slowest waves of a spectrum over its bands, used to search neighbours
SOUGHT = 16  # neighbours found by these waves; the nearest of them are kept
BLOCK = 1 << 14  # fingerprints that are compared at a time: 32 MB

Prints = npt.NDArray[np.float16]


def print_size(n_mels: int) -> int:
    """Return the length of a fingerprint."""
    return 2 * min(n_mels, GROUPS)


def band_means(values: npt.NDArray[np.floating], n_bands: int) -> npt.NDArray[np.floating]:
    """Average neighbouring bands, on the last axis, to at most `n_bands`."""
    n_mels = values.shape[-1]
    step, rest = divmod(n_mels, min(n_mels, n_bands))
    if not rest:  # a tenth of the time of `reduceat`
        total = values[..., ::step]
        for band in range(1, step):
            total = total + values[..., band::step]
        return np.asarray(total / step)
    starts = np.linspace(0, n_mels, n_bands, endpoint=False).astype(np.intp)
    sizes = np.diff(np.append(starts, n_mels)).astype(values.dtype)
    return np.asarray(np.add.reduceat(values, starts, axis=-1) / sizes)


def heard_levels(levels: npt.NDArray[np.float32], loudness: float) -> npt.NDArray[np.float32]:
    """Return levels relative to a track's loudness; those more than 30 dB below it are raised to 30 dB below it.

    Parameters
    ----------
    levels : np.ndarray [shape=(n, n_mels), dtype=float32], in dB
        Mean level of each of its windows.
    loudness : float, in dB
        Level of the track's mean power.
    """
    heard = levels - np.float32(loudness)
    return np.asarray(np.maximum(heard, np.float32(-RANGE_DB), out=heard))


def fingerprint(heard: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return mean and deviation of a track's level in each band, which re-encoding, a shift or a gain hardly change.

    Parameters
    ----------
    heard : np.ndarray [shape=(n, n_mels), dtype=float32], in dB
        From `heard_levels`.

    Returns
    -------
    np.ndarray [shape=(print_size(n_mels),), dtype=float32], in dB
        First the means, then the deviations.
    """
    return np.asarray(band_means(np.stack([heard.mean(axis=0), heard.std(axis=0)]), GROUPS).ravel(), np.float32)


def apart_db(first: Prints, second: Prints) -> npt.NDArray[Any]:
    """Return the distance of fingerprints in dB: the root mean square of their difference, broadcast over rows."""
    difference = first.astype(np.float32) - second.astype(np.float32)
    return np.asarray(np.sqrt(np.square(difference).mean(axis=-1)))


def candidates(
    prints: Prints,
    parts: npt.NDArray[np.integer],
    within: float = NEAR_DB,
    progress: Callable[[int], object] = lambda _: None,
) -> npt.NDArray[np.intp]:
    """Find the nearest tracks of each track in each split, if they are near enough.

    Parameters
    ----------
    prints : np.ndarray [shape=(n_tracks, size), dtype=float16], in dB
        Fingerprints; one that is not finite is near to none.
    parts : np.ndarray [shape=(n_tracks,)]
        Split of each track, from 0 on; negative if it is in none.
    within : float, in dB
        Largest distance of near tracks.
    progress : callable
        Called with the number of tracks searched since the last call.

    Returns
    -------
    np.ndarray [shape=(n_pairs, 2)]
        Numbers of two tracks, the lower first. Each pair occurs once, and the nearest pairs come first.

    Notes
    -----
    Neighbours are searched by the slowest waves of the spectra, a dozen numbers of an orthonormal transform. Their
    distance is never larger than the full distance. Of the 16 nearest by these waves, the three nearest are kept.
    """
    from scipy.spatial import cKDTree  # noqa: PLC0415  (slow to import)

    known = [np.isfinite(prints[start : start + BLOCK]).all(axis=1) for start in range(0, len(prints), BLOCK)]
    usable = np.flatnonzero((parts >= 0) & np.concatenate([*known, np.zeros(0, bool)]))
    usable, repeats = _without_repeats(prints, usable)
    splits = [usable[parts[usable] == part] for part in np.unique(parts[usable])]
    trees = [(split, cKDTree(_waves(prints, split))) for split in splits]
    found = [repeats]
    for start in range(0, len(usable), BLOCK // SOUGHT):
        some = usable[start : start + BLOCK // SOUGHT]
        found += [_nearest(prints, some, split, tree, within) for split, tree in trees]
        progress(len(some))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    apart = [
        apart_db(prints[some[:, 0]], prints[some[:, 1]]) for some in np.array_split(pairs, len(pairs) // BLOCK + 1)
    ]
    return pairs[np.argsort(np.concatenate(apart), kind="stable")]


def _nearest(
    prints: Prints, some: npt.NDArray[np.intp], split: npt.NDArray[np.intp], tree: cKDTree, within: float
) -> npt.NDArray[np.intp]:
    """Return pairs of each of some tracks and its nearest tracks in a split, except itself."""
    # Slightly more than `within`: the waves are rounded, and their distance must remain a lower bound.
    _, places = tree.query(_waves(prints, some), k=SOUGHT, distance_upper_bound=1.01 * within + 1e-3, workers=-1)
    numbers = split[np.minimum(places, len(split) - 1)]
    apart = apart_db(prints[some, None], prints[numbers])
    apart[(places == len(split)) | (numbers == some[:, None]) | (apart > within)] = np.inf
    order = np.argsort(apart, axis=1, kind="stable")[:, :NEAREST]
    is_near = np.isfinite(np.take_along_axis(apart, order, axis=1))
    pairs = np.stack([np.broadcast_to(some[:, None], order.shape), np.take_along_axis(numbers, order, axis=1)], axis=-1)
    return np.asarray(pairs[is_near])


def _waves(prints: Prints, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Return the slowest waves of means and deviations over bands; their distance is a lower bound of that in dB."""
    from scipy.fft import dct  # noqa: PLC0415  (slow to import)

    blocks = [np.zeros((0, 2 * min(WAVES, prints.shape[1] // 2)), np.float32)]
    for start in range(0, len(numbers), BLOCK):
        halves = prints[numbers[start : start + BLOCK]].astype(np.float32).reshape(-1, 2, prints.shape[1] // 2)
        slow = dct(halves, norm="ortho", axis=-1)[..., :WAVES].reshape(len(halves), -1)
        blocks.append(slow / np.float32(np.sqrt(prints.shape[1])))
    return np.concatenate(blocks)


def _without_repeats(
    prints: Prints, numbers: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Drop tracks whose fingerprint equals that of an earlier track; return the rest, and pairs (earlier, dropped)."""
    order = numbers[np.lexsort((numbers, *_waves(prints, numbers).T))]
    repeated = np.zeros(len(order), bool)
    for start in range(1, len(order), BLOCK):
        rows = order[start - 1 : start + BLOCK]
        repeated[start : start + len(rows) - 1] = (prints[rows[1:]] == prints[rows[:-1]]).all(axis=1)
    firsts = np.maximum.accumulate(np.where(repeated, 0, np.arange(len(order))))
    return np.sort(order[~repeated]), np.stack([order[firsts], order], axis=1)[repeated]
