"""Names and contents of the files of a training run, which `model` writes and the report reads; nothing is trusted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from melzarr.pipeline.human_units import count
from melzarr.pipeline.untrusted_text import as_was

CONFIG = "config.json"  # what is trained, how, and on which data
HISTORY = "history.csv"  # the metrics of each epoch
METRICS = "metrics.json"  # the metrics of the trained model
ANSWERS = "answers.csv"  # the model's answer for each track of the valid and test splits

FIGURES = ("epoch", "loss", "accuracy", "valid_accuracy", "learning_rate", "seconds")  # columns of the history
# Accuracies in the metrics of a split, and what each counts. Those of opinions alone are there if there are two.
_ACCURACIES = {
    "window_accuracy": "windows",
    "track_accuracy": "tracks, by {}",
    "track_accuracy_by_vote": "tracks, by vote of their windows",
    "track_accuracy_of_windows": "tracks, by their windows alone",
    "track_accuracy_of_summary": "tracks, by their summary alone",
    "macro_f1": "macro F1 of tracks",
}
_OF_OPINIONS_ALONE = ("track_accuracy_of_windows", "track_accuracy_of_summary")
# Exceptions that the readers raise for a damaged file.
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, csv.Error)

History = list[dict[str, float]]


def answered_by(metrics: Mapping[str, Any]) -> str:
    """Return how the answer for a track was found that the metrics of a split are of."""
    return "both opinions" if all(name in metrics for name in _OF_OPINIONS_ALONE) else "mean log-probability"


def accuracies(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the accuracies of a split: what each counts, and its value with its interval."""
    for name, words in _ACCURACIES.items():
        if name in metrics or name not in _OF_OPINIONS_ALONE:
            yield words.format(answered_by(metrics)), metrics[name]


def drawn_words(metrics: Mapping[str, Any]) -> str:
    """Return what the intervals of a split were drawn over, to end a sentence; "" if its tracks are in no groups."""
    n_groups = metrics.get("n_groups", metrics["n_tracks"])  # earlier versions drew tracks, also of groups
    return f"; intervals over {count(n_groups, 'group')}" if n_groups < metrics["n_tracks"] else ""


def ahead_words(baseline: Mapping[str, Any], show: Callable[[float], str] = "{:.3f}".format) -> str:
    """Return a sentence that compares the network with a baseline, with the paired interval of the difference.

    Parameters
    ----------
    baseline : mapping
        A baseline in the metrics of a split: its "words", and "ahead", by how much the network is ahead of it.
    show : callable
        Formats the difference and the ends of its interval, shares of the tracks.
    """
    ahead, words = baseline["ahead"], baseline["words"]
    is_behind = ahead["value"] < 0
    if is_behind:
        ahead = {"value": -ahead["value"], "low": -ahead["high"], "high": -ahead["low"]}
    interval = f"({show(ahead['low'])} to {show(ahead['high'])})"
    by = f"the {words} by {show(ahead['value'])} {interval}"
    if ahead["low"] > 0:
        return f"the network {'loses to' if is_behind else 'is ahead of'} {by}"
    if not ahead["value"]:
        return f"the network is level with the {words} {interval}"
    return f"the network is {'behind' if is_behind else 'ahead of'} {by}, which may be chance"


class Answer(NamedTuple):
    """A row of the answers: a track with its true label, the model's answer, and their probabilities, from 0 to 1."""

    split: str
    track: str
    label: str
    answer: str
    probability_of_answer: float
    probability_of_label: float


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise TypeError("it is not a table of names and values")
    return found


def read_history(path: Path) -> Iterator[dict[str, float]]:
    """Yield the metrics of each epoch."""
    for row in _rows(path, FIGURES):
        yield dict(zip(FIGURES, map(finite, row), strict=True))


def read_answers(path: Path) -> Iterator[Answer]:
    """Yield the rows of answers.csv, one per track; raises ValueError if its columns are not those of `Answer`."""
    for row in _rows(path, Answer._fields):
        split, track, label, answer = map(as_was, row[:4])
        of_answer, of_label = map(finite, row[4:])
        yield Answer(split, track, label, answer, of_answer, of_label)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != columns:
            raise ValueError(f"its columns are not {', '.join(columns)}")
        yield from rows


def finite(value: str | float) -> float:
    """Return a number as float; raise ValueError if it is not a finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a finite number")
    return number
