"""The command `melzarr report`, which writes a page about a store."""

from __future__ import annotations

import re
from pathlib import Path

import click

from melzarr.pipeline.cli.options import STORE, Guarded
from melzarr.pipeline.cli.output import count, next_step, show
from melzarr.pipeline.cli.progress import progress_bars
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory


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
    from melzarr.pipeline.builder.build_timings import read_built
    from melzarr.pipeline.human_units import size
    from melzarr.pipeline.inspection.quality import find
    from melzarr.pipeline.publishing.target_guard import refuse_inside
    from melzarr.pipeline.report.charts import require_matplotlib
    from melzarr.pipeline.report.page import PAGE, write_report
    from melzarr.pipeline.report.run_reader import read_run
    from melzarr.pipeline.zarr_store.reader import open_store

    opened = open_store(store)
    folder = folder or Path(f"{_stem(store.name)}-report")
    refuse_inside(LocalDirectory(folder / PAGE))
    require_matplotlib()
    if run:
        read_run(run)  # raises if it is not a run; done first, because reading the store takes long
    with progress_bars() as step:
        found = find(opened, step("report", opened.n_tracks), step)
    page, *pictures = write_report(opened, found, folder, run, read_built(opened))
    click.echo(f"made {page}, {size(page.stat().st_size)}, and {count(len(pictures), 'picture')} beside it")
    if faults := found.faults():
        show(["possible problems:", *(f"  {fault}" for fault in faults)])
    if not run:
        next_step("train", store)


def _stem(name: str) -> str:
    """Return the name of a store without its extension."""
    return re.sub(r"(\.zarr)?(\.zip)?$", "", name) or "store"
