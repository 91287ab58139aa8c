"""Train a member per group fold, judge each track by the member that has not heard its group, and join the members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from melzarr.model.baselines import baselines, compare, pooled_baselines
from melzarr.model.evaluate import answer, answer_rows, joined_answers
from melzarr.model.evaluation_protocol import fold_protocols
from melzarr.model.metrics import metrics
from melzarr.model.run_directory import Run
from melzarr.model.run_pictures import draw_pictures
from melzarr.model.selection import label_names
from melzarr.model.song_model import SUMMARY, WINDOWS, SongModel, mean_opinion, song_model
from melzarr.model.train import configuration, train, trainable_parts
from melzarr.model.training_recipe import TrainRecipe
from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

WORDS = "{} folds: each track is judged by the member that was not trained on its group"


def train_folds(
    store: ReadableStore,
    recipe: TrainRecipe,
    n_folds: int,
    run: Run,
    *,
    seed: int = 0,
    memory: int | None = None,
    replace: bool = False,
    feedback: Feedback = SILENT,
) -> dict[str, Any]:
    """Train a member for each fold, or resume a stopped training, then judge all tracks and join the members.

    Parameters
    ----------
    store : ReadableStore
        The store.
    recipe : TrainRecipe
        Hyperparameters of each member.
    n_folds : int > 1
        Number of folds; see `melzarr.model.folds`.
    run : Run
        Run directory to write to. Each member is a run in a folder of it.
    seed : int
        Seed of the folds and of each member.
    memory, replace, feedback
        As for `melzarr.model.train.train`.

    Returns
    -------
    dict
        Contents of metrics.json: the protocol; the metrics of all judged tracks as those of the test split, with those
        of baselines over the same folds (see `melzarr.model.baselines.compare`); and the accuracy of tracks in each
        fold. The run's model gives the mean of its members' log-probabilities.

    Raises
    ------
    CatalogError
        If the store cannot be divided into the folds.
    RunError, StoreError
        As for `melzarr.model.train.train`.
    """
    with feedback.counting(None, "divide into folds"):
        protocols = fold_protocols(store, n_folds, seed)
    parts = [trainable_parts(store, protocol) for protocol in protocols]  # before the first training, which takes long
    labels, told = label_names(store), {"name": f"folds-{n_folds}", "words": WORDS.format(n_folds)}
    with run.locked():
        run.start(
            {**configuration(store, recipe, protocols[0], seed), "protocol": told, "folds": n_folds}, replace=replace
        )
        if run.is_finished:
            feedback.say("already finished, and kept")
            draw_pictures(run)
            return run.metrics
        members = [run.member(number) for number in range(1, n_folds + 1)]
        judged = [part["test"] for part in parts]
        for number, (protocol, member) in enumerate(zip(protocols, members, strict=True), start=1):
            feedback.say(f"fold {number} of {n_folds}: {judged[number - 1].tracks.size} tracks to judge")
            train(store, recipe, protocol, member, seed=seed, memory=memory, feedback=feedback)
        models = [member.model() for member in members]
        with feedback.counting(sum(part.tracks.size for part in judged), "evaluate") as progress:
            answers = [answer(model, store, part, progress) for model, part in zip(models, judged, strict=True)]
        pooled = joined_answers(answers)
        groups = store.column("group")[pooled.numbers]
        others = [
            baselines(store, part["train"], given.numbers, labels, feedback)
            for part, given in zip(parts, answers, strict=True)
        ]
        found = {
            "protocol": told,
            "test": {
                **metrics(pooled, labels, groups),
                "baselines": compare(pooled_baselines(others), pooled.labels, pooled.by_mean, groups),
            },
            "folds": [
                {"n_tracks": len(given.labels), "track_accuracy": float((given.by_mean == given.labels).mean())}
                for given in answers
            ],
        }
        trained = np.unique(np.concatenate([part["train"].tracks for part in parts]))
        run.keep_trained(set(store.column("source_blake3")[trained].tolist()))
        run.keep_model(joined_members(store.spec, models, recipe))
        run.keep_answers(answer_rows(store, labels, "test", pooled))
        run.finish(found)
        draw_pictures(run, models[0])
    return found


def joined_members(spec: FeatureSpec, models: Sequence[keras.Model], recipe: TrainRecipe) -> keras.Model:
    """Join the models of members into one of the same kind, which gives the mean of their log-probabilities.

    Parameters
    ----------
    spec : FeatureSpec
        Spec of the windows.
    models : sequence of keras.Model
        Models of the members, all with a second opinion or all without.
    recipe : TrainRecipe
        Recipe of the members; gives the weight of the second opinion.
    """
    songs = [SongModel.of(model) for model in models]
    windows = mean_opinion([song.windows for song in songs], WINDOWS)
    if recipe.summary is None:
        return windows
    seconds = [song.second.summary for song in songs if song.second is not None]
    return song_model(spec, windows, mean_opinion(seconds, SUMMARY), recipe.summary.weight)
