"""The summary of a song that is computed block by block, so that memory does not grow with its length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from melzarr.model.track_summary import Summary, middle_frame, track_summary
from melzarr.pipeline.features.decibels import quick_levels
from melzarr.pipeline.spec import FeatureSpec

Levels = npt.NDArray[np.float64]


class SongSummary:
    """Summaries of a song: one of all its windows, and one of each span, which is as long as a track of the spec.

    Parameters
    ----------
    spec : FeatureSpec
        Spec of the windows. Its n_windows is the length of a span.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.starts: list[int] = []  # first window of each finished span
        self._spans: list[Summary] = []
        self._levels, self._changes = _Deviation(spec.n_mels), _Deviation(spec.n_mels)
        self._last = np.empty((0, spec.n_mels))
        self._waiting, self._n_done = np.empty((0, spec.n_mels)), 0

    def add(self, windows: npt.NDArray[np.float32]) -> None:
        """Add the next windows of the song, shape (n, n_frames, n_mels), with the values that a store holds."""
        levels = quick_levels(windows[:, middle_frame(self.spec.n_frames)], self.spec).astype(np.float64)  # for sums
        self._levels.add(levels)
        self._changes.add(np.diff(np.concatenate([self._last, levels]), axis=0))
        self._last = levels[-1:]
        self._waiting, span = np.concatenate([self._waiting, levels]), self.spec.n_windows
        while len(self._waiting) >= 2 * span:  # so that the last span is at least as long as the others
            self._finish(span)

    def _finish(self, n_windows: int) -> None:
        """Summarise the first of the windows that wait."""
        self.starts.append(self._n_done)
        self._spans.append(track_summary(self._waiting[:n_windows]))
        self._waiting, self._n_done = self._waiting[n_windows:], self._n_done + n_windows

    def spans(self) -> Summary:
        """Finish the last span, and return the summary of each, shape (n_spans, N_STATISTICS * n_mels), in dB."""
        if len(self._waiting):
            self._finish(len(self._waiting))
        return np.stack(self._spans)

    def whole(self) -> Summary:
        """Return what `track_summary` does of all windows, shape (N_STATISTICS * n_mels,), in dB."""
        return np.concatenate([self._levels.mean, self._levels.std, self._changes.std]).astype(np.float32)


class _Deviation:
    """Mean and standard deviation of rows, added up as sums."""

    def __init__(self, n_columns: int) -> None:
        self.n, self.sum, self.square = 0, np.zeros(n_columns), np.zeros(n_columns)

    def add(self, rows: Levels) -> None:
        self.n += len(rows)
        self.sum += rows.sum(axis=0)
        self.square += np.square(rows).sum(axis=0)

    @property
    def mean(self) -> Levels:
        return self.sum / max(self.n, 1)

    @property
    def std(self) -> Levels:
        return np.asarray(np.sqrt(np.maximum(self.square / max(self.n, 1) - self.mean**2, 0.0)))
