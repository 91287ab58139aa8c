"""Versions of the software that a store's bytes depend on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

# Raise this number if the bytes or the receipt of a shard change for the same audio and spec. Shards of other versions
# are then computed again. A test of golden bytes fails until the number is raised.
FEATURES_VERSION = 2
LIBRARIES = ("librosa", "llvmlite", "numba", "numcodecs", "numpy", "scipy", "soundfile", "soxr", "zarr")


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of everything that a store's bytes depend on, by name.

    Returns
    -------
    dict of str to str
        Versions of the libraries, of the libsndfile and FFmpeg bundled with soundfile and PyAV, and of melzarr's
        features.
    """
    import soundfile  # noqa: PLC0415  (only a process that computes needs it)

    return {
        "melzarr features": str(FEATURES_VERSION),
        "libsndfile": soundfile.__libsndfile_version__,
        **{name: version(name) for name in LIBRARIES},
        **_codecs(),
    }


def _codecs() -> dict[str, str]:
    """Return the versions of PyAV and of the FFmpeg in it; nothing if it is not installed."""
    try:
        import av  # noqa: PLC0415  (likewise)
    except ModuleNotFoundError:
        return {}
    return {"FFmpeg": str(av.ffmpeg_version_info), "av": version("av")}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the keys of two mappings, such as versions, whose values differ, in alphabetical order."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
