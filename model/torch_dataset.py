"""Batches of windows as an IterableDataset of PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

if TYPE_CHECKING:
    from melzarr.model.loader import Batches

MOST_WORKERS = 1024


class TorchWindows(IterableDataset):  # type: ignore[misc]
    """Batches of windows; pass it to a `DataLoader` with ``batch_size=None``, or iterate over it.

    Each iteration is the next epoch. It yields windows, (batch, n_frames, n_mels) float32, and classes, (batch,)
    int64. The workers of a `DataLoader`, and the ranks if `torch.distributed` is initialised, each get the windows of
    other tracks; together they are the epoch. The numbers of batches may differ between ranks by those of one track,
    so that training in parallel needs `torch.distributed.algorithms.Join`. It has no length: the number
    of batches depends on the number of workers, because the last batch of each may be small.

    Parameters
    ----------
    batches : Batches
        The batches.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        # The next epoch of each worker. It is shared, because a worker may live for one epoch only.
        self.epochs = torch.full((MOST_WORKERS,), batches.epoch).share_memory_()
        self._part: tuple[tuple[int, ...], Batches] | None = None
        self._state: dict[str, int] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Return what a worker needs: the rank of this process, which it cannot ask for, and no decoded tracks."""
        return {**self.__dict__, "batches": self.batches.with_rank(*self._rank()), "_part": None}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of the next epoch that this worker of this rank has."""
        worker, part = self._mine()
        part.load_state_dict(self._state or {"epoch": int(self.epochs[worker]), "batch": 0})
        self._state = None
        self.epochs[worker] = part.epoch + 1
        for windows, classes in part:
            yield torch.from_numpy(windows), torch.from_numpy(classes).long()

    def _mine(self) -> tuple[int, Batches]:
        """Return the number of this worker, and its part of the batches."""
        info, (rank, n_ranks) = get_worker_info(), self._rank()
        worker, n_workers = (info.id, info.num_workers) if info else (0, 1)
        place = rank * n_workers + worker, n_ranks * n_workers, os.getpid()  # threads do not survive a fork
        if self._part is None or self._part[0] != place:
            self._part = place, self.batches.with_rank(*place[:2])
        return worker, self._part[1]

    def _rank(self) -> tuple[int, int]:
        """Return the rank of the batches, or of this process, and the number of ranks."""
        order = self.batches.order
        if order.n_ranks == 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return order.rank, order.n_ranks

    def state_dict(self) -> dict[str, int]:
        """Return the epoch of the last iteration, and how many batches of it this process has yielded."""
        return self._mine()[1].state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration in this process yield the rest of the epoch that a state is of."""
        self._state = dict(state)
