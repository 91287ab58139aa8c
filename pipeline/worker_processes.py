"""How worker processes on this machine start: their environment, and the server from which they are forked.

A worker imports Dask, numba and the libraries for audio, which takes longer than its first shard. A forkserver imports
them once; each worker is a copy of it. It is a process of its own, with one thread, and starts while this process is
still importing and reading its catalog.
"""
# ruff: noqa: SLF001  (multiprocessing has no public way to find its server, or to end it)

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

# Thread pools of the libraries that a worker loads; each worker owns one core. Dask's nanny presets the first three.
POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLOSC_NTHREADS",
    "ZARR_ASYNC__CONCURRENCY",
    "ZARR_THREADING__MAX_WORKERS",
)
# Dask makes the allocator return every freed array at once, and the next array is then allocated page by page
# (measured: the mel computation took 3 times as long). These are the bounds that glibc would reach by itself.
# One arena for all threads: for an object store, a new thread makes each shard, and the arenas of earlier threads would
# keep the memory of theirs (measured: 4.3 shards of 77 MB, against 2.0 with one arena, at the same speed).
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
ENVIRONMENT = {**dict.fromkeys(POOLS, "1"), **ALLOCATOR}

# A safe path: the server imports nothing from the folder in which it happens to run.
SERVER_ENVIRONMENT = {**ENVIRONMENT, "PYTHONSAFEPATH": "1"}
PRELOADED = "melzarr.pipeline.builder.worker_image"
COMMANDS = "melzarr.cli"  # multiprocessing imports the script of the command in each worker

_SERVER: Any = forkserver._forkserver  # that of this process
_lock = threading.Lock()
_n_users = 0


@contextmanager
def worker_start_method(*, needed: bool = True) -> Iterator[str]:
    """Yield the method of multiprocessing by which workers start: "forkserver", or "spawn" if that is not safe here.

    The server begins to import at once, and this call does not wait for it. It ends with the last block that uses it;
    its workers must have ended before.

    Parameters
    ----------
    needed : bool
        Whether there will be workers; without, no server is started.
    """
    global _n_users  # noqa: PLW0603  (there is one forkserver in a process)
    with _lock:
        forks = needed and (_n_users > 0 or _start_server())
        _n_users += forks
    try:
        yield "forkserver" if forks else "spawn"
    finally:
        with _lock:
            _n_users -= forks
            if forks and not _n_users:
                _end_server()


def will_start_workers(cluster: object, workers: int | None, target: Path | None, *, replace: bool) -> bool:
    """Return whether a build will start workers on this machine.

    Parameters
    ----------
    cluster : object
        Kind of cluster; "local" is this machine.
    workers : int, optional
        Number of workers; 0 is this process.
    target : Path, optional
        Path of the store on this machine. If it exists, it is only compared with the source.
    replace : bool
        Whether an existing store is replaced.
    """
    is_there = target is not None and os.path.exists(target)  # noqa: PTH110  (raises nothing)
    return cluster == "local" and workers != 0 and (replace or not is_there)


def _start_server() -> bool:
    """Start the forkserver; return False if forks are not safe here, or it cannot be started.

    On macOS, system libraries start threads. Before Python 3.11.1, all users of the machine can reach the server. Of a
    server that runs already, nobody knows what it has imported.
    """
    if sys.platform != "linux" or sys.version_info < (3, 11, 1) or _SERVER._forkserver_pid is not None:
        return False
    before = {name: os.environ.get(name) for name in SERVER_ENVIRONMENT}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        os.environ.update(SERVER_ENVIRONMENT)
        resource_tracker.ensure_running()  # this unblocks SIGINT
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # in workers too: the client handles Ctrl-C
        forkserver.set_forkserver_preload([PRELOADED, *({COMMANDS} & sys.modules.keys())])
        forkserver.ensure_running()
    except OSError:  # no folder for its socket, or one whose path is too long for a socket
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return True


def _end_server() -> None:
    """End the forkserver at once, even if it is still importing: it has nothing to lose."""
    with suppress(ProcessLookupError, ChildProcessError):  # it has ended, and whoever ignores SIGCHLD cannot wait
        os.kill(_SERVER._forkserver_pid, signal.SIGKILL)
        _SERVER._stop()
    forkserver.set_forkserver_preload(["__main__"])  # the default, for other users of multiprocessing
