"""Conv1D network and front end as one Keras model that takes windows as stored; only Keras is used."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops

from melzarr.pipeline.features.decibels import AMIN
from melzarr.pipeline.spec import FeatureSpec

FRONTENDS = ("db", "none")
FILTERS, KERNEL, UNITS = 256, 2, 1024  # as in the article, which has three convolutions
CONVOLUTIONS = 3


def network(
    spec: FeatureSpec,
    n_classes: int,
    *,
    frontend: str = "db",
    mean_db: Sequence[float] = (),
    std_db: Sequence[float] = (),
    dropout: float = 0.5,
    name: str = "melzarr",
) -> keras.Model:
    """Build the article's network for windows of a spec.

    Parameters
    ----------
    spec : FeatureSpec
        Spec of the windows: their shape (n_frames, n_mels) and scale.
    n_classes : int > 1
        Number of classes.
    frontend : {"db", "none"}
        "db" converts stored values to levels in dB, standardised in each band; "none" is the article's raw power.
    mean_db, std_db : sequence of float, in dB, length n_mels
        Statistics of the train split, for the front end.
    dropout : float in [0, 1)
        Share of the dense layer that is dropped during training.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Maps (batch, n_frames, n_mels) windows to (batch, n_classes) probabilities.

    Raises
    ------
    ValueError
        If the front end is unknown, or its statistics do not fit the spec.

    Notes
    -----
    The convolutions run along time: three with 256 filters of 2 frames, then one dense layer of 1024 units. For ten
    classes and (5, 128) windows the network has 1,650,442 weights. The front end consists of Keras operations only, so
    a saved model opens without melzarr.
    """
    if frontend not in FRONTENDS:
        raise ValueError(f"frontend={frontend!r} is unknown; use one of {', '.join(FRONTENDS)}")
    windows = keras.Input((spec.n_frames, spec.n_mels), name="windows")
    x = _standardised(windows, spec, mean_db, std_db) if frontend == "db" else windows
    for number in range(1, CONVOLUTIONS + 1):
        x = layers.Conv1D(
            FILTERS,
            KERNEL,
            padding="same",
            kernel_initializer="glorot_uniform",
            activation="relu",
            name=f"conv{number}",
        )(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(UNITS, activation="relu", name="dense")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(windows, layers.Dense(n_classes, activation="softmax", name="genre")(x), name=name)


def _standardised(
    x: keras.KerasTensor, spec: FeatureSpec, mean_db: Sequence[float], std_db: Sequence[float]
) -> keras.KerasTensor:
    """Convert stored values to levels in dB, with mean 0 and standard deviation 1 per band over the train split."""
    if len(mean_db) != spec.n_mels or len(std_db) != spec.n_mels:
        raise ValueError(
            f"mean_db and std_db have {len(mean_db)} and {len(std_db)} bands, but the spec has {spec.n_mels}"
        )
    # A constant band carries no information; without the lower limit it would become infinite.
    variance = [max(std, 1e-3) ** 2 for std in std_db]
    return layers.Normalization(mean=list(mean_db), variance=variance, name="standardised")(levels(x, spec))


def levels(x: keras.KerasTensor, spec: FeatureSpec) -> keras.KerasTensor:
    """Convert stored values to levels in dB, as `melzarr.pipeline.features.decibels.stored_levels` does."""
    if spec.scale == "db":
        return x
    return 20 / spec.power * ops.log10(ops.maximum(x, AMIN ** (spec.power / 2)))
