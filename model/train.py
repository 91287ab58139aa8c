"""Train the network on a store with a recipe, evaluate it, and write everything to a run directory."""

from __future__ import annotations

import logging
import math
import re
import time
from importlib.metadata import version
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melzarr.model.baselines import baselines, compare
from melzarr.model.evaluate import answer, answer_rows
from melzarr.model.evaluation_protocol import TRACK, WINDOW, Protocol, every_third, level_statistics
from melzarr.model.folds import parse_fold
from melzarr.model.loader import Batches
from melzarr.model.messages import epoch_line
from melzarr.model.metrics import metrics
from melzarr.model.network import network
from melzarr.model.run_directory import Run
from melzarr.model.run_pictures import draw_pictures
from melzarr.model.selection import Selection, label_names
from melzarr.model.song_model import SongModel, song_model
from melzarr.model.train_summary import train_summary_network
from melzarr.model.training_recipe import SummaryRecipe, TrainRecipe
from melzarr.pipeline.builder.feedback import SILENT, Advance, Feedback
from melzarr.pipeline.errors import RunError, StoreError
from melzarr.pipeline.report.run_files import History
from melzarr.pipeline.sources.split import SPLITS
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

logger = logging.getLogger(__name__)


def configuration(store: ReadableStore, recipe: TrainRecipe, protocol: Protocol, seed: int) -> dict[str, Any]:
    """Return everything that the weights of a training depend on, and what is needed to use the model."""
    return {
        "store": {"uuid": store.attributes["uuid"], "title": store.attributes["title"]},
        "spec": store.spec.to_dict(),
        "labels": label_names(store),
        "recipe": recipe.to_dict(),
        "protocol": {"name": protocol.name, "words": protocol.words},
        "seed": seed,
        "versions": {name: version(name) for name in ("melzarr", "keras", "tensorflow", "numpy", "scikit-learn")},
    }


def trainable_parts(store: ReadableStore, protocol: Protocol) -> dict[str, Selection]:
    """Return the train, valid and test splits of a protocol, by name.

    Raises
    ------
    RunError
        If the store or its train split has fewer than two labels.
    StoreError
        If a split of the protocol has no track.
    """
    labels = label_names(store)
    if len(labels) < 2:
        raise RunError(
            f"{store.address} has only one label, {labels[0]!r}, so there is nothing to classify; give tracks of other "
            f"labels too"
        )
    parts = {name: protocol.part(name) for name in SPLITS}
    if len(learnt := np.unique(parts["train"].labels)) < 2:
        raise RunError(
            f"{store.address}, {protocol.name}: all tracks to train on have the label {labels[learnt[0]]!r}, so there "
            f"is nothing to classify; give tracks of other labels too"
        )
    return parts


def windows_per_epoch(recipe: TrainRecipe, protocol: Protocol) -> int:
    """Return the number of windows in a training epoch."""
    counts = protocol.part("train").windows.sum(axis=1)
    return int(counts.clip(max=recipe.windows_per_track or np.max(counts)).sum())


def train(
    store: ReadableStore,
    recipe: TrainRecipe,
    protocol: Protocol,
    run: Run,
    *,
    seed: int = 0,
    memory: int | None = None,
    replace: bool = False,
    feedback: Feedback = SILENT,
) -> dict[str, Any]:
    """Train the network, or resume a stopped training after its last epoch, then evaluate it.

    Parameters
    ----------
    store : ReadableStore
        The store.
    recipe : TrainRecipe
        Hyperparameters.
    protocol : Protocol
        Windows to train on, to validate on and to test on.
    run : Run
        Run directory to write to.
    seed : int
        Seed of the weights, the dropout and the order. The same store, recipe and seed give the same weights on the
        same machine, even if the training was stopped and resumed.
    memory : int > 0, optional
        Bytes that the loader may take; see `melzarr.model.loader.Batches`.
    replace : bool
        Start from the first epoch, and remove the run that the folder holds.
    feedback : Feedback
        What the caller is told, with a line for each epoch.

    Returns
    -------
    dict
        Contents of metrics.json: the protocol, and the metrics of the valid and test splits. Those of the test split
        contain baselines (see `melzarr.model.baselines.compare`), unless windows of the same tracks were trained on, or
        the run is a member of folds, which are compared as a whole.

    Raises
    ------
    RunError
        If the folder holds another run or is in use, the store or its train split has fewer than two labels, or the
        loss is no longer finite.
    StoreError
        If a split of the protocol has no track, or a track cannot be read.
    """
    labels, parts = label_names(store), trainable_parts(store, protocol)
    if n_done := 0 if replace else len(run.history()):
        feedback.say(f"continuing after epoch {n_done}")
    for remark in protocol.remarks(labels):
        logger.warning(remark)
    with run.locked():
        run.start(configuration(store, recipe, protocol, seed), replace=replace)
        if run.is_finished:
            feedback.say("already finished, and kept")
            draw_pictures(run)
            return run.metrics
        run.keep_trained(set(store.column("source_blake3")[parts["train"].tracks].tolist()))
        _fit(store, recipe, protocol, run, seed, memory, feedback)
        if recipe.summary is not None:
            _add_second_opinion(store, recipe.summary, protocol, run, seed, feedback)
        model, judged = run.model(), ("valid", "test")
        with feedback.counting(sum(parts[name].tracks.size for name in judged), "evaluate") as tracks:
            answers = {name: answer(model, store, parts[name], tracks) for name in judged}
        groups = store.column("group")
        found = {
            "protocol": {"name": protocol.name, "words": protocol.words},
            **{name: metrics(given, labels, groups[given.numbers]) for name, given in answers.items()},
        }
        if protocol.name != WINDOW and not parse_fold(protocol.name):
            test = answers["test"]
            others = baselines(store, parts["train"], test.numbers, labels, feedback)
            found["test"]["baselines"] = compare(others, test.labels, test.by_mean, groups[test.numbers])
        run.keep_answers(row for name, given in answers.items() for row in answer_rows(store, labels, name, given))
        run.finish(found)
        draw_pictures(run, model)
    return found


