"""The loader, beside the plain numpy view of the store."""

import shutil
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr

tf = pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.model import loader  # noqa: E402
from melzarr.model.loader import Batches, Order, blocks, tracks  # noqa: E402
from melzarr.model.selection import Selection, label_names, select  # noqa: E402
from melzarr.pipeline.builder.plan import make_plan  # noqa: E402
from melzarr.pipeline.builder.run_build import build  # noqa: E402
from melzarr.pipeline.clusters.task_runner import InProcess  # noqa: E402
from melzarr.pipeline.errors import StoreError  # noqa: E402
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


def test_the_order_is_that_of_seed_and_epoch_whatever_the_threads_or_the_memory(
    finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "POOL", 3)
    selection = select(finished, "train")
    first = [epoch_of(windows(finished, selection, 7, seed=5, threads=n, memory=m))
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
    np.testing.assert_array_equal(epoch_of(windows(finished, selection, 7, seed=5, first_epoch=2))[0], epochs[2])


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


def test_windows_of_many_tracks_are_mixed_in_a_batch(finished: Store) -> None:
    _, y = next(iter(windows(finished, select(finished, "train"), 64)))
    assert len(set(y.numpy().tolist())) == 2


@pytest.mark.parametrize("batch_size", [1, 7, 60, 61, 10_000])
@pytest.mark.parametrize("pool", [1, 2, 64])
@pytest.mark.parametrize("block", [50, 1024])
def test_all_batches_but_the_last_are_whole(
    finished: Store, monkeypatch: pytest.MonkeyPatch, batch_size: int, pool: int, block: int
) -> None:
    monkeypatch.setattr(loader, "POOL", pool)
    monkeypatch.setattr(loader, "BLOCK", block)
    selection = select(finished, "train")
    dataset = windows(finished, selection, batch_size)
    sizes = [len(y) for _, y in dataset]
    assert len(sizes) == dataset.cardinality().numpy()
    assert sum(sizes) == selection.n_windows
    assert set(sizes[:-1]) <= {batch_size}
    assert 0 < sizes[-1] <= batch_size


def test_a_selection_of_single_windows_is_kept_to(finished: Store, plain) -> None:
    selection = select(finished, "train")
    selection.windows[:, ::2] = False
    x, _ = epoch_of(windows(finished, selection, 50))
    np.testing.assert_array_equal(in_order(x), in_order(plain["mel"][selection.tracks][:, 1::2].reshape(-1, 5, 128)))


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


def test_streaming_a_store_larger_than_its_memory_holds_two_pools(
    larger: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "POOL", 4)
    monkeypatch.setattr(loader, "BLOCK", 8)
    track_bytes = 60 * 5 * 128 * 4
    selection = select(larger, "train", np.full(larger.n_tracks, "train"))
    assert selection.tracks.size == 40
    source = loader._source(larger, selection, 10 * track_bytes, loader._readers(larger, 1))
    list(blocks(Order(selection, 0), source, 0))  # what is imported and kept at first use
    tracemalloc.start()
    n_windows = sum(len(y) for _, y in blocks(Order(selection, 0), source, 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_windows == 40 * 60
    # Two pools of four, and the track on its way through zarr: its shard's bytes, and its chunk decoded twice.
    assert peak < 14 * track_bytes


def test_it_says_whether_it_caches_or_streams(finished: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="melzarr.model.loader")
    windows(finished, select(finished, "train"), 8, memory=STREAMED)
    windows(finished, select(finished, "train"), 8, memory=CACHED)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["streaming", "cached"]


def test_an_epoch_that_is_left_early_leaves_no_reader_behind(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "BLOCK", 8)
    before = threading.active_count()
    for epoch in range(3):
        selection = select(finished, "train")
        source = loader._source(finished, selection, CACHED, loader._readers(finished, 1))
        generator = blocks(Order(selection, 0), source, epoch)
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
        assert len(found) == len(expected) == len(batches)
        for (x, y), (u, v) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)
            assert (x.dtype, y.dtype) == (np.float32, np.int32)
