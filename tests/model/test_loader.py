"""The loader, beside the plain numpy view of the store."""

import json
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

tf = pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.model import loader, window_order  # noqa: E402
from melzarr.model.loader import Batches, tracks  # noqa: E402
from melzarr.model.selection import Selection, label_names, select  # noqa: E402
from melzarr.model.track_memory import TrackMemory  # noqa: E402
from melzarr.model.window_order import Order  # noqa: E402
from melzarr.model.window_pools import pools  # noqa: E402
from melzarr.pipeline.builder.plan import make_plan  # noqa: E402
from melzarr.pipeline.builder.run_build import build  # noqa: E402
from melzarr.pipeline.clusters.task_runner import InProcess  # noqa: E402
from melzarr.pipeline.errors import CallError, StoreError  # noqa: E402
from melzarr.pipeline.sources.catalog import read_catalog  # noqa: E402
from melzarr.pipeline.spec import FeatureSpec  # noqa: E402
from melzarr.pipeline.versions import versions  # noqa: E402
from melzarr.pipeline.zarr_store.reader import Store, open_store  # noqa: E402

Epoch = tuple[np.ndarray, np.ndarray]


def windows(*arguments: object, **options: object) -> tf.data.Dataset:
    """Batches as TensorFlow takes them."""
    return Batches(*arguments, **options).tf()


@pytest.fixture(scope="module")
def plain(finished: Store) -> dict[str, np.ndarray]:
    """The store as plain zarr gives it."""
    group = zarr.open_group(finished.directory.path, mode="r")
    return {name: np.asarray(group[name][...]) for name in ("mel", "label", "split", "status", "n_windows")}


@pytest.fixture(scope="module")
def parts(finished: Store) -> np.ndarray:
    """A part for each track, so that none is without."""
    return np.array(["train", "train", "valid", "test"] * (finished.n_tracks // 4))


def epoch_of(dataset: tf.data.Dataset) -> Epoch:
    """All windows and classes of the next epoch."""
    parts = [(x.numpy(), y.numpy()) for x, y in dataset]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def in_order(rows: np.ndarray) -> np.ndarray:
    """Windows in an order that depends on their values alone."""
    flat = rows.reshape(len(rows), -1)
    return flat[np.lexsort(flat.T[::-1])]


def assert_same(found: Iterable[Epoch], expected: Iterable[Epoch]) -> None:
    """Require the same batches in the same order."""
    for (x, y), (u, v) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


STREAMED, CACHED = 0, 1 << 30


@pytest.mark.parametrize("memory", [STREAMED, CACHED])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_each_valid_window_of_a_part_comes_once_an_epoch_with_its_class(
    finished: Store, plain: dict[str, np.ndarray], parts: np.ndarray, split: str, memory: int
) -> None:
    chosen = (parts == split) & (plain["status"] == "ok")
    x, y = epoch_of(windows(finished, select(finished, split, parts), 7, memory=memory))
    np.testing.assert_array_equal(in_order(x), in_order(plain["mel"][chosen].reshape(-1, 5, 128)))
    names = label_names(finished)
    for name in names:
        expected = plain["mel"][chosen & (plain["label"] == name)].reshape(-1, 5, 128)
        np.testing.assert_array_equal(in_order(x[y == names.index(name)]), in_order(expected))


def test_no_window_of_a_short_silent_or_failed_track_and_nothing_invalid_comes(
    finished: Store, plain: dict[str, np.ndarray]
) -> None:
    everything = np.full(finished.n_tracks, "train")
    selection = select(finished, "train", everything)
    assert plain["status"][selection.tracks].tolist() == ["ok"] * 9
    x, _ = epoch_of(windows(finished, selection, 50))
    assert np.isfinite(x).all()
    assert len(x) == 9 * 60


def test_no_window_of_another_part_comes(finished: Store, parts: np.ndarray) -> None:
    seen = {part: {row.tobytes() for row in epoch_of(windows(finished, select(finished, part, parts), 50))[0]}
            for part in ("train", "valid", "test")}  # fmt: skip
    assert not seen["train"] & seen["valid"]
    assert not seen["train"] & seen["test"]


@pytest.mark.parametrize("windows_per_track", [None, 20])
def test_the_order_is_that_of_seed_and_epoch_whatever_the_threads_or_the_memory(
    finished: Store, monkeypatch: pytest.MonkeyPatch, windows_per_track: int | None
) -> None:
    monkeypatch.setattr(window_order, "POOL", 1 if windows_per_track else 3)
    selection = select(finished, "train")
    first = [epoch_of(windows(finished, selection, 7, seed=5, threads=n, memory=m, windows_per_track=windows_per_track))
             for n, m in ((1, STREAMED), (4, STREAMED), (1, CACHED), (4, CACHED))]  # fmt: skip
    for x, y in first[1:]:
        np.testing.assert_array_equal(x, first[0][0])
        np.testing.assert_array_equal(y, first[0][1])


def test_epochs_and_seeds_differ_and_a_later_epoch_can_be_the_first(finished: Store) -> None:
    selection = select(finished, "train")
    dataset = windows(finished, selection, 7, seed=5)
    epochs = [epoch_of(dataset)[0] for _ in range(3)]
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], epoch_of(windows(finished, selection, 7, seed=6))[0])
    np.testing.assert_array_equal(epoch_of(windows(finished, selection, 7, seed=5, epoch=2))[0], epochs[2])


