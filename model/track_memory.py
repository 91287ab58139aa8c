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

    def rows(
        self, pool: npt.NDArray[np.intp], pairs: npt.NDArray[np.intp], n_most: int
    ) -> tuple[Windows, npt.NDArray[np.intp]]:
        """Return an array of windows that has those of a pool, and the row of each.

        Parameters
        ----------
        pool : np.ndarray [shape=(n_tracks,)]
            Positions of tracks in the selection.
        pairs : np.ndarray [shape=(n, 2)]
            Position in the pool and window, of each wanted window.
        n_most : int
            At least the number of windows of each pool.

        Returns
        -------
        rows : np.ndarray [shape=(n_rows, n_frames, n_mels), dtype=float32]
            Decoded windows: those of all tracks, or after `margin` free rows those that are wanted.
        indices : np.ndarray [shape=(n,)]
            Row of each pair.

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
            return self._cache, pool[pairs[:, 0]] * n_windows + pairs[:, 1]
        if self._reused is None:
            self._reused = ReusedMemory((self.margin + n_most, *shape))
        rows = self._reused.array()
        wanted = np.zeros((pool.size, n_windows), bool)
        wanted[pairs[:, 0], pairs[:, 1]] = True
        read_tracks(self.store, self.read, self.numbers[pool], self.executor, rows[self.margin :], wanted)
        row_of = self.margin - 1 + np.cumsum(wanted)
        return rows, row_of[pairs[:, 0] * n_windows + pairs[:, 1]]

    def close(self) -> None:
        """Release the tracks, and end the threads."""
        self._cache = self._reused = None
        self.executor.shutdown(wait=False)


def readers(store: ReadableStore, threads: int | None) -> ThreadPoolExecutor:
    """Return threads that read; by default as many as the store needs."""
    return ThreadPoolExecutor(threads or store.io_threads, thread_name_prefix="melzarr-loader")


def read_tracks(
    store: ReadableStore,
    read: Reader,
    tracks: npt.NDArray[np.intp],
    executor: ThreadPoolExecutor,
    rows: Windows,
    wanted: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Read and decode tracks into an array.

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
    rows : np.ndarray [shape=(n_rows, n_frames, n_mels), dtype=float32]
        Output, in the store's scale: the wanted windows of one track after those of another.
    wanted : np.ndarray [shape=(n, n_windows), dtype=bool], optional
        Which windows of each track are wanted; by default all.

    Raises
    ------
    StoreError
        If a track is damaged or missing; plain zarr reads a missing one as NaN.
    """
    n_windows = store.spec.n_windows
    counts = np.full(tracks.size, n_windows) if wanted is None else wanted.sum(axis=1)
    ends = np.cumsum(counts)

    def decode(place: int) -> None:
        out = rows[ends[place] - counts[place] : ends[place]]
        if wanted is None or len(out) == n_windows:
            read_track(store, read, int(tracks[place]), out)
            return
        whole = np.empty(store.spec.shape, np.float32)
        read_track(store, read, int(tracks[place]), whole)
        np.compress(wanted[place], whole, axis=0, out=out)

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
