"""The command `melzarr fetch`."""

from __future__ import annotations

from pathlib import Path

import click

from melzarr.pipeline.cli.options import DATASETS, WORKERS, Guarded
from melzarr.pipeline.cli.output import next_step


@click.command(cls=Guarded)
@click.argument("name")
@click.option(
    "--from",
    "copy_from",
    type=click.Path(path_type=Path, exists=True),
    help="A copy that you have: the archive, or a folder above its label folders.",
)
@click.option(
    "--tracks-per-label",
    type=click.IntRange(1),
    help="Number of tracks to make per label, such as 10 for a quick test.  [default: from the dataset's recipe]",
)
@WORKERS
@DATASETS
def fetch(name: str, copy_from: Path | None, tracks_per_label: int | None, workers: int | None, datasets: Path) -> None:
    """Download, copy or synthesise the audio of dataset NAME.

    The audio goes to DATASETS/NAME/audio. It is downloaded and checked, taken from a copy that you have (--from: the
    archive, or a folder above its label folders), or synthesised. Audio that is already there is not fetched again.

    \b
      melzarr fetch demo --tracks-per-label 10
      melzarr fetch gtzan --from ~/Downloads/genres.tar.gz
    """
    from melzarr.pipeline.sources.dataset_recipe import find_recipe
    from melzarr.pipeline.sources.fetch_dataset import fetch as fetch_recipe

    recipe = find_recipe(name, datasets)
    fetched = fetch_recipe(recipe, copy_from=copy_from, tracks_per_label=tracks_per_label, workers=workers)
    remarks = [*([] if fetched.made else ["they were already there"]), *([fetched.note] if fetched.note else [])]
    click.echo(
        f"{fetched.n_tracks} tracks of {name} are in {fetched.audio}{': ' if remarks else ''}{'; '.join(remarks)}"
    )
    next_step("features", name, f"{name}.zarr", datasets=datasets)
