"""Recompute a track with librosa alone, and define how far a store may deviate from it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.features.audio import read_channels
from melzarr.pipeline.features.decibels import AMIN
from melzarr.pipeline.features.kernel_cache import provide_cache
from melzarr.pipeline.spec import FeatureSpec

# How far a store may deviate from librosa. The kernel and librosa both round in single precision, in proportion to the
# largest value. If m is the largest value of a window, each of its values v may be off by r m, with r = MAX_RELATIVE.
# In dB, with f = 20 / power, that is f log10(v ± r m) - f log10(v), at most -f log10(1 - r m / v). This is small for a
# loud v, and has no bound for v <= r m. Levels are therefore compared only if this and the rounding of a stored level
# (ROUNDING_DB) are together at most MAX_DB, that is for
#     v >= r m / (1 - 10 ** (-(MAX_DB - ROUNDING_DB) / f)),
# at power 2 down to 24 dB below the largest value in float32, and 33 dB in float16. Power is compared for all values.
# For a store in dB it is computed from the levels, and may also be off by the effect of ROUNDING_DB.
MAX_RELATIVE = 1e-6
MAX_DB = {"float32": 1e-3, "float16": 0.04}
ROUNDING_DB = {"float32": 1e-5, "float16": 0.0313}  # a step of float32's logarithm; half a float16 step at 64 to 128 dB


def librosa_windows(
    path: Path, spec: FeatureSpec, n_valid: int, start: float = 0.0, end: float = math.nan
) -> npt.NDArray[np.float64]:
    """Compute the power of a track's valid windows with librosa alone.

    Parameters
    ----------
    path : Path
        The audio file.
    spec : FeatureSpec
        What to compute; scale and dtype are not applied.
    n_valid : int
        Number of valid windows.
    start, end : float, in s
        Where they begin in the file, whatever the spec says, and where the track ends in it; NaN is the file's end.

    Returns
    -------
    np.ndarray [shape=(n_valid, n_frames, n_mels)]
    """
    provide_cache()
    import librosa  # noqa: PLC0415  (slow to import, and needed only for verification)

    # One second more than is compared, so that the end effects of the resampler are outside.
    rate, channels = read_channels(path, spec.seconds + 1, start, end)
    samples = librosa.resample(librosa.to_mono(channels.T), orig_sr=rate, target_sr=spec.sample_rate)
    starts = range(0, n_valid * spec.stride, spec.stride)
    windows = np.stack([samples[start : start + spec.window] for start in starts])
    mel = librosa.feature.melspectrogram(
        y=windows,
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        window=spec.window_function,
        center=True,
        pad_mode=spec.pad_mode,  # type: ignore[arg-type,unused-ignore]
        power=spec.power,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.highest_frequency,
        htk=spec.mel_scale == "htk",
        norm=None if spec.norm == "none" else spec.norm,
    )
    return np.asarray(mel, np.float64).transpose(0, 2, 1)


def distances(here: npt.NDArray[np.float64], there: npt.NDArray[np.float64], spec: FeatureSpec) -> tuple[float, float]:
    """Return the largest differences between the windows of a store and of librosa.

    Parameters
    ----------
    here : np.ndarray [shape=(n, n_frames, n_mels)]
        Windows of the store, in the spec's scale.
    there : np.ndarray [shape=(n, n_frames, n_mels)]
        Power, or magnitude, computed by librosa.
    spec : FeatureSpec
        Spec of the store.

    Returns
    -------
    relative : float
        Largest difference of power, relative to the largest value of its window, that the store's scale and dtype do
        not explain.
    decibel : float, in dB
        Largest difference of levels, both at least -100 dB, among the values that are loud enough to be compared in dB.
    """
    factor, floor, rounding = 20 / spec.power, AMIN ** (spec.power / 2), ROUNDING_DB[spec.dtype]
    there = np.maximum(there, floor) if spec.scale == "db" else there
    there_db = factor * np.log10(np.maximum(there, floor))
    here_db = here if spec.scale == "db" else factor * np.log10(np.maximum(here, floor))
    here_power = 10 ** (here / factor) if spec.scale == "db" else here
    explained = there * (10 ** (rounding / factor) - 1) if spec.scale == "db" else 0.0
    largest = np.maximum(there.max(axis=(1, 2), keepdims=True), floor)
    loud = there >= largest * MAX_RELATIVE / (1 - 10 ** (-(MAX_DB[spec.dtype] - rounding) / factor))
    relative = np.maximum(np.abs(here_power - there) - explained, 0) / largest
    return float(relative.max()), float(np.abs(here_db - there_db)[loud].max(initial=0))
