"""Decoded tracks in memory: all of them, or a pool at a time in memory that is used again."""

from __future__ import annotations

import logging
import math
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import psutil

from melzarr.model.selection import Selection
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.zarr_store.readable_store import ReadableStore, Reader

Windows = npt.NDArray[np.float32]

ALIGNMENT = 64  # bytes; TensorFlow takes an array without a copy if its memory is aligned so
SHARE = 0.5  # of the free memory that a cache may take by default

logger = logging.getLogger(__name__)


class ReusedMemory:
    """Arrays of one shape, whose memory is used again after the last reference to an array is gone.

    Writing to new memory takes longer than the copy itself, because the system provides it page by page.

    Parameters
    ----------
    shape : tuple of int
        Shape of the arrays, which are float32.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.free = shape, list[memoryview]()

    def array(self) -> Windows:
        """Return an array with unknown values."""
        memory = self.free.pop() if self.free else aligned_memory(math.prod(self.shape) * 4)
        flat = np.frombuffer(memory, np.float32)  # a view of it, also the one below, refers to this object
        weakref.finalize(flat, self.free.append, memory)
        return flat.reshape(self.shape)


def aligned_memory(n_bytes: int) -> memoryview:
    """Return new memory that begins at a multiple of `ALIGNMENT`."""
    room = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + n_bytes].data


class TrackMemory:
    """Decoded tracks of a selection, as rows of windows.

    Parameters
    ----------
    store : ReadableStore
        The store.
    selection : Selection
        The tracks.
    memory : int > 0, optional
        Bytes that decoded tracks may take; by default half of the free memory. If the selection fits, it is read once
        and kept. Otherwise each pool is read when it is needed.
    threads : int > 0, optional
        Threads that read and decode.
    margin : int
        Number of rows before those of a pool, for windows that are left of the pool before it.
    """

    def __init__(
        self, store: ReadableStore, selection: Selection, memory: int | None, threads: int | None, margin: int
    ) -> None:
        self.store, self.numbers, self.margin = store, selection.tracks, margin
        self.read, self.executor = store.reader(), readers(store, threads)
        n_bytes = selection.tracks.size * math.prod(store.spec.shape) * 4
        budget = round(SHARE * psutil.virtual_memory().available) if memory is None else memory
        self.is_cache = n_bytes <= budget
        said = "cached: %d tracks take %.1f MB decoded, of %.1f"
        if not self.is_cache:
            said = "streaming: %d tracks take %.1f MB decoded, more than %.1f"
        logger.info(said, selection.tracks.size, n_bytes / 1e6, budget / 1e6)
        self._cache: Windows | None = None
        self._reused: ReusedMemory | None = None

    def rows(self, pool: npt.NDArray[np.intp], n_most: int) -> tuple[Windows, npt.NDArray[np.intp]]:
        """Return an array of windows, and the first row of each track of a pool in it.

        Parameters
        ----------
        pool : np.ndarray [shape=(n,)]
            Positions of tracks in the selection.
        n_most : int
            Number of tracks in the largest pool.

        Raises
        ------
        StoreError
            If a track cannot be read.
        """
        n_windows, *shape = self.store.spec.shape
        if self.is_cache:
            if self._cache is None:
                memory = aligned_memory(self.numbers.size * math.prod(self.store.spec.shape) * 4)
                rows = np.frombuffer(memory, np.float32).reshape(-1, *shape)
                read_tracks(self.store, self.read, self.numbers, self.executor, rows)
                self._cache = rows
            return self._cache, pool * n_windows
        if self._reused is None:
            self._reused = ReusedMemory((self.margin + n_most * n_windows, *shape))
        rows = self._reused.array()
        read_tracks(self.store, self.read, self.numbers[pool], self.executor, rows[self.margin :])
        return rows, self.margin + np.arange(pool.size) * n_windows

    def close(self) -> None:
        """Release the tracks, and end the threads."""
        self._cache = self._reused = None
        self.executor.shutdown(wait=False)


def readers(store: ReadableStore, threads: int | None) -> ThreadPoolExecutor:
    """Return threads that read; by default as many as the store needs."""
    return ThreadPoolExecutor(threads or store.io_threads, thread_name_prefix="melzarr-loader")


def read_tracks(
    store: ReadableStore, read: Reader, tracks: npt.NDArray[np.intp], executor: ThreadPoolExecutor, rows: Windows
) -> None:
    """Read and decode whole tracks into an array.

    Parameters
    ----------
    store : ReadableStore
        The store.
    read : callable
        Reads one track; the result of `Store.reader`.
    tracks : np.ndarray [shape=(n,)]
        Numbers of the tracks, which must be ok.
    executor : ThreadPoolExecutor
        Runs one task per track.
    rows : np.ndarray [shape=(at least n * n_windows, n_frames, n_mels), dtype=float32]
        Output, in the store's scale.

    Raises
    ------
    StoreError
        If a track is damaged or missing; plain zarr reads a missing one as NaN.
    """
    n_windows = store.spec.n_windows

    def decode(place: int) -> None:
        read_track(store, read, int(tracks[place]), rows[place * n_windows : (place + 1) * n_windows])

    for _ in executor.map(decode, range(tracks.size)):
        pass


def read_track(store: ReadableStore, read: Reader, number: int, out: Windows) -> None:
    """Read and decode one track, which must be ok; the parameters and errors are those of `read_tracks`."""
    reason = "it is missing"
    try:
        read(number, out)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error)
    else:
        if np.isfinite(out[:, 0, 0]).all():  # a checksum protects the other values
            return
    address, number = store.locate(number)
    raise StoreError(f"{address}: track {number} cannot be read ({reason}); see: melzarr verify {address}")
