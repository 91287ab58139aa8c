"""The command line: the commands of the pipeline and of the model, in workflow order."""

from __future__ import annotations

import click

from melzarr.model.cli import evaluate, predict, reproduce, train
from melzarr.model.share_command import share
from melzarr.pipeline.cli.commands.append_and_merge import append, merge
from melzarr.pipeline.cli.commands.features import features
from melzarr.pipeline.cli.commands.fetch import fetch
from melzarr.pipeline.cli.commands.inspect import inspect
from melzarr.pipeline.cli.commands.job_array import job_array
from melzarr.pipeline.cli.commands.report import report
from melzarr.pipeline.cli.commands.scan import scan
from melzarr.pipeline.cli.commands.verify import verify
from melzarr.pipeline.cli.options import InOrder


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="melzarr")
def main() -> None:
    """Turn a folder of music into a verified Zarr store of mel-spectrogram windows, and train a genre network on it.

    \b
    SOURCE is one of
      a folder     of LABEL/FILE
      a manifest   .csv or .parquet with the columns path and label, and optionally id, group, split
      a dataset    by the name of its recipe, such as demo, after it has been fetched

    \b
    To begin:
      melzarr fetch demo
      melzarr features demo demo.zarr
      melzarr verify demo.zarr --source demo --sample 20
      melzarr train demo.zarr
    """


for command in (
    fetch, scan, features, job_array, inspect, verify, append, merge, report, share, train, evaluate, predict, reproduce
):  # fmt: skip
    main.add_command(command)
