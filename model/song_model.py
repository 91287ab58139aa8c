"""The model of a song: the opinion of its windows and that of its summary, joined; only Keras is used.

A network alone maps each window to probabilities. A joined model maps all windows of one song to those of the song.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from melzarr.model.network import levels
from melzarr.model.track_summary import N_STATISTICS, Summary, middle_frame
from melzarr.pipeline.spec import FeatureSpec

FEWEST = 3  # minimum number of windows of a song for its summary to count
LEAST = 1e-12  # smallest probability before the logarithm; below it, one window could decide for a whole track
WINDOWS, SUMMARY, JOINED = "window_network", "summary_network", "opinions"  # names of models inside the model

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What a joined model has beside its network of windows.

    Parameters
    ----------
    summary : keras.Model
        Maps (n, N_STATISTICS * n_mels) summaries of tracks, in dB, to (n, n_classes) probabilities.
    joined : keras.Model
        Maps the mean log-probabilities of the windows, (n, n_classes), and the summaries of n tracks to (n, n_classes)
        probabilities.
    """

    summary: keras.Model
    joined: keras.Model

    def of_track(self, mean: Floats, summary: Summary) -> tuple[Floats, Floats]:
        """Return the probabilities of a track by its summary alone and by both opinions, each of shape (n_classes,).

        Parameters
        ----------
        mean : np.ndarray [shape=(n_classes,)]
            Mean log-probability of each class over the windows.
        summary : np.ndarray [shape=(N_STATISTICS * n_mels,)], in dB
            Summary of the track.
        """
        alone = self.summary.predict_on_batch(summary[None])
        both = self.joined.predict_on_batch([mean[None].astype(np.float32), summary[None]])
        return alone[0].astype(np.float64), both[0].astype(np.float64)


@dataclass(frozen=True, slots=True)
class SongModel:
    """Parts of a run's model.

    Parameters
    ----------
    windows : keras.Model
        Maps (n, n_frames, n_mels) windows to (n, n_classes) probabilities.
    second : SecondOpinion, optional
        The opinion of the summary of a track, if the model has one.
    """

    windows: keras.Model
    second: SecondOpinion | None = None

    @classmethod
    def of(cls, model: keras.Model) -> SongModel:
        """Take a model apart that `song_model` has joined; any other is a network of windows alone."""
        parts = {layer.name: layer for layer in model.layers if isinstance(layer, keras.Model)}
        if not {JOINED, WINDOWS} <= parts.keys():
            return cls(model)
        joined = parts[JOINED]
        return cls(parts[WINDOWS], SecondOpinion(joined.get_layer(SUMMARY), joined))


def summary_network(
    n_classes: int, mean: Sequence[float], std: Sequence[float], *, units: int, n_members: int
) -> keras.Model:
    """Build some small networks of a track's summary, side by side in one model.

    Parameters
    ----------
    n_classes : int > 1
        Number of classes.
    mean, std : sequence of float, in dB
        Mean and standard deviation of each number of the summary over the train tracks.
    units : int > 0
        Units of the dense layer.
    n_members : int > 0
        Number of networks. They share no weight, and differ by their initial weights.

    Returns
    -------
    keras.Model
        Maps (n, len(mean)) summaries to (n, n_members, n_classes) probabilities.
    """
    # As in `network`: what never varies carries no information.
    variance = [max(float(one), 1e-3) ** 2 for one in std]
    given = keras.Input((len(mean),), name="summary")
    x = layers.Normalization(mean=[float(one) for one in mean], variance=variance, name="standardised")(given)
    x = _dense("bf,fmu->bmu", len(mean), n_members, units, "relu", "dense")(x)
    x = _dense("bmu,muc->bmc", units, n_members, n_classes, "softmax", "genre")(x)
    return keras.Model(given, x, name=SUMMARY)


def _dense(equation: str, n_inputs: int, n_members: int, n_outputs: int, activation: str, name: str) -> keras.Layer:
    """Return a dense layer of each member, with the initial weights of Glorot and Bengio (2010)."""
    limit = math.sqrt(6 / (n_inputs + n_outputs))
    return layers.EinsumDense(
        equation,
        (n_members, n_outputs),
        activation=activation,
        bias_axes=equation[-2:],
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        name=name,
    )


