"""The next shard of a worker is computed while the last one is uploaded: checked by events, not by times."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import distributed
import pytest

from melzarr.pipeline.clusters.overlap import turns
from melzarr.pipeline.clusters.task_runner import OnDask

SECONDS = 60  # of patience with what has to happen
N_SHARDS = 9


@pytest.fixture
def one_core() -> Iterator[OnDask]:
    """A worker with one thread, in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="inproc://", dashboard_address=None
    ) as cluster, distributed.Client(cluster, set_as_default=False) as client:  # fmt: skip
        yield OnDask(client)


class Counted:
    """A place in which several threads can be; `most` is how many were there at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            yield
        finally:
            with self.lock:
                self.now -= 1


class Shards:
    """What has happened to the shards of one test; tasks find it by its name, because events are not pickled."""

    def __init__(self) -> None:
        self.computed, self.held = Counted(), Counted()
        self.begun = [threading.Event() for _ in range(N_SHARDS)]


shards = Shards()


@pytest.fixture(autouse=True)
def _new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "shards", Shards())


def overlapping(number: int) -> int:
    in_memory, computing = turns()
    with in_memory, shards.held.one():
        with computing, shards.computed.one():
            shards.begun[number].set()
        for later in shards.begun[number + 1 : number + 2]:  # the upload lasts until the next shard is computed
            assert later.wait(SECONDS)
    return number


def fails(number: int) -> None:
    in_memory, computing = turns()
    with in_memory:
        with computing:
            pass
        raise ValueError(number)


def test_a_shard_is_uploaded_while_the_next_is_computed_and_no_more_are_held(one_core: OnDask) -> None:
    assert sorted(one_core.run(overlapping, range(N_SHARDS))) == list(range(N_SHARDS))
    assert (shards.computed.most, shards.held.most) == (1, 2)


def test_in_this_process_nothing_overlaps() -> None:
    for _ in range(5):  # more than a worker would hold
        in_memory, computing = turns()
        with in_memory, computing:
            pass


def test_after_an_upload_that_failed_its_worker_goes_on(one_core: OnDask) -> None:
    for number in range(5):  # more than are held
        with pytest.raises(ValueError, match=str(number)):
            list(one_core.run(fails, [number]))
    assert sorted(one_core.run(overlapping, range(N_SHARDS))) == list(range(N_SHARDS))