def test_no_epoch_no_pool_and_no_seed_has_the_order_of_another() -> None:
    selection = Selection(np.arange(40), np.zeros(40, np.int32), np.ones((40, 30), bool))
    orders = {(seed, epoch): Order(selection, seed) for seed in (0, 1, 7, 2**32 - 1) for epoch in range(4)}
    pools = [order.pools(epoch)[0].tobytes() for (_, epoch), order in orders.items()]
    one = np.array([0])
    mixed = [order.windows(epoch, n, one).tobytes() for (_, epoch), order in orders.items() for n in range(4)]
    assert (len(set(pools)), len(set(mixed))) == (16, 64)


@pytest.mark.parametrize("memory", [STREAMED, CACHED])
def test_some_windows_of_each_track_are_drawn_anew_each_epoch(finished: Store, plain, memory: int) -> None:
    selection = select(finished, "train")
    dataset = windows(finished, selection, 16, windows_per_track=10, memory=memory)
    place = {plain["mel"][track, window].tobytes(): (track, window)
             for track in selection.tracks for window in range(60)}  # fmt: skip
    drawn = [sorted(place[row.tobytes()] for row in epoch_of(dataset)[0]) for _ in range(2)]
    for pairs in drawn:
        assert len(set(pairs)) == len(pairs) == 10 * selection.tracks.size
        assert np.unique([track for track, _ in pairs], return_counts=True)[1].tolist() == [10] * selection.tracks.size
    assert drawn[0] != drawn[1]


def test_a_pool_has_more_tracks_if_few_windows_of_each_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_order, "POOL", 2)
    selection = Selection(np.arange(40), np.zeros(40, np.int32), np.ones((40, 30), bool))
    whole, some = Order(selection, 0), Order(selection, 0, windows_per_track=4)
    assert [pool.size for pool in whole.pools(0)] == [2] * 20
    assert [pool.size for pool in some.pools(0)] == [15, 15, 10]
    first = some.windows(0, 0, some.pools(0)[0])
    assert len(set(first[:20, 0].tolist())) > 8  # 20 draws of 15 tracks: 11.2 differ on average


def test_windows_of_many_tracks_are_mixed_in_a_batch(finished: Store) -> None:
    _, y = next(iter(windows(finished, select(finished, "train"), 64)))
    assert len(set(y.numpy().tolist())) == 2


