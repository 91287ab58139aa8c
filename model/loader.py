"""Feed the windows of a store to a network in batches: of numpy, TensorFlow or PyTorch.

A few threads read whole chunks. The windows of many tracks are mixed, and gathered batch by batch.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from melzarr.model.selection import Selection
from melzarr.model.track_memory import ReusedMemory, TrackMemory, Windows, read_tracks, readers
from melzarr.model.window_order import Order
from melzarr.model.window_pools import pools
from melzarr.pipeline.errors import CallError
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

if TYPE_CHECKING:
    import tensorflow as tf

    from melzarr.model.torch_dataset import TorchWindows

Batch = tuple[Windows, npt.NDArray[np.int32]]

READ_AHEAD = 8  # tracks that an evaluation reads at a time


class Batches:
    """The windows of a selection in batches of numpy arrays, in a different order in each epoch.

    Each iteration is the next epoch. It yields pairs of windows, (batch, n_frames, n_mels) float32 in the store's
    scale, and classes, (batch,) int32. The memory of a batch is used again after the last
    reference to it is gone.

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
    epoch : int >= 0
        Number of the first epoch.
    windows_per_track : int > 0, optional
        Number of windows per track, drawn at random in each epoch; by default all. In the default spec, neighbouring
        windows overlap by 60 %. The fewer they are, the more tracks are mixed in a batch.
    weights : "balanced", optional
        "balanced" gives each class the same number of tracks in an epoch; by default each track comes once.
    rank, n_ranks : int
        Which of how many parts of each epoch is wanted. Each track is in one part.
    memory : int > 0, optional
        Bytes that decoded tracks may take; by default half of the free memory. If the selection fits, it is read once
        and kept. Otherwise it is streamed from the store in each epoch, a pool of tracks at a time while the next is
        read. This may take more than `memory`, because the order must not depend on it.
    threads : int > 0, optional
        Threads that read and decode; they do not change the order. The default is two for a disk, and for an object
        store enough to read the next tracks before they are needed.

    Raises
    ------
    CallError
        If an argument is out of its range.
    """

    def __init__(
        self,
        store: ReadableStore,
        selection: Selection,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        windows_per_track: int | None = None,
        weights: str | None = None,
        rank: int = 0,
        n_ranks: int = 1,
        memory: int | None = None,
        threads: int | None = None,
    ) -> None:
        if weights not in {None, "balanced"}:
            raise CallError(f"weights={weights!r} is not known; use 'balanced', or leave it out")
        if not 0 <= rank < n_ranks:
            raise CallError(f"rank={rank} is not one of the {n_ranks} ranks, which are 0 to {n_ranks - 1}")
        if batch_size < 1:
            raise CallError(f"batch_size={batch_size} is too small; use 1 or more")
        self.store, self.selection, self.batch_size = store, selection, batch_size
        self.order = Order(selection, seed, windows_per_track, weights == "balanced", rank, n_ranks)
        self.memory, self.threads = memory, threads
        self.epoch, self.batch = epoch, 0  # position of the current iteration, or of the next one
        self._is_begun = False
        self._tracks: TrackMemory | None = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(self.order.n_windows(self.epoch) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch, or the rest of one after `load_state_dict`."""
        if self._is_begun:  # the iteration before was left early
            self.epoch, self.batch = self.epoch + 1, 0
        self._is_begun = True
        if self._tracks is None:
            self._tracks = self.open_tracks()
            weakref.finalize(self, self._tracks.close)
        return self._counted(self.epoch, self._tracks)

    def _counted(self, epoch: int, tracks: TrackMemory) -> Iterator[Batch]:
        """Yield the batches of an epoch from `batch` on, and count them."""
        reused = ReusedMemory((self.batch_size, *self.store.spec.shape[1:]))
        for pool in pools(self.order, tracks, epoch, self.batch_size, self.batch):
            for rows, classes in zip(pool.indices, pool.classes, strict=True):
                out = reused.array()[: rows.size]
                np.take(pool.windows, rows, axis=0, out=out, mode="clip")  # "raise" would copy
                if self.epoch == epoch:
                    self.batch += 1
                yield out, classes
            del pool  # its memory is needed for another one
        if self.epoch == epoch:
            self.epoch, self.batch, self._is_begun = epoch + 1, 0, False

    def state_dict(self) -> dict[str, int]:
        """Return where the last iteration is: its epoch, and how many batches of it have been yielded."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration yield the rest of the epoch that a state is of.

        Parameters
        ----------
        state : dict of str to int
            What `state_dict` returned, of batches of the same store and with the same arguments.
        """
        self.epoch, self.batch, self._is_begun = state["epoch"], state["batch"], False

    def open_tracks(self) -> TrackMemory:
        """Return the memory of decoded tracks; the caller closes it."""
        return TrackMemory(self.store, self.selection, self.memory, self.threads, self.batch_size - 1)

    def with_rank(self, rank: int, n_ranks: int) -> Batches:
        """Return the batches of a part of each epoch."""
        other = copy.copy(self)  # without the decoded tracks, see below
        other.order = replace(self.order, rank=rank, n_ranks=n_ranks)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: not the decoded tracks."""
        return {**self.__dict__, "_tracks": None}

    def tf(self) -> tf.data.Dataset:
        """Return the same as a `tf.data.Dataset`, from the next epoch on."""
        from melzarr.model.tensorflow_dataset import as_dataset  # noqa: PLC0415  (slow to import)

        # Not `self`: TensorFlow never releases a generator, nor what it refers to.
        return as_dataset(self.order, self.open_tracks(), self.batch_size, self.epoch)

    def torch(self) -> TorchWindows:
        """Return the same as an `IterableDataset` of PyTorch, for a `DataLoader` with ``batch_size=None``."""
        from melzarr.model.torch_dataset import TorchWindows  # noqa: PLC0415  (slow to import)

        return TorchWindows(self)


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
        Threads that read and decode; the default is that of `Batches`.

    Yields
    ------
    number : int
        Number of the track in the store.
    windows : np.ndarray [shape=(n, n_frames, n_mels), dtype=float32]
        Selected windows of the track.
    label : int
        Class of the track.
    """
    read, (n_windows, *shape) = store.reader(), store.spec.shape
    with readers(store, threads) as executor:
        for start in range(0, selection.tracks.size, READ_AHEAD):
            numbers = selection.tracks[start : start + READ_AHEAD]
            rows = np.empty((numbers.size * n_windows, *shape), np.float32)
            read_tracks(store, read, numbers, executor, rows)
            for place, decoded in enumerate(rows.reshape(-1, n_windows, *shape), start=start):
                yield int(selection.tracks[place]), decoded[selection.windows[place]], int(selection.labels[place])
