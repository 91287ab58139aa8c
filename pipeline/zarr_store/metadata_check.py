"""Validate a store's metadata before reading data: someone else may have written it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import zarr

from melzarr.pipeline.shard_receipt import TYPES
from melzarr.pipeline.spec import MAX_CHUNK_BYTES, FeatureSpec
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.layout import ADDED, COORDINATES, MEL_DIMS, OLDER_DIGESTS, OLDER_SCHEMAS
from melzarr.pipeline.zarr_store.shard import MAX_TRACKS_PER_SHARD, shard_name

ATTRIBUTES: Mapping[str, type] = {
    **dict.fromkeys(("title", "licence", "uuid"), str),
    **dict.fromkeys(("spec", "split", "recipe", "versions"), dict),
}
RECEIPTS = {
    **dict.fromkeys(("key", "blake3", "n_bytes", "count"), ("shard",)),
    **dict.fromkeys(("level", "square"), ("shard", "band")),
}
TEXTS = {name for name, (dims, _) in COORDINATES.items() if dims == ("track",) and TYPES.get(name, str) is str}
TEXTS |= {"receipts/key", "receipts/blake3", *OLDER_DIGESTS.values()}
LOST = 4  # if this many of the last shards are missing, the number of tracks itself is rejected


def checked_spec(directory: Directory, group: zarr.Group) -> FeatureSpec:
    """Return the spec of a store after validating its metadata.

    Parameters
    ----------
    directory : Directory
        The store's directory.
    group : zarr.Group
        The store's root group.

    Raises
    ------
    ValueError, KeyError, TypeError, IndexError, SpecError
        If an attribute or an array is missing, has the wrong type, or has a size that contradicts the others or the
        files.
    """
    attributes: dict[str, Any] = dict(group.attrs)
    for name, kind in ATTRIBUTES.items():
        if not isinstance(attributes.get(name), kind):
            raise TypeError(f"its attribute {name} is {attributes.get(name)!r:.40}")
    _require_words(attributes)
    spec = FeatureSpec.from_dict(attributes["spec"])
    mel = _array(group, "mel")
    n_tracks, tracks_per_shard = mel.shape[0], (mel.shards or mel.chunks)[0]
    n_shards = -(-n_tracks // tracks_per_shard)
    if tracks_per_shard > MAX_TRACKS_PER_SHARD or not _has_last(directory, n_shards):
        raise ValueError(
            f"it declares {n_tracks} tracks, {tracks_per_shard} per shard, but does not have the files for them"
        )
    sizes = {**dict(zip(MEL_DIMS, (n_tracks, *spec.shape), strict=True)), "shard": n_shards}
    for name, dims in _arrays():
        is_older = attributes["schema_version"] in OLDER_SCHEMAS
        if is_older and name in ADDED and name not in group:
            continue
        array = _array(group, OLDER_DIGESTS.get(name, name) if is_older else name)
        expected = tuple(sizes[dim] for dim in dims)
        if array.shape != expected:
            raise ValueError(f"{name} has the shape {array.shape}, but the other arrays require {expected}")
        if (array.dtype.kind in "OTU") != (name in TEXTS):
            raise TypeError(f"{name} has the type {array.dtype}")
        if math.prod(array.chunks) * array.dtype.itemsize > MAX_CHUNK_BYTES:
            raise ValueError(f"{name} has chunks of {array.chunks} values")
    if mel.dtype != spec.dtype:
        raise TypeError(f"mel has the type {mel.dtype}, but its spec says {spec.dtype}")
    return spec


def _require_words(attributes: Mapping[str, Any]) -> None:
    """Raise if an attribute has a type that its readers do not expect, or if a text cannot be encoded as UTF-8."""
    json.dumps(attributes, ensure_ascii=False).encode()
    split, recipe = attributes["split"], attributes["recipe"]
    texts = [
        *attributes["versions"].values(),
        split.get("method", ""),
        recipe.get("name", ""),
        recipe.get("origin", ""),
    ]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise TypeError(f"its versions, split or recipe contain {wrong[0]!r:.40}")
    if wrong := [split[name] for name in ("valid", "test", "seed") if not isinstance(split.get(name, 0), int | float)]:
        raise TypeError(f"its split contains {wrong[0]!r:.40}")
    for several in (split.get("of", []), recipe.get("merged", [])):
        if not isinstance(several, list) or not all(isinstance(one, dict) for one in several):
            raise TypeError(f"what it was merged from is {several!r:.40}")
        for one in several:
            _require_words({"versions": {}, "split": one, "recipe": one})


def _arrays() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names and dimensions of all arrays."""
    yield "mel", MEL_DIMS
    yield from ((name, dims) for name, (dims, _) in COORDINATES.items())
    yield from ((f"receipts/{name}", dims) for name, dims in RECEIPTS.items())


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is not an array")
    return array


def _has_last(directory: Directory, n_shards: int) -> bool:
    """Return whether one of the last shards is there; counting all would take one request per thousand shards."""
    last = range(n_shards - 1, max(-1, n_shards - 1 - LOST), -1)
    return n_shards <= LOST or any(directory.size(shard_name(index)) is not None for index in last)
