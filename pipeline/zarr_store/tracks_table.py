"""Write the tracks of a store as a CSV table."""

from __future__ import annotations

import math
from collections.abc import Iterator

from melzarr.pipeline.shard_receipt import TYPES
from melzarr.pipeline.untrusted_text import csv_rows
from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES, COORDINATES
from melzarr.pipeline.zarr_store.reader import Store


def columns() -> dict[str, tuple[type, str]]:
    """Return the columns of tracks.csv by name: the type of their values, and a description."""
    return {
        name: (TYPES.get(name, str), attributes["long_name"])
        for name, (dims, attributes) in COORDINATES.items()
        if dims == ("track",)
    }


def tracks_csv(store: Store) -> Iterator[bytes]:
    """Yield the coordinates of all tracks as CSV, in blocks of tracks; unknown values are empty."""
    names = list(columns())
    yield csv_rows([names])
    for start in range(0, store.n_tracks, CHUNK_VALUES):
        values = [store.values(name, slice(start, start + CHUNK_VALUES)).tolist() for name in names]
        yield csv_rows(list(map(_cell, row)) for row in zip(*values, strict=True))


def _cell(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else value
