"""Read the encoded chunks of tracks from the shards of a store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.shard import Encoded, index_bytes, read_index, shard_name

Content = TypeVar("Content", bound=Encoded)
RangeReader: TypeAlias = Callable[[str, int, int], Content]  # reads a range of a file: name, start, number of bytes


def chunk_reader(
    directory: Directory, tracks_per_shard: int, shard_bytes: Sequence[int], read_range: RangeReader[Content]
) -> Callable[[int], Content]:
    """Return a thread-safe function that reads the encoded chunk of a track, by number.

    The function raises OSError or ValueError if the shard is damaged. It does not check the chunk itself.

    Parameters
    ----------
    directory : Directory
        Directory of the store.
    tracks_per_shard : int
        Number of tracks in every shard except the last.
    shard_bytes : sequence of int
        Size of each shard, in bytes.
    read_range : callable
        Reads the bytes of the chunk.
    """
    indices: dict[int, npt.NDArray[np.uint64]] = {}  # of the shards read so far, some 260 bytes each

    def read(number: int) -> Content:
        shard, place = divmod(number, tracks_per_shard)
        if (index := indices.get(shard)) is None:
            end, size = directory.read_end(shard_name(shard), index_bytes(tracks_per_shard))
            index = indices[shard] = read_index(end, size, tracks_per_shard, shard_bytes[shard])
        start, n_bytes = map(int, index[place])
        return read_range(shard_name(shard), start, n_bytes)

    return read


def reused_range_reader(directory: Directory) -> RangeReader[Encoded]:
    """Return a thread-safe function that reads a range of a file. Its result is valid until the thread's next call.

    On a disk, a thread reads into the same memory again. New memory would take three times as long, because the system
    provides it page by page.
    """
    folder, own = directory.folder, threading.local()
    if folder is None:
        return directory.read_range

    def read(name: str, start: int, n_bytes: int) -> Encoded:
        if len(getattr(own, "memory", b"")) < n_bytes:
            own.memory = np.empty(2 * n_bytes, np.uint8)
        with (folder / name).open("rb", buffering=0) as file:
            file.seek(start)
            found: Encoded = own.memory[: file.readinto(own.memory[:n_bytes])]
            return found

    return read
