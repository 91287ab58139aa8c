"""Intervals: they hold the true figure as often as they say, also of few tracks, and take no memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.stats

pytest.importorskip("sklearn", reason="the training extra is not installed")

from melzarr.model import intervals
from melzarr.model.intervals import interval_of_macro_f1, interval_of_windows, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (10, 10), (0, 15), (14, 15), (29, 30), (620, 1000)])
def test_that_of_tracks_is_wilsons(right: int, n: int) -> None:
    expected = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_answers_that_are_all_right_are_not_sure_to_be() -> None:
    true, sizes = np.arange(10) % 2, np.full(10, 599)
    for low, high in (
        wilson(10, 10),
        interval_of_windows(sizes, sizes, np.arange(10), 0),
        interval_of_macro_f1(true, true, np.arange(10), 0),
    ):
        assert 0.6 < low < 0.9
        assert high > 0.99


@pytest.mark.parametrize(("n", "share", "alike"), [(15, 0.9, 0.6), (30, 0.97, 0.2)])
def test_that_of_windows_holds_the_true_share_as_often_as_it_says(
    n: int, share: float, alike: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 300)
    rng, sizes, held = np.random.default_rng(0), np.full(n, 599), 0
    for seed in range(100):  # of 100 cases 90 or more hold it with a probability of 0.99, if 95 % do
        of_tracks = rng.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), n)
        low, high = interval_of_windows(rng.binomial(sizes, of_tracks), sizes, np.arange(n), seed)
        held += low <= share <= high
    assert held >= 90


@pytest.mark.parametrize(("n_classes", "n_each", "share"), [(3, 5, 0.9), (2, 8, 0.97)])
def test_that_of_macro_f1_holds_the_true_one_nearly_as_often(
    n_classes: int, n_each: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 300)
    rng, held, true = np.random.default_rng(0), 0, np.repeat(np.arange(n_classes), n_each)
    for seed in range(100):
        other = (true + rng.integers(1, n_classes, len(true))) % n_classes
        found = np.where(rng.random(len(true)) < share, true, other)
        low, high = interval_of_macro_f1(true, found, np.arange(len(true)), seed)
        held += low <= share <= high  # with answers as often right in each class, F1 is that share
    assert held >= 87


def test_tracks_of_one_group_count_as_one() -> None:
    rng, sizes = np.random.default_rng(0), np.full(40, 100)
    of_groups = rng.beta(4, 2, 8)
    right = rng.binomial(sizes, np.repeat(of_groups, 5))
    alone, together = (interval_of_windows(right, sizes, units, 0) for units in (np.arange(40), np.arange(40) // 5))
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_they_take_the_memory_of_the_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 400)
    n = 20_000
    true, sizes = np.arange(n) % 700, np.full(n, 599)
    tracemalloc.start()
    interval_of_windows(sizes // 2, sizes, np.arange(n), 0)
    interval_of_macro_f1(true, true[::-1].copy(), np.arange(n), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
