"""The command `melzarr report`, which writes a page about a store."""

from __future__ import annotations

from pathlib import Path

import click

from melzarr.pipeline.cli.options import STORE, Guarded
from melzarr.pipeline.cli.output import next_step, show
from melzarr.pipeline.cli.progress import SHOWN
from melzarr.pipeline.storage.directory import Directory


@click.command(cls=Guarded)
@STORE
@click.option("--run", type=click.Path(path_type=Path), help="Folder of a training run to include in the report.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for the page and its pictures.  [default: STORE-report]",
)
def report(store: Directory, run: Path | None, folder: Path | None) -> None:
    """Write a page about STORE: what is in it, how it sounds, what may be wrong with it.

    The page is one self-contained file. Its pictures are also written as files beside it.

    \b
      melzarr report demo.zarr
      melzarr report demo.zarr --run runs/demo-default-track --to pages/demo
    """
    from melzarr.pipeline.human_units import count, size
    from melzarr.pipeline.report.page import report as write_report
    from melzarr.pipeline.zarr_store.reader import open_store

    (page, *pictures), found = write_report(open_store(store), folder, run, SHOWN)
    click.echo(f"made {page}, {size(page.stat().st_size)}, and {count(len(pictures), 'picture')} beside it")
    if faults := found.faults():
        show(["possible problems:", *(f"  {fault}" for fault in faults)])
    if not run:
        next_step("train", store)
