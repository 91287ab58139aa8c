"""What computed a store: the versions that its bytes depend on."""

from __future__ import annotations

import functools
from importlib.metadata import version

# Raise it if the bytes or the receipt of a shard change for the same audio and spec: shards of other versions are then
# made again. A test of golden bytes fails until it is raised.
FEATURES_VERSION = 1
LIBRARIES = ("librosa", "llvmlite", "numba", "numcodecs", "numpy", "scipy", "soundfile", "soxr", "zarr")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of all that a store's bytes depend on, by name.

    Returns
    -------
    dict of str to str
        The libraries, the libsndfile that soundfile carries, and the version of melzarr's features.
    """
    import soundfile  # noqa: PLC0415  (only a process that computes needs it)

    return {
        "melzarr features": str(FEATURES_VERSION),
        "libsndfile": soundfile.__libsndfile_version__,
        **{name: version(name) for name in LIBRARIES},
    }
