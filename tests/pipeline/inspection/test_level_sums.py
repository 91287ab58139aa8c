"""Sums of levels: against numpy over everything at once, in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from melzarr.pipeline.features.decibels import as_stored, stored_levels
from melzarr.pipeline.inspection.level_sums import BLOCK, LevelSums
from melzarr.pipeline.spec import FeatureSpec

POWER = FeatureSpec(n_windows=3 * BLOCK + 1)


def tracks(spec: FeatureSpec, n: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    shape = (n, *spec.shape)
    return list(as_stored((10.0 ** random.uniform(-9, 2, shape)).astype(np.float32), spec))


@pytest.mark.parametrize("guess", [-40.0, 0.0, np.nan, np.inf])
@pytest.mark.parametrize("spec", [POWER, FeatureSpec(n_windows=40, scale="db", dtype="float16")])
def test_mean_and_deviation_are_those_of_all_levels(spec: FeatureSpec, guess: float) -> None:
    made = tracks(spec, 5)
    halves = [LevelSums(spec, np.full(spec.n_mels, guess)) for _ in range(2)]
    for number, mel in enumerate(made):
        halves[number % 2].add_windows(mel)
    halves[0].add(halves[1])
    levels = np.concatenate([stored_levels(mel, spec) for mel in made]).reshape(-1, spec.n_mels).astype(np.float64)
    mean_db, std_db = halves[0].statistics()
    assert halves[0].count == len(levels)
    # Each level is rounded by up to 4e-6 dB, and the sum of a block by 1e-6 of it; `verify` allows 1e-3 dB.
    np.testing.assert_allclose(mean_db, levels.mean(axis=0), rtol=0, atol=1e-4)
    np.testing.assert_allclose(std_db, levels.std(axis=0), rtol=0, atol=1e-4)


def test_of_nothing_they_are_not_known() -> None:
    sums = LevelSums(POWER, np.zeros(POWER.n_mels))
    sums.add_windows(np.empty((0, *POWER.shape[1:]), np.float32))
    assert np.isnan(sums.statistics()).all()
    assert sums.count == 0
