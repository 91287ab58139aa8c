"""Summarise a training run for the report. No model is loaded, and the content of its files is not trusted."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melzarr.pipeline.errors import RunError
from melzarr.pipeline.report import run_files

SPLITS = ("test", "valid")  # splits on which a run is evaluated; the first is the main result
MAX_EPOCHS = 10_000
WORST = 50  # wrong answers to keep


@dataclass(frozen=True, slots=True)
class Figures:
    """Accuracy of a network on one split.

    Parameters
    ----------
    n_tracks, n_windows : int
        Tracks and windows that were evaluated.
    drawn : str
        What the intervals were drawn over; see `run_files.drawn_words`.
    answered_by : str
        How the answer for a track was found; see `run_files.answered_by`.
    accuracies : tuple of (str, float, float, float)
        For each metric its name, the share of right answers (in the last, the mean F1 of the classes), and the ends of
        its confidence interval.
    labels : tuple of str
        Names of the classes.
    confusion : tuple of tuple of int
        Number of tracks by true class (row) and predicted class (column).
    baselines : tuple of dict
        Those that the network was compared with, with "words", "track_accuracy" and "ahead" as in the metrics; empty if
        there are none, as in runs of earlier versions.
    """

    n_tracks: int
    n_windows: int
    drawn: str
    answered_by: str
    accuracies: tuple[tuple[str, float, float, float], ...]
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    baselines: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A training run, as read from its files.

    Parameters
    ----------
    name : str
        Name of its folder.
    protocol, words : str
        Name of the evaluation protocol, and its explanation.
    store_uuid : str
        UUID of the store that it was trained on.
    recipe : dict of str to value
        Settings of the training.
    history : list of dict
        Metrics of each epoch, see `run_files.FIGURES`; at most `MAX_EPOCHS`.
    parts : dict of str to Figures
        Accuracy by split; empty if the training is not finished.
    wrong : tuple of Answer
        Misclassified tracks, sorted by increasing probability of the true label; at most `WORST`.
    n_wrong, n_answered : int
        Number of misclassified tracks, and of all evaluated tracks.
    notes : tuple of str
        Missing or damaged files, one sentence per file.
    """

    name: str
    protocol: str
    words: str
    store_uuid: str
    recipe: dict[str, Any]
    history: run_files.History
    parts: dict[str, Figures]
    wrong: tuple[run_files.Answer, ...]
    n_wrong: int
    n_answered: int
    notes: tuple[str, ...]


def read_run(folder: Path) -> Training:
    """Read the files of a training run.

    Parameters
    ----------
    folder : Path
        Folder of the run.

    Raises
    ------
    RunError
        If the configuration is missing or damaged. Other missing or damaged files become notes.
    """
    try:
        config = run_files.read_json(folder / run_files.CONFIG)
        store, protocol = dict(config["store"]), dict(config["protocol"])
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} is not a run, it has no {run_files.CONFIG}; make one with: melzarr train STORE --run {folder}"
        ) from error
    except run_files.DAMAGED as error:
        raise RunError(
            f"{folder / run_files.CONFIG} is not the configuration of a run; it is damaged, train again with --force"
        ) from error
    notes: list[str] = []
    missing = "" if "folds" in config else "no epoch is done"  # a run over folds has the histories of its members
    history = _or_note(_history, folder / run_files.HISTORY, [], notes, missing)
    parts = _or_note(_figures, folder / run_files.METRICS, {}, notes, "it is not finished")
    without = (
        "it was trained by a version that did not keep the answers for single tracks; train again to get them"
        if parts
        else ""
    )
    wrong, n_wrong, n_answered = _or_note(_wrong, folder / run_files.ANSWERS, ((), 0, 0), notes, without)
    return Training(
        name=Path(os.path.realpath(folder)).name,
        protocol=str(protocol.get("name", "")),
        words=str(protocol.get("words", "")),
        store_uuid=str(store.get("uuid", "")),
        recipe=config["recipe"] if isinstance(config.get("recipe"), dict) else {},
        history=history,
        parts=parts,
        wrong=wrong,
        n_wrong=n_wrong,
        n_answered=n_answered,
        notes=tuple(notes),
    )


def _or_note(read: Any, path: Path, nothing: Any, notes: list[str], missing: str) -> Any:
    """Read a file; if it is missing or damaged, add a note and return `nothing`."""
    try:
        return read(path)
    except FileNotFoundError:
        notes.extend([f"{path.name} is missing: {missing}"] if missing else [])
    except run_files.DAMAGED:
        notes.append(f"{path.name} is damaged, and left out")
    return nothing


def _history(path: Path) -> run_files.History:
    return list(itertools.islice(run_files.read_history(path), MAX_EPOCHS))


def _figures(path: Path) -> dict[str, Figures]:
    found = run_files.read_json(path)
    return {part: _part(found[part]) for part in SPLITS if part in found}


def _part(found: Mapping[str, Any]) -> Figures:
    labels = tuple(map(str, found["labels"]))
    confusion = tuple(tuple(_whole(cell) for cell in row) for row in found["confusion"])
    if {len(confusion), *map(len, confusion)} != {len(labels)}:
        raise ValueError("its confusion matrix does not have a row and a column per label")
    intervals = [(words, _interval(figure)) for words, figure in run_files.accuracies(found)]
    n_tracks, n_windows = _whole(found["n_tracks"]), _whole(found["n_windows"])
    _whole(found.get("n_groups", n_tracks))  # `drawn_words` compares and shows it
    baselines = tuple(
        {"words": str(one["words"]), **{name: _interval(one[name]) for name in ("track_accuracy", "ahead")}}
        for one in found.get("baselines", {}).values()
    )
    return Figures(
        n_tracks=n_tracks,
        n_windows=n_windows,
        drawn=run_files.drawn_words(found),
        answered_by=run_files.answered_by(found),
        accuracies=tuple((words, one["value"], one["low"], one["high"]) for words, one in intervals),
        labels=labels,
        confusion=confusion,
        baselines=baselines,
    )


def _interval(figure: Mapping[str, Any]) -> dict[str, float]:
    return {end: run_files.finite(figure[end]) for end in ("value", "low", "high")}


def _wrong(path: Path) -> tuple[tuple[run_files.Answer, ...], int, int]:
    """Read the answers row by row, and keep the wrong ones with the lowest probability of the true label."""
    counts = {"wrong": 0, "all": 0}

    def wrong() -> Iterator[run_files.Answer]:
        for row in run_files.read_answers(path):
            counts["all"] += 1
            if row.label != row.answer:
                counts["wrong"] += 1
                yield row

    def improbable(row: run_files.Answer) -> tuple[float, float, str, str]:
        return row.probability_of_label, -row.probability_of_answer, row.split, row.track

    return tuple(heapq.nsmallest(WORST, wrong(), key=improbable)), counts["wrong"], counts["all"]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError(f"{value!r:.40} is not a count")
    return value
