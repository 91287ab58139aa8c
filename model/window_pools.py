"""The batches of an epoch, a pool of tracks at a time: which of the decoded windows are in each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from melzarr.model.track_memory import TrackMemory, Windows
from melzarr.model.window_order import Order


@dataclass(frozen=True, slots=True)
class Pool:
    """Some batches of an epoch.

    Parameters
    ----------
    windows : np.ndarray [shape=(n, n_frames, n_mels), dtype=float32]
        Decoded windows, more than are in the batches.
    indices : np.ndarray [shape=(n_batches, batch_size), dtype=int]
        Which of them are in each batch.
    classes : np.ndarray [shape=(n_batches, batch_size), dtype=int32]
        Their classes.
    """

    windows: Windows
    indices: npt.NDArray[np.intp]
    classes: npt.NDArray[np.int32]


def pools(order: Order, tracks: TrackMemory, epoch: int, batch_size: int, first: int = 0) -> Iterator[Pool]:
    """Yield the batches of one epoch, pool by pool; the next pool is read while the batches of a pool are used.

    Parameters
    ----------
    order : Order
        The windows and their order.
    tracks : TrackMemory
        The decoded tracks.
    epoch : int
        Number of the epoch.
    batch_size : int > 0
        Windows per batch; the last pool has one batch, which may have fewer.
    first : int
        Number of the first batch.
    """
    wanted = order.pools(epoch)
    n_most = max((places.size for places in wanted), default=0) * order.most
    number, skipped = order.find(epoch, first * batch_size)

    def read(number: int) -> tuple[Windows, npt.NDArray[np.intp], npt.NDArray[np.int32]]:
        """Return decoded windows, which of them the pool has in its order, and their classes."""
        places = wanted[number]
        pairs = order.windows(epoch, number, places)
        windows, indices = tracks.rows(places, pairs, n_most)
        return windows, indices, order.selection.labels[places[pairs[:, 0]]]

    windows, left, left_classes = None, np.empty(0, np.intp), np.empty(0, np.int32)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as ahead:
        coming = ahead.submit(read, number) if number < len(wanted) else None
        while coming:
            before = windows
            windows, indices, classes = coming.result()
            if windows is not before and before is not None:  # the memory of the pool before is needed
                windows[: left.size] = before[left]
                left = np.arange(left.size)
            del before
            indices = np.concatenate([left, indices[skipped:]])
            classes = np.concatenate([left_classes, classes[skipped:]])
            number, skipped = number + 1, 0
            coming = ahead.submit(read, number) if number < len(wanted) else None
            n_whole = indices.size // batch_size * batch_size
            if n_whole:
                whole = indices[:n_whole].reshape(-1, batch_size), classes[:n_whole].reshape(-1, batch_size)
                yield Pool(windows, *whole)
            left, left_classes = indices[n_whole:], classes[n_whole:]
    if left.size and windows is not None:
        yield Pool(windows, left[None], left_classes[None])
