"""Feed the windows of a store to a network in batches of numpy arrays.

A few threads read whole chunks. The windows of many tracks are mixed, and gathered in blocks.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import psutil

from melzarr.model.selection import Selection
from melzarr.model.streams import OF_TRACKS, OF_WINDOWS, stream
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.zarr_store.readable_store import ReadableStore, Reader

if TYPE_CHECKING:
    import tensorflow as tf

Windows = npt.NDArray[np.float32]
Batch = tuple[Windows, npt.NDArray[np.int32]]

# Number of tracks whose windows are mixed. It is constant, because the order of an epoch must not depend on the memory
# of a machine. 64 tracks of the default spec take 98 MB, and their 38336 windows fill 299 batches of 128.
POOL = 64
BLOCK = 1024  # windows per transfer from Python to TensorFlow, which takes as long as gathering one or two batches
ALIGNMENT = 64  # bytes; TensorFlow's alignment of a tensor in memory
READ_AHEAD = 8  # tracks that an evaluation reads at a time
SHARE = 0.5  # of the free memory that a cache may take by default

logger = logging.getLogger(__name__)


class Batches:
    """The windows of a selection in batches of numpy arrays, in a different order in each epoch.

    Each iteration is the next epoch. It yields pairs of windows, (batch, n_frames, n_mels) float32 in the store's
    scale, and classes, (batch,) int32.

    Parameters
    ----------
    store : ReadableStore
        The store.
    selection : Selection
        The windows.
    batch_size : int > 0
        Windows per batch; the last batch of an epoch may have fewer.
    seed : int
        Seed of the order.
    windows_per_track : int > 0, optional
        Number of windows per track, drawn at random in each epoch; by default all. In the default spec, neighbouring
        windows overlap by 60 %.
    memory : int > 0, optional
        Bytes that decoded tracks may take; by default half of the free memory. If the selection fits, it is read once
        and kept. Otherwise it is streamed from the store in each epoch, `POOL` tracks at a time while the next `POOL`
        are read. This may take more than `memory`, because the order must not depend on it.
    threads : int > 0, optional
        Threads that read and decode; they do not change the order. The default is two for a disk, and for an object
        store enough to read the next tracks before they are needed.
    first_epoch : int
        Number of the first epoch, if training resumes.
    """

    def __init__(
        self,
        store: ReadableStore,
        selection: Selection,
        batch_size: int,
        *,
        seed: int = 0,
        windows_per_track: int | None = None,
        memory: int | None = None,
        threads: int | None = None,
        first_epoch: int = 0,
    ) -> None:
        self.store, self.selection, self.batch_size = store, selection, batch_size
        self.order = Order(selection, seed, windows_per_track)
        self.memory, self.threads = memory, threads
        self.epochs = itertools.count(first_epoch)
        self._source: Source | None = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(self.order.n_windows / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch."""
        if self._source is None:
            self._source, executor = self.open_source()
            weakref.finalize(self, executor.shutdown, wait=False)
        return rebatched(blocks(self.order, self._source, next(self.epochs)), self.batch_size)

    def open_source(self) -> tuple[Source, ThreadPoolExecutor]:
        """Return a source of decoded tracks, and the threads that read for it; the caller shuts them down."""
        executor = _readers(self.store, self.threads)
        return _source(self.store, self.selection, self.memory, executor), executor

    def tf(self) -> tf.data.Dataset:
        """Return the same as a `tf.data.Dataset`."""
        from melzarr.model.tensorflow_dataset import as_dataset  # noqa: PLC0415  (slow to import)

        source, executor = self.open_source()
        order, epochs = self.order, self.epochs  # and not `self`, which TensorFlow would keep for ever

        def epoch() -> Iterator[Batch]:
            return blocks(order, source, next(epochs))

        release: list[Callable[[], None]] = [functools.partial(executor.shutdown, wait=False)]
        if isinstance(source, _Cache):
            release.append(source.clear)
        return as_dataset(epoch, self.store.spec.shape[1:], self.batch_size, len(self), release)


