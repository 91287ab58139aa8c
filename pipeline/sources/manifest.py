"""List the tracks of a manifest: a table of paths and labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.audio_names import without_extension
from melzarr.pipeline.sources.manifest_rows import DELIMITED, SUFFIXES, read_rows
from melzarr.pipeline.sources.path_forms import PathForms
from melzarr.pipeline.sources.remarks import Tally
from melzarr.pipeline.sources.split import SPLITS, UNUSED
from melzarr.pipeline.sources.tracks import Track, seconds_text
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.untrusted_text import as_was

SPACES = "cells taken without the spaces around them"


def is_manifest(directory: Directory) -> bool:
    """Return whether a directory has the name of a manifest, such as tracks.csv."""
    return PurePosixPath(directory.name).suffix.lower() in SUFFIXES


def manifest_tracks(
    manifest: Directory, audio: Directory, columns: Mapping[str, str], remarks: list[str]
) -> Iterator[Track]:
    """Yield the tracks of a manifest.

    Parameters
    ----------
    manifest : Directory
        Path or address of the manifest.
    audio : Directory
        Base directory of its paths; it contains all files.
    columns : mapping of str to str
        Name of the column of path, label, id, group, split, start and end, in this order.
    remarks : list of str
        Gets sentences about what is not taken as it is written.
    """
    name, folder, tally = str(manifest), manifest.sibling(""), Tally()
    paths = PathForms(audio, tally, home=bool(folder.folder and audio.folder))
    with folder.local(manifest.name) as file:
        has_apostrophes = file.suffix.lower() in DELIMITED
        for number, row in enumerate(read_rows(file, name, columns), start=1):
            written = [
                cell if isinstance(cell, str) and "\0" not in cell else _text(f"{name}, row {number}", column, cell)
                for column, cell in zip(columns.values(), row, strict=True)
            ]
            cells = [text.strip() for text in written]
            if cells[1:] != written[1:]:
                for text, bare in zip(written[1:], cells[1:], strict=True):
                    if text != bare:
                        tally.add(SPACES, number, repr(text))
            if has_apostrophes:
                cells = [as_was(text) if text.startswith("'") else text for text in cells]
                written[0] = as_was(written[0])
            path, label, track_id, group, split, start, end = cells
            if not path or not label or path.lower() == "nan" or label.lower() == "nan":
                raise CatalogError(
                    f"{name}, row {number}: path {row[0]!r}, label {row[1]!r}; every row needs both, and NaN is none"
                )
            if split and split not in SPLITS and split != UNUSED:
                raise CatalogError(
                    f"{name}, row {number}: split {split!r} is unknown; use {', '.join(SPLITS)} or {UNUSED}"
                )
            source = paths.source(number, written[0])
            if source is None:
                raise CatalogError(f"{name}, row {number}: {row[0]!r} is outside {_outside(folder, audio)}")
            if start or end:
                begins, ends = _seconds(f"{name}, row {number}", start, end)
                stem = without_extension(source) or source
                track_id = track_id or (f"{stem}@{seconds_text(begins) or 0}" if start else stem)
                yield Track(track_id, label, source, group or stem, split, seconds_text(begins), seconds_text(ends))
            else:
                yield Track(track_id or without_extension(source) or source, label, source, group, split)
    remarks += tally.remarks()


def _seconds(where: str, start: str, end: str) -> tuple[float, float]:
    """Return where an excerpt starts and ends, in s; an end that is not given is NaN."""
    found = []
    for column, cell, default in (("start", start, 0.0), ("end", end, math.nan)):
        try:
            seconds = float(cell) if cell else default
        except ValueError:
            seconds = -1.0
        if seconds < 0 or math.isinf(seconds) or (cell and math.isnan(seconds)):
            raise CatalogError(
                f"{where}: {column} {cell!r} is not a number of seconds from 0 on; write one, such as 30, or rename "
                f"the column {column} if it is no place in the file"
            )
        found.append(seconds)
    begins, ends = found
    if ends <= begins:
        raise CatalogError(
            f"{where}: end {end!r} is not after start {start or '0'!r}; give a later one, or none, or rename the "
            f"columns start and end if they are no places in the file"
        )
    return begins, ends


def _text(where: str, column: str, cell: object) -> str:
    """Return a cell as text, and a missing value (None or NaN) as empty text."""
    if cell is None or cell != cell:  # noqa: PLR0124  (NaN alone differs from itself)
        return ""
    if isinstance(cell, list | tuple | dict | bytes):
        kind = "bytes" if isinstance(cell, bytes) else "a list or an object"
        raise CatalogError(f"{where}: {column} is {kind}; give one text or number in each cell")
    text = str(cell)
    if "\0" in text:  # no file name has it, and at the end of a text it would be lost
        raise CatalogError(f"{where}: {column} {text!r} contains a NUL character; remove it")
    return text


def _outside(folder: Directory, audio: Directory) -> str:
    """Return where a path is outside of, and what to do."""
    if str(audio) == str(folder):
        return (
            "the manifest's folder; put the manifest above all its files, or give a folder above them as --audio-root"
        )
    return f"{audio}, the --audio-root; give a folder above all files"
