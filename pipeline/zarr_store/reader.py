"""Open a finished store and read it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from melzarr.pipeline.errors import BuildError, SpecError, StorageError, StoreError
from melzarr.pipeline.shard_receipt import BandSums, Receipt, TrackReceipt
from melzarr.pipeline.sources.tracks import TEXT, as_column, seconds_text
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.digests import SHA256, Hash
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import in_archive, open_directory
from melzarr.pipeline.zarr_store.chunk_reader import Content, RangeReader, chunk_reader, reused_range_reader
from melzarr.pipeline.zarr_store.companion_files import is_companion
from melzarr.pipeline.zarr_store.layout import (
    ADDED,
    CHUNK_VALUES,
    OLDER_DIGESTS,
    OLDER_SCHEMAS,
    RECEIPTS,
    SCHEMA_VERSION,
    algorithm_of,
    content_uuid,
    is_packed,
)
from melzarr.pipeline.zarr_store.metadata_check import checked_spec
from melzarr.pipeline.zarr_store.readable_store import Reader
from melzarr.pipeline.zarr_store.shard import SHARDS, decode_chunk
from melzarr.pipeline.zarr_store.zarr_adapter import ReadOnlyDirectoryStore


@dataclass(frozen=True, slots=True)
class Store:
    """A finished store, open for reading.

    Parameters
    ----------
    directory : Directory
        The store's directory.
    group : zarr.Group
        The store's root group.
    spec : FeatureSpec
        Feature specification of its tracks.
    """

    directory: Directory
    group: zarr.Group
    spec: FeatureSpec

    @property
    def address(self) -> str:
        """Path of the store, or its address in an object store."""
        return str(self.directory)

    @property
    def io_threads(self) -> int:
        """Number of threads that read at the same time."""
        return self.directory.io_threads

    def locate(self, number: int) -> tuple[str, int]:
        """Return the address of the store that has a track, and the number of the track in it."""
        return self.address, number

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group: schema version, spec, split, recipe, versions, licence, UUID."""
        return {**self.group.attrs, "spec": self.spec.to_dict()}  # with the fields that an older spec lacks

    @property
    def algorithm(self) -> Hash:
        """Algorithm of the digests of its files: SHA-256 if its schema is an older one, else BLAKE3."""
        return algorithm_of(self.attributes["schema_version"])

    @property
    def mel(self) -> zarr.Array[Any]:
        """The array `mel`, with the dimensions (track, window, frame, band)."""
        return self._array("mel")

    @property
    def n_tracks(self) -> int:
        """Number of tracks."""
        return self.mel.shape[0]

    @property
    def tracks_per_shard(self) -> int:
        """Number of tracks in every shard except the last, or in every chunk if there are no shards."""
        mel = self.mel
        return (mel.shards or mel.chunks)[0]

    @property
    def n_bytes(self) -> int:
        """Size of all files, in bytes; shard sizes come from the receipts, because asking for each file is slow."""
        described = (
            self.directory.files(without=SHARDS) if self.directory.can_list else map(self._sized, self._described())
        )
        return sum(size for _, size in described) + int(self.values("receipts/n_bytes").sum())

    def _sized(self, name: str) -> tuple[str, int]:
        return name, self.directory.size(name) or 0

    def content_uuid(self, known: Mapping[str, str] | None = None) -> str:
        """Compute the UUID from the files; it equals the attribute if no file was changed, added or removed.

        Parameters
        ----------
        known : mapping of str to str, optional
            Digests of files that need not be read again, by name.
        """
        known, algorithm = known or {}, self.algorithm
        files = (name for name, _ in self.directory.files()) if self.directory.can_list else self._described()
        names = sorted({name for name in files if not is_companion(name)} - known.keys() - {"zarr.json"})
        with ThreadPoolExecutor(self.directory.io_threads) as pool:
            found = pool.map(lambda name: self.directory.digest(name, algorithm), names)
            digests = dict(zip(names, found, strict=True))
        return content_uuid({**known, **digests}, self.directory.read("zarr.json"))

    def _described(self) -> Iterator[str]:
        """Yield the names of all files except shards, from the metadata; web servers do not list files."""
        yield from ("zarr.json", "receipts/zarr.json")
        for name, array in self.group.members(max_depth=None):
            if isinstance(array, zarr.Array):
                yield f"{name}/zarr.json"
                if name != "mel":
                    counts = (-(-n // step) for n, step in zip(array.shape, array.shards or array.chunks, strict=True))
                    yield from (
                        f"{name}/{array.metadata.encode_chunk_key(place)}"
                        for place in itertools.product(*map(range, counts))
                    )

    def refuse_replaced(self) -> None:
        """Raise a BuildError if the store was replaced or removed after it was opened, such as by an append."""
        try:
            now = json.loads(self.directory.read("zarr.json"))["attributes"]["uuid"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            now = ""
        if now != self.attributes["uuid"]:
            raise BuildError(f"{self.directory} was replaced or removed while it was read; run the same command again")

    def values(self, name: str, which: slice = slice(None)) -> npt.NDArray[Any]:
        """Return an array, such as a coordinate, or some of its rows, with text as Python strings."""
        data = self.column(name, which)
        return data if data.dtype.kind in "fiu" else data.astype(object)

    def column(self, name: str, which: slice = slice(None)) -> npt.NDArray[Any]:
        """Return an array like `values`, but text as numpy strings: a third of the time and memory."""
        if name in ADDED and name not in self.group:
            n_rows = len(range(*which.indices(self.n_tracks)))
            return np.full(n_rows, ADDED[name], TEXT if isinstance(ADDED[name], str) else None)
        if name in OLDER_DIGESTS and name not in self.group:
            digests = self.column(OLDER_DIGESTS[name], which)
            return np.where(digests == "", "", SHA256 + digests) if name == "source_blake3" else digests
        try:
            with access_to(self.directory):
                return np.asarray(self._array(name)[which])
        except FileNotFoundError as error:
            raise StoreError(f"{error.filename} is missing; the store is damaged, build it again") from error
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise StoreError(
                f"{self.directory}: {name} cannot be read ({error}); it is damaged, build it again"
            ) from error

    def field(self, name: str, which: slice = slice(None)) -> npt.NDArray[Any]:
        """Return a field of `Track`, or some of its rows, as `TEXT`."""
        values = self.column("track" if name == "id" else name, which)
        if name not in {"start", "end"}:
            return values.astype(TEXT)
        is_own = name == "end" or self.spec.start == 0  # otherwise all tracks have the spec's start
        return as_column([seconds_text(value) if is_own else "" for value in values.tolist()])

    def text(self, name: str) -> npt.NDArray[Any]:
        """Return a text column as `TEXT`. It is read in blocks: at a fixed width, a million digests take 256 MB."""
        text = np.empty(self.n_tracks, TEXT)
        for some in (slice(start, start + CHUNK_VALUES) for start in range(0, self.n_tracks, CHUNK_VALUES)):
            text[some] = self.column(name, some)
        return text

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self.group[name]
        if not isinstance(array, zarr.Array):
            raise StoreError(f"{self.directory}: {name} is not an array; the store is damaged, build it again")
        return array

    def reader(self) -> Reader:
        """Return a thread-safe function that reads a track, by number, into an array of the track's shape.

        The function raises OSError, ValueError or RuntimeError if the track is damaged.
        """
        mel, dtype = self.mel, np.dtype(self.spec.dtype)
        chunks = self._chunks(reused_range_reader(self.directory))
        if chunks is None:
            return lambda number, out: np.copyto(out, mel[number])  # another layout: read with zarr

        def read(number: int, out: npt.NDArray[Any]) -> None:
            stored = out if out.dtype == dtype and out.flags.c_contiguous else np.empty(out.shape, dtype)
            decode_chunk(chunks(number), stored)
            if stored is not out:
                out[...] = stored

        return read

    def chunks(self) -> Callable[[int], bytes] | None:
        """Return a thread-safe function that reads the encoded chunk of a track, by number.

        The function raises OSError or ValueError if the shard is damaged. It does not check the chunk itself; use
        `shard.compressed` for that. Return None if the array has another layout.
        """
        return self._chunks(self.directory.read_range)

    def _chunks(self, read_range: RangeReader[Content]) -> Callable[[int], Content] | None:
        if not is_packed(self.mel, self.spec):
            return None
        shard_bytes = self.values("receipts/n_bytes").tolist()
        return chunk_reader(self.directory, self.tracks_per_shard, shard_bytes, read_range)

    def receipts(self, wanted: npt.NDArray[np.intp] | None = None) -> Iterator[Receipt]:
        """Yield the receipts of shards in order, as their workers wrote them, without times; read in blocks.

        Parameters
        ----------
        wanted : np.ndarray [shape=(n,)], optional
            Numbers of the shards, ascending; all by default.
        """
        n_shards, step = -(-self.n_tracks // self.tracks_per_shard), max(1, CHUNK_VALUES // self.tracks_per_shard)
        wanted = np.arange(n_shards) if wanted is None else wanted
        for start in range(0, n_shards, step):
            if (some := wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + step)]).size:
                found, members = self._receipts(slice(int(some[0]), int(some[-1]) + 1)), set(some.tolist())
                yield from (receipt for receipt in found if receipt.index in members)

    def _receipts(self, which: slice) -> Iterator[Receipt]:
        """Yield the receipts of a range of shards."""
        step = self.tracks_per_shard
        rows = slice(which.start * step, which.stop * step)
        facts = {name: self.values(name, rows).tolist() for name in TrackReceipt.__dataclass_fields__}
        tracks = [TrackReceipt(**dict(zip(facts, row, strict=True))) for row in zip(*facts.values(), strict=True)]
        columns = {name: self.values(f"receipts/{name}", which).tolist() for name in RECEIPTS}
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            key, digest, n_bytes, count, level, square = row
            try:
                receipt = Receipt(
                    index=which.start + number,
                    tracks=tuple(tracks[number * step : (number + 1) * step]),
                    sums=BandSums(count=count, level=tuple(level), square=tuple(square)),
                    key=key,
                    blake3=digest,
                    n_bytes=n_bytes,
                )
            except ValueError as error:
                raise StoreError(f"{self.directory}: {error}; it is damaged, build it again") from error
            yield receipt


@contextmanager
def reading(stores: Iterable[Store]) -> Iterator[None]:
    """If reading in this context fails because a store was replaced or removed, raise BuildError, not StoreError."""
    try:
        yield
    except StorageError:
        raise
    except StoreError:
        for store in stores:
            store.refuse_replaced()
        raise


@contextmanager
def access_to(directory: Directory) -> Iterator[None]:
    """Raise a StorageError in place of a PermissionError: the store can be sound, but this user may not read it."""
    try:
        yield
    except PermissionError as error:
        raise StorageError(
            f"{error.filename or directory}: permission denied; have its owner allow it, such as with: "
            f"chmod -R a+rX {directory}"
        ) from error


def is_store(directory: Directory) -> bool:
    """Return whether a directory is a melzarr store, possibly a damaged one."""
    return directory.child("mel").exists() and directory.child("receipts").exists()


def open_store(where: str | Path | Directory) -> Store:
    """Open a finished store.

    Parameters
    ----------
    where : str, Path or Directory
        Path of the store, or its address in an object store.

    Raises
    ------
    StorageError
        If it may not be read.
    StoreError
        If there is no store, or if it is damaged or has an unknown schema version.
    """
    directory = open_directory(where)
    with access_to(directory):
        return _open(in_archive(directory))


def _open(directory: Directory) -> Store:
    try:
        group = zarr.open_group(ReadOnlyDirectoryStore(directory), mode="r", zarr_format=3)
        attributes: dict[str, Any] = dict(group.attrs)
    except FileNotFoundError as error:
        raise StoreError(
            f"there is no store at {directory}; make one with: melzarr features SOURCE {directory}"
        ) from error
    except (ValueError, KeyError, TypeError, NotADirectoryError, RecursionError) as error:
        raise StoreError(
            f"{directory} is not a readable Zarr group ({error}); it is damaged, or not a store"
        ) from error
    if attributes.get("schema_version") not in {SCHEMA_VERSION, *OLDER_SCHEMAS}:
        found = attributes.get("schema_version")
        raise StoreError(
            f"{directory} is not a store that this version of melzarr reads: it has schema_version={found!r}, but "
            f"{min(OLDER_SCHEMAS)} to {SCHEMA_VERSION} is expected; build it again, use another store, or read it with "
            f"plain xarray"
        )
    try:
        return Store(directory, group, checked_spec(directory, group))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, SpecError) as error:
        raise StoreError(
            f"{directory} is not a complete store ({error}); it is damaged or not a store of melzarr, build it again"
        ) from error
