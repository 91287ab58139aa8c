"""Export a model as ONNX by Keras' own export, which an optional dependency (tf2onnx) does."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np

from melzarr.pipeline.errors import MelzarrError


def require_onnx() -> None:
    """Raise MelzarrError if what Keras exports with is not installed."""
    if missing := [name for name in ("tf2onnx", "onnx") if find_spec(name) is None]:
        raise MelzarrError(f"ONNX needs {missing[0]}, which is not installed; pip install 'melzarr[onnx]'")


def export_onnx(model: keras.Model, path: Path) -> None:
    """Write a model as ONNX, with a batch of any size.

    Parameters
    ----------
    model : keras.Model
        The model; its outputs stay the same.
    path : Path
        The file.
    """
    _hold_constants(model)
    model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras exports only what was called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx uses names that numpy no longer has
        model.export(path, format="onnx", verbose=False)


def _hold_constants(model: keras.Model) -> None:
    """Make the mean and variance of normalisations arrays: tf2onnx takes tensors for inputs of the model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _hold_constants(layer)
        elif isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
