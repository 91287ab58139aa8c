"""The command `melzarr`, without its subcommands."""

from __future__ import annotations

import click

from pipeline.cli.options import InOrder


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="melzarr")
def main() -> None:
    """Turn a folder of music into a verified Zarr store of mel-spectrogram windows, and learn its genres.

    \b
    SOURCE is one of
      a folder     of LABEL/FILE
      a manifest   .csv or .parquet with the columns path and label, and if you like id, group, split
      a dataset    by the name of its recipe, such as demo, once it has been fetched

    \b
    To begin:
      melzarr fetch demo
      melzarr features demo demo.zarr
      melzarr verify demo.zarr --source demo --sample 20
      melzarr train demo.zarr
    """
