"""Compare the recipes, each opinion alone and baselines over group folds of any store, and write a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from melzarr.model.run_directory import Run
from melzarr.pipeline.human_units import count
from melzarr.pipeline.report.run_files import ahead_words, drawn_words
from melzarr.pipeline.share.dataset_card import escape
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.zarr_store.reader import Store

REPORT = "report.md"
RECIPES = ("default", "article")  # the quicker one first: what is wrong with the folds shows early

# Accuracies of a run in the table, and what each is of, if the recipe has two opinions.
OPINIONS = {
    "track_accuracy": "{}",
    "track_accuracy_of_windows": "{}, its windows alone",
    "track_accuracy_of_summary": "{}, its summary of a track alone",
}


def reproduce_folds(store: Store, folder: Path, n_folds: int, train: Callable[[str, Run], Mapping[str, Any]]) -> Path:
    """Train each recipe over the same group folds, and write a report.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Folder for the runs and the report; finished runs are kept.
    n_folds : int > 1
        Number of folds.
    train : callable
        Trains a recipe over the folds, writes the run and returns its metrics.

    Returns
    -------
    Path
        Path of the report.
    """
    found = {recipe: train(recipe, Run(folder / f"{recipe}-folds-{n_folds}")) for recipe in RECIPES}
    write_whole(folder / REPORT, "\n".join(_lines(store, n_folds, found)).encode())
    return folder / REPORT


def _lines(store: Store, n_folds: int, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the report as lines of Markdown, from the metrics of each recipe."""
    attributes, test = store.attributes, found[RECIPES[0]]["test"]
    n_tracks = count(test["n_tracks"], "ok track")
    rows = [
        _row(words.format(f"recipe {recipe}"), metrics["test"][name])
        for recipe, metrics in found.items()
        for name, words in OPINIONS.items()
        if name in metrics["test"]
    ]
    # The folds are those of all recipes, and so are the baselines.
    rows += [_row(baseline["words"], baseline["track_accuracy"]) for baseline in test["baselines"].values()]
    return [
        f"# {escape(attributes['title'])}: over {n_folds} folds",
        "",
        f"Store `{store.directory.name}`, UUID {attributes['uuid']}.",
        f"{n_tracks}, each judged by a member that was not trained on its group{drawn_words(test)}.",
        "",
        "| judged by | right | 95 % interval |",
        "|---|---:|---|",
        *rows,
        "",
        *(
            f"- **{recipe}**: {escape(ahead_words(baseline))}."
            for recipe, metrics in found.items()
            for baseline in metrics["test"]["baselines"].values()
        ),
        "",
        *(line for recipe in found for line in _picture(f"{recipe}-folds-{n_folds}")),
    ]


def _row(words: str, figure: Mapping[str, float]) -> str:
    return f"| {escape(words)} | {figure['value']:.3f} | {figure['low']:.3f} to {figure['high']:.3f} |"


def _picture(name: str) -> list[str]:
    return [f"## {name}", "", f"![Confusion of labels over all folds]({name}/confusion.png)", ""]
