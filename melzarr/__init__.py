"""A folder of music becomes a verified Zarr store of mel-spectrogram windows, and a genre network learns from it.

Everything is imported when it is first used: `import melzarr` itself loads neither Dask nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melzarr.api import append, build, extract, merge, open, scan  # noqa: A004  (as zarr.open)
    from melzarr.pipeline.errors import MelzarrError
    from melzarr.pipeline.features.mel import mel_windows
    from melzarr.pipeline.spec import FeatureSpec
    from melzarr.store import JoinedStores, Store
    from melzarr.training import Run, train, windows

__all__ = [
    "FeatureSpec",
    "JoinedStores",
    "MelzarrError",
    "Run",
    "Store",
    "append",
    "build",
    "extract",
    "mel_windows",
    "merge",
    "open",
    "scan",
    "train",
    "windows",
]

_MODULES = {
    **dict.fromkeys(("append", "build", "extract", "merge", "open", "scan"), "melzarr.api"),
    **dict.fromkeys(("Run", "train", "windows"), "melzarr.training"),
    "FeatureSpec": "melzarr.pipeline.spec",
    "MelzarrError": "melzarr.pipeline.errors",
    **dict.fromkeys(("JoinedStores", "Store"), "melzarr.store"),
    "mel_windows": "melzarr.pipeline.features.mel",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'melzarr' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
