"""List the tracks of a manifest, a CSV or Parquet file."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.audio_names import new_track
from melzarr.pipeline.sources.split import SPLITS, UNUSED
from melzarr.pipeline.sources.tracks import Track
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.untrusted_text import as_was


def is_manifest(directory: Directory) -> bool:
    """Return whether a directory has the name of a manifest (.csv or .parquet)."""
    return PurePosixPath(directory.name).suffix.lower() in {".csv", ".parquet"}


def manifest_tracks(root: Directory, name: str, group_column: str) -> Iterator[Track]:
    """Yield the tracks of a manifest; its paths are relative to its folder."""
    where = str(root.child(name))
    with root.local(name) as path:
        rows = _csv_rows(path, where) if path.suffix.lower() == ".csv" else _parquet_rows(path, where)
        for number, row in enumerate(rows, start=1):
            if number == 1:
                _refuse_lacking_columns(where, row, group_column)
            yield _manifest_track(root, f"{where}, row {number}", row, group_column)


def _refuse_lacking_columns(path: str, row: Mapping[str, str], group_column: str) -> None:
    for column in ("path", "label", *([group_column] if group_column != "group" else [])):
        if column not in row:
            raise CatalogError(f"{path} has no column {column!r}, only {', '.join(row)}; add it")


def _csv_rows(path: Path, where: str) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            columns = next(rows, [])
            for row in filter(None, rows):
                yield dict(itertools.zip_longest(columns, map(as_was, row[: len(columns)]), fillvalue=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CatalogError(f"{where} is not a CSV in UTF-8: {error}; save it as one") from error


def _parquet_rows(path: Path, where: str) -> Iterator[dict[str, str]]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  (an optional dependency: heavy and rarely needed)
    except ImportError as error:
        raise CatalogError(
            f"{where} needs pyarrow, which is not installed; pip install 'melzarr[parquet]', or give a CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for row in itertools.chain.from_iterable(batch.to_pylist() for batch in file.iter_batches()):
                yield {column: "" if value is None else str(value) for column, value in row.items()}
    except ArrowException as error:
        raise CatalogError(f"{where} is not a Parquet file: {error}; write it again, or give a CSV") from error


def _manifest_track(root: Directory, where: str, row: Mapping[str, str], group_column: str) -> Track:
    path, label, part = row["path"], row["label"], row.get("split", "")
    for column in ("path", "label", "id", group_column, "split"):
        if "\0" in row.get(column, ""):  # no file name has it, and at the end of a text it would be lost
            raise CatalogError(f"{where}: {column} {row[column]!r} contains a NUL character; remove it")
    if not path.strip() or not label.strip():
        raise CatalogError(f"{where}: path {path!r}, label {label!r}; every row needs both")
    source = os.path.normpath(path.removeprefix(f"{root}/")).replace(os.sep, "/")
    if source.startswith("/") and root.folder:
        source = os.path.relpath(source, root.folder.absolute()).replace(os.sep, "/")
    if "://" in path.removeprefix(f"{root}/") or source.startswith(("/", "../")) or source == "..":
        raise CatalogError(f"{where}: {path!r} is outside the manifest's folder; put the manifest above all its files")
    if part and part not in SPLITS and part != UNUSED:
        raise CatalogError(f"{where}: split {part!r} is unknown; use {', '.join(SPLITS)} or {UNUSED}")
    return new_track(source, label, row.get("id", ""), row.get(group_column, ""), part)
