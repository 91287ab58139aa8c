"""`melzarr inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli_output import as_text, show
from pipeline.options import (
    AS_JSON,
    STORE,
    Guarded,
)
from pipeline.tree import DiskTree, Tree


@click.command(cls=Guarded)
@STORE
@AS_JSON
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw one track of each label, as .png or .svg.")
def inspect(store: Tree, as_json: bool, picture: Path | None) -> None:
    """Say what STORE holds: shape, size, spec, labels × splits × status, statistics, provenance."""
    from pipeline.describe import describe
    from pipeline.places import refuse_inside
    from pipeline.screen import store_lines
    from pipeline.store import open_store

    if picture:
        refuse_inside(DiskTree(picture))
    opened = open_store(store)
    facts = describe(opened)
    click.echo(as_text(facts)) if as_json else show(store_lines(facts))
    if picture:
        from pipeline.picture import draw

        draw(opened, picture)
        click.echo(f"picture: {picture}", err=as_json)
