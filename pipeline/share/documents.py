"""Write the files that explain a shared store: card, tables, report, description, checksums."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from melzarr.pipeline.errors import CallError
from melzarr.pipeline.inspection.near_duplicates import Step
from melzarr.pipeline.inspection.quality import find
from melzarr.pipeline.report import charts
from melzarr.pipeline.report.charts import Charts
from melzarr.pipeline.report.page import write_report
from melzarr.pipeline.share.croissant import croissant
from melzarr.pipeline.share.dataset_card import About, card
from melzarr.pipeline.share.share_options import ShareOptions
from melzarr.pipeline.storage.atomic import files_below, sha256_of, write_whole
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.zip import ZipDirectory
from melzarr.pipeline.zarr_store.companion_files import (
    AUDIO,
    CARD,
    CHECKSUMS,
    CROISSANT,
    PICTURES,
    TRACKS,
    checksum_lines,
)
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.shard import SHARDS
from melzarr.pipeline.zarr_store.tracks_table import tracks_csv

# Hugging Face stores files of these patterns outside the Git history (LFS), which it requires for binary files.
ATTRIBUTES: Final = ("*/c/**", "mel/c/**", "*.png", f"{AUDIO}/**")


def explain(
    store: Store, folder: Path, where: Directory, options: ShareOptions, step: Step, draw: Charts = charts
) -> None:
    """Write the files that explain a store into the folder of its metadata; the checksums of all files come last.

    Parameters
    ----------
    store : Store
        The complete store, before it is published.
    folder : Path
        Folder of all its files, possibly except the shards.
    where : Directory
        Where the store will be published.
    options : ShareOptions
        Options of the share.
    step : callable
        Called with the name and the number of tracks of each step; returns a callback for its progress.
    draw : Charts
        Functions that draw the pictures.
    """
    found = find(store, step("look", store.n_tracks), step)
    picture = f"{PICTURES}/examples.png" if (store.column("status") == "ok").any() else ""
    if picture:
        (folder / PICTURES).mkdir(exist_ok=True)
        draw.draw_examples(store, folder / picture)
    recipe_faults = store.attributes["recipe"].get("faults", [])
    said = recipe_faults if isinstance(recipe_faults, list) else []
    about = About(
        name=where.name,
        is_zip=isinstance(where, ZipDirectory),
        published=options.date(store),
        author=options.author,
        faults=[*found.faults(), *map(str, said)],
        derived=list(_derived_lines(store.attributes.get("derived"))),
        for_hub=options.for_hub,
        has_audio=options.audio is not None,
        picture=picture,
    )
    write_report(store, found, folder, pictures=PICTURES, name=about.plain_name, draw=draw)
    write_whole(folder / TRACKS, *tracks_csv(store))
    write_whole(folder / CARD, card(store, found.facts, about).encode())
    if options.for_hub:
        lines = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in ATTRIBUTES)
        write_whole(folder / ".gitattributes", lines.encode())
    if options.audio:
        _copy_audio(store, options.audio, folder / AUDIO, step("audio", store.n_tracks))
    digests = {file: sha256_of(folder / file) for file, _ in files_below(folder, without=SHARDS)}
    described = {file: digest for file, digest in digests.items() if "/" not in file}
    write_whole(folder / CROISSANT, croissant(found.facts, about, described))
    digests[CROISSANT] = sha256_of(folder / CROISSANT)
    shards = store.values("receipts/sha256").tolist()
    digests |= {f"{SHARDS}/{index}/0/0/0": digest for index, digest in enumerate(shards)}
    write_whole(folder / CHECKSUMS, checksum_lines(digests))


def _copy_audio(store: Store, root: Directory, folder: Path, progress: Callable[[int], object]) -> None:
    """Copy the audio files; raise CallError if one is no longer the file that the store was made from."""
    for source, digest in zip(store.values("source"), store.values("source_sha256"), strict=True):
        progress(1)
        if not digest:  # a file that could not be read is not part of the dataset
            continue
        with root.local(source) as path:
            (folder / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / source)
        if sha256_of(folder / source) != digest:  # of the copy, because the file can change meanwhile
            raise CallError(
                f"{source} below {root} is not the file that the store was made from; share the store without its audio"
            )


def _derived_lines(derived: Any) -> Iterator[str]:
    """Yield sentences about the chain of stores that a store was derived from; `derived` is not trusted."""
    while isinstance(derived, dict):
        form = f", which stores them as {derived.get('scale')} in {derived['dtype']}" if "dtype" in derived else ""
        tracks, of_tracks, name = (derived.get(key) for key in ("tracks", "of_tracks", "from"))
        yield f"{tracks} of the {of_tracks} tracks of the store {name}{form}."
        if "max_error_db" in derived:
            yield f"Its levels differ from those by at most {derived['max_error_db']} dB."
        derived = derived.get("before")
