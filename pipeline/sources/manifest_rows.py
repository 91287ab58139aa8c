"""Read the rows of a manifest: text with commas, semicolons or tabs, JSON lines, or Parquet."""

from __future__ import annotations

import codecs
import csv
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.tracks import BLOCK

DELIMITED = frozenset({".csv", ".tsv", ".txt"})
SUFFIXES = DELIMITED | {".jsonl", ".parquet"}
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
REQUIRED = frozenset({"path", "label"})
OPTIONS = {"path": "--path-column", "label": "--label-column", "group": "--group"}

Row = tuple[object, ...]


def read_rows(path: Path, where: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """Yield the cells of each row of a manifest.

    Parameters
    ----------
    path : Path
        The manifest; its extension says the format.
    where : str
        What errors call it.
    columns : mapping of str to str
        The name of each field's column. Case, and spaces around the name, do not matter. A column may be missing if it
        has the name of its field, unless it is in `REQUIRED`.

    Yields
    ------
    tuple
        One cell for each of `columns`, None if it is missing: text, or from JSON and Parquet any value. Rows without
        any text in them are skipped in delimited text.

    Raises
    ------
    CatalogError
        If the file is not what its extension says, a column is missing or doubled, or a row has too many cells.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path, where, columns)
        return
    try:
        yield from (_json_lines if suffix == ".jsonl" else _delimited)(path, where, columns)
    except UnicodeDecodeError as error:
        kind = "JSON" if suffix == ".jsonl" else "a CSV"
        raise CatalogError(f"{where} is not {kind} in UTF-8 or UTF-16: {error}; save it as one") from error


def _delimited(path: Path, where: str, columns: Mapping[str, str]) -> Iterator[Row]:
    number = 0
    try:
        with path.open(newline="", encoding=_encoding(path)) as file:
            delimiter = _delimiter(file, columns)
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, strict=True)  # strict: an open quote would swallow rows
            header = next(rows, [])
            n_columns = len(header)
            places = (n_columns if place is None else place for place in _places(where, header, columns))
            pick = operator.itemgetter(*places)
            for row in rows:
                if not any(map(str.strip, row)):
                    continue
                number += 1
                if len(row) > n_columns:
                    raise CatalogError(
                        f"{where}, row {number}: {len(row)} cells, but the header has {n_columns}; put a cell that "
                        f"contains {DELIMITERS[delimiter]} into quotes"
                    )
                yield pick([*row, *[None] * (n_columns + 1 - len(row))])
    except csv.Error as error:
        raise CatalogError(
            f"{where}, row {number + 1} is not CSV: {error}; put cells with quotes, delimiters or line breaks into "
            f"quotes, and double the quotes in them"
        ) from error


def _encoding(path: Path) -> str:
    """Return the encoding of a text by its first two bytes: a byte order mark, or half of an ASCII character."""
    with path.open("rb") as file:
        start = file.read(2)
    if start in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        return "utf-16"
    if b"\0" in start:
        return "utf-16-le" if start.endswith(b"\0") else "utf-16-be"
    return "utf-8-sig"


def _delimiter(file: IO[str], columns: Mapping[str, str]) -> str:
    """Return the delimiter with which the header has the most known columns, or else the most cells."""
    known = set(map(_key, columns.values()))

    def fit(delimiter: str) -> tuple[int, int]:
        file.seek(0)
        header = next(csv.reader(file, delimiter=delimiter), [])
        return len(known.intersection(map(_key, header))), len(header)

    return max(DELIMITERS, key=fit)


def _json_lines(path: Path, where: str, columns: Mapping[str, str]) -> Iterator[Row]:
    number, header, places = 0, (), list[int | None]()
    with path.open(encoding=_encoding(path)) as file:
        for line in file:
            if not line.strip():
                continue
            number += 1
            try:
                pairs = json.loads(line, object_pairs_hook=tuple)  # all pairs, because a name may be doubled
                if not isinstance(pairs, tuple):
                    raise TypeError("it is no object")
                "".join(cell for _, cell in pairs if isinstance(cell, str)).encode()  # no half of a character
            except (ValueError, TypeError, RecursionError) as error:
                raise CatalogError(
                    f"{where}, row {number} is not a JSON object: {error}; write one object on each line"
                ) from error
            if number == 1 or header != tuple(name for name, _ in pairs):
                header = tuple(name for name, _ in pairs)
                places = _places(f"{where}, row {number}", header, columns, required=number == 1)
            yield tuple(None if place is None else pairs[place][1] for place in places)


def _parquet(path: Path, where: str, columns: Mapping[str, str]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  (an optional dependency: heavy and rarely needed)
    except ImportError as error:
        raise CatalogError(
            f"{where} needs pyarrow, which is not installed; pip install 'melzarr[parquet]', or give a CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            header = file.schema_arrow.names
            places = _places(where, header, columns)
            used = {header[place] for place in places if place is not None}
            for batch in file.iter_batches(BLOCK, columns=list(used)):
                none = [None] * batch.num_rows
                cells = {name: batch.column(name).to_pylist() for name in used}
                yield from zip(*(none if place is None else cells[header[place]] for place in places), strict=True)
    except (ArrowException, UnicodeDecodeError) as error:
        raise CatalogError(f"{where} is not a Parquet file: {error}; write it again, or give a CSV") from error


def _key(name: str) -> str:
    return name.strip().casefold()


def _places(
    where: str, header: Sequence[str], columns: Mapping[str, str], *, required: bool = True
) -> list[int | None]:
    """Return the position of each column in a header; None if it is missing and may be."""
    keys, places = list(map(_key, header)), list[int | None]()
    for field, column in columns.items():
        found = [place for place, key in enumerate(keys) if key == _key(column)]
        if len(found) > 1:
            names = ", ".join(repr(header[place]) for place in found)
            raise CatalogError(f"{where} has {len(found)} columns {column!r} ({names}); rename all but one")
        if not found and required and (field in REQUIRED or column != field):
            other = f", or name another with {OPTIONS[field]}" if field in OPTIONS else ""
            raise CatalogError(f"{where} has no column {column!r}, only {', '.join(header) or 'none'}; add it{other}")
        places.append(found[0] if found else None)
    return places
