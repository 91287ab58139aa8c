"""Overlap the writing of a shard with the computing of others, and compute no more shards than there are cores."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


def turns() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Return what a task enters while it holds a shard in memory, and within that, while it computes the shard.

    Once a task computes, its worker starts the next one, which computes when this one has finished. So each core
    computes one shard, while an earlier shard is uploaded, or flushed to a disk, and the first files of the next are
    downloaded. Without a Dask worker there is nothing to enter.
    """
    import distributed  # noqa: PLC0415  (slow to import, and not needed without a cluster)

    try:
        worker = distributed.get_worker()
    except ValueError:
        return nullcontext(), nullcontext()
    shards, cores = _limits(worker.address, worker.state.nthreads)
    return shards, _started(cores)


@functools.cache
def _limits(address: str, n_threads: int) -> tuple[threading.Semaphore, threading.Semaphore]:  # noqa: ARG001  (one pair per worker)
    """Return the limits of a worker's shards in memory, and of those that are computed."""
    return threading.Semaphore(2 * n_threads), threading.Semaphore(n_threads)


@contextmanager
def _started(cores: threading.Semaphore) -> Iterator[None]:
    """Hold a core within a `with` block, and have the worker start its next task."""
    import distributed  # noqa: PLC0415

    with cores:
        distributed.secede()
        yield
