"""Where a build runs: in this process, or on the workers of one of the places that Dask reaches."""

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

IN_FLIGHT = 128  # jobs that the scheduler knows at a time, where the workers' threads are not more
TICK = 2  # seconds without a result after which a place is asked whether there is still hope


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
    watch : callable, optional
        Called while no job ends; raises a BuildError where there is no hope. By default workers have to be there.
    """

    expendable = True

    def __init__(
        self, client: distributed.Client, n_workers: int | None = None, watch: Callable[[], None] | None = None
    ) -> None:
        self.client = client
        self.watch = watch
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
            except ImportError as error:
                raise BuildError(
                    f"a worker lacks {error.name}; install there what is installed here, then run the same command"
                ) from error
            for job in itertools.islice(waiting, 1):
                submit(function, job, rescue)
            yield result

    def _next(self, done: queue.SimpleQueue[distributed.Future[Any]]) -> distributed.Future[Any]:
        """Wait for a job to end; give up where there is no worker left to end it, or none that would be heard."""
        while True:
            self._clock = max(self._clock, _time_of_day())
            try:
                return done.get(timeout=TICK if self.watch else PATIENCE)
            except queue.Empty:
                (self.watch or self._require_workers)()
                if (back := self._clock - _time_of_day()) > PATIENCE:
                    # Dask sends its messages in batches, each due at a time of day (distributed.batched).
                    raise BuildError(
                        f"this machine's clock was set back by {back:.0f} s, and Dask waits until it is as late again; "
                        f"run the same command again"
                    ) from None

    def _require_workers(self) -> None:
        if not self.client.nthreads():
            raise BuildError(f"for {PATIENCE} s no worker has been there; start some, then run the same command")


def _time_of_day() -> float:
    """Time of day beside the time that has passed: it changes where the clock is set."""
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
    """Open the place where a build runs, and close it afterwards.

    Parameters
    ----------
    cluster : str
        "local" for workers on this machine; "slurm", "pbs", "sge" or "lsf" for jobs of a batch system; "kubernetes"
        for pods; or the address of a scheduler, ``tcp://…`` or ``tls://…``.
    workers : int, optional
        Workers of a local cluster; 0 is this process, and by default there are as many as cores and memory allow. On a
        batch system and Kubernetes, the most workers at a time.
    worker_bytes : int
        Memory that one worker needs.
    memory : int, optional
        Bytes of each job or pod; by default those that a worker needs.
    walltime : float, in s, optional
        Time of each job of a batch system.
    say : callable
        Told what a person who waits would like to know.
    dashboard : bool
        Whether Dask shows what it does, to everybody on this machine.

    Raises
    ------
    CallError
        Where the options name no cluster, or one that cannot hold a shard.
    BuildError
        Where it cannot be reached, or its workers are not of this version.
    """
    if walltime is not None and cluster not in SYSTEMS:
        raise CallError(f"--walltime is for jobs of {', '.join(SYSTEMS)}; --cluster {cluster} has none")
    if memory is not None and cluster not in {*SYSTEMS, "kubernetes"}:
        raise CallError(f"--memory is for jobs and pods; --cluster {cluster} has none")
    if cluster == "local" and workers == 0:
        yield InProcess()
        return
    with _place(cluster, Resources(worker_bytes, workers, memory, walltime, say, dashboard)) as place:
        runner = OnDask(place.client, place.n_workers, place.watch)
        if not dashboard and cluster in {"local", *SYSTEMS}:
            runner.dashboard = ""  # Dask gives an address also where nothing answers
        yield runner


def _place(cluster: str, wish: Resources) -> AbstractContextManager[Cluster]:
    if cluster == "local":
        return local(wish)
    if cluster in SYSTEMS:
        return batch(cluster, wish)
    if cluster == "kubernetes":
        return kubernetes(wish)
    if cluster.startswith(SCHEMES):
        return existing(cluster, wish)
    known = ", ".join(("local", *SYSTEMS, "kubernetes"))
    raise CallError(f"cluster={cluster!r} is unknown; use {known}, or a scheduler's tcp://HOST:PORT or tls://HOST:PORT")
