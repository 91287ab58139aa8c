"""Predict the genre of a song of any length, with the same audio and mel code that computes a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from melzarr.model.evaluate import probabilities, song_probabilities, track_classes, track_scores
from melzarr.model.song_model import FEWEST, SongModel
from melzarr.model.song_summary import SongSummary
from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio import SILENCE_PEAK, read_header, stream_audio
from melzarr.pipeline.features.decibels import as_stored
from melzarr.pipeline.features.mel import mel_windows
from melzarr.pipeline.spec import FeatureSpec

BLOCK_BYTES = 4 << 20  # bytes of windows and of samples per block, so that memory does not grow with song length


@dataclass(frozen=True, slots=True)
class SummaryOpinion:
    """Class probabilities of a song by its summary, and by both opinions.

    Parameters
    ----------
    starts : np.ndarray [shape=(n_spans,)], in s
        Start of each span, which is as long as a track that was trained on. The last is up to twice as long.
    probabilities : np.ndarray [shape=(n_spans, n_classes)]
        Probability of each class by the summary of each span.
    whole : np.ndarray [shape=(n_classes,)]
        Probability of each class by the summary of the whole song.
    joined : np.ndarray [shape=(n_classes,)]
        Probability of each class by the summary of the whole song and by all its windows.
    """

    starts: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float32]
    whole: npt.NDArray[np.float64]
    joined: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted class probabilities of a song.

    Parameters
    ----------
    path : Path
        The song.
    labels : tuple of str
        Names of the classes.
    starts : np.ndarray [shape=(n_windows,)], in s
        Start of each window.
    probabilities : np.ndarray [shape=(n_windows, n_classes), dtype=float32]
        Probability of each class in each window.
    summary : SummaryOpinion, optional
        The second opinion, if the model has one and it counts: not of a song of fewer than `FEWEST` windows.
    """

    path: Path
    labels: tuple[str, ...]
    starts: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float32]
    summary: SummaryOpinion | None = None

    @property
    def genre(self) -> str:
        """Class with the largest probability for the whole song."""
        return self.labels[int(np.argmax(self.song_probabilities))]

    @property
    def vote(self) -> str:
        """Class that the most windows vote for."""
        return self.labels[track_classes(self.probabilities)[1]]

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of windows in which each class is the most probable, shape (n_classes,)."""
        _, votes = track_scores(self.probabilities)
        return np.asarray(votes / votes.sum(), np.float64)

    @property
    def song_probabilities(self) -> npt.NDArray[np.float64]:
        """Probability of each class for the whole song, by both opinions if there are two, shape (n_classes,)."""
        return song_probabilities(self.probabilities) if self.summary is None else self.summary.joined

    def top(self, n: int) -> list[tuple[str, float]]:
        """Return the n most probable classes of the song, with their probabilities."""
        found = self.song_probabilities
        return [(self.labels[number], float(found[number])) for number in np.argsort(-found, kind="stable")[:n]]

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as a dict for JSON output."""
        second = {} if self.summary is None else {"opinions": {
            "windows": self._named(song_probabilities(self.probabilities)),
            "summary": self._named(self.summary.whole),
        }}  # fmt: skip
        return {
            "path": str(self.path),
            "status": "ok",
            "genre": self.genre,
            "vote": self.vote,
            "probabilities": self._named(self.song_probabilities),
            **second,
            "votes": self._named(self.shares),
            "n_windows": len(self.starts),
        }

    def _named(self, values: npt.NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.labels, values.tolist(), strict=True))


