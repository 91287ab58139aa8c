"""The Zarr layout of a store: declare its arrays, and write everything except the shards."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr
import zarr.storage
from blake3 import blake3
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec

from melzarr.pipeline.sources.tracks import TEXT
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.atomic import files_below, sync
from melzarr.pipeline.storage.digests import Hash, digest_of
from melzarr.pipeline.zarr_store.shard import COMPRESSORS, SHARDS, shard_name

SCHEMA_VERSION = 5
OLDER_SCHEMAS = {3, 4}  # that are read too; their digests are SHA-256
MEL_DIMS = ("track", "window", "frame", "band")
CHUNK_VALUES = 1 << 16  # values per chunk of arrays other than `mel`: at most some MB of text, or half a MB of numbers
LAYOUT = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs")  # how and where values are stored

# A store's UUID is derived from its content. This placeholder is in the metadata while all files are hashed.
UUID_BLANK = str(uuid.UUID(int=0))
UUID_NAMESPACE = uuid.UUID("5f1f9f0e-6a0b-5c57-9d3b-2d6a4f0c8a11")


class Column(Protocol):
    """Values of one array of a store, read one chunk at a time: an array, or rows that are stored elsewhere."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the array; text is `TEXT`, ASCII or objects."""
        ...

    def __getitem__(self, which: slice, /) -> npt.NDArray[Any]:
        """Return a range of rows."""
        ...


@dataclass(frozen=True, slots=True)
class Variable:
    """One array of a store other than `mel`.

    Parameters
    ----------
    name : str
        Name of the array.
    dims : tuple of str
        Names of its dimensions.
    data : Column
        Its values.
    attributes : dict of str to value
        Its description and unit.
    """

    name: str
    dims: tuple[str, ...]
    data: Column
    attributes: Mapping[str, Any]


def create_mel(
    store: zarr.storage.StoreLike, spec: FeatureSpec, n_tracks: int, tracks_per_shard: int
) -> zarr.Array[Any]:
    """Create the array `mel`: one chunk per track, whole tracks per shard, compressed and with checksums.

    Parameters
    ----------
    store : zarr store or path
        Store of the group.
    spec : FeatureSpec
        Defines shape and dtype of a track.
    n_tracks, tracks_per_shard : int
        Number of tracks in total, and per shard.
    """
    name, level = COMPRESSORS[spec.dtype]
    return zarr.create_array(
        store,
        name="mel",
        shape=(n_tracks, *spec.shape),
        chunks=(1, *spec.shape),
        shards=(tracks_per_shard, *spec.shape),
        dtype=spec.dtype,
        compressors=[BloscCodec(cname=name, clevel=level, shuffle="shuffle"), Crc32cCodec()],
        fill_value=float("nan"),
        dimension_names=MEL_DIMS,
        attributes={
            "long_name": "mel spectrum of each frame" if spec.scale == "power" else "mel level of each frame",
            "units": "1" if spec.scale == "power" else "dB",
            "coordinates": " ".join(name for name in COORDINATES if name not in MEL_DIMS),
        },
        # Chunks of NaN are written too: an absent chunk could not be told apart from a lost one.
        config={"write_empty_chunks": True},
    )


def is_packed(mel: zarr.Array[Any], spec: FeatureSpec) -> bool:
    """Return whether an array has the layout that `shard` writes and reads, not another one."""
    if mel.shards is None:
        return False
    found, own = mel.metadata.to_dict(), _own_layout(spec, mel.shape[0], mel.shards[0])
    return all(found[name] == own[name] for name in LAYOUT)


@functools.lru_cache(maxsize=64)
def _own_layout(spec: FeatureSpec, n_tracks: int, tracks_per_shard: int) -> dict[str, Any]:
    return dict(create_mel(zarr.storage.MemoryStore(), spec, n_tracks, tracks_per_shard).metadata.to_dict())


