"""Write the tracks of a store as a CSV table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence

from melzarr.pipeline.untrusted_text import harmless
from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES, COORDINATES
from melzarr.pipeline.zarr_store.reader import Store

WHOLE = {"n_windows"}  # columns of integers


def columns() -> dict[str, tuple[type, str]]:
    """Return the columns of tracks.csv by name: the type of their values, and a description."""
    return {
        name: (_kind(name, attributes), attributes["long_name"])
        for name, (dims, attributes) in COORDINATES.items()
        if dims == ("track",)
    }


def _kind(name: str, attributes: Mapping[str, str]) -> type:
    if name in WHOLE:
        return int
    return float if "units" in attributes or name in {"source_channels", "peak", "clipped"} else str


def tracks_csv(store: Store) -> Iterator[bytes]:
    """Yield the coordinates of all tracks as CSV, in blocks of tracks; unknown values are empty."""
    names = list(columns())
    yield _csv([names])
    for start in range(0, store.n_tracks, CHUNK_VALUES):
        values = [store.values(name, slice(start, start + CHUNK_VALUES)).tolist() for name in names]
        yield _csv([list(map(_cell, row)) for row in zip(*values, strict=True)])


def _cell(value: object) -> object:
    if isinstance(value, str):
        return harmless(value)
    return "" if isinstance(value, float) and math.isnan(value) else value


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)  # CRLF line ends (RFC 4180), so that names with a line break are quoted
    return text.getvalue().encode()
