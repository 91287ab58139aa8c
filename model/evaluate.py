"""How good a model is: of windows and of tracks, with intervals, and by which protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from melzarr.model.intervals import interval_of_macro_f1, interval_of_windows, wilson
from melzarr.model.judged import judged
from melzarr.model.loader import tracks
from melzarr.model.run_directory import Run
from melzarr.model.selection import Selection
from melzarr.pipeline.zarr_store.reader import Store

LEAST = 1e-12  # probability below which a logarithm would let one window decide for a whole track
BLOCK_BYTES = 5 << 20  # of windows that a model is given at a time: 2048 of the default

Classes = npt.NDArray[np.intp]
Probabilities = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model answered for the windows of each track.

    Parameters
    ----------
    numbers : np.ndarray [shape=(n_tracks,)]
        Numbers of the tracks in the store.
    labels : np.ndarray [shape=(n_tracks,)]
        Their classes.
    right, n_windows : np.ndarray [shape=(n_tracks,)]
        Windows that were answered rightly, and in all.
    by_mean, by_vote : np.ndarray [shape=(n_tracks,)]
        Class of each track: of the largest mean log-probability, and of most windows.
    of_answer, of_label : np.ndarray [shape=(n_tracks,)]
        Probability of the class `by_mean`, and of the true one; see `song_probabilities`.
    """

    numbers: Classes
    labels: Classes
    right: Classes
    n_windows: Classes
    by_mean: Classes
    by_vote: Classes
    of_answer: Floats
    of_label: Floats

    @property
    def window_accuracy(self) -> float:
        """Share of windows that were answered rightly."""
        return int(self.right.sum()) / int(self.n_windows.sum())


def answer(
    model: keras.Model, store: Store, selection: Selection, progress: Callable[[int], object] = lambda _: None
) -> Answers:
    """Ask a model for the class of every selected window.

    Parameters
    ----------
    model : keras.Model
        From windows to probabilities.
    store : Store
        The store.
    selection : Selection
        Which tracks, and which of their windows; a track with none is passed over.
    progress : callable
        Called with 1 after each track.
    """
    rows, shares = [], []
    for number, windows, label in tracks(store, selection):
        if len(windows):
            found = probabilities(model, windows)
            right = int((found.argmax(axis=1) == label).sum())
            by_mean, by_vote = track_classes(found)
            rows.append((number, label, right, len(windows), by_mean, by_vote))
            whole = song_probabilities(found)
            shares.append((whole[by_mean], whole[label]))
        progress(1)
    return Answers(*np.array(rows, np.intp).T, *np.array(shares, np.float64).T)


def probabilities(model: keras.Model, windows: npt.NDArray[np.float32]) -> Probabilities:
    """Probability of each class in each window, shape (n_windows, n_classes), computed in blocks."""
    step = max(1, BLOCK_BYTES // max(1, windows[:1].nbytes))
    blocks = [model.predict_on_batch(windows[start : start + step]) for start in range(0, len(windows), step)]
    return np.concatenate(blocks).astype(np.float32, copy=False)


def track_scores(probabilities: Probabilities) -> tuple[Floats, Classes]:
    """Scores of a track's classes from those of its windows.

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
    """Class of a track by the mean log-probability, and by vote; of equal votes the one with the larger mean."""
    mean, votes = track_scores(probabilities)
    return int(np.argmax(mean)), int(np.lexsort((mean, votes))[-1])


def song_probabilities(probabilities: Probabilities) -> Floats:
    """Probability of each class for a whole track, shape (n_classes,).

    That of the windows' geometric means, made to add up to 1: the largest is that of the largest mean log-probability.
    """
    mean, _ = track_scores(probabilities)
    weights = np.exp(mean - np.max(mean))
    return np.asarray(weights / weights.sum())


def metrics(answers: Answers, labels: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Figures of a model's answers.

    Parameters
    ----------
    answers : Answers
        What it answered.
    labels : sequence of str
        Names of the classes.
    seed : int
        Seed of the intervals.

    Returns
    -------
    dict
        Accuracies of windows and of tracks, and of the tracks by mean log-probability macro F1 over the classes that
        occur, each with the ends of a 95 % interval (see `intervals`; the windows of a track are not independent);
        the recall of each class, and the confusion matrix, whose rows are the true classes.
    """
    numbers, true, found = range(len(labels)), answers.labels, answers.by_mean
    there = np.unique(true)
    recall = recall_score(true, found, labels=there, average=None)
    units = answers.numbers  # each track by itself
    of_windows = interval_of_windows(answers.right, answers.n_windows, units, seed)
    macro_f1 = float(f1_score(true, found, labels=there, average="macro", zero_division=0.0))
    return {
        "n_tracks": len(true),
        "n_windows": int(answers.n_windows.sum()),
        "window_accuracy": _figure(answers.window_accuracy, of_windows),
        "track_accuracy": _share(found == true),
        "track_accuracy_by_vote": _share(answers.by_vote == true),
        "macro_f1": _figure(macro_f1, interval_of_macro_f1(true, found, units, seed)),
        "recall": {labels[number]: float(value) for number, value in zip(there, recall, strict=True)},
        "labels": list(labels),
        "confusion": confusion_matrix(true, found, labels=numbers).tolist(),
    }


def _share(right: npt.NDArray[np.bool_]) -> dict[str, float]:
    return _figure(float(right.mean()), wilson(int(right.sum()), len(right)))


def _figure(value: float, interval: tuple[float, float]) -> dict[str, float]:
    """Give a value with its interval, which holds it also where a prior draws both ends to one side."""
    return {"value": value, "low": min(interval[0], value), "high": max(interval[1], value)}


def evaluate(
    run: Run,
    store: Store,
    split: str = "test",
    progress: Callable[[int], object] = lambda _: None,
    *,
    with_trained: bool = False,
) -> dict[str, Any]:
    """Say how good a run's model is on one part of a store.

    Parameters
    ----------
    run : Run
        The run.
    store : Store
        What it was trained on, or another store of the same spec and labels.
    split : str
        The part.
    progress : callable
        Called with 1 after each track.
    with_trained : bool
        Whether tracks count that the model was trained on, if it is another store.

    Returns
    -------
    dict
        The part, the protocol with its words, how many of the tracks were trained on, whether the training was
        finished, and the figures of `metrics`.

    Raises
    ------
    RunError
        If the model does not fit the store, or was trained on all of the part.
    StoreError
        If the part has no track.
    """
    found = judged(run, store, split, with_trained=with_trained)
    answers = answer(run.model(), store, found.selection, progress)
    return {
        "run": str(run.path),
        "store": str(store.directory),
        "split": split,
        "protocol": {"name": found.protocol, "words": found.words},
        "trained_on": found.n_trained,
        "finished": run.is_finished,
        **metrics(answers, run.labels),
    }
