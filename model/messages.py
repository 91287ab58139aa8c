"""Format the results of training, evaluation and prediction as lines of text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from melzarr.pipeline.human_units import count, size, table
from melzarr.pipeline.report.run_files import accuracies, ahead_words, drawn_words

if TYPE_CHECKING:
    from melzarr.model.predict import Prediction


def shared_lines(facts: Mapping[str, Any]) -> list[str]:
    """Format the summary of a shared run."""
    lines = [f"shared {facts['run']} as {facts['share']}: {count(facts['files'], 'file')}, {size(facts['bytes'])}"]
    if facts["sha256"]:
        lines.append(f"  sha256    {facts['sha256']}, also in {facts['share']}.sha256")
    if facts["unsaid"]:
        lines.append(f"  not given: {', '.join(facts['unsaid'])}, which tell users how to use and cite it")
    return lines


def epoch_line(figures: Mapping[str, float], n_epochs: int, n_windows: int) -> str:
    """Return a line with the loss, accuracies and rate of an epoch."""
    return (
        f"epoch {figures['epoch']:.0f} of {n_epochs}: loss {figures['loss']:.3f}, accuracy of train windows "
        f"{figures['accuracy']:.3f}, of valid windows {figures['valid_accuracy']:.3f}; "
        f"{n_windows / figures['seconds']:.0f} windows/s"
    )


def metrics_lines(part: str, protocol: Mapping[str, str], metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics of one split as a table."""
    rows = [(f"{found['value']:.3f}", words, _interval(found)) for words, found in accuracies(metrics)]
    counted = f"{metrics['n_tracks']} tracks, {metrics['n_windows']} windows"
    return [
        f"{part}: {counted}; {protocol['words']}{drawn_words(metrics)}",
        *table(["right", "", "95 %"], rows),
    ]


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['low']:.3f} to {found['high']:.3f}"


def baseline_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics of baselines as a table, and a sentence about each: whether the network is ahead of it."""
    rows = [
        (f"{found['track_accuracy']['value']:.3f}", found["words"], _interval(found["track_accuracy"]))
        for found in metrics["baselines"].values()
    ]
    return [*table(["right", "", "95 %"], rows), *(ahead_words(found) for found in metrics["baselines"].values())]


def spread_line(folds: Sequence[Mapping[str, float]]) -> str:
    """Return a line with the accuracy of tracks in each fold, and their spread."""
    shares = [fold["track_accuracy"] for fold in folds]
    told = ", ".join(f"{share:.3f}" for share in shares)
    return f"right tracks of each fold: {told}; standard deviation {statistics.stdev(shares):.3f}"


def confusion_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return a table with the recall of each label, and the labels that its other tracks were mistaken for."""
    labels, rows = metrics["labels"], []
    for label, counts in zip(labels, metrics["confusion"], strict=True):
        if not sum(counts):
            continue
        others = sorted(
            ((n, other) for n, other in zip(counts, labels, strict=True) if n and other != label), reverse=True
        )
        taken = ", ".join(f"{n} {other}" for n, other in others)
        rows.append((label, sum(counts), f"{metrics['recall'][label]:.2f}", taken))
    return table(["label", "tracks", "recall", "taken for"], rows)


def prediction_line(song: Prediction, n_top: int) -> str:
    """Return a line with the most probable genres of a song, the vote of its windows, and what its summary says."""
    top = ", ".join(f"{label} {share:.2f}" for label, share in song.top(n_top))
    said = f"{max(song.shares):.0%} of {len(song.starts)} windows vote {song.vote}"
    if song.summary is not None:
        number = int(np.argmax(song.summary.whole))
        said += f"; its summary: {song.labels[number]} {song.summary.whole[number]:.2f}"
    return f"{song.path}: {top}  ({said})"
