"""The command `melzarr share`, which makes a store a dataset for others, and a run a model for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from melzarr.pipeline.cli.options import AS_JSON, DATASETS, Address, Guarded
from melzarr.pipeline.cli.output import as_text, next_step, show
from melzarr.pipeline.cli.progress import SHOWN
from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.sources.dataset_recipe import is_date
from melzarr.pipeline.spec import DTYPES, SCALES
from melzarr.pipeline.storage.directory import Directory


def read_date(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001  (click's)
    """Parse a date such as 2026-11-23; a callback of an option."""
    if value is not None and not is_date(value):
        raise click.BadParameter(f"{value!r} is not a date; give one such as 2026-11-23")
    return value


@click.command(cls=Guarded)
@click.argument("what", metavar="STORE|RUN", type=Address())
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
@click.option("--onnx", is_flag=True, help="Of a RUN, write the network as ONNX too.")
@click.option(
    "--title",
    help="Title of the dataset or the model.  [default: from the dataset's recipe, or that of the trained store]",
)
@click.option("--licence", "--license", help="Its licence.  [default of a dataset: from its recipe]")
@click.option("--origin", help="Who made the music, and where it is from.  [default: from the dataset's recipe]")
@click.option("--author", default="", help="Who made it, for its citation.")
@click.option(
    "--published",
    metavar="DATE",
    callback=read_date,
    help="Date of publication, such as 2026-11-23.  [default of a dataset: from its recipe]",
)
@click.option("--force", is_flag=True, help="Replace a finished share when the new one is complete.")
@AS_JSON
@DATASETS
def share(
    what: Directory,
    dest: Directory,
    scale: str | None,
    dtype: str | None,
    audio: str | None,
    site: str | None,
    arrays: bool,
    onnx: bool,
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
    """Share STORE, or some of its tracks, as a documented dataset at DEST, or RUN as a documented model.

    DEST is a folder, an archive NAME.zarr.zip, or s3://BUCKET/NAME. It holds the store, which plain xarray opens; a
    card (README.md) with its contents, how it was made and how to cite it; tracks.csv; a description for crawlers
    (croissant.json); a report with pictures (report.html); and SHA256SUMS of all files. The same store under the same
    name gives the same bytes. A copy that was interrupted continues where it was. Audio is included only with --audio.

    Of a RUN, the folder of a training, DEST is a folder, an archive NAME.zip, or an address. It holds the model, which
    plain Keras opens; what it needs of the run; its figures and curves; a card; and SHA256SUMS. predict and evaluate
    take it as they take a run.

    \b
      melzarr share demo.zarr demo-share
      melzarr share demo.zarr demo.zarr.zip --published 2026-11-23
      melzarr share demo.zarr small.zarr.zip --scale db --dtype float16
      melzarr share demo.zarr s3://music/demo --label bells --label choir
      melzarr share demo.zarr hub --for hugging-face
      melzarr share runs/demo-default-track demo-genres --licence cc0-1.0 --onnx
    """
    from melzarr.pipeline.report.run_files import CONFIG

    if what.folder is not None and what.size(CONFIG) is not None:
        of_store = {
            "--label": chosen["labels"], "--split": chosen["splits"], "--track": chosen["tracks"], "--scale": scale,
            "--dtype": dtype, "--audio": audio, "--arrays": arrays, "--origin": origin,
        }  # fmt: skip
        if given := [option for option, value in of_store.items() if value]:
            raise click.UsageError(f"{what} is a run, and {given[0]} is about the windows of a store; leave it out")
        _share_run(
            what.folder, dest, as_json=as_json, replace=force, for_hub=site is not None, onnx=onnx, title=title or "",
            licence=licence or "", author=author, published=published or "",
        )  # fmt: skip
        return
    if what.folder is not None and what.exists() and what.size("zarr.json") is None:
        raise CallError(f"{what} is neither a store nor a run, it has no zarr.json and no {CONFIG}; give one of them")
    if onnx:
        raise click.UsageError(f"{what} is not a run, and ONNX is a form of its network; leave out --onnx")
    from melzarr.pipeline.cli.inputs import audio_root
    from melzarr.pipeline.cli.messages import share_lines
    from melzarr.pipeline.share.share_options import ShareOptions
    from melzarr.pipeline.share.write_share import archive_sha256
    from melzarr.pipeline.share.write_share import share as share_store
    from melzarr.pipeline.zarr_store.reader import open_store

    opened = open_store(what)
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
        "share": str(dest), "store": str(what), "uuid": made.attributes["uuid"], "tracks": n_tracks,
        "bytes": made.n_bytes, "seconds": summary.seconds["wall"], "published": options.date(made),
        "sha256": archive_sha256(dest), "unsaid": options.unsaid(made),
    }  # fmt: skip
    if as_json:
        click.echo(as_text(facts))
        return
    show(share_lines(facts))
    next_step("verify", dest)


def _share_run(folder: Path, dest: Directory, *, as_json: bool, replace: bool, **options: Any) -> None:
    """Share a run, and print what was made."""
    from melzarr.model.tensorflow_setup import load_tensorflow

    load_tensorflow(SHOWN)
    from melzarr.model.messages import shared_lines
    from melzarr.model.run_directory import Run
    from melzarr.model.share_run import RunShareOptions, share_run

    try:
        with SHOWN.steps() as step:
            found = share_run(Run(folder), dest, RunShareOptions(**options), replace=replace, step=step)
    except KeyboardInterrupt as error:
        raise BuildError("stopped; a run is shared as a whole, so run the same command again") from error
    unsaid = [f"--{name}" for name in ("licence", "author", "published") if not options[name]]
    facts = {"share": str(dest), "run": str(folder), **found, "unsaid": unsaid}
    if as_json:
        click.echo(as_text(facts))
        return
    show(shared_lines(facts))
    next_step("predict", dest, "song.mp3")
