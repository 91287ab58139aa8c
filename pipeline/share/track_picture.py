"""Draw the mel spectrogram of one track as a small PNG, for tables whose viewers show pictures."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.features.decibels import stored_levels
from melzarr.pipeline.report.mel_figure import RANGE_DB
from melzarr.pipeline.spec import FeatureSpec

MAX_COLUMNS: Final = 1024  # pixels of a picture's width; of longer tracks, columns are averaged
MIN_HEIGHT: Final = 128  # pixels; fewer bands take several pixels each
N_LEVELS: Final = round(RANGE_DB[1] - RANGE_DB[0])  # one colour per dB: finer ones are not seen, and compress less
MISSING: Final = N_LEVELS + 1  # palette index of windows that are not there, which is transparent


def n_columns(spec: FeatureSpec) -> int:
    """Return the width of the pictures of a spec before columns are averaged: all frames that do not overlap."""
    return spec.n_windows * _n_frames(spec)


def _n_frames(spec: FeatureSpec) -> int:
    """Return how many frames of each window are drawn: as many as there are hops from one window to the next."""
    return min(spec.n_frames, max(1, spec.stride // spec.hop_length))


def draw_track(stored: npt.NDArray[Any], n_valid: int, spec: FeatureSpec) -> bytes:
    """Draw the middle frames of each window of a track side by side as a palette PNG, low bands at the bottom.

    Frames at the ends of a window are padded, and overlap with those of its neighbours; the middle ones are neither.

    Parameters
    ----------
    stored : np.ndarray [shape=(n_windows, n_frames, n_mels), dtype=spec.dtype]
        Windows of the track in the spec's scale.
    n_valid : int > 0
        Number of valid windows; the others are transparent.
    spec : FeatureSpec
        Spec of the windows.

    Returns
    -------
    bytes
        PNG of at most `MAX_COLUMNS` columns, on the scale of all mel spectrograms, `RANGE_DB`.
    """
    from matplotlib import colormaps  # noqa: PLC0415  (an extra)
    from PIL import Image  # noqa: PLC0415  (comes with matplotlib)

    n_drawn = _n_frames(spec)
    first, step = (spec.n_frames - n_drawn) // 2, -(-n_columns(spec) // MAX_COLUMNS)
    frames = stored[:n_valid, first : first + n_drawn].astype(np.float32)
    levels = stored_levels(frames, spec).reshape(-1, spec.n_mels)
    starts = np.arange(0, len(levels), step)
    means = np.add.reduceat(levels, starts) / np.diff(starts, append=len(levels))[:, None]
    pixels = np.full((-(-n_columns(spec) // step), spec.n_mels), MISSING, np.uint8)
    pixels[: len(means)] = np.rint(np.clip(means - RANGE_DB[0], 0, N_LEVELS))
    image = Image.fromarray(pixels.T[::-1].repeat(-(-MIN_HEIGHT // spec.n_mels), axis=0))
    colours = (colormaps["magma"](np.linspace(0, 1, N_LEVELS + 1))[:, :3] * 255).round().astype(np.uint8)
    image.putpalette(colours.tobytes() + b"\xff\xff\xff")
    data = io.BytesIO()
    image.save(data, format="png", transparency=MISSING)
    return data.getvalue()
