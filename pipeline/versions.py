"""What computed a store: the versions that its bytes depend on."""

from __future__ import annotations

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

# The rooms that a sample passes on its way into a shard; a change in any of them is another version.
ROOMS = ("spec", "audio", "opus", "mel", "kernel", "compiled", "chunk", "apart", "receipt", "layout", "worker")
LIBRARIES = ("librosa", "llvmlite", "numba", "numcodecs", "numpy", "scipy", "soundfile", "soxr", "zarr")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of all that a store's bytes depend on, by name.

    Returns
    -------
    dict of str to str
        The libraries, the libsndfile that soundfile carries, and melzarr itself as its version with a digest of the
        source of the rooms that compute.
    """
    import soundfile  # noqa: PLC0415  (only a process that computes needs it)

    digest = hashlib.sha256()
    for room in ROOMS:
        digest.update(Path(__file__).with_name(f"{room}.py").read_bytes())
    return {
        "melzarr": f"{version('melzarr')}+{digest.hexdigest()[:12]}",
        "libsndfile": soundfile.__libsndfile_version__,
        **{name: version(name) for name in LIBRARIES},
    }
