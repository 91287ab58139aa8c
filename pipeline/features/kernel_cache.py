"""The kernel as machine code: compiled once a machine, by one process at a time, and never at import."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path

PATIENCE = 120  # seconds in which another process has compiled the kernel, on a slow machine and many times over

_one_thread = threading.Lock()


def compiled_kernel() -> Callable[..., None]:
    """Compile `kernel.mel_power`, or load what numba's cache has of it, once a process.

    Returns
    -------
    callable
        It takes what the kernel takes, and lets other threads run meanwhile.

    Notes
    -----
    The cache is numba's: beside the source, or in the user's cache folder where that cannot be written to, or in
    ``NUMBA_CACHE_DIR``. Numba does not keep processes apart that compile the same at the same time, so a lock does.
    Whatever is wrong with the cache (no place for it, a full disk, damaged files, a lock that the file system does not
    know), the kernel can be compiled in memory; then every process takes these seconds for itself.
    """
    with _one_thread:
        return _compile()


@functools.cache
def _compile() -> Callable[..., None]:
    import filelock  # noqa: PLC0415
    import numba  # noqa: PLC0415  (slow to import; needed once a process that computes)

    from melzarr.pipeline.features.kernel import SIGNATURE, mel_power  # noqa: PLC0415  (likewise)

    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy")
    compiler(_nothing).compile(())  # has numba get ready, which takes longer than to load a kernel, before the lock
    try:
        kernel = compiler(cache=True)(mel_power)
        with filelock.FileLock(Path(kernel.stats.cache_path) / "melzarr-kernel.lock", timeout=PATIENCE):
            kernel.compile(SIGNATURE)
    except Exception:  # noqa: BLE001  (a cache may fail in any way; a fault of the kernel itself is raised below)
        kernel = compiler(mel_power)
        kernel.compile(SIGNATURE)
    kernel.disable_compile()
    return kernel  # type: ignore[no-any-return]


def _nothing() -> None:
    """Take no time to compile."""
