"""Write the files that explain a shared store: card, tables, report, description, checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from melzarr.pipeline.errors import CallError
from melzarr.pipeline.inspection.describe import describe
from melzarr.pipeline.inspection.near_duplicates import Step
from melzarr.pipeline.report import charts
from melzarr.pipeline.report.charts import Charts
from melzarr.pipeline.report.page import write_report
from melzarr.pipeline.share.croissant import croissant
from melzarr.pipeline.share.dataset_card import About, card
from melzarr.pipeline.share.parquet_tables import write_tables
from melzarr.pipeline.share.share_options import ShareOptions
from melzarr.pipeline.share.store_look import StoreLook
from melzarr.pipeline.storage.atomic import files_below, write_whole
from melzarr.pipeline.storage.digests import SHA256, copy_with_digests, digest_of
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.zip import ZipDirectory
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.zarr_store.companion_files import (
    AUDIO,
    CARD,
    CHECKSUMS,
    CROISSANT,
    PICTURES,
    TABLES,
    TRACKS,
    checksum_lines,
)
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.shard import SHARDS, shard_name
from melzarr.pipeline.zarr_store.tracks_table import tracks_csv

# Hugging Face stores files of these patterns outside the Git history (LFS), which it requires for binary files.
ATTRIBUTES: Final = ("*/c/**", "mel/c/**", "*.png", f"{AUDIO}/**", f"{TABLES}/**")


def explain(
    store: Store, folder: Path, checksums: Mapping[str, str], where: Directory, options: ShareOptions, step: Step,
    draw: Charts = charts, look: StoreLook | None = None,
) -> None:  # fmt: skip
    """Write the files that explain a store into the folder of its metadata; the checksums of all files come last.

    Parameters
    ----------
    store : Store
        The complete store, before it is published.
    folder : Path
        Folder of all its files, possibly except the shards.
    checksums : mapping of str to str
        SHA-256 of shards, by name; the other shards are read.
    where : Directory
        Where the store will be published.
    options : ShareOptions
        Options of the share.
    step : callable
        Called with the name and the number of tracks of each step; returns a callback for its progress.
    draw : Charts
        Functions that draw the pictures.
    look : StoreLook, optional
        Look at a store with the same tracks that has begun already.
    """
    with nullcontext(look) if look else StoreLook(store) as looking:
        picture = _draw_examples(store, folder, draw)
        found = replace(looking.result(step), facts=describe(store))
    tables = None
    if options.for_hub:
        tables = write_tables(store, folder, arrays=options.arrays, progress=step("tables", store.n_tracks))
    recipe_faults = store.attributes["recipe"].get("faults", [])
    said = recipe_faults if isinstance(recipe_faults, list) else []
    about = About(
        name=where.name,
        is_zip=isinstance(where, ZipDirectory),
        published=options.date(store),
        author=options.author,
        faults=[*found.faults(), *map(str, said)],
        derived=list(_derived_lines(store.attributes.get("derived"))),
        tables=tables,
        has_audio=options.audio is not None,
        picture=picture,
    )
    write_report(store, found, folder, pictures=PICTURES, name=about.plain_name, draw=draw)
    write_whole(folder / TRACKS, *tracks_csv(store))
    write_whole(folder / CARD, card(store, found.facts, about).encode())
    if options.for_hub:
        lines = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in ATTRIBUTES)
        write_whole(folder / ".gitattributes", lines.encode())
    described = {file: digest_of(folder / file, hashlib.sha256) for file, _ in files_below(folder, without=SHARDS)}
    card_files = {file: digest for file, digest in described.items() if "/" not in file}
    write_whole(folder / CROISSANT, croissant(found.facts, about, card_files))
    described[CROISSANT] = digest_of(folder / CROISSANT, hashlib.sha256)
    shards = map(shard_name, range(len(store.values("receipts/n_bytes"))))
    described |= {name: checksums.get(name) or store.directory.digest(name, hashlib.sha256) for name in shards}
    if options.audio:
        described |= _copy_audio(store, options.audio, folder, step)
    write_whole(folder / CHECKSUMS, checksum_lines(described))


def _draw_examples(store: Store, folder: Path, draw: Charts) -> str:
    """Draw one track of each label; return the name of the picture, or "" if no track is ok."""
    if not (store.column("status") == "ok").any():
        return ""
    (folder / PICTURES).mkdir(exist_ok=True)
    draw.draw_examples(store, folder / PICTURES / "examples.png")
    return f"{PICTURES}/examples.png"


def _copy_audio(store: Store, root: Directory, folder: Path, step: Step) -> dict[str, str]:
    """Copy the audio files, and return their SHA-256 by name.

    Raises
    ------
    CallError
        If one is no longer the file that the store was made from.
    """
    expected: dict[str, set[str]] = {}  # digests of a file, which may have several tracks
    for source, digest in zip(store.values("source"), store.values("source_blake3"), strict=True):
        if digest:  # a file that could not be read is not part of the dataset
            expected.setdefault(source, set()).add(digest)

    def copy(source: str) -> dict[str, str]:
        name = folder / AUDIO / source
        name.parent.mkdir(parents=True, exist_ok=True)
        with root.local(source) as path:
            return copy_with_digests(path, name, blake3, hashlib.sha256)

    progress, copied = step("audio", len(expected)), {}
    n_threads = max(root.io_threads, os.cpu_count() or 1)
    for source, found in zip(expected, in_order(copy, expected, n_threads), strict=True):
        progress(1)
        if not expected[source] <= {found["blake3"], f"{SHA256}{found['sha256']}"}:
            raise CallError(
                f"{source} below {root} is not the file that the store was made from; share the store without its audio"
            )
        copied[f"{AUDIO}/{source}"] = found["sha256"]
    return copied


def _derived_lines(derived: Any) -> Iterator[str]:
    """Yield sentences about the chain of stores that a store was derived from; `derived` is not trusted."""
    while isinstance(derived, dict):
        form = f", which stores them as {derived.get('scale')} in {derived['dtype']}" if "dtype" in derived else ""
        tracks, of_tracks, name = (derived.get(key) for key in ("tracks", "of_tracks", "from"))
        yield f"{tracks} of the {of_tracks} tracks of the store {name}{form}."
        if "max_error_db" in derived:
            yield f"Its levels differ from those by at most {derived['max_error_db']} dB."
        derived = derived.get("before")
