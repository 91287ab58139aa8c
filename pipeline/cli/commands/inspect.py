"""The command `melzarr inspect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from melzarr.pipeline.cli.options import AS_JSON, STORE, Guarded
from melzarr.pipeline.cli.output import as_text, show
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory


@click.command(cls=Guarded)
@STORE
@AS_JSON
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw one track of each label, as .png or .svg.")
def inspect(store: Directory, as_json: bool, picture: Path | None) -> None:
    """Show what STORE holds: shape, size, spec, labels × splits × status, statistics, provenance."""
    from melzarr.pipeline.cli.messages import store_lines
    from melzarr.pipeline.inspection.describe import describe
    from melzarr.pipeline.publishing.target_guard import refuse_inside
    from melzarr.pipeline.zarr_store.reader import open_store

    if picture:
        refuse_inside(LocalDirectory(picture))
    opened = open_store(store)
    facts = describe(opened)
    click.echo(as_text(asdict(facts))) if as_json else show(store_lines(facts))
    if picture:
        from melzarr.pipeline.report.mel_figure import draw

        draw(opened, picture)
        click.echo(f"picture: {picture}", err=as_json)