COORDINATES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "track": (("track",), {"long_name": "track id"}),
    "window": (("window",), {"long_name": "start of the window in its track", "units": "s"}),
    "frame": (("frame",), {"long_name": "centre of the frame in its window", "units": "s"}),
    "band": (("band",), {"long_name": "centre of the mel band", "units": "Hz"}),
    "label": (("track",), {"long_name": "class of the track"}),
    "split": (("track",), {"long_name": "train, valid, test or unused"}),
    "group": (("track",), {"long_name": "tracks of one group are on one side of a split"}),
    "status": (("track",), {"long_name": "ok, short, silent or failed"}),
    "error": (("track",), {"long_name": "what is wrong with the track"}),
    "n_windows": (("track",), {"long_name": "valid windows; the others are NaN"}),
    "source": (("track",), {"long_name": "path of the file below its root"}),
    "source_blake3": (("track",), {"long_name": "BLAKE3 of the file, or SHA-256 where it begins with sha256:"}),
    "source_rate": (("track",), {"long_name": "sample rate of the file", "units": "Hz"}),
    "source_channels": (("track",), {"long_name": "channels of the file"}),
    "duration": (("track",), {"long_name": "length of the file", "units": "s"}),
    "peak": (("track",), {"long_name": "largest magnitude of its samples in any channel, 1 is full scale"}),
    "clipped": (("track",), {"long_name": "share of its samples at full scale, of all channels"}),
    "start": (("track",), {"long_name": "where the windows begin in the file", "units": "s"}),
    "end": (("track",), {"long_name": "where the track ends in the file at the latest", "units": "s"}),
    "decoder": (("track",), {"long_name": "library that decoded the file"}),
    "mean_db": (("band",), {"long_name": "mean level over the windows of the train split's ok tracks", "units": "dB"}),
    "std_db": (("band",), {"long_name": "standard deviation of the level over the same", "units": "dB"}),
}


# What a column holds in a store of a schema that did not have it.
ADDED: dict[str, str | float] = {"start": 0.0, "end": math.nan, "decoder": ""}

# What digests are called in a store of an older schema.
OLDER_DIGESTS = {"source_blake3": "source_sha256", "receipts/blake3": "receipts/sha256"}

RECEIPTS = ("key", "blake3", "n_bytes", "count", "level", "square")
_ARRAYS = ("mel", *COORDINATES, *(f"receipts/{name}" for name in RECEIPTS), *OLDER_DIGESTS.values())
_FILE = re.compile(rf"(receipts/)?zarr\.json|({'|'.join(_ARRAYS)})/(zarr\.json|c(/[0-9]+)*)")


def is_file_of_a_store(name: str) -> bool:
    """Return whether a file of a store can have this path."""
    return _FILE.fullmatch(name) is not None


def coordinate(name: str, values: Column) -> Variable:
    """Return one of `COORDINATES` with the given values."""
    dims, attributes = COORDINATES[name]
    return Variable(name, dims, values, attributes)