@pytest.mark.parametrize("batch_size", [1, 7, 60, 61, 10_000])
@pytest.mark.parametrize("pool", [1, 2, 64])
def test_all_batches_but_the_last_are_whole(
    finished: Store, monkeypatch: pytest.MonkeyPatch, batch_size: int, pool: int
) -> None:
    monkeypatch.setattr(window_order, "POOL", pool)
    selection = select(finished, "train")
    dataset = windows(finished, selection, batch_size)
    sizes = [len(y) for _, y in dataset]
    assert len(sizes) == dataset.cardinality().numpy()
    assert sum(sizes) == selection.n_windows
    assert set(sizes[:-1]) <= {batch_size}
    assert 0 < sizes[-1] <= batch_size


def test_a_selection_of_single_windows_is_kept_to(finished: Store, plain) -> None:
    selection = select(finished, "train")
    selection = replace(selection, windows=selection.windows & (np.arange(selection.windows.shape[1]) % 2 == 1))
    x, _ = epoch_of(windows(finished, selection, 50))
    np.testing.assert_array_equal(in_order(x), in_order(plain["mel"][selection.tracks][:, 1::2].reshape(-1, 5, 128)))


@pytest.mark.parametrize("windows_per_track", [None, 20])
def test_tracks_of_unequal_numbers_of_windows_are_streamed_as_from_memory(
    finished: Store, monkeypatch: pytest.MonkeyPatch, windows_per_track: int | None
) -> None:
    monkeypatch.setattr(window_order, "POOL", 1)
    everything = select(finished, "train")
    starts = 5 * np.arange(everything.tracks.size)
    selection = replace(everything, windows=np.arange(everything.windows.shape[1]) >= starts[:, None])
    streamed, cached = (
        Batches(finished, selection, 7, seed=3, memory=memory, windows_per_track=windows_per_track)
        for memory in (STREAMED, CACHED)
    )
    for _ in range(6):  # epochs, each with other pools
        assert_same(streamed, cached)


@pytest.fixture
def larger(music: Path, tmp_path: Path) -> Store:
    """A store of forty tracks."""
    for copy in range(10):
        for number in range(4):
            folder = tmp_path / f"music/{copy}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(music / f"drums/drums.0000{(0, 1, 3, 5)[number]}.wav", folder / f"{number}.wav")
    catalog = read_catalog(tmp_path / "music")
    plan = make_plan(FeatureSpec(n_windows=60), catalog.tracks, versions(), 1)
    build(plan, catalog, tmp_path / "larger.zarr", InProcess())
    return open_store(tmp_path / "larger.zarr")


