"""The command `melzarr verify`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from melzarr.pipeline.cli.inputs import audio_root
from melzarr.pipeline.cli.options import AS_JSON, DATASETS, STORE, Guarded
from melzarr.pipeline.cli.output import as_text, show
from melzarr.pipeline.cli.progress import SHOWN
from melzarr.pipeline.storage.directory import Directory


@click.command(cls=Guarded)
@STORE
@click.option(
    "--source",
    help="Source of the store; its files are compared with those that the store was made from. Required by --sample.",
)
@click.option("--sample", type=click.IntRange(0), default=0, help="Number of tracks to compute again with librosa.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the sample.")
@AS_JSON
@DATASETS
@click.pass_context
def verify(
    ctx: click.Context, store: Directory, source: str | None, sample: int, seed: int, as_json: bool, datasets: Path
) -> None:
    """Check STORE: every checksum, every status against its data, and some tracks computed again with librosa.

    If anything is wrong, the track is named and the exit code is 1.
    """
    from melzarr.pipeline.cli.messages import verdict_lines
    from melzarr.pipeline.inspection.verify import verify as verify_store
    from melzarr.pipeline.zarr_store.reader import open_store

    if sample and not source:
        raise click.UsageError("--sample computes from the audio files; give their source with --source")
    opened = open_store(store)
    root = None if source is None else audio_root(source, datasets)
    verdict = verify_store(opened, root, n_samples=sample, seed=seed, feedback=SHOWN)
    click.echo(as_text(dataclasses.asdict(verdict))) if as_json else show(verdict_lines(verdict))
    ctx.exit(1 if verdict.problems else 0)
