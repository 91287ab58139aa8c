"""A lock in an object store, on a real S3 server."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from melzarr.pipeline.errors import BuildError, StorageError
from melzarr.pipeline.storage import lock
from melzarr.pipeline.storage.lock import Lease
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.2)
    monkeypatch.setattr(lock, "SILENCE", 3)


def test_while_it_is_held_nobody_else_gets_it(bucket: ObjectStoreDirectory) -> None:
    with Lease(bucket, "lock", "s.zarr").held(), pytest.raises(BuildError, match=r"s\.zarr is being built by process "):
        Lease(bucket, "lock", "s.zarr")._take()
    with Lease(bucket, "lock", "s.zarr").held():
        pass
    assert bucket.size("lock") is None


def test_the_lock_of_a_dead_process_is_taken_over_and_it_is_said(
    bucket: ObjectStoreDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    Lease(bucket, "lock", "s.zarr")._take()  # and nothing more
    with caplog.at_level(logging.WARNING), Lease(bucket, "lock", "s.zarr").held():
        assert "waiting 3 s to see whether that is still running" in caplog.text
        Lease(bucket, "lock", "s.zarr")


def test_of_many_that_want_a_dead_ones_lock_one_gets_it(bucket: ObjectStoreDirectory) -> None:
    Lease(bucket, "lock", "s.zarr")._take()
    held, refused, done = [], [], threading.Event()

    def build() -> None:
        try:
            with Lease(bucket, "lock", "s.zarr").held():
                held.append(1)
                done.wait(20)
        except BuildError:
            refused.append(1)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(held) + len(refused) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)


def test_who_was_not_heard_of_for_too_long_has_lost_it(
    bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 60)
    slow = Lease(bucket, "lock", "s.zarr")
    with slow.held():
        slow.require()
        with Lease(bucket, "lock", "s.zarr").held(), pytest.raises(BuildError, match=r"taken over by process \d+"):
            slow.require()
        assert bucket.size("lock") is None


def test_a_writing_whose_answer_was_lost_loses_nothing(
    bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Lease(bucket, "lock", "s.zarr")
    with own.held():
        original = ObjectStoreDirectory.exchange

        def unanswered(self: ObjectStoreDirectory, name: str, data: bytes, version: str | None) -> None:
            original(self, name, data, version)
            raise StorageError("the connection broke")

        monkeypatch.setattr(ObjectStoreDirectory, "exchange", unanswered)
        with pytest.raises(StorageError):
            own._write()
        monkeypatch.setattr(ObjectStoreDirectory, "exchange", original)
        own.require()
        own.require()
    assert bucket.size("lock") is None


def test_who_slept_through_the_loss_of_the_lock_leaves_it_to_the_other(
    bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 60)
    asleep, other = Lease(bucket, "lock", "s.zarr"), Lease(bucket, "lock", "s.zarr")
    with asleep.held():
        other._take()
    assert bucket.size("lock") is not None
    other.require()


def test_a_lock_can_be_held_again(bucket: ObjectStoreDirectory) -> None:
    own = Lease(bucket, "lock", "s.zarr")
    for _ in range(2):
        with own.held():
            before = bucket.version_of("lock")
            time.sleep(1)
            assert bucket.version_of("lock") != before
