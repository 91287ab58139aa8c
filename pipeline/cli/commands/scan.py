"""The command `melzarr scan`."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import Any

import click

from melzarr.pipeline.cli.inputs import listing_words, prepare
from melzarr.pipeline.cli.options import AS_JSON, SOURCE, Guarded, source_options
from melzarr.pipeline.cli.output import as_text, next_step, show
from melzarr.pipeline.cli.progress import SHOWN


@click.command(cls=Guarded)
@SOURCE
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of workers to estimate for.  [default: one per core of this machine, as memory allows]",
)
@AS_JSON
@source_options
def scan(source: str, workers: int | None, as_json: bool, **options: Any) -> None:
    """Check SOURCE before a build: show what is there, what is wrong with it, and what a build would cost."""
    from melzarr.pipeline.cli.messages import scan_lines
    from melzarr.pipeline.clusters.local_cluster import local_workers
    from melzarr.pipeline.inspection.scan import scan as scan_catalog

    catalog, plan = prepare(source, options)
    found = scan_catalog(catalog, plan, workers or local_workers(None, plan.worker_bytes), SHOWN)
    if as_json:
        click.echo(as_text(dataclasses.asdict(found)))
        return
    show(scan_lines(found))
    store = f"{PurePosixPath(source).stem}.zarr"
    next_step("features", source, store, *listing_words(options), datasets=options["datasets"])
