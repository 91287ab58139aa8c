"""Levels in dB: of mel spectra, of stored values, and their sums for a store's statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.shard_receipt import BandSums
from melzarr.pipeline.spec import FeatureSpec

AMIN = 1e-10  # power below which all levels are the same, as for silence; librosa.power_to_db's amin
MOST = np.float32(1e18)  # mel value above which mean levels are the same, so that products of two stay finite
BLOCK_WINDOWS = 128  # windows whose levels are summed at a time, so that they fit into a core's cache
MANY_WINDOWS = 1024  # windows whose means are computed at a time: threads that take turns at short steps are slow


def level_db(mel: npt.NDArray[np.float32], spec: FeatureSpec) -> npt.NDArray[np.float32]:
    """Return the level of mel spectra in dB relative to 1, at least -100 dB.

    Parameters
    ----------
    mel : np.ndarray [shape=(…, n_mels)]
        Mel spectra of the magnitude to the power of ``spec.power``.
    spec : FeatureSpec
        Spec of the mel spectra.

    Returns
    -------
    np.ndarray [shape=(…, n_mels), dtype=float32]
        ``20 / power * log10(mel)``; for power 2 equal to ``librosa.power_to_db(mel, top_db=None)``.
    """
    level: npt.NDArray[np.float32] = np.float32(20 / spec.power) * np.log10(np.maximum(mel, _floor(spec)))
    return level


def as_stored(mel: npt.NDArray[np.float32], spec: FeatureSpec) -> npt.NDArray[Any]:
    """Convert mel spectra to the scale and dtype of a store of the spec."""
    return (level_db(mel, spec) if spec.scale == "db" else mel).astype(spec.dtype, copy=False)


def stored_levels(stored: npt.NDArray[Any], spec: FeatureSpec) -> npt.NDArray[Any]:
    """Return the level in dB of the values of a store of the spec, for every scale."""
    return stored if spec.scale == "db" else level_db(stored, spec)


def quick_levels(
    stored: npt.NDArray[Any], spec: FeatureSpec, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Return `stored_levels` within 1e-4 dB in a third of the time, for sums: numpy vectorises natural logarithms.

    Parameters
    ----------
    stored : np.ndarray [shape=(…, n_mels), dtype=spec.dtype]
        Stored windows, in the spec's scale.
    spec : FeatureSpec
        Spec of the store; gives the scale.
    out : np.ndarray [shape=(…, n_mels), dtype=float32], optional
        Memory for the result.
    """
    out = np.empty(stored.shape, np.float32) if out is None else out
    if spec.scale == "db":
        out[...] = stored
        return out
    np.maximum(stored, _floor(spec), out=out)
    np.log(out, out=out)
    return np.multiply(out, np.float32(_db_of_log(spec)), out=out)


def _db_of_log(spec: FeatureSpec) -> float:
    """Return the level in dB of one unit of the natural logarithm of mel values."""
    return 20 / spec.power / math.log(10)


def _floor(spec: FeatureSpec) -> np.float32:
    """Return the mel value at -100 dB; smaller values have the same level."""
    return np.float32(AMIN ** (spec.power / 2))


def sum_levels(stored: npt.NDArray[Any], spec: FeatureSpec) -> BandSums:
    """Sum the levels in dB of the stored windows of one track, in blocks of windows.

    Parameters
    ----------
    stored : np.ndarray [shape=(n_valid_windows, n_frames, n_mels), dtype=spec.dtype]
        Valid windows of the track, in the spec's scale.
    spec : FeatureSpec
        Spec of the store; gives the scale.
    """
    sums, rows, n_block = np.zeros((2, spec.n_mels)), stored.reshape(-1, spec.n_mels), BLOCK_WINDOWS * spec.n_frames
    if spec.scale == "power":
        from melzarr.pipeline.features.kernel_cache import compiled_kernel  # noqa: PLC0415  (slow to import; needed once per process)

        compiled_kernel().level_sums(
            np.require(rows, np.float32, ["C", "A", "W"]), _floor(spec), _db_of_log(spec), n_block, sums
        )
    else:
        for start in range(0, len(rows), n_block):
            levels = rows[start : start + n_block].astype(np.float64)
            sums += levels.sum(axis=0), np.square(levels, out=levels).sum(axis=0)
    level, square = (tuple(row.tolist()) for row in sums)
    return BandSums(count=len(rows), level=level, square=square)


def mean_levels(stored: npt.NDArray[Any], spec: FeatureSpec) -> tuple[npt.NDArray[np.float32], float]:
    """Return the levels of a track in dB: the mean of each window's frames, and the level of the mean power.

    Parameters
    ----------
    stored : np.ndarray [shape=(n, n_frames, n_mels), dtype=spec.dtype]
        Valid windows of the track, in the spec's scale; n > 0.
    spec : FeatureSpec
        Spec of the store; gives the scale.

    Returns
    -------
    levels : np.ndarray [shape=(n, n_mels), dtype=float32], in dB
        Means within 1e-4 dB. Values above `MOST` count as `MOST`.
    loudness : float, in dB
        Level of the mean power, at least -100 dB; NaN if a value is not finite.

    Notes
    -----
    The sum of the logarithms of two frames is the logarithm of their product, which halves the number of logarithms.
    """
    means, power = np.empty((len(stored), spec.n_mels), np.float32), 0.0
    for start in range(0, len(stored), MANY_WINDOWS):
        block = stored[start : start + MANY_WINDOWS]
        out = means[start : start + MANY_WINDOWS]
        if spec.scale == "power" and spec.power == 2:
            power += float(block.sum())
        else:
            power += float(np.exp(quick_levels(block, spec) * np.float32(math.log(10) / 10)).sum())
        if spec.scale == "db":
            block.mean(axis=1, dtype=np.float32, out=out)
            continue
        mel = np.clip(block, _floor(spec), MOST)
        pairs = mel[:, :-1:2] * mel[:, 1::2]
        np.log(pairs, out=pairs).sum(axis=1, out=out)
        if spec.n_frames % 2:
            out += np.log(mel[:, -1])
        out *= np.float32(_db_of_log(spec) / spec.n_frames)
    return means, 10 * math.log10(max(power / stored.size, AMIN)) if math.isfinite(power) else math.nan


def add_sums(sums: list[BandSums], n_mels: int) -> BandSums:
    """Add up the sums of a shard's train tracks, always in track order, so that the rounding is the same."""
    zero = np.zeros(n_mels)
    return BandSums(
        count=sum(part.count for part in sums),
        level=tuple(sum((np.array(part.level) for part in sums), zero).tolist()),
        square=tuple(sum((np.array(part.square) for part in sums), zero).tolist()),
    )
