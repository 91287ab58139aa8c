"""The command `melzarr features`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from melzarr.pipeline.cli.inputs import prepare
from melzarr.pipeline.cli.options import (
    CLUSTER,
    DASHBOARD,
    FORCE,
    MAX_FAILED,
    MEMORY,
    SOURCE,
    STORE,
    WALLTIME,
    WORKERS_ANYWHERE,
    Guarded,
    source_options,
)
from melzarr.pipeline.cli.output import next_step
from melzarr.pipeline.cli.progress import SHOWN
from melzarr.pipeline.cli.progress import workers as start_workers
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.worker_processes import will_start_workers, worker_start_method


@click.command(cls=Guarded)
@SOURCE
@STORE
@CLUSTER
@WORKERS_ANYWHERE
@DASHBOARD
@MEMORY
@WALLTIME
@FORCE
@MAX_FAILED
@source_options
def features(
    source: str,
    store: Directory,
    cluster: str,
    workers: int | None,
    dashboard: bool,
    memory: int | None,
    walltime: float | None,
    force: bool,
    max_failed: float | None,
    **options: Any,
) -> None:
    """Compute the mel windows of SOURCE into STORE.

    A build that was stopped continues where it was. STORE appears under its name only when it is complete. A file that
    cannot be used is named and counted, and its track is NaN.

    \b
      melzarr features demo demo.zarr
      melzarr features ~/Music/genres music.zarr --n-mels 64
      melzarr features tracks.csv music.zarr --group album --cluster tcp://10.0.0.1:8786
      melzarr features tracks.csv music.zarr --cluster slurm --workers 100 --walltime 01:00:00

    For schedulers without Dask, see melzarr job-array.
    """
    resources = {"memory": memory, "walltime": walltime, "dashboard": dashboard}
    connect = partial(start_workers, cluster, workers, resources, False)
    needed = will_start_workers(cluster, workers, store.folder, replace=force)
    with worker_start_method(needed=needed):  # at once: it imports while this does
        from melzarr.pipeline.builder.build_store import build_store

        catalog, plan = prepare(source, options)
        made = build_store(plan, catalog, store, connect, replace=force, max_failed=max_failed, feedback=SHOWN)
    if made:
        next_step(
            "verify", store, "--source", options["audio_root"] or source, "--sample", 20, datasets=options["datasets"]
        )
    else:
        click.echo(f"{store} is finished and up to date: same files, spec and versions")
        next_step("inspect", store)
