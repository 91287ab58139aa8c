"""The loader beside other ways to feed a network with the same windows, and training from each.

    python tests/benchmarks/bench_loader.py demo.zarr

Every round takes each way once, in turn, so that a slow moment of the machine falls on all of them; what is printed is
the median of the rounds. Before anything is timed, all ways are seen to give the same windows. What is not installed is
left out; `pip install torch annbatch zarrs xbatcher` to have it measured too.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import zarr
from suite import Goal, Result, Table, at_least, json_option

from melzarr.model.tensorflow_setup import load_tensorflow

load_tensorflow()

import keras  # noqa: E402  (after TensorFlow has been quieted)
import tensorflow as tf  # noqa: E402

from melzarr.model.loader import Batches  # noqa: E402
from melzarr.model.network import network  # noqa: E402
from melzarr.model.selection import Selection, select  # noqa: E402
from melzarr.pipeline.zarr_store.reader import Store, open_store  # noqa: E402

BATCH = 128
TRACKS = 128  # 76,672 windows of the default spec: 196 MB
TRAINED = 300  # batches of a training round: one pool, so that the first read does not weigh too much
CACHED, STREAMED = "melzarr, cached", "melzarr, streamed from the store"
MEMORY = "in memory: from_tensor_slices, shuffle(all), batch"
NUMPY, NUMPY_STREAMED = "melzarr, numpy, cached", "melzarr, numpy, streamed from the store"
TORCH, TENSORS = "melzarr, PyTorch, cached", "in memory: PyTorch's DataLoader over a TensorDataset"
LABELS = "tf.data of ready batches of labels, without windows"
ANNBATCH = "annbatch with zarrs, streamed from the same windows"
ANNBATCH_CHUNK = 600  # windows, so that a pool of 64 chunks has whole batches
XBATCHER_TRACKS = 8  # xbatcher selects a batch at a time through xarray, which takes long

Feed = tf.data.Dataset


def feeds(store: Store, chosen: Selection, folder: Path) -> dict[str, Feed]:
    """Make every way to the same windows, by name."""
    x = np.concatenate([store.mel[int(track)] for track in chosen.tracks])
    y = np.repeat(chosen.labels, store.spec.n_windows)
    memory = Feed.from_tensor_slices((x, y))
    return {
        CACHED: Batches(store, chosen, BATCH).tf(),
        STREAMED: Batches(store, chosen, BATCH, memory=1).tf(),
        MEMORY: memory.shuffle(len(x)).batch(BATCH),
        "in memory: from_tensor_slices, shuffle(4096), batch": memory.shuffle(4096).batch(BATCH),
        "TFRecord, one window per record: shuffle(4096), batch, parse": tfrecords(x, y, folder / "windows.tfrecord"),
    }


def labels_alone(y: np.ndarray) -> Feed:
    """Make batches that take nothing but handing them to Python."""
    batches = y[: len(y) // BATCH * BATCH].reshape(-1, BATCH)
    return Feed.from_tensor_slices((batches, batches))


def tfrecords(x: np.ndarray, y: np.ndarray, path: Path) -> Feed:
    """Write windows as TFRecords, and read them back as its guide recommends: batches are parsed at once."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for window, label in zip(x, y, strict=True):
            values = {
                "window": tf.train.Feature(bytes_list=tf.train.BytesList(value=[window.tobytes()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())
    layout = {"window": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(records, layout)
        flat = tf.io.decode_raw(parsed["window"], tf.float32)
        return tf.reshape(flat, (-1, *x.shape[1:])), tf.cast(parsed["label"], tf.int32)

    read = Feed.from_tensor_slices([str(path)]).interleave(tf.data.TFRecordDataset)
    return read.shuffle(4096).batch(BATCH).map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def checksum(feed: Feed) -> tuple[int, float]:
    """Count the windows of an epoch, and add up their values and classes in an order that does not matter."""
    n, total = 0, 0.0
    for x, y in feed:
        n += len(y)
        total += float(np.asarray(x, np.float64).sum()) + float(np.asarray(y).sum())
    return n, total


@tf.function
def count(feed: Feed) -> tf.Tensor:
    """Count the windows of an epoch, within TensorFlow as training does: to hand a batch to Python takes 0.3 ms."""
    n = tf.constant(0)
    for _, y in feed:
        n += tf.shape(y)[0]
    return n


def epoch_rate(feed: Feed) -> float:
    """Windows/s of one epoch that is only read."""
    start = time.perf_counter()
    n = int(count(feed))
    return n / (time.perf_counter() - start)


def python_rate(feed: Iterable[Sequence[Any]]) -> float:
    """Windows/s of one epoch that Python takes batch by batch."""
    start = time.perf_counter()
    n = sum(len(batch[0]) for batch in feed)
    return n / (time.perf_counter() - start)


def torch_feeds(store: Store, chosen: Selection, x: np.ndarray, y: np.ndarray) -> dict[str, Iterable[Any]]:
    """Make melzarr's way, alone and in a DataLoader, and PyTorch's own, with no and with two workers."""
    if not importlib.util.find_spec("torch"):
        return {}
    torch, data = importlib.import_module("torch"), importlib.import_module("torch.utils.data")
    tensors = data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y).long())
    return {
        TORCH: Batches(store, chosen, BATCH).torch(),
        f"{TORCH}, in its DataLoader": data.DataLoader(Batches(store, chosen, BATCH).torch(), batch_size=None),
        **{f"{TENSORS}, {n} workers": data.DataLoader(tensors, BATCH, shuffle=True, num_workers=n) for n in (0, 2)},
    }


def annbatch_feed(x: np.ndarray, folder: Path) -> dict[str, Iterable[Any]]:
    """Make annbatch's way to the windows, in chunks and pools as large as melzarr's, which zarrs reads."""
    if not (importlib.util.find_spec("annbatch") and importlib.util.find_spec("zarrs")):
        return {}
    annbatch = importlib.import_module("annbatch")
    importlib.import_module("zarrs")
    n, width, path = -(-len(x) // ANNBATCH_CHUNK) * ANNBATCH_CHUNK, x[0].size, folder / "annbatch.zarr"
    array = zarr.create_array(
        path, shape=(n, width), dtype="float32", chunks=(ANNBATCH_CHUNK, width), shards=(16 * ANNBATCH_CHUNK, width),
        compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
    )  # fmt: skip
    array[:] = np.resize(x.reshape(len(x), -1), (n, width))
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        opened = zarr.open_array(path, mode="r")
    made = annbatch.Loader(chunk_size=ANNBATCH_CHUNK, preload_nchunks=64, batch_size=BATCH, shuffle=True)
    return {ANNBATCH: Annbatch(made.add_dataset(opened))}


@dataclass
class Annbatch:
    """Batches of an annbatch loader, as tuples."""

    loader: Any

    def __iter__(self) -> Iterator[tuple[np.ndarray]]:
        """Yield the windows of each batch; there are no classes."""
        return ((batch["X"],) for batch in self.loader)


def training_rate(model: keras.Model, feed: Feed) -> float:
    """Windows/s of some batches that are trained on."""
    start = time.perf_counter()
    model.fit(feed.take(TRAINED), verbose=0, shuffle=False)
    return TRAINED * BATCH / (time.perf_counter() - start)


def medians(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Take each way once a round, in turn; the first round is a warm-up."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            rates[name].append(way())
    return {name: statistics.median(values[1:]) for name, values in rates.items()}


def by_xbatcher(store: Store) -> float | None:
    """Windows/s of xbatcher's loader for Keras, in the order of the store; it can only shuffle whole batches."""
    if not importlib.util.find_spec("xbatcher"):
        return None
    import xarray as xr
    import xbatcher

    made = importlib.import_module("xbatcher.loaders.keras")
    opened = xr.open_zarr(store.directory.path, chunks=None).mel.isel(track=slice(XBATCHER_TRACKS))
    sizes = {"track": 1, "window": BATCH, "frame": store.spec.n_frames, "band": store.spec.n_mels}
    feed = made.CustomTFDataset(xbatcher.BatchGenerator(opened, sizes), xbatcher.BatchGenerator(opened, sizes))
    start, n = time.perf_counter(), 0
    for number in range(len(feed)):
        n += feed[number][0].shape[1]
    return n / (time.perf_counter() - start)


def rates(title: str, found: dict[str, float], remark: str = "") -> Table:
    """Make a table, with each row relative to the first."""
    first = next(iter(found.values()))
    rows = [(name, f"{rate:,.0f}", f"{rate / first:.2f}") for name, rate in found.items()]
    return Table(title, ("windows/s", "relative to the first"), rows, remark)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--rounds", type=int, default=5, show_default=True)
@json_option
def main(store: Path, rounds: int, out: Path | None) -> None:
    """Time all ways on a store of at least 128 tracks."""
    opened = open_store(store)
    everything = select(opened, "all", np.full(opened.n_tracks, "all"))
    chosen = Selection(everything.tracks[:TRACKS], everything.labels[:TRACKS], everything.windows[:TRACKS])
    with tempfile.TemporaryDirectory() as folder:
        made = feeds(opened, chosen, Path(folder))
        sums = {name: checksum(feed) for name, feed in made.items()}
        n, total = sums[CACHED]
        for name, found in sums.items():
            np.testing.assert_allclose(found, (n, total), rtol=1e-9, err_msg=name)
        x = np.concatenate([opened.mel[int(track)] for track in chosen.tracks])
        y = np.repeat(chosen.labels, opened.spec.n_windows)
        in_python: dict[str, Iterable[Any]] = {
            NUMPY: Batches(opened, chosen, BATCH),
            NUMPY_STREAMED: Batches(opened, chosen, BATCH, memory=1),
            **torch_feeds(opened, chosen, x, y),
            **annbatch_feed(x, Path(folder)),
            **{name: made[name] for name in (CACHED, STREAMED, MEMORY)},
            LABELS: labels_alone(y),
        }
        graph = medians({name: lambda f=feed: epoch_rate(f) for name, feed in made.items()}, rounds)
        read = medians({name: lambda f=feed: python_rate(f) for name, feed in in_python.items()}, rounds)
        if rate := by_xbatcher(opened):
            read["xbatcher's loader for Keras, without shuffling"] = rate
        model = network(opened.spec, int(chosen.labels.max()) + 1, frontend="none")
        model.compile("sgd", "sparse_categorical_crossentropy")
        trained = medians(
            {name: lambda f=made[name]: training_rate(model, f) for name in (CACHED, STREAMED, MEMORY)}, rounds
        )
    remark = f"{n:,} windows of {chosen.tracks.size} tracks in batches of {BATCH}; files are in the page cache."
    tables = [
        rates("one epoch, taken by Python", read, remark),
        rates("one epoch, within TensorFlow", graph),
        rates("training", trained),
    ]
    Result("Loader and training", tables, goals(read, graph, trained)).tell(out)


def goals(read: dict[str, float], graph: dict[str, float], trained: dict[str, float]) -> list[Goal]:
    """Compare with what a user would take instead."""
    memory, loader = "from_tensor_slices.shuffle.batch", "speed of the loader"
    calls = f"handing batches to Python, even of labels alone: {read[LABELS] / read[MEMORY]:.2f}"
    found = [
        *(
            at_least(f"{loader}, tf.data, cached, {how}, relative to {memory}", 2.8, rate[CACHED] / rate[MEMORY], bound)
            for how, rate, bound in (("from Python", read, calls), ("in a graph", graph, "copying windows"))
        ),
        at_least(f"{loader}, numpy, cached, relative to {memory}", 8, read[NUMPY] / read[MEMORY], "copying windows"),
        at_least(
            f"{loader}, tf.data, streamed, relative to {memory}", 1.5, read[STREAMED] / read[MEMORY],
            "decoding on the same two cores",
        ),
    ]  # fmt: skip
    if TORCH in read:
        best = max(rate for name, rate in read.items() if name.startswith(TENSORS))
        ratio = read[TORCH] / best
        found.append(at_least(f"{loader}, PyTorch, cached, relative to its DataLoader", 5, ratio, "copying windows"))
    if ANNBATCH in read:
        streamed = read[NUMPY_STREAMED] / read[ANNBATCH]
        found.append(at_least(f"{loader}, numpy, streamed, relative to annbatch with zarrs", 1.5, streamed, "decoding"))
    for name, what in ((CACHED, "cached"), (STREAMED, "streamed")):
        ratio, bound = trained[name] / trained[MEMORY], "decoding, for which the network's threads leave no core"
        found.append(
            at_least(f"speed of training from the store, {what}, relative to training from memory", 0.98, ratio, bound)
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
