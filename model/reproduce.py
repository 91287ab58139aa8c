"""Repeat the article's experiment on any store, with its recipe, the default recipe and baselines; write a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from melzarr.model.baselines import require_learnt
from melzarr.model.evaluation_protocol import TRACK, WINDOW, make_protocol, protocol_names
from melzarr.model.run_directory import Run
from melzarr.model.selection import label_names
from melzarr.pipeline.report.run_files import ahead_words, drawn_words
from melzarr.pipeline.share.dataset_card import escape
from melzarr.pipeline.sources.split import SPLITS
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.zarr_store.reader import Store

REPORT = "report.md"

# Published accuracies on GTZAN. "windows" or "tracks" is the unit that was counted.
PUBLISHED = (
    ("the article of 2017, this network", "62 %", "windows", "validation; most probably split by window"),
    ("Hamel and Eck 2010, DBN + SVM; the article's benchmark", "84 %", "tracks", "random split of tracks"),
    ("deepsound", "82 %", "tracks", "random split of tracks"),
    ("mlachmish", "46.9 %", "tracks", "random split of tracks"),
    ("VGGish + SVM", "77.6 %", "tracks", "fault-filtered"),
    ("2D CNN from scratch", "54.1 %", "tracks", "fault-filtered"),
    ("MFCC + SVM", "53.4 %", "tracks", "fault-filtered"),
)


def experiments(store: Store) -> list[tuple[str, str]]:
    """Return the recipe and protocol of each experiment that a store allows."""
    named = [("default", name) for name in protocol_names(store) if name not in {TRACK, WINDOW}]
    return [("article", WINDOW), ("article", TRACK), ("default", TRACK), *named]


def reproduce(store: Store, folder: Path, train: Callable[[str, str, Run], Mapping[str, Any]]) -> Path:
    """Train and evaluate every experiment, and write a report.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Folder for the runs and the report; finished runs are kept.
    train : callable
        Trains a recipe with a protocol, writes the run and returns its metrics.

    Returns
    -------
    Path
        Path of the report.
    """
    for name in dict.fromkeys(protocol for _, protocol in experiments(store)):
        protocol = make_protocol(store, name)
        for part in SPLITS:
            protocol.part(part)  # raise if the split is empty, before the first training, which takes long
        require_learnt(store, protocol.part("train"), protocol.part("test"), label_names(store))
    found = {}
    for recipe, name in experiments(store):
        run = Run(folder / re.sub(r"[^\w-]", "_", f"{recipe}-{name}"))  # the store decides the name of a split
        found[run] = train(recipe, name, run)
    write_whole(folder / REPORT, "\n".join(report_lines(store, found)).encode())
    return folder / REPORT


def report_lines(store: Store, found: Mapping[Run, Mapping[str, Any]]) -> list[str]:
    """Return the report as lines of Markdown.

    Parameters
    ----------
    store : Store
        The store.
    found : mapping of Run to mapping
        Metrics of each run.
    """
    attributes = store.attributes
    is_gtzan = attributes["recipe"].get("name") == "gtzan"
    return [
        f"# {escape(attributes['title'])}: the article's experiment",
        "",
        f"Store `{store.directory.name}`, {store.n_tracks} tracks, UUID {attributes['uuid']}.",
        "",
        "Accuracy on the test split, with its 95 % interval; a track's class is that of the largest mean",
        "log-probability of its windows; in a recipe with a second opinion, of both opinions.",
        "",
        "| recipe | protocol | windows | tracks | epochs |",
        "|---|---|---:|---:|---:|",
        *(_row(run, metrics) for run, metrics in found.items()),
        *_baseline_rows(found),
        "",
        *_words(found),
        "",
        "## Beside baselines",
        "",
        "The baselines are trained on the same tracks. The majority class is the most frequent label of the train",
        "split. The SVM takes of each band the mean and the deviation of its level over a track, and the deviation of",
        "the differences from window to window. The intervals of differences are paired.",
        "",
        *(
            f"- **{run.path.name}**: {escape(ahead_words(baseline))}."
            for run, metrics in found.items()
            for baseline in _baselines(metrics)
        ),
        "",
        "## Published figures",
        "",
        "On GTZAN. Each was measured by a different protocol, so they cannot be compared with each other."
        if is_gtzan
        else "On GTZAN, which is not the dataset of this store, so they cannot be compared with the figures above.",
        "",
        "| what | accuracy | of | protocol |",
        "|---|---:|---|---|",
        *(f"| {' | '.join(row)} |" for row in PUBLISHED),
        *(line for run in found for line in _pictures(run)),
        "",
    ]


def _row(run: Run, metrics: Mapping[str, Any]) -> str:
    test, config = metrics["test"], run.config
    figures = (_accuracy(test[name]) for name in ("window_accuracy", "track_accuracy"))
    epochs = f"{len(run.history())} of {config['recipe']['epochs']}"
    cells = [run.path.name.partition("-")[0], escape(config["protocol"]["name"]), *figures, epochs]
    return f"| {' | '.join(cells)} |"


def _baseline_rows(found: Mapping[Run, Mapping[str, Any]]) -> list[str]:
    """Return one row for each baseline and protocol; runs of one protocol are compared with the same baselines."""
    by_protocol = {metrics["protocol"]["name"]: _baselines(metrics) for metrics in found.values()}
    return [
        f"| {escape(baseline['words'])} | {escape(protocol)} | | {_accuracy(baseline['track_accuracy'])} | |"
        for protocol, others in by_protocol.items()
        for baseline in others
    ]


def _baselines(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the baselines of a run; none if windows of the same tracks were trained on."""
    return list(metrics["test"].get("baselines", {}).values())


def _accuracy(found: Mapping[str, float]) -> str:
    return f"{100 * found['value']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _words(found: Mapping[Run, Mapping[str, Any]]) -> list[str]:
    """Return one line with the description of each protocol."""
    words = {
        metrics["protocol"]["name"]: f"{metrics['protocol']['words']}{drawn_words(metrics['test'])}"
        for metrics in found.values()
    }
    return [f"- **{escape(name)}**: {escape(said)}." for name, said in words.items()]


def _pictures(run: Run) -> list[str]:
    name = run.path.name
    return [
        "",
        f"## {name}",
        "",
        f"![Loss and accuracy of each epoch]({name}/history.png)",
        "",
        f"![Confusion of labels on the test split]({name}/confusion.png)",
    ]