def rebatched(found: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Yield windows and classes in batches of one size; the last batch may be smaller."""
    left: list[Batch] = []
    n_left = 0
    for block in found:
        left.append(block)
        n_left += len(block[1])
        if n_left >= batch_size:
            windows, classes = (np.concatenate(arrays) for arrays in zip(*left, strict=True))
            n_whole = n_left // batch_size * batch_size
            for start in range(0, n_whole, batch_size):
                yield windows[start : start + batch_size], classes[start : start + batch_size]
            left, n_left = [(windows[n_whole:], classes[n_whole:])], n_left - n_whole
    if n_left:
        windows, classes = (np.concatenate(arrays) for arrays in zip(*left, strict=True))
        yield windows, classes


@dataclass(frozen=True, slots=True)
class Order:
    """Order of the windows in an epoch, as a function of only the seed and the number of the epoch.

    Parameters
    ----------
    selection : Selection
        The windows.
    seed : int
        Seed of the order.
    windows_per_track : int > 0, optional
        Number of windows per track; by default all.
    """

    selection: Selection
    seed: int
    windows_per_track: int | None = None

    @property
    def n_windows(self) -> int:
        """Number of windows in an epoch."""
        counts = self.selection.windows.sum(axis=1)
        return int(np.minimum(counts, self.windows_per_track).sum() if self.windows_per_track else counts.sum())

    def pools(self, epoch: int) -> list[npt.NDArray[np.intp]]:
        """Return the positions of each pool's tracks in the selection; each track is in one pool."""
        rng = stream(OF_TRACKS, self.seed, epoch)
        places = rng.permutation(self.selection.tracks.size)
        return [places[start : start + POOL] for start in range(0, places.size, POOL)]

    def windows(self, epoch: int, number: int, pool: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the windows of a pool in random order, shape (n, 2): position of the track in the pool, and window."""
        rng = stream(OF_WINDOWS, self.seed, epoch, number)
        pairs = np.argwhere(self.selection.windows[pool])
        if self.windows_per_track:
            pairs = pairs[_draw(pairs[:, 0], self.windows_per_track, rng)]
        return rng.permutation(pairs)


def _draw(groups: npt.NDArray[np.intp], n: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw at most n members of each group: order each group at random and take the first n."""
    order = np.lexsort((rng.random(groups.size), groups))
    ranks = np.arange(groups.size) - np.searchsorted(groups, groups)  # the groups are sorted
    return order[ranks < n]


# A source returns the decoded tracks of a pool: an array, and the position of each track in it.
Source = Callable[[npt.NDArray[np.intp]], tuple[Windows, npt.NDArray[np.intp]]]


def blocks(order: Order, source: Source, epoch: int) -> Iterator[Batch]:
    """Yield the windows of one epoch in blocks; the next pool is read while the blocks of a pool are used.

    Parameters
    ----------
    order : Order
        The windows and their order.
    source : callable
        Returns the decoded tracks of a pool.
    epoch : int
        Number of the epoch.

    Yields
    ------
    windows : np.ndarray [shape=(n, n_frames, n_mels), dtype=float32]
        At most `BLOCK` windows.
    classes : np.ndarray [shape=(n,), dtype=int32]
    """
    pools = order.pools(epoch)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as ahead:
        coming = ahead.submit(source, pools[0])
        for number, pool in enumerate(pools):
            decoded, places = coming.result()
            if number + 1 < len(pools):
                coming = ahead.submit(source, pools[number + 1])
            pairs = order.windows(epoch, number, pool)
            tracks, window = places[pairs[:, 0]], pairs[:, 1]
            classes = order.selection.labels[pool[pairs[:, 0]]]
            for start in range(0, len(pairs), BLOCK):
                which = slice(start, start + BLOCK)
                yield _gather(decoded, tracks[which], window[which]), classes[which]


def _gather(decoded: Windows, tracks: npt.NDArray[np.intp], window: npt.NDArray[np.intp]) -> Windows:
    """Copy windows into memory that is aligned for TensorFlow, which would otherwise copy them again."""
    flat = decoded.reshape(-1, *decoded.shape[2:])
    shape = (tracks.size, *flat.shape[1:])
    room = np.empty(math.prod(shape) * 4 + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    block = room[start : start + math.prod(shape) * 4].view(np.float32).reshape(shape)
    return np.take(flat, tracks * decoded.shape[1] + window, axis=0, out=block, mode="clip")  # "raise" would copy


def _source(store: ReadableStore, selection: Selection, memory: int | None, executor: ThreadPoolExecutor) -> Source:
    """Return a source that keeps all decoded tracks if they fit in memory, or else reads each pool when needed."""
    budget = round(SHARE * psutil.virtual_memory().available) if memory is None else memory
    needed = selection.tracks.size * int(np.prod(store.spec.shape)) * 4
    read = store.reader()
    if needed > budget:
        said = "streaming: %d tracks take %.1f MB decoded, more than %.1f"
        logger.info(said, selection.tracks.size, needed / 1e6, budget / 1e6)
        return lambda places: (read_tracks(store, read, selection.tracks[places], executor), np.arange(places.size))
    logger.info("cached: %d tracks take %.1f MB decoded, of %.1f", selection.tracks.size, needed / 1e6, budget / 1e6)
    return _Cache(lambda: read_tracks(store, read, selection.tracks, executor))


def _readers(store: ReadableStore, threads: int | None) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads or store.io_threads, thread_name_prefix="melzarr-loader")


class _Cache:
    """Source that reads all its tracks at first use, and keeps them until `clear` is called."""

    def __init__(self, read: Callable[[], Windows]) -> None:
        self.read = read
        self.decoded: Windows | None = None

    def __call__(self, places: npt.NDArray[np.intp]) -> tuple[Windows, npt.NDArray[np.intp]]:
        """Return all tracks, and the positions of the pool's tracks among them."""
        decoded = self.read() if self.decoded is None else self.decoded
        self.decoded = decoded
        return decoded, places

    def clear(self) -> None:
        """Release the tracks."""
        self.decoded = None


def read_tracks(
    store: ReadableStore, read: Reader, tracks: npt.NDArray[np.intp], executor: ThreadPoolExecutor
) -> Windows:
    """Read and decode whole tracks.

    Parameters
    ----------
    store : ReadableStore
        The store.
    read : callable
        Reads one track; the result of `Store.reader`.
    tracks : np.ndarray [shape=(n,)]
        Numbers of the tracks.
    executor : ThreadPoolExecutor
        Runs one task per track.

    Returns
    -------
    np.ndarray [shape=(n, n_windows, n_frames, n_mels), dtype=float32]
        The tracks, in the store's scale.

    Raises
    ------
    StoreError
        If a track is damaged or missing; a missing track reads as NaN.
    """
    decoded = np.empty((tracks.size, *store.spec.shape), np.float32)

    def decode(place: int) -> None:
        number, reason = int(tracks[place]), "it is missing"
        try:
            read(number, decoded[place])
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error)
        else:
            if np.isfinite(decoded[place]).all():
                return
        address, number = store.locate(number)
        raise StoreError(f"{address}: track {number} cannot be read ({reason}); see: melzarr verify {address}")

    for _ in executor.map(decode, range(tracks.size)):
        pass
    return decoded


def tracks(
    store: ReadableStore, selection: Selection, *, threads: int | None = None
) -> Iterator[tuple[int, Windows, int]]:
    """Yield the selected windows track by track, for evaluation; a few whole tracks are read at a time.

    Parameters
    ----------
    store : ReadableStore
        The store.
    selection : Selection
        The tracks and windows.
    threads : int > 0, optional
        Threads that read and decode; the default is that of `windows`.

    Yields
    ------
    number : int
        Number of the track in the store.
    windows : np.ndarray [shape=(n, n_frames, n_mels), dtype=float32]
        Selected windows of the track.
    label : int
        Class of the track.
    """
    read = store.reader()
    with _readers(store, threads) as executor:
        for start in range(0, selection.tracks.size, READ_AHEAD):
            numbers = selection.tracks[start : start + READ_AHEAD]
            for place, decoded in enumerate(read_tracks(store, read, numbers, executor), start=start):
                yield int(selection.tracks[place]), decoded[selection.windows[place]], int(selection.labels[place])
