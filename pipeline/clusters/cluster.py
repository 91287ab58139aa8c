"""What all places have in common where a build runs on Dask: a client, one core a worker, few words, and Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

import distributed

from melzarr.pipeline.errors import CallError

Say = Callable[[str], None]

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
ENVIRONMENT = {**dict.fromkeys(POOLS, "1"), **ALLOCATOR}

SILENT = logging.CRITICAL + 1  # a message that a closed connection can take no more is critical to Dask
PATIENCE = 60  # seconds in which a scheduler that is already there must answer, and have a worker
NANNY_BYTES = 100 << 20  # beside a worker in its job or pod: a process that watches over it (60 MB, measured), a shell


@dataclass(frozen=True, slots=True)
class Resources:
    """What a build asks of the place where it runs.

    Parameters
    ----------
    worker_bytes : int
        Memory that one worker needs.
    workers : int, optional
        Workers, or the most of them where they come and go.
    memory : int, optional
        Bytes of a job or pod, where they are not to follow from what a worker needs.
    walltime : float, in s, optional
        Time that a job of a batch system is given.
    say : callable
        Told, in a sentence, what a person who waits would like to know.
    dashboard : bool
        Whether Dask shows what it does at an address, which everybody on this machine can open.
    """

    worker_bytes: int
    workers: int | None = None
    memory: int | None = None
    walltime: float | None = None
    say: Say = lambda _: None
    dashboard: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a build runs.

    Parameters
    ----------
    client : distributed.Client
        The client.
    n_workers : int, optional
        Workers of one thread that will come; by default those that are there.
    watch : callable, optional
        Called again and again while no job ends; it raises a BuildError where there is no hope.
    """

    client: distributed.Client
    n_workers: int | None = None
    watch: Callable[[], None] | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Dask's own reports of lost connections from the screen; what they mean is said in a sentence."""
    names = ("distributed", "distributed.client", "dask_kubernetes")  # Dask gives each a level
    logs = [logging.getLogger(name) for name in names]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(SILENT)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


@contextmanager
def orderly_end(*, on_sigterm: bool = False) -> Iterator[ExitStack]:
    """Hold a cluster and its client, and close them whatever happens, but for a second Ctrl-C.

    That would leave the cluster half closed, and jobs behind or the end of the process waiting for it.

    Parameters
    ----------
    on_sigterm : bool
        Whether SIGTERM, which batch systems send some seconds before they kill, is taken as Ctrl-C.
    """
    hears_signals = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if on_sigterm else (signal.SIGINT,)
    with ExitStack() as before:
        if hears_signals:
            for number in numbers:
                before.callback(signal.signal, number, signal.getsignal(number))
            if on_sigterm:
                signal.signal(signal.SIGTERM, _interrupt)
        held = ExitStack()
        try:
            yield held
        finally:
            if hears_signals:
                for number in numbers:
                    signal.signal(number, signal.SIG_IGN)
            held.close()


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (the signature of a handler)
    raise KeyboardInterrupt


def http_settings(*, dashboard: bool) -> dict[str, object]:
    """Dask's settings for the pages of its scheduler: a scheduler serves some even if it has no dashboard."""
    return {} if dashboard else {"distributed.scheduler.http.routes": []}


def security() -> distributed.Security:
    """Certificates that Dask's configuration names, or new ones; who has none reaches no scheduler and no worker."""
    configured: distributed.Security = distributed.Security()
    if configured.get_tls_config_for_role("worker")["ca_file"]:
        return configured
    made: distributed.Security = distributed.Security.temporary()
    return made


def need(extra: str, what: str, error: ImportError) -> CallError:
    """Say which extra has what is missing."""
    return CallError(f"{what} needs {error.name}: pip install 'melzarr[{extra}]'")
