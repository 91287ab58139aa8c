"""Collect the receipts of a build in columns, as the receipts come."""

from __future__ import annotations

import math
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.shard_receipt import STATUSES, TYPES, Receipt
from melzarr.pipeline.sources.tracks import TEXT
from melzarr.pipeline.storage.digests import SHA256

DTYPES = {float: "f8", int: "i4", str: ""}
# Texts of bounded length.
ASCII = {"status": f"S{max(map(len, STATUSES))}", "source_blake3": f"S{len(SHA256) + 64}", "decoder": "S10"}


class DiskColumn:
    """A column in an unnamed temporary file: it uses disk instead of memory, and is removed with the process.

    Parameters
    ----------
    folder : Path, optional
        Folder with enough space; by default the system's folder for temporary files.
    shape : tuple of int
        Number of rows, and the shape of each row.
    dtype : dtype
        Type of the values.
    """

    def __init__(self, folder: Path | None, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (open as long as the table)
        self._file.truncate(shape[0] * self._row_bytes)

    def __setitem__(self, which: slice, rows: npt.ArrayLike) -> None:
        """Write some consecutive rows."""
        start, stop, _ = which.indices(self.shape[0])
        self._file.seek(start * self._row_bytes)
        self._file.write(np.asarray(rows, self.dtype).reshape(stop - start, *self.shape[1:]).tobytes())

    def __getitem__(self, which: slice) -> npt.NDArray[Any]:
        """Read some consecutive rows; rows that were not written are zeros, or empty text."""
        start, stop, _ = which.indices(self.shape[0])
        self._file.seek(start * self._row_bytes)
        data = self._file.read((stop - start) * self._row_bytes)
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def close(self) -> None:
        """Close and so remove the file."""
        self._file.close()


class ReceiptTable:
    """Columns of all receipts of a build, sorted by shard and track, for receipts that come in any order.

    The receipts of a million tracks are 900 MB of Python objects; this table takes 60 MB of memory and 200 MB of disk.

    Parameters
    ----------
    n_tracks, tracks_per_shard, n_mels : int
        As in the plan.
    folder : Path, optional
        Folder of the temporary files, which hold most of the data: digests, sums, and columns that are read at the end.

    Attributes
    ----------
    tracks : dict of str to column [shape=(n_tracks,)]
        The fields of `TrackReceipt`; status and digest are ASCII, the error is text.
    status, error : np.ndarray [shape=(n_tracks,)]
        Two of these columns, which are read more often.
    shards : dict of str to np.ndarray [shape=(n_shards,)]
        Key, digest and size of each shard's file, and number of summed frames; the size is -1 if there is no receipt
        yet.
    sums : dict of str to column [shape=(n_shards, n_mels)]
        The fields `level` and `square` of `BandSums`.
    n_seen, n_failed, n_reused : int
        Number of tracks so far: all, failed, and in shards that were kept.
    seconds : Counter of str
        Total time of the workers in each step, in s.
    """

    def __init__(self, n_tracks: int, tracks_per_shard: int, n_mels: int, folder: Path | None) -> None:
        n_shards = -(-n_tracks // tracks_per_shard)
        self.n_tracks, self.tracks_per_shard = n_tracks, tracks_per_shard
        self.status = np.zeros(n_tracks, ASCII["status"])
        self.error = np.zeros(n_tracks, TEXT)
        self.tracks: dict[str, npt.NDArray[Any] | DiskColumn] = {"status": self.status, "error": self.error}
        for name in [name for name in TYPES if name not in self.tracks]:
            self.tracks[name] = DiskColumn(folder, (n_tracks,), ASCII.get(name, DTYPES[TYPES[name]]))
        self.shards: dict[str, npt.NDArray[Any]] = {
            "key": np.zeros(n_shards, TEXT),
            "blake3": np.zeros(n_shards, TEXT),
            "n_bytes": np.full(n_shards, -1, np.int64),
            "count": np.zeros(n_shards, np.int64),
        }
        self.sums = {name: DiskColumn(folder, (n_shards, n_mels), np.float64) for name in ("level", "square")}
        self.n_seen = self.n_failed = self.n_reused = 0
        self.seconds: Counter[str] = Counter()
        self._outdated: dict[int, str] = {}

    def __enter__(self) -> Self:
        """Return the table, for a with block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its files."""
        for column in (*self.tracks.values(), *self.sums.values()):
            if isinstance(column, DiskColumn):
                column.close()

    def add(self, receipt: Receipt) -> None:
        """Add one receipt.

        Raises
        ------
        ValueError
            If its number of tracks is not that of its shard.
        """
        index, start = receipt.index, receipt.index * self.tracks_per_shard
        rows = slice(start, min(start + self.tracks_per_shard, self.n_tracks))
        if len(receipt.tracks) != rows.stop - rows.start:
            raise ValueError(f"receipt {index} is for {len(receipt.tracks)} tracks, not for {rows.stop - rows.start}")
        for name, column in self.tracks.items():
            column[rows] = [getattr(entry, name) for entry in receipt.tracks]
        for name in ("key", "blake3", "n_bytes"):
            self.shards[name][index] = getattr(receipt, name)
        self.shards["count"][index] = receipt.sums.count
        for name in ("level", "square"):
            self.sums[name][index : index + 1] = [getattr(receipt.sums, name)]
        self.n_seen += len(receipt.tracks)
        self.n_failed += receipt.n_failed
        if receipt.reused:
            self.n_reused += len(receipt.tracks)
        else:
            self.seconds.update(receipt.seconds)
        if receipt.outdated:
            self._outdated[index] = sys.intern(receipt.outdated)  # few distinct sentences for thousands of shards

    def statuses(self) -> Counter[str]:
        """Return the number of tracks by status."""
        status, counts = np.unique(self.status[self.status != b""], return_counts=True)
        return Counter(dict(zip(status.astype(str).tolist(), counts.tolist(), strict=True)))

    def troubled(self) -> npt.NDArray[np.intp]:
        """Return the indices of the tracks that have a status other than ok, [shape=(n,)]."""
        return np.flatnonzero((self.status != b"ok") & (self.status != b""))

    def outdated(self) -> tuple[str, ...]:
        """Return why shards of an earlier run were not kept, one sentence per shard, in order of the shards."""
        return tuple(self._outdated[index] for index in sorted(self._outdated))
