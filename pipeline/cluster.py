"""Where a build runs: in this process, on this machine's cores, or on a scheduler that is already there."""

from __future__ import annotations

import itertools
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import dask
import distributed
from dask.system import CPU_COUNT
from distributed.comm.core import CommClosedError
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from pipeline.errors import BuildError, CallError

ADDRESSES = ("tcp://", "tls://")
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
SILENT = logging.CRITICAL + 1  # a message that a closed connection can take no more is critical to Dask
IN_FLIGHT = 128  # jobs that the scheduler knows at a time, where the workers' threads are not more
PATIENCE = 60  # seconds in which a scheduler that is already there must answer, and have a worker


class Runner(Protocol):
    """Something that calls a function for many jobs."""

    n_workers: int
    dashboard: str
    expendable: bool  # whether a process that computes may end itself, since another takes its place

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], rescue: Callable[[Job], Result] | None = None
    ) -> Iterator[Result]:
        """Call a function for each job and yield the results as they come, in any order.

        For a job that ends its workers again and again, `rescue` is called in place of the function.
        """
        ...


class InProcess:
    """Runs jobs one after the other in this process, so that a debugger sees them."""

    n_workers = 1
    dashboard = ""
    expendable = False

    def run(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        rescue: Callable[[Job], Result] | None = None,  # noqa: ARG002  (what ends this process ends the build)
    ) -> Iterator[Result]:
        """Call a function for each job, lazily."""
        return map(function, jobs)


class OnDask:
    """Runs jobs on the workers of a Dask client.

    Parameters
    ----------
    client : distributed.Client
        The client; it is not closed here.
    n_workers : int, optional
        Workers of one thread that will come; by default those that are there.
    """

    expendable = True

    def __init__(self, client: distributed.Client, n_workers: int | None = None) -> None:
        self.client = client
        self.dashboard = client.dashboard_link or ""
        threads = client.nthreads()
        self.n_workers = len(threads) if n_workers is None else n_workers
        self.n_threads = sum(threads.values()) if n_workers is None else n_workers
        self._clock = _time_of_day()

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], rescue: Callable[[Job], Result] | None = None
    ) -> Iterator[Result]:
        """Call a function for each job; the scheduler is given a bounded number at a time.

        Raises
        ------
        BuildError
            Where a job ends its workers again and again, rescued or not, or the scheduler or all workers are lost.
        """
        waiting, done = iter(jobs), queue.SimpleQueue[distributed.Future[Any]]()
        # Futures are held here, since one that nobody holds is cancelled; and what could still save their jobs.
        running: dict[Any, tuple[distributed.Future[Any], Job, Callable[[Job], Result] | None]] = {}

        def submit(function: Callable[[Job], Result], job: Job, rescue: Callable[[Job], Result] | None) -> None:
            # Never pure: a task that failed yesterday must not be answered from the scheduler's memory.
            future = self.client.submit(function, job, pure=False)
            running[future.key] = future, job, rescue
            future.add_done_callback(done.put)

        for job in itertools.islice(waiting, max(IN_FLIGHT, 2 * self.n_threads)):
            submit(function, job, rescue)
        while running:
            future = self._next(done)
            _, job, saves = running.pop(future.key)
            try:
                result = future.result()
            except distributed.KilledWorker as error:
                if saves:
                    submit(saves, job, None)
                    continue
                raise BuildError(
                    f"the workers of {error.task} died {error.allowed_failures + 1} times, the last on "
                    f"{error.last_worker.address}; see its log: most often memory was short (--workers with a smaller "
                    f"number) or a codec crashed"
                ) from error
            except (distributed.CancelledError, CommClosedError) as error:
                raise BuildError("the scheduler was lost; start it again, then run the same command") from error
            for job in itertools.islice(waiting, 1):
                submit(function, job, rescue)
            yield result

    def _next(self, done: queue.SimpleQueue[distributed.Future[Any]]) -> distributed.Future[Any]:
        """Wait for a job to end; give up where there is no worker left to end it, or none that would be heard."""
        while True:
            self._clock = max(self._clock, _time_of_day())
            try:
                return done.get(timeout=PATIENCE)
            except queue.Empty:
                if not self.client.nthreads():
                    raise BuildError(
                        f"for {PATIENCE} s no worker has been there; start some, then run the same command"
                    ) from None
                if (back := self._clock - _time_of_day()) > PATIENCE:
                    # Dask sends its messages in batches, each due at a time of day (distributed.batched).
                    raise BuildError(
                        f"this machine's clock was set back by {back:.0f} s, and Dask waits until it is as late again; "
                        f"run the same command again"
                    ) from None


