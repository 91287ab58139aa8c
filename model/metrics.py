"""Metrics of predictions, with intervals over the units that are independent: tracks, or groups of tracks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from melzarr.model.intervals import interval_of_difference, interval_of_macro_f1, interval_of_share, wilson

if TYPE_CHECKING:
    from melzarr.model.evaluate import Answers

Classes = npt.NDArray[np.intp]
Figure = dict[str, float]  # value, and the ends low and high of its interval


def metrics(answers: Answers, labels: Sequence[str], groups: npt.NDArray[Any], seed: int = 0) -> dict[str, Any]:
    """Compute the metrics of a model's predictions.

    Parameters
    ----------
    answers : Answers
        The predictions.
    labels : sequence of str
        Names of the classes.
    groups : np.ndarray [shape=(n_tracks,)]
        Group of each track, of any type; tracks of one group are not independent.
    seed : int
        Seed of the intervals.

    Returns
    -------
    dict
        Number of tracks, groups and windows. Accuracy of windows, accuracy of tracks, and macro F1 of tracks over the
        classes that occur, each with the ends of a 95 % interval (see `intervals`; neither the windows of a track nor
        the tracks of a group are independent). Also the recall of each class and the confusion matrix, whose rows are
        the true classes. Accuracy of tracks, macro F1, recall and confusion matrix are of the classes `by_mean`;
        there are also accuracies by vote and, if there are two opinions, by each alone.
    """
    true, found = answers.labels, answers.by_mean
    there = np.unique(true)
    recall = recall_score(true, found, labels=there, average=None)
    units = _numbered(groups)
    of_windows = interval_of_share(answers.right, answers.n_windows, units, seed)
    by_mean = track_metrics(true, found, units, seed)
    return {
        "n_tracks": len(true),
        "n_groups": len(np.unique(units)),
        "n_windows": int(answers.n_windows.sum()),
        "window_accuracy": _figure(answers.window_accuracy, of_windows),
        "track_accuracy": by_mean["track_accuracy"],
        "track_accuracy_by_vote": _share(answers.by_vote == true, units, seed),
        **{f"track_accuracy_of_{name}": _share(of == true, units, seed) for name, of in answers.alone.items()},
        "macro_f1": by_mean["macro_f1"],
        "recall": {labels[number]: float(value) for number, value in zip(there, recall, strict=True)},
        "labels": list(labels),
        "confusion": confusion_matrix(true, found, labels=range(len(labels))).tolist(),
    }


def track_metrics(true: Classes, found: Classes, groups: npt.NDArray[Any], seed: int = 0) -> dict[str, Figure]:
    """Compute the accuracy and the macro F1 of one answer per track, with their intervals.

    Parameters
    ----------
    true, found : np.ndarray [shape=(n_tracks,)]
        True and predicted class of each track.
    groups : np.ndarray [shape=(n_tracks,)]
        Group of each track, of any type.
    seed : int
        Seed of the intervals.
    """
    units = _numbered(groups)
    macro_f1 = float(f1_score(true, found, labels=np.unique(true), average="macro", zero_division=0.0))
    return {
        "track_accuracy": _share(found == true, units, seed),
        "macro_f1": _figure(macro_f1, interval_of_macro_f1(true, found, units, seed)),
    }


def difference(true: Classes, found: Classes, other: Classes, groups: npt.NDArray[Any]) -> Figure:
    """Return how much larger the accuracy of `found` is than that of `other`, with a paired interval.

    Parameters
    ----------
    true, found, other : np.ndarray [shape=(n_tracks,)]
        True class of each track, and those that the two models predict.
    groups : np.ndarray [shape=(n_tracks,)]
        Group of each track, of any type.
    """
    right, of_other = found == true, other == true
    interval = interval_of_difference(right, of_other, _numbered(groups), seed=0)
    return _figure(float(right.mean() - of_other.mean()), interval)


def _numbered(groups: npt.NDArray[Any]) -> Classes:
    """Return the number of each track's group, in the order in which the groups come first.

    Intervals of tracks that are no groups then do not depend on the tracks' names.
    """
    _, first, units = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[units]


def _share(right: npt.NDArray[np.bool_], units: Classes, seed: int) -> Figure:
    """Return a share of tracks; without groups its interval has a closed form."""
    if len(np.unique(units)) == len(units):
        interval = wilson(int(right.sum()), len(right))
    else:
        interval = interval_of_share(right.astype(np.intp), np.ones(len(right), np.intp), units, seed)
    return _figure(float(right.mean()), interval)


def _figure(value: float, interval: tuple[float, float]) -> Figure:
    """Return a value with its interval, widened to contain it: a prior can move both ends to one side of it."""
    return {"value": value, "low": min(interval[0], value), "high": max(interval[1], value)}
