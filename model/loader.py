"""Store → tf.data: whole chunks read by a few threads, windows of many tracks mixed, whole blocks gathered at once."""

from __future__ import annotations

import itertools
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psutil
import tensorflow as tf

from melzarr.model.selection import Selection
from melzarr.model.streams import OF_TRACKS, OF_WINDOWS, stream
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.zarr_store.reader import Reader, Store

Windows = npt.NDArray[np.float32]
Batch = tuple[Windows, npt.NDArray[np.int32]]

# Tracks whose windows are mixed. Fixed, because the order of an epoch must not depend on the memory of a machine; 64
# tracks of the default spec are 98 MB, and their 38336 windows fill 299 batches of 128.
POOL = 64
BLOCK = 1024  # windows that cross from Python to TensorFlow at a time, which costs as much as to gather a batch or two
PREFETCH = 2  # blocks that wait for the network
ALIGNMENT = 64  # bytes, of a tensor
READ_AHEAD = 8  # tracks that an evaluation reads at a time
SHARE = 0.5  # of the memory that is free now, which a cache may take where no number is given

logger = logging.getLogger(__name__)


def windows(
    store: Store,
    selection: Selection,
    batch_size: int,
    *,
    seed: int = 0,
    windows_per_track: int | None = None,
    memory: int | None = None,
    threads: int | None = None,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Feed windows in batches, in another order each epoch.

    Parameters
    ----------
    store : Store
        The store.
    selection : Selection
        Which of its windows.
    batch_size : int > 0
        Windows of a batch; the last one of an epoch may have fewer.
    seed : int
        Seed of the order.
    windows_per_track : int > 0, optional
        So many of a track's windows, drawn anew each epoch, in place of all; neighbours overlap by 60 %.
    memory : int > 0, optional
        Bytes that decoded tracks may take; by default half of what is free. If the selection fits it is read once and
        kept, else streamed from the store each epoch, 128 tracks at a time and the next 128 meanwhile, however much
        that is: the order must not depend on it.
    threads : int > 0, optional
        Threads that read and decode; they do not change the order. By default two for a disk, and for an object store
        so many that the next tracks are there before they are wanted.
    first_epoch : int
        Number of the first epoch, where training goes on.

    Returns
    -------
    tf.data.Dataset
        Of (batch, n_frames, n_mels) float32 windows in the store's scale, and (batch,) int32 classes. Each iteration
        is the next epoch.
    """
    order = Order(selection, seed, windows_per_track)
    executor = _readers(store, threads)
    source = _source(store, selection, memory, executor)
    epochs = itertools.count(first_epoch)

    def epoch() -> Iterator[Batch]:
        return blocks(order, source, next(epochs))

    signature = (
        tf.TensorSpec((None, *store.spec.shape[1:]), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    )
    n_batches = -(-order.n_windows // batch_size)
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    if isinstance(source, _Cache):
        weakref.finalize(dataset, source.clear)  # TensorFlow never lets go of a generator that it was given
    weakref.finalize(dataset, executor.shutdown, wait=False)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and to look for it takes longer than the batches
    counted = dataset.prefetch(PREFETCH).rebatch(batch_size).apply(tf.data.experimental.assert_cardinality(n_batches))
    return counted.with_options(options)


@dataclass(frozen=True, slots=True)
class Order:
    """The order of an epoch: a function of the seed and the epoch's number alone.

    Parameters
    ----------
    selection : Selection
        Which windows.
    seed : int
        Seed of the order.
    windows_per_track : int > 0, optional
        So many windows of each track, or all.
    """

    selection: Selection
    seed: int
    windows_per_track: int | None = None

    @property
    def n_windows(self) -> int:
        """Windows of an epoch."""
        counts = self.selection.windows.sum(axis=1)
        return int(np.minimum(counts, self.windows_per_track).sum() if self.windows_per_track else counts.sum())

    def pools(self, epoch: int) -> list[npt.NDArray[np.intp]]:
        """Places in the selection of the tracks of each pool; each track is in one."""
        rng = stream(OF_TRACKS, self.seed, epoch)
        places = rng.permutation(self.selection.tracks.size)
        return [places[start : start + POOL] for start in range(0, places.size, POOL)]

    def windows(self, epoch: int, number: int, pool: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Windows of a pool in their order, shape (n, 2): place in the pool, and window."""
        rng = stream(OF_WINDOWS, self.seed, epoch, number)
        pairs = np.argwhere(self.selection.windows[pool])
        if self.windows_per_track:
            pairs = pairs[_draw(pairs[:, 0], self.windows_per_track, rng)]
        return rng.permutation(pairs)


def _draw(groups: npt.NDArray[np.intp], n: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw at most n members of each group, by ordering each group at random and taking the first."""
    order = np.lexsort((rng.random(groups.size), groups))
    ranks = np.arange(groups.size) - np.searchsorted(groups, groups)  # the groups are sorted
    return order[ranks < n]


# A source gives the decoded tracks of a pool: an array, and where in it each of them lies.
Source = Callable[[npt.NDArray[np.intp]], tuple[Windows, npt.NDArray[np.intp]]]


def blocks(order: Order, source: Source, epoch: int) -> Iterator[Batch]:
    """Gather the windows of one epoch in blocks; while those of a pool are handed out, the next pool is read.

    Parameters
    ----------
    order : Order
        Which windows, in which order.
    source : callable
        Gives the decoded tracks of a pool.
    epoch : int
        Number of the epoch.

    Yields
    ------
    windows : np.ndarray [shape=(n, n_frames, n_mels), dtype=float32]
        At most `BLOCK` of them.
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
    """Copy windows into memory that starts where TensorFlow wants a tensor to start, or it would copy them again."""
    flat = decoded.reshape(-1, *decoded.shape[2:])
    shape = (tracks.size, *flat.shape[1:])
    room = np.empty(math.prod(shape) * 4 + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    block = room[start : start + math.prod(shape) * 4].view(np.float32).reshape(shape)
    return np.take(flat, tracks * decoded.shape[1] + window, axis=0, out=block, mode="clip")  # "raise" has it copied


def _source(store: Store, selection: Selection, memory: int | None, executor: ThreadPoolExecutor) -> Source:
    """Keep the decoded tracks where they fit the memory, else read each pool when it is needed."""
    budget = round(SHARE * psutil.virtual_memory().available) if memory is None else memory
    needed = selection.tracks.size * int(np.prod(store.spec.shape)) * 4
    read = store.reader()
    if needed > budget:
        said = "streaming: %d tracks take %.1f MB decoded, more than %.1f"
        logger.info(said, selection.tracks.size, needed / 1e6, budget / 1e6)
        return lambda places: (read_tracks(store, read, selection.tracks[places], executor), np.arange(places.size))
    logger.info("cached: %d tracks take %.1f MB decoded, of %.1f", selection.tracks.size, needed / 1e6, budget / 1e6)
    return _Cache(lambda: read_tracks(store, read, selection.tracks, executor))


def _readers(store: Store, threads: int | None) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads or store.directory.io_threads, thread_name_prefix="melzarr-loader")


class _Cache:
    """A source that reads all of its tracks at first use, and keeps them until it is told to let them go."""

    def __init__(self, read: Callable[[], Windows]) -> None:
        self.read = read
        self.decoded: Windows | None = None

    def __call__(self, places: npt.NDArray[np.intp]) -> tuple[Windows, npt.NDArray[np.intp]]:
        """Give all tracks, of which a pool is a part."""
        decoded = self.read() if self.decoded is None else self.decoded
        self.decoded = decoded
        return decoded, places

    def clear(self) -> None:
        """Let the tracks go."""
        self.decoded = None


def read_tracks(store: Store, read: Reader, tracks: npt.NDArray[np.intp], executor: ThreadPoolExecutor) -> Windows:
    """Read and decode whole tracks.

    Parameters
    ----------
    store : Store
        The store.
    read : callable
        Reads one of its tracks; its `reader`.
    tracks : np.ndarray [shape=(n,)]
        Their numbers.
    executor : ThreadPoolExecutor
        Reads one track a task.

    Returns
    -------
    np.ndarray [shape=(n, n_windows, n_frames, n_mels), dtype=float32]
        In the store's scale.

    Raises
    ------
    StoreError
        Where a track is damaged, or missing: it then reads as NaN.
    """
    decoded = np.empty((tracks.size, *store.spec.shape), np.float32)

    def decode(place: int) -> None:
        number, reason = int(tracks[place]), "it is not there"
        try:
            read(number, decoded[place])
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error)
        else:
            if np.isfinite(decoded[place]).all():
                return
        raise StoreError(
            f"{store.directory}: track {number} cannot be read ({reason}); see: melzarr verify {store.directory}"
        )

    for _ in executor.map(decode, range(tracks.size)):
        pass
    return decoded


def tracks(store: Store, selection: Selection, *, threads: int | None = None) -> Iterator[tuple[int, Windows, int]]:
    """Give whole tracks one after the other, for evaluation, a few of them read ahead.

    Parameters
    ----------
    store : Store
        The store.
    selection : Selection
        Which tracks, and which of their windows.
    threads : int > 0, optional
        Threads that read and decode; by default as for `windows`.

    Yields
    ------
    number : int
        Number of the track in the store.
    windows : np.ndarray [shape=(n, n_frames, n_mels), dtype=float32]
        Its selected windows.
    label : int
        Its class.
    """
    read = store.reader()
    with _readers(store, threads) as executor:
        for start in range(0, selection.tracks.size, READ_AHEAD):
            numbers = selection.tracks[start : start + READ_AHEAD]
            for place, decoded in enumerate(read_tracks(store, read, numbers, executor), start=start):
                yield int(selection.tracks[place]), decoded[selection.windows[place]], int(selection.labels[place])