def _time_of_day() -> float:
    """Time of day beside the time that has passed: it changes where the clock is set."""
    return time.time() - time.monotonic()


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
    CallError
        Where the options name no cluster, or one that cannot hold a shard.
    BuildError
        Where it cannot be reached, or its workers lack melzarr.
    """
    if cluster == "local":
        if workers == 0:
            yield InProcess()
        else:
            if worker_bytes > MEMORY_LIMIT:
                raise CallError(
                    f"a worker needs {worker_bytes / 1e9:.1f} GB for one shard of this spec, and there are "
                    f"{MEMORY_LIMIT / 1e9:.1f} GB; use a smaller --n-windows or --tracks-per-shard"
                )
            n_workers = local_workers(workers, worker_bytes)
            with _local(n_workers, worker_bytes) as client:
                yield OnDask(client, n_workers)
    elif cluster.startswith(ADDRESSES):
        with _existing(cluster) as client:
            yield OnDask(client)
    else:
        raise CallError(
            f"cluster={cluster!r} is unknown; use local, or a scheduler's tcp://HOST:PORT or tls://HOST:PORT"
        )


def local_workers(workers: int | None, worker_bytes: int) -> int:
    """Count the workers that fit this machine: those asked for, or one a core, but no more than its memory holds."""
    return max(1, min(workers or CPU_COUNT, MEMORY_LIMIT // worker_bytes))


@contextmanager
def _local(n_workers: int, worker_bytes: int) -> Iterator[distributed.Client]:
    """Have single-threaded workers start on this machine, reachable from it alone; they come in their time."""
    environment = {**dict.fromkeys(POOLS, "1"), **ALLOCATOR}
    settings: dict[str, Any] = {f"distributed.nanny.pre-spawn-environ.{name}": v for name, v in environment.items()}
    settings["distributed.scheduler.allowed-failures"] = 1  # a shard that ends two workers is tried track by track
    with (
        _quiet(),  # to the end, since a cluster that is closed in the middle of its work has much to say
        dask.config.set(settings),
        ExitStack() as stack,
    ):
        hears_signals = threading.current_thread() is threading.main_thread()
        if hears_signals:
            stack.callback(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        local = stack.enter_context(
            distributed.LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                memory_limit=max(worker_bytes, MEMORY_LIMIT // n_workers),
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                preload="pipeline.preload",
                silence_logs=SILENT,
            )
        )
        local.scale(n_workers)  # and goes on meanwhile: what a build has to import takes as long as a worker's start
        client = stack.enter_context(distributed.Client(local, set_as_default=False))
        if hears_signals:
            # A second Ctrl-C would leave the cluster half closed, and the end of the process waiting for it.
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
        yield client


@contextmanager
def _existing(address: str) -> Iterator[distributed.Client]:
    """Connect to a scheduler that is already there."""
    _check_address(address)
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except OSError as error:
        raise BuildError(f"no scheduler answers at {address} ({error}); start one with: dask scheduler") from error
    with _quiet(), client:  # to its end, since a client whose scheduler is lost complains of it when it is closed
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise BuildError(
                f"the scheduler at {address} has no worker after {PATIENCE} s; start some with: dask worker {address}"
            ) from error
        try:
            client.run(exec, "import pipeline.worker")
        except ImportError as error:
            raise BuildError(
                f"a worker of {address} has no melzarr ({error}); install the same version there"
            ) from error
        yield client


def _check_address(address: str) -> None:
    """Refuse an address that Dask could not use, before a client is half made of it."""
    try:
        parts = urlsplit(address)
        usable = bool(parts.hostname and parts.port)
    except ValueError:
        usable = False
    if not usable:
        raise CallError(f"{address!r} is no address of a scheduler; give tcp://HOST:PORT or tls://HOST:PORT")
    if parts.scheme == "tls" and Security().get_connection_args("client").get("ssl_context") is None:
        raise CallError(f"{address} needs a certificate; name yours in Dask's configuration, distributed.comm.tls")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own reports of lost connections from the screen; what they mean is said in a sentence."""
    logs = [logging.getLogger(name) for name in ("distributed", "distributed.client")]  # Dask gives each a level
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(SILENT)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
