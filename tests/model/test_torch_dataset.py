"""Batches for PyTorch, beside those of numpy."""

import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.utils.data import DataLoader  # noqa: E402

from melzarr.model import window_order  # noqa: E402
from melzarr.model.loader import Batches  # noqa: E402
from melzarr.model.selection import select  # noqa: E402
from melzarr.pipeline.zarr_store.reader import Store  # noqa: E402

STREAMED, CACHED = 0, 1 << 30


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_order, "POOL", 2)


def rows(batches: object) -> list[bytes]:
    """All windows with their classes, as bytes."""
    return [np.asarray(x).tobytes() + bytes([int(y)]) for windows, classes in batches for x, y in zip(windows, classes)]  # noqa: B905


@pytest.mark.parametrize("memory", [CACHED, STREAMED])
@pytest.mark.parametrize("batch_size", [7, 64])
def test_batches_are_those_of_numpy(finished: Store, batch_size: int, memory: int) -> None:
    batches = Batches(finished, select(finished, "train"), batch_size, seed=5, epoch=1, memory=memory)
    loader = DataLoader(batches.torch(), batch_size=None)
    for _ in range(2):  # epochs
        found, expected = list(loader), list(batches)
        assert len(found) == len(expected)
        for (x, y), (u, v) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(x.numpy(), u)
            np.testing.assert_array_equal(y.numpy(), v)
            assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_have_different_windows_that_together_are_each_epoch(finished: Store, persistent: bool) -> None:
    batches = Batches(finished, select(finished, "train"), 16, seed=5)
    loader = DataLoader(
        batches.torch(), batch_size=None, num_workers=2, persistent_workers=persistent, multiprocessing_context="spawn"
    )
    epochs = [rows(loader) for _ in range(2)]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(epoch) == sorted(rows(batches))


def test_ranks_of_a_process_group_have_different_windows(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(finished, select(finished, "train"), 16, seed=5)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    seen, of_workers = [], []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        dataset = batches.torch()
        seen += rows(dataset)
        with monkeypatch.context() as worker:  # which gets a copy, and has no process group
            copied = pickle.dumps(batches.torch())
            worker.setattr(torch.distributed, "is_initialized", lambda: False)
            of_workers += rows(pickle.loads(copied))  # noqa: S301  (made above)
    assert sorted(seen) == sorted(of_workers) == sorted(rows(Batches(finished, select(finished, "train"), 16, seed=5)))


def test_a_state_in_the_middle_of_an_epoch_gives_its_rest(finished: Store) -> None:
    batches = Batches(finished, select(finished, "train"), 16, seed=5)
    dataset, whole = batches.torch(), list(batches.torch())
    iterator = iter(dataset)
    for _ in range(3):
        next(iterator)
    other = Batches(finished, select(finished, "train"), 16, seed=5).torch()
    other.load_state_dict(dataset.state_dict())
    assert rows(other) == rows(whole[3:])
    assert rows(other) == rows(Batches(finished, select(finished, "train"), 16, seed=5, epoch=1))
