"""Run a build on the cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dask
import distributed
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from melzarr.pipeline.clusters.cluster import (
    SILENT,
    Cluster,
    Resources,
    http_settings,
    orderly_end,
    quiet,
    security,
)
from melzarr.pipeline.errors import CallError
from melzarr.pipeline.main_guard import require_main_guard
from melzarr.pipeline.worker_processes import ENVIRONMENT, worker_start_method


@contextmanager
def local(request: Resources) -> Iterator[Cluster]:
    """Start single-threaded workers on this machine, for this process only, without waiting for them."""
    require_main_guard()
    if request.worker_bytes > MEMORY_LIMIT:
        raise CallError(
            f"a worker needs {request.worker_bytes / 1e9:.1f} GB for one shard of this spec, but this machine has "
            f"{MEMORY_LIMIT / 1e9:.1f} GB; use a smaller --n-windows or --tracks-per-shard"
        )
    n_workers = local_workers(request.workers, request.worker_bytes)
    settings: dict[str, Any] = {f"distributed.nanny.pre-spawn-environ.{name}": v for name, v in ENVIRONMENT.items()}
    settings |= http_settings(dashboard=request.dashboard)
    distributed.utils._forkserver_preload_set = True  # noqa: SLF001  (otherwise Dask imports pandas here)
    settings["distributed.scheduler.allowed-failures"] = 1  # a shard that ends two workers is retried track by track
    # Quiet until the end, because a cluster that is closed during its work logs many messages.
    with (
        quiet(),
        worker_start_method() as method,
        dask.config.set({**settings, "distributed.worker.multiprocessing-method": method}),
        orderly_end() as held,
    ):
        cluster = held.enter_context(
            distributed.LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                memory_limit=max(request.worker_bytes, MEMORY_LIMIT // n_workers),
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": request.dashboard},
                security=security(),
                preload="melzarr.pipeline.builder.worker_setup",
                silence_logs=SILENT,
                env=dict(os.environ),  # the forkserver keeps the environment of its start
            )
        )
        client = held.enter_context(distributed.Client(cluster, set_as_default=False))
        cluster.scale(n_workers)  # after the client, which would wait for them: the imports of a build take as long
        yield Cluster(client, n_workers, release=partial(cluster.scale, 0))


def local_workers(workers: int | None, worker_bytes: int) -> int:
    """Return the number of workers: as requested, or one per core, limited by the memory of this machine."""
    return max(1, min(workers or CPU_COUNT, MEMORY_LIMIT // worker_bytes))
