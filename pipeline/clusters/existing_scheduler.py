"""Run a build on an existing Dask scheduler, given by its address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import distributed
from distributed.security import Security

from melzarr.pipeline.clusters.cluster import PATIENCE, Cluster, Resources, has_certificate, quiet
from melzarr.pipeline.clusters.worker_versions import require_same_versions
from melzarr.pipeline.errors import BuildError, CallError

SCHEMES = ("tcp://", "tls://")


@contextmanager
def existing(address: str, request: Resources) -> Iterator[Cluster]:
    """Connect to an existing scheduler, whose workers must have the same versions as this process."""
    if request.workers is not None:
        raise CallError(
            f"--workers {request.workers} is for a local cluster, jobs or pods; {address} has the workers that were "
            f"started there"
        )
    _check(address)
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except OSError as error:
        raise BuildError(f"no scheduler answers at {address} ({error}); start one with: dask scheduler") from error
    with quiet(), client:  # also while the client closes, because it then logs the loss of its scheduler
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise BuildError(
                f"the scheduler at {address} has no worker after {PATIENCE} s; start some with: dask worker {address}"
            ) from error
        require_same_versions(client)
        yield Cluster(client)


def _check(address: str) -> None:
    """Raise a CallError if Dask cannot use an address, before a client is partly created."""
    try:
        parts = urlsplit(address)
        usable = bool(parts.hostname and parts.port)
    except ValueError:
        usable = False
    if not usable:
        raise CallError(f"{address!r} is not the address of a scheduler; give tcp://HOST:PORT or tls://HOST:PORT")
    configured: Security = Security()
    if parts.scheme == "tcp" and configured.require_encryption:
        raise CallError(
            f"{address} is not encrypted, but Dask's configuration sets distributed.comm.require-encryption; use a "
            f"scheduler at tls://HOST:PORT, or unset it"
        )
    if parts.scheme == "tls" and not has_certificate(configured, "client"):
        raise CallError(f"{address} needs a certificate; name yours in Dask's configuration, distributed.comm.tls")