def _fit(
    store: ReadableStore,
    recipe: TrainRecipe,
    protocol: Protocol,
    run: Run,
    seed: int,
    memory: int | None,
    feedback: Feedback,
) -> None:
    """Train the missing epochs."""
    history = run.history()
    if _is_over(history, recipe):
        return
    keras.utils.clear_session()  # otherwise an earlier training in this process keeps its tracks in memory
    n_windows = windows_per_epoch(recipe, protocol)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    feed = Batches(
        store,
        protocol.part("train"),
        recipe.batch_size,
        seed=seed,
        windows_per_track=recipe.windows_per_track or None,
        memory=memory,
        epoch=len(history),
    ).tf()
    steps = -(-n_windows // recipe.batch_size)
    model = run.last_state() if history else _compiled(store, recipe, protocol, steps)
    quick = every_third(protocol.part("valid"))
    with feedback.counting(recipe.epochs * n_windows, "train", "window") as progress:
        progress(len(history) * n_windows)
        while not _is_over(history, recipe):
            start = time.perf_counter()
            _seed_dropout(model, seed, len(history) * steps)
            counter = _Batches(progress, recipe.batch_size, n_windows)
            fitted = _epoch(model, feed, counter)
            figures = {
                "epoch": len(history) + 1.0,
                "loss": float(fitted["loss"][0]),
                "accuracy": float(fitted["accuracy"][0]),
                "valid_accuracy": answer(model, store, quick).window_accuracy,
                "learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)),
                "seconds": round(time.perf_counter() - start, 3),
            }
            if not math.isfinite(figures["loss"]):
                raise RunError(
                    f"the loss is not a finite number after epoch {len(history) + 1}; use a smaller learning_rate, or "
                    f'frontend = "db", in a recipe of your own'
                )
            history.append(figures)
            run.keep_epoch(model, history)
            feedback.say(epoch_line(figures, recipe.epochs, n_windows))


def _add_second_opinion(
    store: ReadableStore, recipe: SummaryRecipe, protocol: Protocol, run: Run, seed: int, feedback: Feedback
) -> None:
    """Train networks of the summaries of tracks, and join them with the network of windows as the run's model."""
    if protocol.name == WINDOW:
        feedback.say("split by window: a track's summary is of all its windows, so the network of windows is alone")
        return
    windows = SongModel.of(run.model()).windows  # of an earlier start that was killed, the model may be joined already
    summaries = train_summary_network(store, protocol.part("train"), recipe, len(label_names(store)), seed, feedback)
    run.keep_model(song_model(store.spec, windows, summaries, recipe.weight))


def _seed_dropout(model: keras.Model, seed: int, step: int) -> None:
    """Seed the dropout from seed and step, because a saved model does not keep its random state."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout) and layer.rate:
            layer.seed_generator.state.assign([seed % 2**32, step])


def _epoch(model: keras.Model, feed: tf.data.Dataset, counter: keras.callbacks.Callback) -> dict[str, list[float]]:
    """Train one epoch."""
    try:
        return dict(model.fit(feed, shuffle=False, verbose=0, callbacks=[counter]).history)
    except tf.errors.OpError as error:
        # TensorFlow keeps only the text of an exception in the loader.
        found = re.search(r"StoreError: (.+)", error.message)
        if found is None:
            raise
        raise StoreError(found[1]) from error


def _compiled(store: ReadableStore, recipe: TrainRecipe, protocol: Protocol, steps_per_epoch: int) -> keras.Model:
    statistics: dict[str, Any] = {}
    if recipe.frontend == "db":
        # The statistics in the store are those of its train split; other protocols have other train splits.
        if protocol.name == TRACK:
            mean, std = store.values("mean_db").tolist(), store.values("std_db").tolist()
        else:
            mean, std = level_statistics(store, protocol.part("train"))
        statistics = {"mean_db": mean, "std_db": std}
    n_classes = len(label_names(store))
    model = network(store.spec, n_classes, frontend=recipe.frontend, dropout=recipe.dropout, **statistics)
    # The article's categorical cross-entropy, for classes given as integers.
    model.compile(recipe.make_optimizer(steps_per_epoch), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _is_over(history: History, recipe: TrainRecipe) -> bool:
    """Return whether all epochs are finished, or the last ones brought no better validation accuracy."""
    if len(history) >= recipe.epochs:
        return True
    if not recipe.patience or len(history) <= recipe.patience:
        return False
    accuracies = [figures["valid_accuracy"] for figures in history]
    return max(accuracies[-recipe.patience :]) <= max(accuracies[: -recipe.patience])


class _Batches(keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that counts windows as they are trained on."""

    def __init__(self, progress: Advance, batch_size: int, n_windows: int) -> None:
        super().__init__()
        self.progress, self.batch_size, self.left = progress, batch_size, n_windows

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Count the windows of a batch; the last batch of an epoch may have fewer."""
        count = min(self.batch_size, self.left)
        self.left -= count
        self.progress(count)
