"""What all Dask clusters of a build share: a client, one core per worker, few log messages, and Ctrl-C."""

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

SILENT = logging.CRITICAL + 1  # Dask logs a message that fails on a closed connection as critical
PATIENCE = 60  # seconds within which an existing scheduler must answer, and have a worker
NANNY_BYTES = 100 << 20  # beside a worker in its job or pod: the nanny process (60 MB, measured), and a shell


@dataclass(frozen=True, slots=True)
class Resources:
    """What a build requires of its cluster.

    Parameters
    ----------
    worker_bytes : int
        Memory that one worker needs, in bytes.
    workers : int, optional
        Number of workers, or the maximum number if they come and go.
    memory : int, optional
        Memory of a job or pod, in bytes; by default it follows from `worker_bytes`.
    walltime : float, in s, optional
        Walltime of each job of a batch system.
    say : callable
        Called with a message for the user who waits.
    dashboard : bool
        Whether Dask serves its dashboard, which all users of this machine can open.
    """

    worker_bytes: int
    workers: int | None = None
    memory: int | None = None
    walltime: float | None = None
    say: Say = lambda _: None
    dashboard: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Dask cluster that runs a build.

    Parameters
    ----------
    client : distributed.Client
        Client of its scheduler.
    n_workers : int, optional
        Number of single-threaded workers that will connect; by default those that are connected.
    watch : callable, optional
        Called repeatedly while no job ends; raises a BuildError if waiting is useless.
    release : callable
        Called once all jobs are done; may end the workers at once.
    """

    client: distributed.Client
    n_workers: int | None = None
    watch: Callable[[], None] | None = None
    release: Callable[[], None] = lambda: None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Dask's own logs of lost connections; the errors of this package explain them."""
    names = ("distributed", "distributed.client", "dask_kubernetes")  # Dask sets the level of each
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
    """Yield a stack for a cluster and its client, and close it on exit, ignoring a second Ctrl-C meanwhile.

    A second Ctrl-C would leave the cluster half closed: jobs would remain, or the process would wait for it at its end.

    Parameters
    ----------
    on_sigterm : bool
        Whether SIGTERM, which batch systems send some seconds before they kill, is handled like Ctrl-C.
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
    """Return Dask's settings for the scheduler's web pages: it serves some even without a dashboard."""
    return {} if dashboard else {"distributed.scheduler.http.routes": []}


def security() -> distributed.Security:
    """Return the certificates in Dask's configuration if all roles have one, else new ones.

    No connection is possible without a certificate, whether the configuration requires encryption or not.
    """
    configured: distributed.Security = distributed.Security(require_encryption=True)
    if all(has_certificate(configured, role) for role in ("client", "scheduler", "worker")):
        return configured
    made: distributed.Security = distributed.Security.temporary()
    return made


def has_certificate(configured: distributed.Security, role: str) -> bool:
    """Return whether Dask's configuration names a certificate for a role; raise a CallError if it cannot be used."""
    try:
        return configured.get_connection_args(role).get("ssl_context") is not None
    except OSError as error:  # also of its format
        raise CallError(
            f"the {role}'s certificate in Dask's configuration cannot be used ({error}); fix the files that it names "
            f"under distributed.comm.tls"
        ) from error


def need(extra: str, what: str, error: ImportError) -> CallError:
    """Return an error that names the extra that provides a missing package."""
    return CallError(f"{what} needs {error.name}: pip install 'melzarr[{extra}]'")
