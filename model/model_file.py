"""Save a model in one file, and load it; nothing in a file from elsewhere is executed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from melzarr.pipeline.errors import RunError

# What the models of melzarr and their optimizers consist of. Nothing else is loaded: Keras' safe mode alone could be
# bypassed in several of its versions (CVE-2025-1550, CVE-2025-8747, CVE-2026-1462).
LAYERS = {
    "Conv1D",
    "Cropping1D",
    "Dense",
    "Dropout",
    "EinsumDense",
    "Flatten",
    "InputLayer",
    "Normalization",
    "Reshape",
}
OPERATIONS = {
    "Add", "Concatenate", "Diff", "Log", "Log10", "Max", "Maximum", "Mean", "Multiply", "OnesLike", "Sign",
    "Softmax", "Sqrt", "Square", "Subtract", "Sum", "TrueDivide",
}  # fmt: skip
OTHERS = {
    "AdamW", "Adadelta", "CosineDecay", "DTypePolicy", "Functional", "GlorotUniform", "RandomUniform", "Zeros",
    "__keras_tensor__",
}  # fmt: skip
CLASSES = LAYERS | OPERATIONS | OTHERS

# Exceptions that Keras raises for a file that is damaged, is not a Keras file, or contains code.
UNREADABLE = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, OSError, zipfile.BadZipFile,
)  # fmt: skip


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model atomically."""
    part = path.with_name(f".{path.stem}.part.keras")
    model.save(part)
    part.replace(path)


def load_model(path: Path, *, compiled: bool) -> keras.Model:
    """Load a model that consists of `CLASSES` of Keras alone.

    Parameters
    ----------
    path : Path
        The file.
    compiled : bool
        Whether to load the state of its optimizer too.

    Raises
    ------
    RunError
        If it is damaged, or contains anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # Keras reads only a part of the file, and checks no checksum
                raise zipfile.BadZipFile(f"{damaged} is not what was written")
            if unknown := sorted(set(_classes(json.loads(archive.read("config.json")))) - CLASSES):
                raise ValueError(f"it contains {', '.join(unknown)}")
        return keras.saving.load_model(path, safe_mode=True, compile=compiled)
    except UNREADABLE as error:
        first = str(error).strip().partition("\n")[0]
        raise RunError(
            f"{path} is not a model that can be opened safely ({first}); train again with --force, or get the shared "
            f"run again"
        ) from error


def _classes(found: Any) -> Iterator[str]:
    """Yield the name of each class in the configuration of a model, with its module if that is not one of Keras."""
    if isinstance(found, dict):
        if "class_name" in found:
            module = str(found.get("module") or "keras")
            inside = module == "keras" or module.startswith("keras.")
            yield str(found["class_name"]) if inside else f"{module}.{found['class_name']}"
        for value in found.values():
            yield from _classes(value)
    elif isinstance(found, list):
        for value in found:
            yield from _classes(value)
