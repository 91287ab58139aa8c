"""Run the jobs of a build in this process, or on the workers of a Dask cluster."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import distributed
from distributed.comm.core import CommClosedError

from melzarr.pipeline.clusters.batch_systems import SYSTEMS, batch
from melzarr.pipeline.clusters.cluster import PATIENCE, Cluster, Resources, Say
from melzarr.pipeline.clusters.existing_scheduler import SCHEMES, existing
from melzarr.pipeline.clusters.kubernetes import kubernetes
from melzarr.pipeline.clusters.local_cluster import local
from melzarr.pipeline.errors import BuildError, CallError

Job = TypeVar("Job")
Result = TypeVar("Result")

Connect = Callable[[int], AbstractContextManager["Runner"]]  # called with the memory of a worker, in bytes

IN_FLIGHT = 128  # jobs at the scheduler at a time, or four per worker thread if that is more: see `overlap`
TICK = 2  # seconds without a result after which a cluster is checked


class Runner(Protocol):
    """Calls a function for many jobs."""

    n_workers: int
    dashboard: str
    expendable: bool  # whether a computing process may end itself, because another replaces it

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], rescue: Callable[[Job], Result] | None = None
    ) -> Iterator[Result]:
        """Call a function for each job and yield the results as they complete, in any order.

        For a job that repeatedly ends its workers, `rescue` is called instead of the function.
        """
        ...

    def release(self) -> None:
        """Give the workers back, without waiting for their end: no job follows."""
        ...


class InProcess:
    """Runs jobs one after the other in this process, so that a debugger can be used."""

    n_workers = 1
    dashboard = ""
    expendable = False

    def run(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        rescue: Callable[[Job], Result] | None = None,  # noqa: ARG002  (a job that ends this process ends the build)
    ) -> Iterator[Result]:
        """Call a function for each job, lazily."""
        return map(function, jobs)

    def release(self) -> None:
        """Do nothing: there are no workers."""


class OnDask:
    """Runs jobs on the workers of a Dask client.

    Parameters
    ----------
    client : distributed.Client
        The client; the caller closes it.
    n_workers : int, optional
        Number of single-threaded workers that will connect; by default those that are connected.
    watch : callable, optional
        Called while no job ends; raises a BuildError if waiting is useless. By default it requires a worker.
    release : callable
        Ends the workers; by default they are left as they are.
    """

    expendable = True

    def __init__(
        self,
        client: distributed.Client,
        n_workers: int | None = None,
        watch: Callable[[], None] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.client = client
        self.watch = watch
        self.release = release
        self.dashboard = client.dashboard_link or ""
        threads = client.nthreads()
        self.n_workers = len(threads) if n_workers is None else n_workers
        self.n_threads = sum(threads.values()) if n_workers is None else n_workers
        self._clock = _time_of_day()

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], rescue: Callable[[Job], Result] | None = None
    ) -> Iterator[Result]:
        """Call a function for each job, with a limited number of jobs at the scheduler at a time.

        Raises
        ------
        BuildError
            If a job repeatedly ends its workers, rescued or not, a worker lacks a library, or the scheduler or all
            workers are lost.
        """
        waiting, done = iter(jobs), queue.SimpleQueue[distributed.Future[Any]]()
        # Futures are kept, because Dask cancels an unreferenced one; with each, its job and what may rescue the job.
        running: dict[Any, tuple[distributed.Future[Any], Job, Callable[[Job], Result] | None]] = {}

        def submit(function: Callable[[Job], Result], job: Job, rescue: Callable[[Job], Result] | None) -> None:
            # Never pure: an old failure in the scheduler's memory must not be returned for a new task.
            future = self.client.submit(function, job, pure=False)
            running[future.key] = future, job, rescue
            future.add_done_callback(done.put)

        for job in itertools.islice(waiting, max(IN_FLIGHT, 4 * self.n_threads)):
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
                    f"{error.last_worker.address}; see its log: in most cases memory was short (use fewer --workers) "
                    f"or a codec crashed"
                ) from error
            except (distributed.CancelledError, CommClosedError) as error:
                raise BuildError("the scheduler was lost; start it again, then run the same command") from error
            except ImportError as error:
                raise BuildError(
                    f"a worker lacks {error.name}; install the same packages there as here, then run the same command"
                ) from error
            for job in itertools.islice(waiting, 1):
                submit(function, job, rescue)
            yield result

    def _next(self, done: queue.SimpleQueue[distributed.Future[Any]]) -> distributed.Future[Any]:
        """Wait for a job to end; raise a BuildError if no worker is left, or a clock set back delays all messages."""
        while True:
            self._clock = max(self._clock, _time_of_day())
            try:
                return done.get(timeout=TICK if self.watch else PATIENCE)
            except queue.Empty:
                (self.watch or self._require_workers)()
                if (back := self._clock - _time_of_day()) > PATIENCE:
                    # Dask sends its messages in batches, each due at a time of day (distributed.batched).
                    raise BuildError(
                        f"this machine's clock was set back by {back:.0f} s, and Dask waits until it shows the old "
                        f"time again; run the same command again"
                    ) from None

    def _require_workers(self) -> None:
        if not self.client.nthreads():
            raise BuildError(f"for {PATIENCE} s there has been no worker; start some, then run the same command")


def _time_of_day() -> float:
    """Return the time of day minus the monotonic clock, in s: it changes if the clock is set."""
    return time.time() - time.monotonic()


@contextmanager
def connect(
    cluster: str,
    workers: int | None,
    worker_bytes: int,
    *,
    memory: int | None = None,
    walltime: float | None = None,
    say: Say = lambda _: None,
    dashboard: bool = False,
) -> Iterator[Runner]:
    """Yield a runner on the given cluster, and close the cluster on exit.

    Parameters
    ----------
    cluster : str
        "local" for workers on this machine; "slurm", "pbs", "sge" or "lsf" for jobs of a batch system; "kubernetes"
        for pods; or the address of a scheduler, ``tcp://…`` or ``tls://…``.
    workers : int, optional
        Number of workers of a local cluster; 0 computes in this process, and the default is as many as cores and memory
        allow. On a batch system and Kubernetes, the maximum number of workers at a time.
    worker_bytes : int
        Memory that one worker needs, in bytes.
    memory : int, optional
        Memory of each job or pod, in bytes; by default what a worker needs.
    walltime : float, in s, optional
        Walltime of each job of a batch system.
    say : callable
        Called with a message for the user who waits.
    dashboard : bool
        Whether Dask serves its dashboard, to all users of this machine.

    Raises
    ------
    CallError
        If the options name no cluster, or one whose memory is too small for a shard.
    BuildError
        If the cluster cannot be reached, or its workers have other versions.
    """
    if walltime is not None and cluster not in SYSTEMS:
        raise CallError(f"--walltime is for jobs of {', '.join(SYSTEMS)}; --cluster {cluster} does not use jobs")
    if memory is not None and cluster not in {*SYSTEMS, "kubernetes"}:
        raise CallError(f"--memory is for jobs and pods; --cluster {cluster} uses neither")
    if cluster == "local" and workers == 0:
        yield InProcess()
        return
    with _open_cluster(cluster, Resources(worker_bytes, workers, memory, walltime, say, dashboard)) as opened:
        runner = OnDask(opened.client, opened.n_workers, opened.watch, opened.release)
        if not dashboard and cluster in {"local", *SYSTEMS}:
            runner.dashboard = ""  # Dask gives an address even if nothing answers there
        yield runner


def _open_cluster(cluster: str, request: Resources) -> AbstractContextManager[Cluster]:
    if cluster == "local":
        return local(request)
    if cluster in SYSTEMS:
        return batch(cluster, request)
    if cluster == "kubernetes":
        return kubernetes(request)
    if cluster.startswith(SCHEMES):
        return existing(cluster, request)
    known = ", ".join(("local", *SYSTEMS, "kubernetes"))
    raise CallError(f"cluster={cluster!r} is unknown; use {known}, or a scheduler's tcp://HOST:PORT or tls://HOST:PORT")
