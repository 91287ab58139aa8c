"""Intervals: they hold the true figure as often as they say, also of few tracks, and take no memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.stats

pytest.importorskip("sklearn", reason="the training extra is not installed")

from melzarr.model import intervals
from melzarr.model.intervals import interval_of_difference, interval_of_macro_f1, interval_of_share, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (10, 10), (0, 15), (14, 15), (29, 30), (620, 1000)])
def test_that_of_tracks_is_wilsons(right: int, n: int) -> None:
    expected = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_answers_that_are_all_right_are_not_sure_to_be() -> None:
    true, sizes = np.arange(10) % 2, np.full(10, 599)
    for low, high in (
        wilson(10, 10),
        interval_of_share(sizes, sizes, np.arange(10), 0),
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
        low, high = interval_of_share(rng.binomial(sizes, of_tracks), sizes, np.arange(n), seed)
        held += low <= share <= high
    assert held >= 90


@pytest.mark.parametrize(("n_classes", "n_each", "share"), [(3, 5, 0.9), (2, 8, 0.97), (10, 3, 0.55), (10, 2, 0.55)])
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


def group_sizes(kind: str, n_groups: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "equal":
        return np.full(n_groups, 4)
    return np.maximum(1, rng.geometric(0.23, n_groups))  # of a mean of about four tracks


def shares_of_groups(share: float, alike: float, n_groups: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the share of right tracks of each group; `alike` is their intraclass correlation."""
    if alike in {0, 1}:
        return (rng.random(n_groups) < share).astype(float) if alike else np.full(n_groups, share)
    return rng.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), n_groups)


@pytest.mark.parametrize(("n_groups", "n_right"), [(10, 10), (20, 3), (44, 26)])
def test_groups_of_one_answer_each_count_as_that_many_independent_tracks(n_groups: int, n_right: int) -> None:
    right = np.repeat(np.arange(n_groups) < n_right, 5).astype(int)
    low, high = interval_of_share(right, np.ones_like(right), np.arange(right.size) // 5, 0)
    alone = interval_of_share(right[::5], np.ones(n_groups, int), np.arange(n_groups), 0)
    assert (low, high) == pytest.approx(alone, abs=1e-12)
    jeffreys = scipy.stats.beta(n_right + 0.5, n_groups - n_right + 0.5).ppf([0.025, 0.975])
    assert (low, high) == pytest.approx(jeffreys, abs=0.015)
    assert high - low == pytest.approx(wilson(n_right, n_groups)[1] - wilson(n_right, n_groups)[0], rel=0.25)


@pytest.mark.parametrize("kind", ["equal", "unequal"])
@pytest.mark.parametrize(("n_groups", "alike"), [(8, 0.5), (20, 0), (20, 0.5), (20, 1), (44, 0.5)])
def test_that_of_tracks_in_groups_holds_the_true_share_as_often_as_it_says(
    kind: str, n_groups: int, alike: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 300)
    rng, held, held_by_tracks, share = np.random.default_rng(0), 0, 0, 0.8
    for seed in range(100):
        units = np.repeat(np.arange(n_groups), group_sizes(kind, n_groups, rng))
        right = (rng.random(units.size) < shares_of_groups(share, alike, n_groups, rng)[units]).astype(int)
        low, high = interval_of_share(right, np.ones_like(right), units, seed)
        held += low <= share <= high
        low, high = wilson(int(right.sum()), right.size)
        held_by_tracks += low <= share <= high
    assert held >= 90  # as above
    assert held_by_tracks <= held - 5 or not alike  # as if the tracks were independent


@pytest.mark.parametrize(
    ("n_groups", "shares", "alike"), [(15, (0.6, 0.4), 0), (12, (0.7, 0.5), 1), (44, (0.6, 0.6), 0.4)]
)
def test_that_of_a_difference_holds_the_true_one_as_often_as_it_says(
    n_groups: int, shares: tuple[float, float], alike: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 300)
    rng, held = np.random.default_rng(0), 0
    for seed in range(100):
        units = np.repeat(np.arange(n_groups), group_sizes("unequal", n_groups, rng))
        draw, again = rng.random((2, units.size))
        again = np.where(rng.random(units.size) < 0.5, draw, again)  # models mostly fail on the same tracks
        of_groups = [shares_of_groups(share, alike, n_groups, rng) for share in shares]
        one, other = draw < of_groups[0][units], again < of_groups[1][units]
        low, high = interval_of_difference(one, other, units, seed)
        held += low <= shares[0] - shares[1] <= high
    assert held >= 90


def test_one_track_does_not_decide_which_model_is_ahead_but_many_do() -> None:
    units, neither = np.arange(40), np.zeros(40, bool)
    low, high = interval_of_difference(units < 1, neither, units, 0)
    assert low < 0 < high
    assert interval_of_difference(units < 8, neither, units, 0)[0] > 0
    low, high = interval_of_difference(units < 8, neither, units // 8, 0)  # all eight are of one group
    assert low < 0 < high


def test_a_difference_changes_its_sign_if_the_models_change_their_places() -> None:
    one, other = np.random.default_rng(0).random((2, 200)) < np.array([[0.6], [0.5]])
    low, high = interval_of_difference(one, other, np.arange(200) // 4, 0)
    swapped = interval_of_difference(other, one, np.arange(200) // 4, 0)
    assert (-high, -low) == pytest.approx(swapped, abs=0.015)


def test_that_of_macro_f1_is_wider_for_groups_whose_tracks_are_alike() -> None:
    units = np.arange(120) // 6
    true, right = units % 4, np.random.default_rng(0).random(20) < 0.7
    found = np.where(right[units], true, (true + 1) % 4)
    alone, together = (interval_of_macro_f1(true, found, units_, 0) for units_ in (np.arange(120), units))
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])  # the root of six is 2.4


def test_they_take_the_memory_of_the_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 400)
    n = 20_000
    true, sizes = np.arange(n) % 700, np.full(n, 599)
    tracemalloc.start()
    interval_of_share(sizes // 2, sizes, np.arange(n), 0)
    interval_of_macro_f1(true, true[::-1].copy(), np.arange(n), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
