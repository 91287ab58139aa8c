"""A receipt says the same after it was written and read; what is none is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.features.decibels import BLOCK_WINDOWS, sum_levels
from melzarr.pipeline.shard_receipt import STATUSES, BandSums, Receipt, TrackReceipt
from melzarr.pipeline.spec import FeatureSpec

UNKNOWN = TrackReceipt(status="failed", error="the file is empty (0 bytes)")
KNOWN = TrackReceipt(
    status="ok", n_windows=599, source_blake3="ab" * 32, source_rate=22050.0, source_channels=1.0, duration=30.01
)
RECEIPT = Receipt(
    index=3,
    key="k" * 64,
    blake3="5a" * 32,
    n_bytes=12_345,
    tracks=(KNOWN, UNKNOWN),
    sums=BandSums(count=2995, level=(-12.5, -1e-300), square=(156.25, 1.7e308)),
    seconds={"decode": 0.1, "mel": 0.2, "write": 0.3},
    reused=True,
    outdated="the spec has changed",
)
NUMBERS = st.floats(allow_infinity=False)
TRACKS = st.builds(
    TrackReceipt,
    status=st.sampled_from(STATUSES),
    error=st.text(max_size=20),
    n_windows=st.integers(0, 10_000),
    source_blake3=st.text("0123456789abcdef", max_size=64),
    source_rate=NUMBERS,
    source_channels=NUMBERS,
    duration=NUMBERS,
    peak=NUMBERS,
    clipped=NUMBERS,
)
RECEIPTS = st.builds(
    Receipt,
    index=st.integers(0, 10**6),
    key=st.text(max_size=64),
    blake3=st.text("0123456789abcdef", min_size=64, max_size=64),
    n_bytes=st.integers(0, 2**62),
    tracks=st.lists(TRACKS, max_size=3).map(tuple),
    sums=st.builds(
        BandSums,
        count=st.integers(0, 2**62),
        level=st.lists(NUMBERS, max_size=4).map(tuple),
        square=st.lists(NUMBERS, max_size=4).map(tuple),
    ),
    seconds=st.dictionaries(st.sampled_from(["decode", "mel", "write"]), NUMBERS),
    reused=st.booleans(),
    outdated=st.text(max_size=20),
)


@given(RECEIPTS)
def test_a_receipt_says_the_same_after_json(receipt: Receipt) -> None:
    # repr writes every digit of a float and, unlike ==, says that NaN is NaN.
    assert repr(Receipt.from_json(receipt.to_json())) == repr(receipt)


def test_what_is_unknown_is_still_nan_after_json() -> None:
    track = Receipt.from_json(RECEIPT.to_json()).tracks[1]
    assert all(math.isnan(value) for value in (track.source_rate, track.source_channels, track.duration))
    assert (track.status, track.error, track.n_windows) == ("failed", "the file is empty (0 bytes)", 0)


def test_failed_tracks_are_counted() -> None:
    assert RECEIPT.n_failed == 1
    tracks = tuple(TrackReceipt(status=status) for status in STATUSES)
    assert dataclasses.replace(RECEIPT, tracks=tracks * 2).n_failed == 2


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"no json", b"null", b"[]", b"3", b'"receipt"', b"{}", b"[" * 100_000, b'{"sums": {}}'],
    ids=["empty", "bytes", "text", "null", "list", "number", "string", "object", "deep", "part"],
)
def test_what_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Receipt.from_json(data)


@given(st.integers(0, len(RECEIPT.to_json()) - 1))
def test_a_receipt_that_was_cut_off_is_refused(n_bytes: int) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Receipt.from_json(RECEIPT.to_json()[:n_bytes])


@pytest.mark.parametrize(
    "other",
    [
        {"colour": "red"},
        {"tracks": None},
        {"tracks": 3},
        {"tracks": ["ok"]},
        {"tracks": [{"status": "ok", "colour": "red"}]},
        {"tracks": [{}]},
        {"sums": None},
        {"sums": {"count": 1, "level": [0.0]}},
        {"sums": {"count": 1, "level": 0.0, "square": [0.0]}},
    ],
)
def test_another_shape_is_refused(other: dict[str, Any]) -> None:
    fields = json.loads(RECEIPT.to_json())
    with pytest.raises(ValueError, match="not a receipt: "):
        Receipt.from_json(json.dumps(fields | other).encode())


@pytest.mark.parametrize("field", ["index", "key", "blake3", "n_bytes", "tracks", "sums"])
def test_a_field_that_is_lacking_is_named(field: str) -> None:
    fields = json.loads(RECEIPT.to_json())
    del fields[field]
    with pytest.raises(ValueError, match=f"not a receipt: .*'{field}'"):
        Receipt.from_json(json.dumps(fields).encode())


def test_the_sums_of_a_long_track_are_those_of_numpy() -> None:
    n_windows = 2 * BLOCK_WINDOWS + 3  # which are summed in three blocks
    windows = np.random.default_rng(0).lognormal(-3, 4, (n_windows, 5, 16)).astype(np.float32)
    levels = 10 * np.log10(np.maximum(windows.astype(np.float64), 1e-10)).reshape(-1, 16)
    sums = sum_levels(windows, FeatureSpec(n_mels=16, n_windows=n_windows))
    assert sums.count == len(levels)
    np.testing.assert_allclose(sums.level, levels.sum(axis=0), atol=1e-4 * len(levels))  # of each level, as documented
    np.testing.assert_allclose(sums.square, np.square(levels).sum(axis=0), rtol=1e-5)


def test_the_sums_are_the_same_bytes_on_every_processor() -> None:
    windows = np.random.default_rng(0).random((BLOCK_WINDOWS + 3, 5, 16))
    for _ in range(4):
        windows *= windows  # down to 1e-90, and only products, which are rounded alike everywhere
    sums = sum_levels((1000 * windows).astype(np.float32), FeatureSpec(n_mels=16, n_windows=len(windows)))
    digest = hashlib.sha256(repr(sums).encode()).hexdigest()
    assert digest == "e06f00685719f0a799bd8ffb7be8c6e91157f0f336ca3f38da9d4cb81dea5913"


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("scale", ["power", "db"])
def test_a_value_that_is_not_finite_shows_in_the_sums_of_its_band(scale: str, value: float) -> None:
    windows = np.ones((9, 5, 16), np.float32)
    windows[4, 2, 7] = value
    sums = sum_levels(windows, FeatureSpec(n_mels=16, n_windows=9, scale=scale))
    assert np.flatnonzero(~np.isfinite(sums.level)).tolist() == [7]
    assert np.flatnonzero(~np.isfinite(sums.square)).tolist() == [7]