@pytest.mark.parametrize("windows_per_track", [60, 6])
def test_streaming_a_store_larger_than_its_memory_holds_two_pools(
    larger: Store, monkeypatch: pytest.MonkeyPatch, windows_per_track: int
) -> None:
    monkeypatch.setattr(window_order, "POOL", 4)
    track_bytes = 60 * 5 * 128 * 4
    selection = select(larger, "train", np.full(larger.n_tracks, "train"))
    assert selection.tracks.size == 40
    options: dict[str, Any] = {"windows_per_track": windows_per_track, "memory": 10 * track_bytes, "threads": 1}
    batches = Batches(larger, selection, 8, **options)
    next(iter(Batches(larger, selection, 8, **options)))  # what is imported and kept at first use
    tracemalloc.start()
    n_windows = sum(len(y) for _ in range(2) for _, y in batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_windows == 2 * 40 * windows_per_track
    # Two pools of four, and the track on its way through zarr: its shard's bytes, and its chunk decoded twice.
    assert peak < 14 * track_bytes


def test_it_says_whether_it_caches_or_streams(finished: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="melzarr.model.track_memory")
    for memory in (STREAMED, CACHED):
        Batches(finished, select(finished, "train"), 8, memory=memory).tf()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["streaming", "cached"]


def test_an_epoch_that_is_left_early_leaves_no_reader_behind(finished: Store) -> None:
    before = threading.active_count()
    for epoch in range(3):
        selection = select(finished, "train")
        generator = pools(Order(selection, 0), TrackMemory(finished, selection, CACHED, 1, 7), epoch, 8)
        next(generator)
        generator.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
    assert threading.active_count() <= before + 3


def test_whole_tracks_come_in_order_for_evaluation(finished: Store, plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "READ_AHEAD", 2)
    names = label_names(finished)
    selection = select(finished, "train")
    seen = list(tracks(finished, selection, threads=3))
    assert [number for number, _, _ in seen] == selection.tracks.tolist()
    for number, rows, label in seen:
        np.testing.assert_array_equal(rows, plain["mel"][number])
        assert names[label] == plain["label"][number]


def test_a_part_without_tracks_is_a_sentence(finished: Store) -> None:
    with pytest.raises(StoreError, match=r"no ok track in the split 'dev'; it has .*train"):
        select(finished, "dev")


def test_decibels_in_float16_come_as_float32(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music, scale="db", dtype="float16")
    build(plan, catalog, tmp_path / "db.zarr", InProcess())
    store = open_store(tmp_path / "db.zarr")
    x, _ = epoch_of(windows(store, select(store, "train"), 50))
    assert x.dtype == np.float32
    assert np.isfinite(x).all()


@pytest.mark.parametrize("memory", [CACHED, STREAMED])
@pytest.mark.parametrize("batch_size", [7, 64, 5000])
def test_batches_of_numpy_are_those_of_tensorflow(finished: Store, batch_size: int, memory: int) -> None:
    selection = select(finished, "train")
    batches = Batches(finished, selection, batch_size, seed=5, memory=memory)
    dataset = Batches(finished, selection, batch_size, seed=5, memory=memory).tf()
    for _ in range(2):  # epochs
        found, expected = list(batches), [(x.numpy(), y.numpy()) for x, y in dataset]
        assert len(found) == len(batches)
        assert_same(found, expected)
        assert {(x.dtype, y.dtype) for x, y in found} == {(np.dtype(np.float32), np.dtype(np.int32))}


@pytest.mark.parametrize("memory", [CACHED, STREAMED])
@pytest.mark.parametrize("batch_size", [7, 64, 200])
def test_a_state_in_the_middle_of_an_epoch_gives_its_rest(
    finished: Store, monkeypatch: pytest.MonkeyPatch, batch_size: int, memory: int
) -> None:
    monkeypatch.setattr(window_order, "POOL", 2)
    selection = select(finished, "train")

    def batches() -> Batches:
        return Batches(finished, selection, batch_size, seed=5, epoch=3, memory=memory)

    whole, n = list(batches()), len(batches())
    following = list(Batches(finished, selection, batch_size, seed=5, epoch=4))
    for n_done in (0, 1, n // 2, n - 1, n):
        begun = batches()
        for _ in zip(range(n_done), begun):  # noqa: B905  (zip ends with the range, before another batch is taken)
            pass
        state = json.loads(json.dumps(begun.state_dict()))
        other = Batches(finished, selection, batch_size, seed=5, memory=memory)
        other.load_state_dict(state)
        rest = list(other)
        assert len(rest) == n - n_done
        assert_same(rest, whole[n_done:])
        assert_same(other, following)  # the next epoch


def test_an_iteration_after_one_that_was_left_early_is_the_next_epoch(finished: Store) -> None:
    batches = Batches(finished, select(finished, "train"), 7, seed=5)
    next(iter(batches))
    assert batches.state_dict() == {"epoch": 0, "batch": 1}
    np.testing.assert_array_equal(
        next(iter(batches))[0], next(iter(Batches(finished, select(finished, "train"), 7, seed=5, epoch=1)))[0]
    )
    assert batches.state_dict() == {"epoch": 1, "batch": 1}


@pytest.mark.parametrize("memory", [CACHED, STREAMED])
@pytest.mark.parametrize("n_ranks", [2, 3, 7])
def test_ranks_have_different_windows_that_together_are_the_epoch(
    finished: Store, monkeypatch: pytest.MonkeyPatch, n_ranks: int, memory: int
) -> None:
    monkeypatch.setattr(window_order, "POOL", 2)
    selection = select(finished, "train")
    seen = []
    for rank in range(n_ranks):
        batches = Batches(finished, selection, 16, seed=5, rank=rank, n_ranks=n_ranks, memory=memory)
        n_batches = len(batches)
        found = list(batches)
        assert len(found) == n_batches
        seen += [x for x, _ in found]
        tensors = list(Batches(finished, selection, 16, seed=5, rank=rank, n_ranks=n_ranks, memory=memory).tf())
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), np.concatenate([x for x, _ in tensors]))
    whole = np.concatenate([x for x, _ in Batches(finished, selection, 16, seed=5)])
    np.testing.assert_array_equal(in_order(np.concatenate(seen)), in_order(whole))


