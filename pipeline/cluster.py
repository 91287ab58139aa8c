"""Where a build runs: in this process, on this machine's cores, or on a scheduler that is already there."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import dask
import distributed
from dask.system import CPU_COUNT
from distributed.comm.core import CommClosedError
from distributed.system import MEMORY_LIMIT

from pipeline.errors import BuildError

Job = TypeVar("Job")
Result = TypeVar("Result")

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
# Dask has the allocator return every freed array at once, and the next one is then paid for page by page (measured: the
# mel room took 3 times as long). These are the bounds that glibc would come to by itself.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
IN_FLIGHT = 128  # jobs that the scheduler knows at a time, where the workers' threads are not more
PATIENCE = 60  # seconds in which a scheduler that is already there must answer, and have a worker


class Runner(Protocol):
    """Something that calls a function for many jobs."""

    n_workers: int
    dashboard: str

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Call a function for each job and yield the results as they come, in any order."""
        ...


class InProcess:
    """Runs jobs one after the other in this process, so that a debugger sees them."""

    n_workers = 1
    dashboard = ""

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Call a function for each job, lazily."""
        return map(function, jobs)


class OnDask:
    """Runs jobs on the workers of a Dask client.

    Parameters
    ----------
    client : distributed.Client
        The client; it is not closed here.
    """

    def __init__(self, client: distributed.Client) -> None:
        self.client = client
        self.dashboard = client.dashboard_link or ""
        self.n_workers = sum(client.nthreads().values())

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Call a function for each job; the scheduler is given a bounded number at a time.

        Raises
        ------
        BuildError
            Where a job ends its workers again and again, or the scheduler is lost.
        """
        waiting = iter(jobs)
        bound = max(IN_FLIGHT, 2 * self.n_workers)
        running = distributed.as_completed([self._submit(function, job) for job in itertools.islice(waiting, bound)])
        for future in running:
            try:
                result = future.result()
            except distributed.KilledWorker as error:
                raise BuildError(
                    f"the workers of {error.task} died {error.allowed_failures + 1} times, the last on "
                    f"{error.last_worker.address}; see its log: most often memory was short (--workers with a smaller "
                    f"number) or a codec crashed"
                ) from error
            except (distributed.CancelledError, CommClosedError) as error:
                raise BuildError("the scheduler was lost; start it again, then run the same command") from error
            running.update(self._submit(function, job) for job in itertools.islice(waiting, 1))
            yield result

    def _submit(self, function: Callable[[Job], Result], job: Job) -> distributed.Future[Any]:
        # Never pure: a task that failed yesterday must not be answered from the scheduler's memory.
        return self.client.submit(function, job, pure=False)


@contextmanager
def connect(cluster: str, workers: int | None, worker_bytes: int) -> Iterator[Runner]:
    """Open the place where a build runs, and close it afterwards.

    Parameters
    ----------
    cluster : str
        "local" for workers on this machine, or the address of a scheduler, ``tcp://…`` or ``tls://…``.
    workers : int, optional
        Workers of a local cluster; 0 is this process, and by default there are as many as cores and memory allow.
    worker_bytes : int
        Memory that one worker needs.

    Raises
    ------
    BuildError
        Where there is no such cluster.
    """
    if cluster == "local":
        if workers == 0:
            yield InProcess()
        else:
            with _local(local_workers(workers, worker_bytes), worker_bytes) as client:
                yield OnDask(client)
    elif cluster.startswith(("tcp://", "tls://")):
        with _existing(cluster) as client:
            yield OnDask(client)
    else:
        raise BuildError(
            f"cluster={cluster!r} is unknown; use local, or a scheduler's tcp://HOST:PORT or tls://HOST:PORT"
        )


def local_workers(workers: int | None, worker_bytes: int) -> int:
    """Count the workers that fit this machine: those asked for, or one a core, but no more than its memory holds."""
    return max(1, min(workers or CPU_COUNT, MEMORY_LIMIT // worker_bytes))


@contextmanager
def _local(n_workers: int, worker_bytes: int) -> Iterator[distributed.Client]:
    """Start single-threaded workers on this machine, reachable from this machine alone."""
    environment = {**dict.fromkeys(POOLS, "1"), **ALLOCATOR}
    settings: dict[str, Any] = {f"distributed.nanny.pre-spawn-environ.{name}": v for name, v in environment.items()}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            memory_limit=max(worker_bytes, MEMORY_LIMIT // n_workers),
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            preload="pipeline.preload",
            silence_logs=logging.CRITICAL,
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@contextmanager
def _existing(address: str) -> Iterator[distributed.Client]:
    """Connect to a scheduler that is already there."""
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    except OSError as error:
        raise BuildError(f"no scheduler answers at {address} ({error}); start one with: dask scheduler") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise BuildError(
                f"the scheduler at {address} has no worker after {PATIENCE} s; start some with: dask worker {address}"
            ) from error
        yield client
