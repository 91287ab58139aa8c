"""A receipt table holds what the receipts say, in whatever order they came, and in bounded memory."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.builder.receipt_table import DiskColumn, ReceiptTable
from melzarr.pipeline.shard_receipt import STATUSES, BandSums, Receipt, TrackReceipt
from melzarr.pipeline.zarr_store.layout import statistics

FACTS = ("n_windows", "source_rate", "source_channels", "duration", "peak", "clipped", "start", "end")
N_MELS = 3
NUMBERS = st.floats(-1e9, 1e9) | st.just(float("nan"))
ENTRIES = st.builds(
    TrackReceipt,
    status=st.sampled_from(STATUSES),
    error=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    n_windows=st.integers(0, 10_000),
    source_blake3=st.sampled_from(["", "ab" * 32]),
    source_rate=NUMBERS,
    source_channels=NUMBERS,
    duration=NUMBERS,
    peak=NUMBERS,
    clipped=NUMBERS,
    start=NUMBERS,
    end=NUMBERS,
)
SUMS = st.lists(st.floats(-1e12, 1e12), min_size=N_MELS, max_size=N_MELS).map(tuple)


@st.composite
def builds(draw: st.DrawFn) -> tuple[int, int, list[Receipt]]:
    """Draw a number of tracks, tracks a shard, and a receipt for each shard."""
    n_tracks, step = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    receipts = [
        Receipt(
            index=index,
            key=f"{index:064x}",
            blake3=f"{index + 1:064x}",
            n_bytes=draw(st.integers(0, 2**62)),
            tracks=tuple(draw(ENTRIES) for _ in range(min(step, n_tracks - start))),
            sums=BandSums(count=draw(st.integers(0, 2**40)), level=draw(SUMS), square=draw(SUMS)),
            seconds={"mel": 0.25},
            reused=draw(st.booleans()),
            outdated=draw(st.sampled_from(["", "a has changed", "its bytes are not those that were written"])),
        )
        for index, start in enumerate(range(0, n_tracks, step))
    ]
    return n_tracks, step, receipts


@given(builds(), st.randoms(use_true_random=False))
def test_it_says_what_the_receipts_say_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, build: tuple[int, int, list[Receipt]], chance: random.Random
) -> None:
    n_tracks, step, receipts = build
    entries = [entry for receipt in receipts for entry in receipt.tracks]
    with ReceiptTable(n_tracks, step, N_MELS, tmp_path_factory.getbasetemp()) as receipt_table:
        for receipt in chance.sample(receipts, len(receipts)):
            receipt_table.add(receipt)
        for name in ("status", "source_blake3"):
            assert receipt_table.tracks[name][:].astype(str).tolist() == [getattr(entry, name) for entry in entries]
        assert receipt_table.error.tolist() == [entry.error for entry in entries]
        for name in FACTS:
            np.testing.assert_array_equal(receipt_table.tracks[name][:], [getattr(entry, name) for entry in entries])
        for name in ("key", "blake3", "n_bytes"):
            assert receipt_table.shards[name].tolist() == [getattr(receipt, name) for receipt in receipts]
        assert receipt_table.shards["count"].tolist() == [receipt.sums.count for receipt in receipts]
        for name in ("level", "square"):
            np.testing.assert_array_equal(
                receipt_table.sums[name][:], [getattr(receipt.sums, name) for receipt in receipts]
            )
        assert receipt_table.statuses() == Counter(entry.status for entry in entries)
        assert receipt_table.troubled().tolist() == [n for n, entry in enumerate(entries) if entry.status != "ok"]
        assert receipt_table.outdated() == tuple(receipt.outdated for receipt in receipts if receipt.outdated)
        assert (receipt_table.n_seen, receipt_table.n_failed) == (
            n_tracks,
            sum(receipt.n_failed for receipt in receipts),
        )
        assert receipt_table.n_reused == sum(len(receipt.tracks) for receipt in receipts if receipt.reused)
        assert receipt_table.seconds["mel"] == 0.25 * sum(not receipt.reused for receipt in receipts)


@given(st.lists(SUMS, min_size=1, max_size=20), st.integers(1, 2**40))
def test_statistics_are_those_of_the_sums_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, levels: list[tuple[float, ...]], count: int
) -> None:
    level, square = np.array(levels), np.abs(np.array(levels)) * 1e3
    spilled = [DiskColumn(tmp_path_factory.getbasetemp(), level.shape, np.float64) for _ in range(2)]
    spilled[0][:], spilled[1][:] = level, square
    found = statistics(count, *spilled)
    mean = sum(level, np.zeros(N_MELS)) / count
    expected = mean, np.sqrt(np.maximum(sum(square, np.zeros(N_MELS)) / count - mean**2, 0.0))
    assert [values.tobytes() for values in found] == [values.tobytes() for values in expected]  # to the last bit
    for column in spilled:
        column.close()


def test_without_frames_there_are_no_statistics() -> None:
    assert np.isnan(statistics(0, np.zeros((2, N_MELS)), np.zeros((2, N_MELS)))).all()


def test_what_has_not_come_is_known_by_its_size(tmp_path: Path) -> None:
    with ReceiptTable(5, 2, N_MELS, tmp_path) as receipt_table:
        receipt_table.add(next(receipts(1, 2, start=1)))
        assert receipt_table.shards["n_bytes"].tolist() == [-1, 25, -1]
        assert receipt_table.troubled().tolist() == [3]
        assert list(tmp_path.iterdir()) == []  # what is spilled has no name, so a kill leaves nothing


@pytest.mark.parametrize("n_tracks", [1, 3])
def test_a_receipt_of_another_number_of_tracks_is_refused(tmp_path: Path, n_tracks: int) -> None:
    with (
        ReceiptTable(10, 2, N_MELS, tmp_path) as receipt_table,
        pytest.raises(ValueError, match=rf"for {n_tracks} tracks, not for 2"),
    ):
        receipt_table.add(next(receipts(1, n_tracks)))


def test_sums_of_another_number_of_bands_are_refused(tmp_path: Path) -> None:
    with ReceiptTable(10, 2, N_MELS + 1, tmp_path) as receipt_table, pytest.raises(ValueError, match="reshape"):
        receipt_table.add(next(receipts(1, 2)))


def receipts(n: int, n_tracks: int, start: int = 0, n_mels: int = N_MELS) -> Iterator[Receipt]:
    """Make receipts as workers send them, with strings and numbers of their own; the last track of each is short."""
    for index in range(start, start + n):
        ok, short = (
            {"status": status, "n_windows": 599, "duration": 30.0 + index, "source_blake3": f"{index:064x}"}
            for status in ("ok", "short")
        )
        entries = [TrackReceipt(**ok) for _ in range(n_tracks - 1)]
        entries.append(TrackReceipt(**short, error=f"{index:04d} is too short by far, as one in so many is"))
        level = tuple(float(index + band) for band in range(n_mels))
        sums = BandSums(count=2995, level=level, square=level)
        yield Receipt(index=index, key="k" * 64, blake3=f"{index:064x}", n_bytes=25, tracks=tuple(entries), sums=sums)


def test_it_takes_a_bounded_number_of_bytes_a_track(tmp_path: Path) -> None:
    n_shards, step = 1000, 16
    gc.collect()
    tracemalloc.start()
    try:
        with ReceiptTable(n_shards * step, step, 128, tmp_path) as receipt_table:
            for receipt in receipts(n_shards, step, n_mels=128):
                receipt_table.add(receipt)
            del receipt
            held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A track: status, number of windows, three numbers, an error's cell. A shard: its size, the count, key, digest, and
    # the one sentence that is too long for its cell; the place for texts grows ahead of them.
    track = 6 + 4 + 3 * 8 + 16
    shard = 2 * 8 + 2 * (16 + 2 * (64 + 8)) + 2 * (46 + 8)
    assert held <= n_shards * (step * track + shard) + 2**16
    assert peak <= held + 2**18  # one receipt at a time
