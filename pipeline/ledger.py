"""The ledger of a build: what the receipts say, taken into columns as they come."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.receipt import STATUSES, Receipt
from pipeline.tracks import TEXT

FAILED = b"failed"


class Rows:
    """Rows of numbers in a file without a name: they take disk rather than memory, and go with the process.

    Parameters
    ----------
    folder : Path
        Where there is room for them.
    n_rows, width : int
        How many rows, and how long each is.
    """

    def __init__(self, folder: Path, n_rows: int, width: int) -> None:
        self.shape, self.dtype = (n_rows, width), np.dtype(np.float64)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it lives as long as the ledger)
        self._file.truncate(n_rows * width * self.dtype.itemsize)

    def __setitem__(self, number: int, row: npt.ArrayLike) -> None:
        """Put a row into its place."""
        values = np.asarray(row, self.dtype).reshape(self.shape[1:])
        self._file.seek(number * values.nbytes)
        self._file.write(values.tobytes())

    def __getitem__(self, which: slice) -> npt.NDArray[np.float64]:
        """Read some neighbouring rows, [shape=(n, width)]; zeros where none was put."""
        start, stop, _ = which.indices(self.shape[0])
        row_bytes = self.shape[1] * self.dtype.itemsize
        self._file.seek(start * row_bytes)
        return np.frombuffer(self._file.read((stop - start) * row_bytes), self.dtype).reshape(-1, self.shape[1])

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


class Ledger:
    """What is known of every shard and track of a build, in their order, whatever the order in which it came.

    A million tracks as receipts are 900 MB of Python's objects; here they are 110 MB, and 130 MB on disk.

    Parameters
    ----------
    n_tracks, tracks_per_shard, n_mels : int
        Of the plan.
    folder : Path
        Where the sums of all bands lie meanwhile.

    Attributes
    ----------
    tracks : dict of str to np.ndarray [shape=(n_tracks,)]
        The fields of `TrackReceipt`; status and digest as ASCII, the error as text.
    shards : dict of str to np.ndarray [shape=(n_shards,)]
        Key, digest and size of each shard's file, and how many frames were summed; the size is -1 where no receipt
        has come.
    sums : dict of str to Rows [shape=(n_shards, n_mels)]
        Level and square of `BandSums`.
    n_seen, n_failed, n_reused : int
        Tracks so far: all, failed, and in shards that were kept.
    seconds : Counter of str
        The workers' time in each step.
    """

    def __init__(self, n_tracks: int, tracks_per_shard: int, n_mels: int, folder: Path) -> None:
        n_shards = -(-n_tracks // tracks_per_shard)
        self.tracks_per_shard = tracks_per_shard
        self.tracks: dict[str, npt.NDArray[Any]] = {
            "status": np.zeros(n_tracks, f"S{max(map(len, STATUSES))}"),
            "error": np.zeros(n_tracks, TEXT),
            "n_windows": np.zeros(n_tracks, np.int32),
            "source_sha256": np.zeros(n_tracks, "S64"),
            "source_rate": np.zeros(n_tracks),
            "source_channels": np.zeros(n_tracks),
            "duration": np.zeros(n_tracks),
        }
        self.shards: dict[str, npt.NDArray[Any]] = {
            "key": np.zeros(n_shards, TEXT),
            "sha256": np.zeros(n_shards, TEXT),
            "n_bytes": np.full(n_shards, -1, np.int64),
            "count": np.zeros(n_shards, np.int64),
        }
        self.sums = {name: Rows(folder, n_shards, n_mels) for name in ("level", "square")}
        self.n_seen = self.n_failed = self.n_reused = 0
        self.seconds: Counter[str] = Counter()
        self._outdated: dict[int, str] = {}

    def __enter__(self) -> Self:
        """Keep the ledger for the length of a build."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its files."""
        for rows in self.sums.values():
            rows.close()

    def add(self, receipt: Receipt) -> None:
        """Take one receipt.

        Raises
        ------
        ValueError
            Where it has not as many tracks as its shard.
        """
        index, start = receipt.index, receipt.index * self.tracks_per_shard
        rows = slice(start, min(start + self.tracks_per_shard, self.tracks["status"].size))
        if len(receipt.tracks) != rows.stop - rows.start:
            raise ValueError(f"receipt {index} is of {len(receipt.tracks)} tracks, not of {rows.stop - rows.start}")
        for name, column in self.tracks.items():
            column[rows] = [getattr(entry, name) for entry in receipt.tracks]
        for name in ("key", "sha256", "n_bytes"):
            self.shards[name][index] = getattr(receipt, name)
        self.shards["count"][index] = receipt.sums.count
        self.sums["level"][index], self.sums["square"][index] = receipt.sums.level, receipt.sums.square
        self.n_seen += len(receipt.tracks)
        self.n_failed += receipt.n_failed
        if receipt.reused:
            self.n_reused += len(receipt.tracks)
        else:
            self.seconds.update(receipt.seconds)
        if receipt.outdated:
            self._outdated[index] = sys.intern(receipt.outdated)  # a few sentences, each for thousands of shards

    def statuses(self) -> Counter[str]:
        """Tracks by status."""
        status, counts = np.unique(self.tracks["status"], return_counts=True)
        return Counter(dict(zip(status.astype(str).tolist(), counts.tolist(), strict=True)))

    def troubled(self) -> npt.NDArray[np.intp]:
        """Numbers of the tracks that are not ok, of those that are known, [shape=(n,)]."""
        status = self.tracks["status"]
        return np.flatnonzero((status != b"ok") & (status != b""))

    def outdated(self) -> tuple[str, ...]:
        """Why shards of an earlier run were not kept, a sentence each, in their order."""
        return tuple(self._outdated[index] for index in sorted(self._outdated))
