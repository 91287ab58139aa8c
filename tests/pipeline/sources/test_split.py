"""A split by hash: groups stay together, tracks stay where they are, and shares are met but for chance."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.sources.split import SPLITS, HashSplit

SHARES = st.tuples(st.floats(0, 0.49), st.floats(0, 0.49), st.integers(0, 99))
ROWS = st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.sampled_from("ABC"), min_size=1, max_size=20)


def parts_of(rows: dict[str, str], rule: HashSplit, folder: Any) -> dict[str, tuple[str, str]]:
    """Group and part of each track of a manifest."""
    manifest = folder / "tracks.csv"
    lines = [f"{name}.wav,{'even' if len(name) % 2 else 'odd'},{group}" for name, group in rows.items()]
    manifest.write_text("\n".join(["path,label,group", *lines]), encoding="utf-8")
    return {track.id: (track.group, track.split) for track in read_catalog(manifest, rule).tracks}


@given(rows=ROWS, shares=SHARES)
def test_a_group_is_never_separated(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, str], shares: tuple[float, float, int]
) -> None:
    rule = HashSplit(valid=shares[0], test=shares[1], seed=shares[2])
    parts: dict[str, set[str]] = {}
    for group, part in parts_of(rows, rule, tmp_path_factory.mktemp("split")).values():
        parts.setdefault(group, set()).add(part)
    assert all(len(its) == 1 for its in parts.values())


@given(before=ROWS, more=ROWS, shares=SHARES)
def test_adding_tracks_moves_no_other(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[str, str],
    more: dict[str, str],
    shares: tuple[float, float, int],
) -> None:
    rule = HashSplit(valid=shares[0], test=shares[1], seed=shares[2])
    folder = tmp_path_factory.mktemp("split")
    first = parts_of(before, rule, folder)
    assert parts_of(more | before, rule, folder).items() >= first.items()


@pytest.mark.parametrize("seed", [0, 1, 2017])
@pytest.mark.parametrize(("valid", "test"), [(0.15, 0.15), (0.1, 0.4), (0.0, 0.02), (0.5, 0.0)])
def test_the_shares_are_met_but_for_the_chance_of_the_draw(valid: float, test: float, seed: int) -> None:
    n = 10_000
    rule = HashSplit(valid=valid, test=test, seed=seed)
    counts = Counter(rule.part(f"blues/blues.{number:05d}") for number in range(n))
    for part, share in zip(SPLITS, (1 - valid - test, valid, test), strict=True):
        # The number in a part is binomial; beyond 4 standard deviations it is once in 16 000 draws.
        assert abs(counts[part] - n * share) <= 4 * (n * share * (1 - share)) ** 0.5


def test_another_seed_gives_another_split() -> None:
    groups = [f"jazz/jazz.{number:05d}" for number in range(1000)]
    first, second = ([HashSplit(seed=seed).part(group) for group in groups] for seed in (0, 1))
    # Two independent draws of 70, 15 and 15 % agree in 0.7² + 2 · 0.15² = 53.5 % of cases, give or take 1.6 %.
    agreement = sum(a == b for a, b in zip(first, second, strict=True)) / len(groups)
    assert agreement == pytest.approx(0.535, abs=4 * 0.016)


@pytest.mark.parametrize(
    ("seed", "group", "part"),
    [
        (0, "blues/blues.00000", "valid"),
        (0, "blues/blues.00001", "test"),
        (0, "blues/blues.00002", "train"),
        (0, "blues/blues.00003", "train"),
        (0, "jazz/jazz.00004", "test"),
        (0, "jazz/jazz.00005", "train"),
        (0, "日本/曲", "train"),
        (7, "blues/blues.00000", "train"),
        (7, "blues/blues.00003", "test"),
        (-1, "", "train"),
    ],
)
def test_the_hash_is_the_same_for_ever(seed: int, group: str, part: str) -> None:
    assert HashSplit(seed=seed).part(group) == part


def test_a_part_of_no_share_gets_nothing() -> None:
    assert {HashSplit(valid=0, test=0).part(str(number)) for number in range(1000)} == {"train"}


@pytest.mark.parametrize(
    ("valid", "test"), [(-0.1, 0.1), (0.1, -0.1), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (float("nan"), 0.1), (15, 15)]
)
def test_shares_that_leave_nothing_to_train_on_are_refused(valid: float, test: float) -> None:
    with pytest.raises(CatalogError, match=rf"valid={valid} and test={test} leave nothing to train on; use shares"):
        HashSplit(valid=valid, test=test)