def mean_of_members(network: keras.Model) -> keras.Model:
    """Return a model with the geometric mean of the members of `summary_network`, normalised: (n, n_classes)."""
    return keras.Model(network.input, ops.softmax(ops.mean(_log(network.output), axis=1)), name=network.name)


def mean_opinion(models: Sequence[keras.Model], name: str) -> keras.Model:
    """Join models of the same input into one, whose probabilities are the geometric mean of theirs, normalised.

    Parameters
    ----------
    models : sequence of keras.Model
        Each gives (n, n_classes) probabilities.
    name : str
        Name of the model.
    """
    given = keras.Input(models[0].input_shape[1:], name=models[0].input.name)
    members = [_renamed(model, f"member{number}") for number, model in enumerate(models, start=1)]
    logs = [_log(member(given)) for member in members]
    mean = sum(logs[1:], logs[0]) / len(logs)
    return keras.Model(given, ops.softmax(mean), name=name)


def song_model(spec: FeatureSpec, window_network: keras.Model, summaries: keras.Model, weight: float) -> keras.Model:
    """Join a network of windows and one of summaries into one model of a whole song.

    Parameters
    ----------
    spec : FeatureSpec
        Spec of the windows: their shape (n_frames, n_mels) and scale.
    window_network : keras.Model
        Maps windows to probabilities.
    summaries : keras.Model
        Maps summaries to probabilities.
    weight : float in [0, 1]
        Weight of the summary's log-probabilities; that of the windows' mean log-probabilities is the rest. The summary
        of fewer than `FEWEST` windows has no weight: the deviation of its changes is 0, and the windows alone are
        more accurate.

    Returns
    -------
    keras.Model
        Maps all windows of one song, (n, n_frames, n_mels), to (1, n_classes) probabilities. The batch axis is time, so
        that all windows must be given in one batch.
    """
    n_classes, n_summary = window_network.output_shape[-1], N_STATISTICS * spec.n_mels
    of_windows, summary = keras.Input((n_classes,), name="log_probabilities"), keras.Input((n_summary,), name="summary")
    share = weight * _changes_vary(summary, spec)
    score = (1 - share) * of_windows + share * _log(_renamed(summaries, SUMMARY)(summary))
    joined = keras.Model([of_windows, summary], ops.softmax(score), name=JOINED)
    windows = keras.Input((spec.n_frames, spec.n_mels), name="windows")
    log_probabilities = ops.mean(_log(_renamed(window_network, WINDOWS)(windows)), axis=0, keepdims=True)
    return keras.Model(windows, joined([log_probabilities, _summary(windows, spec)]), name="melzarr")


def _summary(windows: keras.KerasTensor, spec: FeatureSpec) -> keras.KerasTensor:
    """Return what `melzarr.model.track_summary` computes, from all windows of one song."""
    before = middle_frame(spec.n_frames)
    # A layer, because older versions of Keras cannot save a slice.
    x = layers.Cropping1D((before, spec.n_frames - 1 - before), name="middle_frame")(windows)
    x = levels(layers.Flatten(name="bands")(x), spec)
    mean = ops.mean(x, axis=0, keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(x - mean), axis=0, keepdims=True))
    changes = ops.diff(x, axis=0)
    # A song of one window has no change: its sums are 0.
    n_changes = ops.maximum(ops.sum(ops.ones_like(x), axis=0, keepdims=True) - 1, 1)
    mean_change = ops.sum(changes, axis=0, keepdims=True) / n_changes
    squares = ops.sum(ops.square(changes - mean_change), axis=0, keepdims=True)
    return ops.concatenate([mean, deviation, ops.sqrt(squares / n_changes)], axis=1)


def _changes_vary(summary: keras.KerasTensor, spec: FeatureSpec) -> keras.KerasTensor:
    """Return whether the changes of a summary deviate, as 1 or 0, (n, 1); those of one or two windows do not."""
    others = (N_STATISTICS - 1) * spec.n_mels
    deviations = layers.Cropping1D((others, 0), name="changes")(layers.Reshape((-1, 1), name="statistics")(summary))
    return ops.sign(ops.max(layers.Flatten(name="deviations")(deviations), axis=1, keepdims=True))


def _log(probabilities: keras.KerasTensor) -> keras.KerasTensor:
    return ops.log(ops.maximum(probabilities, LEAST))


def _renamed(model: keras.Model, name: str) -> keras.Model:
    """Return a model of the same layers with another name."""
    return keras.Model(model.input, model.output, name=name) if model.name != name else model
