"""The summary of a track: counted by hand, from every scale, and for a track of one window."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import zarr

from melzarr.model.selection import select
from melzarr.model.track_summary import middle_frame, track_summaries, track_summary
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.features.decibels import as_stored
from melzarr.pipeline.zarr_store.readable_store import Reader
from melzarr.pipeline.zarr_store.reader import Store


def by_hand(levels: list[list[float]]) -> list[float]:
    """Mean, deviation and deviation of differences of each column, in plain Python."""

    def deviation(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return float((sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5)

    bands = list(map(list, zip(*levels, strict=True)))
    changes = [[after - before for before, after in pairwise(band)] for band in bands]
    means = [sum(band) / len(band) for band in bands]
    return [*means, *map(deviation, bands), *(deviation(change) if change else 0.0 for change in changes)]


@pytest.mark.parametrize("n_windows", [1, 2, 3, 50])
def test_it_is_the_mean_and_deviation_of_levels_and_of_their_differences(n_windows: int) -> None:
    levels = np.random.default_rng(n_windows).normal(-40, 12, (n_windows, 7)).astype(np.float32)
    found = track_summary(levels)
    assert (found.shape, found.dtype) == ((21,), np.float32)
    np.testing.assert_allclose(found, by_hand(levels.tolist()), rtol=1e-5, atol=1e-6)


def test_one_window_does_not_deviate() -> None:
    assert track_summary(np.full((1, 4), -30.0)).tolist() == [-30.0] * 4 + [0.0] * 8


def test_that_of_a_store_is_of_the_middle_frame_of_each_window(tiny: Store) -> None:
    numbers, told = select(tiny, "train").tracks, []
    found = track_summaries(tiny, numbers, told.append)
    assert middle_frame(tiny.spec.n_frames) == 2
    mel = zarr.open_array(tiny.directory.path / "mel", mode="r")
    for row, number in zip(found, numbers, strict=True):
        levels = 10 * np.log10(np.maximum(mel[int(number)][:, 2].astype(np.float64), 1e-10))
        np.testing.assert_allclose(row, by_hand(levels.tolist()), rtol=0, atol=2e-4)
    assert told == [1] * len(numbers)


def test_that_of_levels_that_are_stored_is_the_same(tiny: Store) -> None:
    spec = replace(tiny.spec, scale="db", dtype="float16")

    class Levels(Store):
        def reader(self) -> Reader:
            read = super().reader()

            def levels(number: int, out: np.ndarray) -> None:
                read(number, out)
                out[:] = as_stored(out, spec)

            return levels

    numbers = select(tiny, "train").tracks
    stored = Levels(**{field.name: getattr(tiny, field.name) for field in fields(tiny)} | {"spec": spec})
    # Half precision rounds a level of 100 dB to 1/32 dB.
    np.testing.assert_allclose(track_summaries(stored, numbers), track_summaries(tiny, numbers), rtol=0, atol=0.05)


def test_a_damaged_track_is_a_sentence(own_store: Store) -> None:
    number = int(np.flatnonzero(own_store.values("status") != "ok")[0])  # its windows are NaN
    with pytest.raises(StoreError, match=f"track {number} cannot be read"):
        track_summaries(own_store, np.array([number]))
