"""Describe a finished store in numbers: shape, size, spec, labels × splits × status, statistics, provenance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES, MEL_DIMS
from melzarr.pipeline.zarr_store.reader import Store

COUNTED = ("label", "split", "status")


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a store holds, in plain values, ready for JSON.

    Parameters
    ----------
    path, uuid, title, licence : str
        Address of the store, and attributes of its group.
    dims : dict of str to int
        Sizes of the dimensions of `mel`.
    chunks, shards : list of int
        Shapes of its chunks and shards; without shards, `shards` is the shape of the chunks.
    sharded : bool
        Whether chunks are stored in shards.
    dtype : str
        Data type of `mel`.
    bytes, bytes_uncompressed : int
        Size of all files, and of the values of `mel`.
    recipe, origin : str
        Name of the recipe, and who made the music; empty if unknown.
    spec, split, versions : dict of str to value
        Attributes of the group.
    tracks : list of dict
        Number of ``tracks`` for each ``label``, ``split`` and ``status`` that occur together.
    valid_windows : int
        Number of valid windows of all tracks.
    mean_db, std_db : list of float [n_mels], in dB
        Statistics of each band.
    troubled : list of dict
        ``source``, ``status`` and ``error`` of each track that is not ok.
    """

    path: str
    uuid: str
    title: str
    licence: str
    dims: dict[str, int]
    chunks: list[int]
    shards: list[int]
    sharded: bool
    dtype: str
    bytes: int
    bytes_uncompressed: int
    recipe: str
    origin: str
    spec: dict[str, Any]
    split: dict[str, Any]
    tracks: list[dict[str, Any]]
    valid_windows: int
    mean_db: list[float]
    std_db: list[float]
    troubled: list[dict[str, str]]
    versions: dict[str, str]


def describe(store: Store) -> Description:
    """Describe a store.

    Parameters
    ----------
    store : Store
        The store; its shards are not read.
    """
    attributes, mel = store.attributes, store.mel
    counts, troubled = _tracks(store)
    return Description(
        path=str(store.directory),
        uuid=attributes["uuid"],
        title=attributes["title"],
        licence=attributes["licence"],
        dims=dict(zip(MEL_DIMS, mel.shape, strict=True)),
        chunks=list(mel.chunks),
        shards=list(mel.shards or mel.chunks),
        sharded=mel.shards is not None,
        dtype=str(mel.dtype),
        bytes=store.n_bytes,
        bytes_uncompressed=int(np.prod(mel.shape)) * mel.dtype.itemsize,
        recipe=attributes["recipe"].get("name", ""),
        origin=attributes["recipe"].get("origin", ""),
        spec=attributes["spec"],
        split=attributes["split"],
        tracks=[dict(zip((*COUNTED, "tracks"), (*key, n), strict=True)) for key, n in sorted(counts.items())],
        valid_windows=int(store.values("n_windows").sum()),
        mean_db=store.values("mean_db").tolist(),
        std_db=store.values("std_db").tolist(),
        troubled=troubled,
        versions=attributes["versions"],
    )


def _tracks(store: Store) -> tuple[Counter[tuple[str, ...]], list[dict[str, str]]]:
    """Count tracks by label, split and status, and list those that are not ok; read one coordinate chunk at a time."""
    counts: Counter[tuple[str, ...]] = Counter()
    troubled: list[dict[str, str]] = []
    for start in range(0, store.n_tracks, CHUNK_VALUES):
        which = slice(start, start + CHUNK_VALUES)
        label, split, status = (store.column(name, which) for name in COUNTED)
        # Of a million tracks, most are ok: they are counted without their status, and no other column is read for them.
        pairs = Counter(zip(label.tolist(), split.tolist(), strict=True))
        numbers = np.flatnonzero(status != "ok")
        if numbers.size:
            label, split, status = (values[numbers].tolist() for values in (label, split, status))
            pairs.subtract(zip(label, split, strict=True))
            counts.update(zip(label, split, status, strict=True))
            source, error = (store.column(name, which)[numbers].tolist() for name in ("source", "error"))
            rows = zip(source, status, error, strict=True)
            troubled += [dict(zip(("source", "status", "error"), row, strict=True)) for row in rows]
        counts.update({(*pair, "ok"): count for pair, count in pairs.items() if count})
    return counts, troubled
