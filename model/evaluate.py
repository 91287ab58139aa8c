"""Evaluate a model on a split of a store: metrics of windows and of tracks, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from melzarr.model.baselines import baselines, compare, require_learnt
from melzarr.model.judged import judged, train_split
from melzarr.model.loader import tracks
from melzarr.model.metrics import metrics
from melzarr.model.run_directory import Run
from melzarr.model.selection import Selection
from melzarr.model.song_model import LEAST, SongModel
from melzarr.model.track_summary import middle_frame, track_summary
from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.features.decibels import quick_levels
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

BLOCK_BYTES = 5 << 20  # bytes of windows per call of the model, which are 2048 windows of the default spec

Classes = npt.NDArray[np.intp]
Probabilities = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """Predictions of a model for the windows of each track.

    Parameters
    ----------
    numbers : np.ndarray [shape=(n_tracks,)]
        Numbers of the tracks in the store.
    labels : np.ndarray [shape=(n_tracks,)]
        True class of each track.
    right, n_windows : np.ndarray [shape=(n_tracks,)]
        Number of windows of each track that were classified correctly, and of all its windows.
    by_mean, by_vote : np.ndarray [shape=(n_tracks,)]
        Predicted class of each track: by the largest mean log-probability, and by vote of its windows. In the mean, a
        second opinion counts with its weight.
    of_answer, of_label : np.ndarray [shape=(n_tracks,)]
        Probability of the class `by_mean`, and of the true class; see `song_probabilities`.
    alone : dict of str to np.ndarray [shape=(n_tracks,)]
        Predicted class of each track by each of two opinions alone: "windows" and "summary"; empty for a network alone.
    """

    numbers: Classes
    labels: Classes
    right: Classes
    n_windows: Classes
    by_mean: Classes
    by_vote: Classes
    of_answer: Floats
    of_label: Floats
    alone: dict[str, Classes] = field(default_factory=dict)

    @property
    def window_accuracy(self) -> float:
        """Share of windows that were classified correctly."""
        return int(self.right.sum()) / int(self.n_windows.sum())


def answer(
    model: keras.Model, store: ReadableStore, selection: Selection, progress: Callable[[int], object] = lambda _: None
) -> Answers:
    """Classify every selected window of a store with a model.

    Parameters
    ----------
    model : keras.Model
        Maps windows to class probabilities, or all windows of a track to those of the track; see `SongModel`.
    store : ReadableStore
        The store.
    selection : Selection
        The tracks and windows; a track without selected windows is skipped.
    progress : callable
        Called with 1 after each track.
    """
    song, rows, shares, alone = SongModel.of(model), [], [], []
    for number, windows, label in tracks(store, selection):
        if len(windows):
            found = probabilities(song.windows, windows)
            right = int((found.argmax(axis=1) == label).sum())
            first, by_vote = track_classes(found)
            whole = song_probabilities(found)
            if song.second is not None:
                summary = track_summary(quick_levels(windows[:, middle_frame(store.spec.n_frames)], store.spec))
                of_summary, whole = song.second.of_track(track_scores(found)[0], summary)
                alone.append((first, int(np.argmax(of_summary))))
            by_mean = int(np.argmax(whole))
            rows.append((number, label, right, len(windows), by_mean, by_vote))
            shares.append((whole[by_mean], whole[label]))
        progress(1)
    answers = Answers(*np.array(rows, np.intp).T, *np.array(shares, np.float64).T)
    by_windows, by_summary = np.array(alone, np.intp).reshape(-1, 2).T
    return replace(answers, alone={"windows": by_windows, "summary": by_summary}) if alone else answers


def joined_answers(parts: Sequence[Answers]) -> Answers:
    """Join the predictions for different tracks."""
    names = [one.name for one in fields(Answers) if one.name != "alone"]
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    alone = {name: np.concatenate([part.alone[name] for part in parts]) for name in parts[0].alone}
    return Answers(**columns, alone=alone)


def answer_rows(store: ReadableStore, labels: list[str], part: str, answers: Answers) -> Iterator[tuple[str, ...]]:
    """Yield the answer for each track of a split, as rows of `melzarr.pipeline.report.run_files.Answer`."""
    names = store.values("track")
    shares = np.stack([answers.of_answer, answers.of_label], axis=1)
    for number, label, answer_, of in zip(answers.numbers, answers.labels, answers.by_mean, shares, strict=True):
        yield part, str(names[number]), labels[label], labels[answer_], *(f"{share:.6f}" for share in of)


def probabilities(model: keras.Model, windows: npt.NDArray[np.float32]) -> Probabilities:
    """Return the probability of each class in each window, shape (n_windows, n_classes), computed in blocks."""
    step = max(1, BLOCK_BYTES // max(1, windows[:1].nbytes))
    blocks = [model.predict_on_batch(windows[start : start + step]) for start in range(0, len(windows), step)]
    return np.concatenate(blocks).astype(np.float32, copy=False)


def track_scores(probabilities: Probabilities) -> tuple[Floats, Classes]:
    """Compute the class scores of a track from the probabilities of its windows.

    Parameters
    ----------
    probabilities : np.ndarray [shape=(n_windows, n_classes)]
        Probability of each class in each window.

    Returns
    -------
    mean : np.ndarray [shape=(n_classes,)]
        Mean log-probability of each class.
    votes : np.ndarray [shape=(n_classes,), dtype=int]
        Windows in which each class is the most probable.
    """
    mean = np.log(np.maximum(probabilities, LEAST), dtype=np.float64).mean(axis=0)
    return mean, np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])


def track_classes(probabilities: Probabilities) -> tuple[int, int]:
    """Return a track's class by mean log-probability, and by vote; the larger mean decides between equal votes."""
    mean, votes = track_scores(probabilities)
    return int(np.argmax(mean)), int(np.lexsort((mean, votes))[-1])


