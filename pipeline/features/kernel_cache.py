"""Compile the kernel to machine code: once per machine, by one process at a time, and never at import."""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from melzarr.pipeline.storage.private_cache import private_cache

PATIENCE = 120  # seconds to wait while another process compiles; many times what a slow machine needs

_one_thread = threading.Lock()


class Kernel(NamedTuple):
    """The compiled functions. They have the parameters of their sources, and release the GIL while they run.

    Parameters
    ----------
    mel_power : callable
        `kernel.mel_power`.
    level_sums : callable
        `level_kernel.level_sums`.
    """

    mel_power: Any
    level_sums: Any


def compiled_kernel() -> Kernel:
    """Return the kernel, compiled or loaded from numba's cache, once per process.

    Notes
    -----
    The cache is numba's: beside the source, in the user's cache folder if the source's folder is not writable, or in
    ``NUMBA_CACHE_DIR``, or else that of `provide_cache`. Numba does not coordinate processes that compile the same
    function at the same time; a lock does. If the cache fails for any reason (no folder for it, a full disk, damaged
    files, a file system without locks), the kernel is compiled in memory, and every process spends some seconds on it.
    """
    with _one_thread:
        return _compile()


def provide_cache() -> None:
    """Give numba a private folder for its cache, here and in child processes, if it finds no other folder.

    Notes
    -----
    Numba finds none if neither the home of the user nor the folder of the installed packages is writable. Without one,
    librosa cannot be imported, because it asks numba to cache its functions.
    """
    import numba  # noqa: PLC0415  (slow to import; needed once per process that computes)

    librosa = importlib.util.find_spec("librosa")
    for path in (str(librosa and librosa.origin), __file__):
        function = types.FunctionType(_nothing.__code__.replace(co_filename=path), {})
        try:
            numba.njit(cache=True)(function)
        except RuntimeError:
            numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(private_cache())
            return


@functools.cache
def _compile() -> Kernel:
    import filelock  # noqa: PLC0415
    import numba  # noqa: PLC0415  (slow to import; needed once per process that computes)

    from melzarr.pipeline.features import kernel, level_kernel  # noqa: PLC0415  (likewise)

    provide_cache()
    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy")
    compiler(_nothing).compile(())  # initialise numba before the lock: this takes longer than loading a kernel
    sources = {kernel.mel_power: kernel.SIGNATURE, level_kernel.level_sums: level_kernel.SIGNATURE}
    try:
        compiled = Kernel(*map(compiler(cache=True), sources))
        with filelock.FileLock(Path(compiled.mel_power.stats.cache_path) / "melzarr-kernel.lock", timeout=PATIENCE):
            _compile_each(compiled, sources.values())
    except Exception:  # noqa: BLE001  (a cache may fail in any way; an error of the kernel itself is raised below)
        compiled = Kernel(*map(compiler, sources))
        _compile_each(compiled, sources.values())
    return compiled


def _compile_each(compiled: Kernel, signatures: Iterable[Any]) -> None:
    for function, signature in zip(compiled, signatures, strict=True):
        function.compile(signature)
        function.disable_compile()


def _nothing() -> None:
    """Do nothing; this takes no time to compile."""