def predict(
    model: keras.Model,
    spec: FeatureSpec,
    labels: tuple[str, ...],
    path: Path,
    progress: Callable[[int], object] = lambda _: None,
) -> Prediction:
    """Predict the genre of a song.

    Parameters
    ----------
    model : keras.Model
        Maps windows of the spec to class probabilities, or all windows of a song to those of the song; see `SongModel`.
    spec : FeatureSpec
        Spec of the model's windows. All windows of the song are used; n_windows is the length of a span of
        `SummaryOpinion`.
    labels : tuple of str
        Names of the model's classes.
    path : Path
        The song.
    progress : callable
        Called after each block with its number of windows.

    Raises
    ------
    AudioError
        If the song is too short, silent or cannot be read.
    """
    song, found, summary = SongModel.of(model), [], SongSummary(spec)
    for windows in song_windows(path, spec):
        found.append(probabilities(song.windows, windows))
        if song.second is not None:
            summary.add(windows)
        progress(len(windows))
    answers, seconds = np.concatenate(found), spec.stride / spec.sample_rate
    starts = np.arange(len(answers), dtype=np.float64) * seconds
    if song.second is None or len(answers) < FEWEST:
        return Prediction(path, labels, starts, answers)
    of_spans = probabilities(song.second.summary, summary.spans())
    whole, joined = song.second.of_track(track_scores(answers)[0], summary.whole())
    second = SummaryOpinion(np.array(summary.starts) * seconds, of_spans, whole, joined)
    return Prediction(path, labels, starts, answers, second)


def expected_windows(path: Path, spec: FeatureSpec) -> int:
    """Return the number of windows in a whole song according to its header, or 0 if it cannot be read."""
    try:
        n_samples = round(read_header(path).duration * spec.sample_rate)
    except AudioError:
        return 0
    return max(0, 1 + (n_samples - spec.window) // spec.stride)


def song_windows(path: Path, spec: FeatureSpec) -> Iterator[npt.NDArray[np.float32]]:
    """Compute all windows of a whole song, one block at a time.

    Parameters
    ----------
    path : Path
        The song.
    spec : FeatureSpec
        Spec of the windows.

    Yields
    ------
    np.ndarray [shape=(n, n_frames, n_mels), dtype=float32]
        The next windows, with the values that a store of the spec holds.

    Raises
    ------
    AudioError
        If the song is too short, silent or cannot be read. Silence is reported only at the end of the song.
    """
    one = replace(spec, n_windows=1)
    block = replace(spec, n_windows=max(1, BLOCK_BYTES // (4 * max(spec.stride, one.n_frames * one.n_mels, 1))))
    step = block.n_windows * block.stride
    enough = max(block.n_samples, step)  # if there are gaps between windows, samples up to the next block are skipped
    waiting, n_waiting, n_samples, peak = [np.empty(0, np.float32)], 0, 0, 0.0
    for samples in stream_audio(path, spec.sample_rate):
        peak = max(peak, float(np.abs(samples).max(initial=0.0)))
        n_samples += samples.size
        n_waiting += samples.size
        waiting.append(samples)
        if n_waiting >= enough:
            joined = np.concatenate(waiting)
            while joined.size >= enough:
                yield _stored(joined[: block.n_samples], block)
                joined = joined[step:]
            waiting, n_waiting = [joined], joined.size
    if n_samples < spec.window:
        seconds, least = n_samples / spec.sample_rate, spec.window / spec.sample_rate
        raise AudioError(f"{seconds:.3f} s of audio are shorter than one window of {least:.3f} s; give a longer file")
    if peak < SILENCE_PEAK:
        raise AudioError(f"it is silent, its peak is below {20 * np.log10(SILENCE_PEAK):.0f} dBFS")
    rest = np.concatenate(waiting)
    if rest.size >= spec.window:
        yield _stored(rest, block)


def _stored(samples: npt.NDArray[np.float32], spec: FeatureSpec) -> npt.NDArray[np.float32]:
    stored = as_stored(mel_windows(samples, spec), spec)
    if not np.isfinite(stored).all():
        peak = float(np.abs(samples).max())
        raise AudioError(f"samples as large as {peak:.3g} overflow {spec.dtype}; scale the audio into -1 to 1")
    return stored.astype(np.float32, copy=False)