def statistics(count: int, level: Column, square: Column) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of the levels in each band, in dB, from sums; NaN if there are no frames.

    Parameters
    ----------
    count : int
        Number of frames summed.
    level, square : Column [shape=(n_shards, n_mels)]
        Sums of levels and of squared levels, one row per shard, in shard order so that rounding is always the same.

    Returns
    -------
    mean_db, std_db : np.ndarray [shape=(n_mels,)]
    """
    if not count:
        return np.full(level.shape[1], np.nan), np.full(level.shape[1], np.nan)
    mean, square_mean = _total(level) / count, _total(square) / count
    return mean, np.sqrt(np.maximum(square_mean - mean**2, 0.0))


def _total(rows: Column) -> npt.NDArray[np.float64]:
    """Return the sum of the rows, added one by one so that rounding does not depend on the block size."""
    total, step = np.zeros(rows.shape[1]), max(1, CHUNK_VALUES // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        for row in rows[start : start + step]:
            total += row
    return total


def receipt_variables(columns: Mapping[str, Column]) -> list[Variable]:
    """Return the arrays of a store's subgroup `receipts`: what each shard must be, and sums for the statistics.

    Parameters
    ----------
    columns : dict of str to Column
        ``key``, ``blake3``, ``n_bytes`` and ``count``, [shape=(n_shards,)]; ``level`` and ``square``,
        [shape=(n_shards, n_mels)].
    """
    dims = ("shard", "band")
    return [Variable(name, dims[: len(data.shape)], data, {}) for name, data in columns.items()]


def write_description(
    path: Path,
    *,
    spec: FeatureSpec,
    tracks_per_shard: int,
    coordinates: Sequence[Variable],
    receipts: Sequence[Variable],
    digests: Iterable[str],
    attributes: Mapping[str, Any],
) -> None:
    """Write everything of a store except its shards: metadata, coordinates, receipts, and last its UUID.

    Parameters
    ----------
    path : Path
        Folder of the store. It contains the shards, or nothing.
    spec, tracks_per_shard
        As in `create_mel`.
    coordinates : sequence of Variable
        All of `COORDINATES`.
    receipts : sequence of Variable
        The arrays of `receipt_variables`.
    digests : iterable of str
        BLAKE3 of each shard's file, in shard order.
    attributes : mapping of str to value
        Attributes of the group.
    """
    n_tracks = next(variable.data.shape[0] for variable in coordinates if variable.name == "track")
    files = _Files(path)
    group = zarr.create_group(files.store, attributes={**attributes, "uuid": UUID_BLANK})
    create_mel(files.store, spec, n_tracks, tracks_per_shard)
    for variable in coordinates:
        _write(group, variable, files)
    subgroup = group.create_group("receipts", attributes={"long_name": "what each shard must be"})
    for variable in receipts:
        _write(subgroup, variable, files)
    with warnings.catch_warnings():
        # Zarr 3 readers that do not know consolidated metadata ignore it; the others need one request.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(files.store)
    files.write_metadata()
    known = {shard_name(index): digest for index, digest in enumerate(digests)}
    made = [name for name, _ in files_below(path, without=SHARDS)]
    known.update((name, digest_of(path / name)) for name in made if name != "zarr.json")
    metadata = path / "zarr.json"
    name = content_uuid(known, metadata.read_bytes())
    metadata.write_bytes(metadata.read_bytes().replace(UUID_BLANK.encode(), name.encode()))
    for place in {path / name for name in made} | {parent for name in made for parent in (path / name).parents}:
        if place.is_relative_to(path):  # the shards and their folders were synced before
            sync(place)


class _Files:
    """An in-memory Zarr store whose chunks are moved to a folder as they come.

    zarr's `LocalStore` hands each file to another thread, which took half of the time for a small store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, Buffer] = {}
        self.store = zarr.storage.MemoryStore(self.held)

    def write_chunks(self) -> None:
        """Write the chunks in memory to the folder, and drop them from memory."""
        for name in [name for name in self.held if not name.endswith("zarr.json")]:
            self._write(name, self.held.pop(name))

    def write_metadata(self) -> None:
        """Write the metadata to the folder."""
        for name, data in self.held.items():
            self._write(name, data)

    def _write(self, name: str, data: Buffer) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data.to_bytes())


def _write(group: zarr.Group, variable: Variable, files: _Files) -> None:
    """Write an array chunk by chunk, so that at most one chunk is in memory in zarr's form."""
    data, is_text = variable.data, variable.data.dtype.kind in "OST"
    n_rows = max(1, CHUNK_VALUES // math.prod(data.shape[1:]))
    array = group.create_array(
        variable.name,
        shape=data.shape,
        chunks=(min(data.shape[0], n_rows), *data.shape[1:]),
        dtype=str if is_text else data.dtype,
        compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        fill_value="" if is_text else data.dtype.type(np.nan if data.dtype.kind == "f" else 0),
        dimension_names=variable.dims,
        attributes=dict(variable.attributes),
        config={"write_empty_chunks": True},
    )
    for start in range(0, data.shape[0], n_rows):
        block = data[start : start + n_rows]
        array[start : start + n_rows] = block.astype(TEXT) if is_text else block
        files.write_chunks()


def algorithm_of(schema_version: int) -> Hash:
    """Return the algorithm of all digests in a store of a schema, except those of its sources."""
    return hashlib.sha256 if schema_version in OLDER_SCHEMAS else blake3


def content_uuid(digests: Mapping[str, str], metadata: bytes) -> str:
    """Return the UUID of a store's content, from the name and digest of each file, with a blank UUID in zarr.json.

    Parameters
    ----------
    digests : mapping of str to str
        Digest of every file except the group's zarr.json, by path in the store; see `algorithm_of`.
    metadata : bytes
        Content of the group's zarr.json.
    """
    attributes = json.loads(metadata)["attributes"]
    blank, digest = algorithm_of(attributes["schema_version"])(), algorithm_of(attributes["schema_version"])()
    blank.update(metadata.replace(str(attributes["uuid"]).encode(), UUID_BLANK.encode()))
    everything = {**digests, "zarr.json": blank.hexdigest()}
    for name in sorted(everything):
        digest.update(f"{everything[name]}  {name}\n".encode())
    return str(uuid.uuid5(UUID_NAMESPACE, digest.hexdigest()))
