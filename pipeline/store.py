"""A finished store, opened to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from pipeline.chunk import SHARDS, read_chunk, shard_name
from pipeline.claims import checked_spec
from pipeline.errors import SpecError, StoreError
from pipeline.files import files_below
from pipeline.layout import CHUNK_VALUES, SCHEMA_VERSION, is_packed
from pipeline.receipt import BandSums, Receipt, TrackReceipt
from pipeline.spec import FeatureSpec

Reader = Callable[[int, npt.NDArray[Any]], None]  # reads a track by its number into an array of its shape


@dataclass(frozen=True, slots=True)
class Store:
    """A finished store, opened to be read.

    Parameters
    ----------
    path : Path
        Where it lies.
    group : zarr.Group
        Its root.
    spec : FeatureSpec
        What each of its tracks is.
    """

    path: Path
    group: zarr.Group
    spec: FeatureSpec

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group: schema version, spec, split, recipe, versions, licence, UUID."""
        return dict(self.group.attrs)

    @property
    def mel(self) -> zarr.Array[Any]:
        """The array (track, window, frame, band)."""
        return self._array("mel")

    @property
    def n_tracks(self) -> int:
        """How many tracks there are."""
        return self.mel.shape[0]

    @property
    def tracks_per_shard(self) -> int:
        """Tracks of every shard but the last."""
        shards = self.mel.shards
        return shards[0] if shards else 1

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files; those of the shards by their receipts, since to ask each file takes long."""
        rest = sum(entry.stat().st_size for _, entry in files_below(self.path, without=SHARDS))
        return rest + int(self.values("receipts/n_bytes").sum())

    def values(self, name: str, which: slice = slice(None)) -> npt.NDArray[Any]:
        """Values of one array, such as a coordinate, or some of its rows; text as Python strings."""
        data = self.column(name, which)
        return data if data.dtype.kind in "fiu" else data.astype(object)

    def column(self, name: str, which: slice = slice(None)) -> npt.NDArray[Any]:
        """Return the same with text as numpy's, which takes a third of the time and of the memory."""
        array = self._array(name)
        first, last, _ = which.indices(array.shape[0])
        self._require_chunks(name, array, first, last)
        try:
            return np.asarray(array[which])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise StoreError(f"{self.path}: {name} cannot be read ({error}); it is damaged, make it again") from error

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self.group[name]
        if not isinstance(array, zarr.Array):
            raise StoreError(f"{self.path}: {name} is no array; the store is damaged, make it again")
        return array

    def _require_chunks(self, name: str, array: zarr.Array[Any], start: int, stop: int) -> None:
        """See that the files of some rows are there: Zarr fills in what is absent, and a store leaves nothing out."""
        n_rows, rest = (array.shards or array.chunks)[0], (0,) * (array.ndim - 1)
        for number in range(start // n_rows, -(-stop // n_rows)):
            path = self.path / name / array.metadata.encode_chunk_key((number, *rest))
            if not path.is_file():
                raise StoreError(f"{path} is missing; the store is damaged, make it again")

    def reader(self) -> Reader:
        """Give what reads a track by its number into an array of its shape, for several threads at a time.

        It raises OSError, ValueError or RuntimeError where the track is damaged.
        """
        mel, tracks_per_shard, dtype = self.mel, self.tracks_per_shard, np.dtype(self.spec.dtype)
        if not is_packed(mel, self.spec):
            return self._read_as_zarr_does
        shard_bytes = self.values("receipts/n_bytes").tolist()

        def read(number: int, out: npt.NDArray[Any]) -> None:
            shard, place = divmod(number, tracks_per_shard)
            stored = out if out.dtype == dtype and out.flags.c_contiguous else np.empty(out.shape, dtype)
            read_chunk(self.path / shard_name(shard), place, tracks_per_shard, stored, shard_bytes[shard])
            if stored is not out:
                out[...] = stored

        return read

    def _read_as_zarr_does(self, number: int, out: npt.NDArray[Any]) -> None:
        """Read a track of a store in somebody else's layout."""
        mel = self.mel
        self._require_chunks("mel", mel, number, number + 1)
        np.copyto(out, mel[number])

    def receipts(self) -> Iterator[Receipt]:
        """Receipts of all shards in order, as their workers gave them, but for the times; some chunks at a time."""
        n_shards, step = -(-self.n_tracks // self.tracks_per_shard), max(1, CHUNK_VALUES // self.tracks_per_shard)
        for start in range(0, n_shards, step):
            yield from self._receipts(slice(start, min(start + step, n_shards)))

    def _receipts(self, which: slice) -> Iterator[Receipt]:
        """Receipts of some shards."""
        step = self.tracks_per_shard
        rows = slice(which.start * step, which.stop * step)
        facts = {name: self.values(name, rows).tolist() for name in TrackReceipt.__dataclass_fields__}
        tracks = [TrackReceipt(**dict(zip(facts, row, strict=True))) for row in zip(*facts.values(), strict=True)]
        columns = {name: self.values(f"receipts/{name}", which).tolist() for name in (*_RECEIPT_FIELDS, *_SUM_FIELDS)}
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            key, sha256, n_bytes, count, level, square = row
            try:
                receipt = Receipt(
                    index=which.start + number,
                    tracks=tuple(tracks[number * step : (number + 1) * step]),
                    sums=BandSums(count=count, level=tuple(level), square=tuple(square)),
                    key=key,
                    sha256=sha256,
                    n_bytes=n_bytes,
                )
            except ValueError as error:
                raise StoreError(f"{self.path}: {error}; it is damaged, make it again") from error
            yield receipt


_RECEIPT_FIELDS = ("key", "sha256", "n_bytes")
_SUM_FIELDS = ("count", "level", "square")


def is_store(path: Path) -> bool:
    """Whether a folder is a store of melzarr's, though perhaps a damaged one."""
    return (path / "mel").is_dir() and (path / "receipts").is_dir()


def open_store(path: Path) -> Store:
    """Open a finished store.

    Raises
    ------
    StoreError
        Where there is none, or one that this version does not know.
    """
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes: dict[str, Any] = dict(group.attrs)
    except FileNotFoundError as error:
        raise StoreError(f"there is no store at {path}; make one with: melzarr features SOURCE {path}") from error
    except (ValueError, KeyError, TypeError, NotADirectoryError, RecursionError) as error:
        raise StoreError(f"{path} is no readable Zarr group ({error}); it is damaged or something else") from error
    if attributes.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{path} is no store that this melzarr reads: it has schema_version={attributes.get('schema_version')!r}, "
            f"and {SCHEMA_VERSION} is known; make it again, name another, or read it with plain xarray"
        )
    try:
        return Store(path, group, checked_spec(path, group))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, SpecError) as error:
        raise StoreError(
            f"{path} is no whole store ({error}); it is damaged or something else, make it again"
        ) from error
