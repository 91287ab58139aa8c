"""Batches, training and evaluation of several stores as one equal those of one store with the same tracks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import melzarr
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.shard import shard_name


@pytest.fixture
def halves(tiny: Store, tmp_path: Path) -> list[Path]:
    """Two stores that together have the tracks of `tiny`."""
    found = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for path, tracks in zip(found, (range(7), range(7, 12)), strict=True):
        derive([TrackSelection(tiny, np.array(tracks))], path, tiny.attributes)
    return found


@pytest.mark.parametrize("memory", [None, 1])
def test_batches_are_those_of_one_store(tiny: Store, halves: list[Path], memory: int | None) -> None:
    one, several = (
        melzarr.windows(stores, "train", 10, seed=4, memory=memory)
        for stores in (melzarr.Store(tiny), melzarr.open(halves))
    )
    for _ in range(2):
        for expected, found in zip(one, several, strict=True):
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_training_and_evaluation_are_those_of_one_store(tiny: Store, halves: list[Path], tmp_path: Path) -> None:
    runs = [
        melzarr.train(stores, tmp_path / name, epochs=1, seed=2, progress=False)
        for stores, name in ((melzarr.Store(tiny), "one"), (halves, "several"))
    ]
    assert runs[0].metrics == runs[1].metrics
    assert runs[0].history[0]["loss"] == runs[1].history[0]["loss"]
    whole, joined = (runs[1].evaluate(stores, "valid", progress=False) for stores in (tiny.address, halves))
    for found in (whole, joined):
        assert {name: found[name] for name in runs[1].metrics["valid"]} == runs[1].metrics["valid"]
    assert joined["store"] == f"{halves[0]} + {halves[1]}"
    assert joined["protocol"] == runs[1].metrics["protocol"]
    assert whole["protocol"]["words"].startswith("the valid split of another store")


def test_a_damaged_track_is_named_by_its_own_store(halves: list[Path]) -> None:
    (halves[1] / shard_name(0)).write_bytes(b"")
    with pytest.raises(
        melzarr.MelzarrError, match=r"b\.zarr: track \d cannot be read .*see: melzarr verify .*b\.zarr$"
    ):
        list(melzarr.windows(halves, "train"))
