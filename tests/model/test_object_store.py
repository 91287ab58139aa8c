"""Training and evaluation from an object store, on a real S3 server: what comes of it is what comes from a disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow")

from melzarr.cli import main
from melzarr.model.loader import Batches, tracks
from melzarr.model.run_directory import Run
from melzarr.model.selection import select
from melzarr.pipeline.errors import StorageError
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.zarr_store.reader import Store, open_store


@pytest.fixture
def remote(tiny: Store, bucket: ObjectStoreDirectory) -> Store:
    """The same store in a bucket."""
    for name, _ in tiny.directory.files():
        bucket.write(f"tiny.zarr/{name}", tiny.directory.read(name))
    return open_store(bucket.child("tiny.zarr"))


@pytest.mark.parametrize("memory", [None, 1])
def test_its_windows_are_those_of_a_store_on_a_disk(memory: int | None, tiny: Store, remote: Store) -> None:
    there, here = (
        [(x.numpy(), y.numpy()) for x, y in Batches(store, select(store, "train"), 16, seed=3, memory=memory).tf()]
        for store in (remote, tiny)
    )
    assert len(there) == len(here) == 8
    for (x, y), (expected_x, expected_y) in zip(there, here, strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)
    for (number, x, label), expected in zip(
        tracks(remote, select(remote, "test")), tracks(tiny, select(tiny, "test")), strict=True
    ):
        assert (number, label) == (expected[0], expected[2])
        np.testing.assert_array_equal(x, expected[1])


@pytest.mark.slow
def test_it_is_trained_from_and_evaluated(tiny: Store, remote: Store, quick_file: Path, tmp_path: Path) -> None:
    runs = []
    for store, name in ((remote, "there"), (tiny, "here")):
        run = Run(tmp_path / name)
        words = ["train", str(store.directory), "--recipe", str(quick_file), "--run", str(run.path), "--epochs", "1"]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        runs.append(run)
    for one, other in zip(*(run.model().get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(one, other)
    said = CliRunner().invoke(main, ["evaluate", str(tmp_path / "there"), str(remote.directory), "--json"])
    assert json.loads(said.stdout)["store"] == str(remote.directory)


def test_a_server_that_is_gone_is_a_sentence(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from melzarr.pipeline.storage import obstore_client

    monkeypatch.setitem(obstore_client.PATIENCE, "soon", (2, 5))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    obstore_client.open_service.cache_clear()
    with pytest.raises(StorageError, match=r"tiny\.zarr/.*the server does not answer"):
        list(tracks(remote, select(remote, "test")))