def test_more_ranks_than_tracks_leave_some_without_batches(finished: Store) -> None:
    selection = select(finished, "train")
    n_ranks = selection.tracks.size + 1
    batches = Batches(finished, selection, 16, rank=n_ranks - 1, n_ranks=n_ranks)
    assert (len(batches), list(batches)) == (0, [])


def test_balanced_weights_draw_classes_alike(finished: Store) -> None:
    everything = select(finished, "train", np.full(finished.n_tracks, "train"))
    few = np.flatnonzero(everything.labels == 0)[:2]
    selection = everything.take(np.concatenate([few, np.flatnonzero(everything.labels == 1)]))
    assert np.bincount(selection.labels)[0] * 2 <= np.bincount(selection.labels)[1]
    batches = Batches(finished, selection, 16, weights="balanced")
    epochs = [list(batches) for _ in range(2)]
    for epoch in epochs:
        counts = np.bincount(np.concatenate([y for _, y in epoch]))
        assert counts[0] == counts[1]
        assert sum(counts) == sum(len(y) for _, y in epoch)
    assert len(epochs[0]) == len(batches) == Batches(finished, selection, 16, weights="balanced").tf().cardinality()


def test_balanced_weights_give_each_track_the_same_number_of_windows() -> None:
    windows = np.arange(10) < np.arange(4, 10)[:, None]  # 4 to 9 of 10
    selection = Selection(np.arange(6), np.array([0, 0, 0, 0, 1, 2], np.int32), windows)
    order = Order(selection, 0, balanced=True)
    pairs = order.windows(0, 0, order.pools(0)[0])
    assert np.unique(pairs[:, 0], return_counts=True)[1].tolist() == [4] * 6
    assert order.n_windows(0) == len(pairs) == 24


def test_memory_of_batches_is_used_again_once_nobody_refers_to_it(finished: Store) -> None:
    batches = Batches(finished, select(finished, "train"), 7)
    places = {x.ctypes.data for x, _ in batches}
    assert len(places) <= 2
    kept = [x[1:2] for x, _ in batches]  # a part of a batch also keeps its memory
    assert len({x.ctypes.data for x in kept}) == len(kept)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"weights": "even"}, "weights='even' is not known"), ({"rank": 2, "n_ranks": 2}, "rank=2 is not one of the 2"),
     ({"batch_size": 0}, "batch_size=0 is too small")],
)  # fmt: skip
def test_arguments_out_of_range_are_a_sentence(finished: Store, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(CallError, match=said):
        Batches(finished, select(finished, "train"), **{"batch_size": 7, **wrong})


def test_numpy_batches_load_neither_tensorflow_nor_torch(finished: Store) -> None:
    said = "print(sorted({'tensorflow', 'torch'} & {*sys.modules}))"
    script = f"import sys, melzarr; next(iter(melzarr.windows(sys.argv[1]))); {said}"
    command = [sys.executable, "-c", script, str(finished.directory)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
