"""The command `melzarr share`, which makes a store a dataset for others."""

from __future__ import annotations

from pathlib import Path

import click

from melzarr.pipeline.cli.options import AS_JSON, DATASETS, FORCE, STORE, Address, Guarded
from melzarr.pipeline.cli.output import as_text, next_step, show
from melzarr.pipeline.cli.progress import SHOWN
from melzarr.pipeline.sources.dataset_recipe import is_date
from melzarr.pipeline.spec import DTYPES, SCALES
from melzarr.pipeline.storage.directory import Directory


def read_date(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001  (click's)
    """Parse a date such as 2026-11-23; a callback of an option."""
    if value is not None and not is_date(value):
        raise click.BadParameter(f"{value!r} is not a date; give one such as 2026-11-23")
    return value


@click.command(cls=Guarded)
@STORE
@click.argument("dest", type=Address())
@click.option("--label", "labels", multiple=True, help="Only tracks of this label; may be given more than once.")
@click.option("--split", "splits", multiple=True, help="Only tracks of this split; may be given more than once.")
@click.option("--track", "tracks", multiple=True, metavar="ID", help="Only this track; may be given more than once.")
@click.option("--scale", type=click.Choice(SCALES), help="Store power, or its level in dB.  [default: the store's]")
@click.option("--dtype", type=click.Choice(DTYPES), help="Data type; float16 needs --scale db.  [default: the store's]")
@click.option("--audio", metavar="SOURCE", help="Include the audio files, from the source of the store.")
@click.option(
    "--for",
    "site",
    type=click.Choice(["hugging-face"]),
    help="Write a folder to upload there unchanged, with tables of the tracks that load_dataset and the viewer read.",
)
@click.option("--arrays", is_flag=True, help="With --for, the tables contain the windows too, in dB and float16.")
@click.option("--title", help="Title of the dataset.  [default: from the dataset's recipe]")
@click.option("--licence", "--license", help="Licence of the dataset.  [default: from the dataset's recipe]")
@click.option("--origin", help="Who made the music, and where it is from.  [default: from the dataset's recipe]")
@click.option("--author", default="", help="Who made the dataset, for its citation.")
@click.option(
    "--published",
    metavar="DATE",
    callback=read_date,
    help="Date of publication, such as 2026-11-23.  [default: from the dataset's recipe]",
)
@FORCE
@AS_JSON
@DATASETS
def share(
    store: Directory,
    dest: Directory,
    scale: str | None,
    dtype: str | None,
    audio: str | None,
    site: str | None,
    arrays: bool,
    title: str | None,
    licence: str | None,
    origin: str | None,
    author: str,
    published: str | None,
    force: bool,
    as_json: bool,
    datasets: Path,
    **chosen: tuple[str, ...],
) -> None:
    """Share STORE, or some of its tracks, as a documented dataset at DEST.

    DEST is a folder, an archive NAME.zarr.zip, or s3://BUCKET/NAME. It holds the store, which plain xarray opens; a
    card (README.md) with its contents, how it was made and how to cite it; tracks.csv; a description for crawlers
    (croissant.json); a report with pictures (report.html); and SHA256SUMS of all files. The same store under the same
    name gives the same bytes. A copy that was interrupted continues where it was. Audio is included only with --audio.

    \b
      melzarr share demo.zarr demo-share
      melzarr share demo.zarr demo.zarr.zip --published 2026-11-23
      melzarr share demo.zarr small.zarr.zip --scale db --dtype float16
      melzarr share demo.zarr s3://music/demo --label bells --label choir
      melzarr share demo.zarr hub --for hugging-face
    """
    from melzarr.pipeline.cli.inputs import audio_root
    from melzarr.pipeline.cli.messages import share_lines
    from melzarr.pipeline.share.share_options import ShareOptions
    from melzarr.pipeline.share.write_share import archive_sha256
    from melzarr.pipeline.share.write_share import share as share_store
    from melzarr.pipeline.zarr_store.reader import open_store

    opened = open_store(store)
    options = ShareOptions(
        **chosen,
        scale=scale,
        dtype=dtype,
        audio=None if audio is None else audio_root(audio, datasets, "--audio"),
        for_hub=site is not None,
        arrays=arrays,
        author=author,
        published=published,
        title=title,
        licence=licence,
        origin=origin,
    )
    n_tracks = len(options.select(opened))
    with SHOWN.steps() as step, SHOWN.building(n_tracks, "copy") as progress:
        summary = share_store(opened, dest, options, replace=force, progress=progress, step=step)
    made = open_store(dest)
    facts = {
        "share": str(dest), "store": str(store), "uuid": made.attributes["uuid"], "tracks": n_tracks,
        "bytes": made.n_bytes, "seconds": summary.seconds["wall"], "published": options.date(made),
        "sha256": archive_sha256(dest), "unsaid": options.unsaid(made),
    }  # fmt: skip
    if as_json:
        click.echo(as_text(facts))
        return
    show(share_lines(facts))
    next_step("verify", dest)
