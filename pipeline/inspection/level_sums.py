"""Mean and deviation of levels in each band, summed over many tracks, in another way than a build sums them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.features.decibels import quick_levels
from melzarr.pipeline.spec import FeatureSpec

BLOCK = 32  # windows whose levels are computed at a time, so that they fit into a core's cache

Floats = npt.NDArray[np.float64]


class LevelSums:
    """Sums of levels, and of their squares, in each band.

    Levels are summed relative to a guess of their mean. Sums of small numbers are exact enough in single precision.

    Parameters
    ----------
    spec : FeatureSpec
        Spec of the windows.
    guess : np.ndarray [shape=(n_mels,)], in dB
        Roughly the mean of each band. A value that is not finite counts as 0.
    """

    def __init__(self, spec: FeatureSpec, guess: npt.NDArray[np.floating]) -> None:
        self.spec, self.guess = spec, np.nan_to_num(guess, nan=0, posinf=0, neginf=0).astype(np.float32)
        self.count, self.sums = 0, np.zeros((2, spec.n_mels))

    def add_windows(self, mel: npt.NDArray[Any]) -> None:
        """Add valid windows, (n, n_frames, n_mels), in the spec's scale."""
        memory = np.empty((min(BLOCK, len(mel)), *mel.shape[1:]), np.float32)
        for start in range(0, len(mel), BLOCK):
            some = mel[start : start + BLOCK]
            levels = quick_levels(some, self.spec, out=memory[: len(some)]).reshape(-1, self.spec.n_mels)
            levels -= self.guess
            self.sums += levels.sum(axis=0), np.einsum("ij,ij->j", levels, levels)
            self.count += len(levels)

    def add(self, other: LevelSums) -> None:
        """Add sums that have the same guess."""
        self.count += other.count
        self.sums += other.sums

    def statistics(self) -> tuple[Floats, Floats]:
        """Return mean and deviation of each band, in dB; NaN if nothing was added."""
        mean, square = self.sums / (self.count or np.nan)
        return mean + self.guess, np.sqrt(np.maximum(square - mean**2, 0))