def song_probabilities(probabilities: Probabilities) -> Floats:
    """Return the probability of each class for a whole track, shape (n_classes,).

    These are the geometric means over the windows, normalised to sum to 1. The class with the largest mean
    log-probability has the largest probability.
    """
    mean, _ = track_scores(probabilities)
    weights = np.exp(mean - np.max(mean))
    return np.asarray(weights / weights.sum())


def evaluate(
    run: Run,
    store: ReadableStore,
    split: str = "test",
    *,
    with_trained: bool = False,
    with_baselines: bool = False,
    feedback: Feedback = SILENT,
) -> dict[str, Any]:
    """Evaluate a run's model on one split of a store.

    Parameters
    ----------
    run : Run
        The run.
    store : ReadableStore
        The store that the run was trained on, or another store with the same features and labels.
    split : str
        Name of the split.
    with_trained : bool
        Whether to count tracks that the model was trained on, if the store is another one.
    with_baselines : bool
        Whether to compare the model with baselines that are trained on the same tracks.
    feedback : Feedback
        What the caller is told, also if the training is not finished.

    Returns
    -------
    dict
        The run, the store, the split, the protocol with its description, the number of tracks that were trained on,
        whether the training is finished, the metrics of `metrics`, and those of the baselines; see `compare`.

    Raises
    ------
    RunError
        If the model does not fit the store, or was trained on all tracks of the split; or baselines cannot be trained.
    StoreError
        If the split has no ok track.
    """
    found = judged(run, store, split, with_trained=with_trained)
    if said := run.unfinished():
        feedback.warn(said)
    train = train_split(run, store) if with_baselines else None
    if train and (said := require_learnt(store, train, found.selection, run.labels)):
        feedback.warn(said)
    with feedback.counting(found.selection.tracks.size, "evaluate") as progress:
        answers = answer(run.model(), store, found.selection, progress)
    groups, compared = store.column("group")[answers.numbers], {}
    if train:
        others = baselines(store, train, answers.numbers, run.labels, feedback)
        compared = {"baselines": compare(others, answers.labels, answers.by_mean, groups)}
    return {
        "run": str(run.path),
        "store": store.address,
        "split": split,
        "protocol": {"name": found.protocol, "words": found.words},
        "trained_on": found.n_trained,
        "finished": run.is_finished,
        **metrics(answers, run.labels, groups),
        **compared,
    }
