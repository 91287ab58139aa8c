"""Export a model as ONNX by Keras' own export, which an optional dependency (tf2onnx) does."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melzarr.pipeline.errors import MelzarrError


def require_onnx() -> None:
    """Raise MelzarrError if what Keras exports with is not installed."""
    if missing := [name for name in ("tf2onnx", "onnx") if find_spec(name) is None]:
        raise MelzarrError(f"ONNX needs {missing[0]}, which is not installed; pip install 'melzarr[onnx]'")


def export_onnx(model: keras.Model, path: Path) -> None:
    """Write a model as ONNX, with a batch of any size. The same model gives the same bytes.

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
    _put_in_order(path)


def _put_in_order(path: Path) -> None:
    """Order and name the nodes and arrays of an ONNX file by how its outputs are computed.

    The export gives them another order and other names each time.
    """
    import onnx  # noqa: PLC0415  (optional)

    model = onnx.load(path)
    graph = model.graph
    node_of = {name: node for node in graph.node for name in node.output}
    array_of = {array.name: array for array in graph.initializer}
    names = {"": ""} | {value.name: value.name for value in (*graph.input, *graph.output)}
    nodes: list[Any] = []
    arrays: list[Any] = []

    def visit(value: str) -> None:
        """Add the array or the node that gives a value, after all that the node needs."""
        if value in array_of and value not in names:
            names[value] = f"array_{len(arrays)}"
            arrays.append(array_of[value])
        node = node_of.get(value)
        if node is None or node in nodes:
            return
        for needed in node.input:
            visit(needed)
        for place, given in enumerate(node.output):
            names.setdefault(given, f"value_{len(nodes)}_{place}")
        nodes.append(node)

    for output in graph.output:
        visit(output.name)
    for number, node in enumerate(nodes):
        node.name = f"{node.op_type}_{number}"
        node.input[:], node.output[:] = ([names[value] for value in values] for values in (node.input, node.output))
        node.attribute.sort(key=lambda attribute: attribute.name)
    for array in arrays:
        array.name = names[array.name]
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # any size
                size.dim_param = "n"
    graph.CopyFrom(onnx.helper.make_graph(nodes, graph.name, graph.input, graph.output, arrays))
    path.write_bytes(model.SerializeToString(deterministic=True))


def _hold_constants(model: keras.Model) -> None:
    """Make the mean and variance of normalisations arrays: tf2onnx takes tensors for inputs of the model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _hold_constants(layer)
        elif isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
