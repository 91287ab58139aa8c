"""Train with a recipe and a protocol that are given by their names, once or over folds."""

from __future__ import annotations

import dataclasses
from typing import Any

from melzarr.model.evaluation_protocol import TRACK, make_protocol
from melzarr.model.run_directory import Run
from melzarr.model.train import train
from melzarr.model.train_folds import train_folds
from melzarr.model.training_recipe import TrainRecipe
from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.errors import CallError
from melzarr.pipeline.zarr_store.readable_store import ReadableStore


def train_by_name(
    store: ReadableStore,
    run: Run,
    *,
    recipe: str = "default",
    protocol: str = TRACK,
    folds: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    memory: int | None = None,
    replace: bool = False,
    feedback: Feedback = SILENT,
) -> dict[str, Any]:
    """Train the network, or resume a training, with a recipe and a protocol that are given by their names.

    Parameters
    ----------
    store, run, seed, memory, replace, feedback
        As for `melzarr.model.train.train`.
    recipe : str
        Name of a recipe, or path of a recipe file.
    protocol : str
        Name of a protocol; see `make_protocol`.
    folds : int > 1, optional
        Number of folds, in place of a protocol; see `train_folds`.
    epochs : int > 0, optional
        Maximum number of epochs; by default that of the recipe.

    Returns
    -------
    dict
        As for `melzarr.model.train.train` or `train_folds`.

    Raises
    ------
    CallError
        If folds are given with a protocol, or are fewer than two.
    """
    how = TrainRecipe.read(recipe)
    how = how if epochs is None else dataclasses.replace(how, epochs=epochs)
    if folds is None:
        what = make_protocol(store, protocol, seed)
        feedback.say(f"{run.path}: recipe {recipe}; {what.words}")
        return train(store, how, what, run, seed=seed, memory=memory, replace=replace, feedback=feedback)
    if protocol != TRACK:
        raise CallError(f"folds={folds} divide the store themselves; leave out protocol={protocol!r}, or folds")
    if folds < 2:
        raise CallError(f"folds={folds} is too few; use 2 or more")
    feedback.say(f"{run.path}: recipe {recipe}; {folds} folds by group")
    return train_folds(store, how, folds, run, seed=seed, memory=memory, replace=replace, feedback=feedback)
