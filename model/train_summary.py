"""Train small networks of the summaries of tracks, in seconds."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from melzarr.model.selection import Selection
from melzarr.model.song_model import mean_of_members, summary_network
from melzarr.model.track_summary import track_summaries
from melzarr.model.training_recipe import SummaryRecipe
from melzarr.pipeline.builder.feedback import Feedback
from melzarr.pipeline.errors import RunError
from melzarr.pipeline.zarr_store.readable_store import ReadableStore


def train_summary_network(
    store: ReadableStore, selection: Selection, recipe: SummaryRecipe, n_classes: int, seed: int, feedback: Feedback
) -> keras.Model:
    """Train small networks of the summaries of tracks, and average them.

    Parameters
    ----------
    store : ReadableStore
        The store.
    selection : Selection
        Tracks to train on.
    recipe : SummaryRecipe
        Hyperparameters.
    n_classes : int > 1
        Number of classes.
    seed : int
        Seed of the weights and the order. The same tracks, recipe and seed give the same weights on the same machine.
    feedback : Feedback
        What the caller is told.

    Returns
    -------
    keras.Model
        Maps (n, N_STATISTICS * n_mels) summaries, in dB, to (n, n_classes) probabilities.

    Raises
    ------
    RunError
        If the loss is no longer finite.
    """
    with feedback.counting(selection.tracks.size, "summaries") as progress:
        summaries = track_summaries(store, selection.tracks, progress)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    mean, std = summaries.mean(axis=0, dtype=np.float64), summaries.std(axis=0, dtype=np.float64)
    network = summary_network(n_classes, mean.tolist(), std.tolist(), units=recipe.units, n_members=recipe.members)
    n_steps = recipe.epochs * -(-len(summaries) // recipe.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, n_steps)
    # The members share no weight, and AdamW scales each gradient: each is trained as it would be alone.
    network.compile(keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay), "sparse_categorical_crossentropy")
    with feedback.counting(recipe.epochs, "train on summaries", "epoch") as progress:
        fitted = network.fit(
            summaries,
            np.repeat(selection.labels[:, None], recipe.members, axis=1),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: progress(1))],
        )
    if not math.isfinite(fitted.history["loss"][-1]):
        raise RunError(
            "the loss on summaries is not a finite number; use a smaller learning_rate or weight_decay of the summary, "
            "in a recipe of your own"
        )
    return mean_of_members(network)
