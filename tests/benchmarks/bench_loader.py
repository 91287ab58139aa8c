"""The loader beside other ways to feed a network with the same windows, and training from each.

    python tests/benchmarks/bench_loader.py demo.zarr

Every round takes each way once, in turn, so that a slow moment of the machine falls on all of them; what is printed is
the median of the rounds. Before anything is timed, all ways are seen to give the same windows.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from suite import Result, Table, at_least, json_option

from melzarr.model.tensorflow_setup import load_tensorflow

load_tensorflow()

import keras  # noqa: E402  (after TensorFlow has been quieted)
import tensorflow as tf  # noqa: E402

from melzarr.model.loader import Batches, Order, blocks  # noqa: E402
from melzarr.model.network import network  # noqa: E402
from melzarr.model.selection import Selection, select  # noqa: E402
from melzarr.pipeline.zarr_store.reader import Store, open_store  # noqa: E402

BATCH = 128
TRACKS = 128  # 76,672 windows of the default spec: 196 MB
TRAINED = 300  # batches of a training round: one pool, so that the first read does not weigh too much
CACHED, STREAMED = "melzarr, cached", "melzarr, streamed from the store"
COPIES = "melzarr's blocks, cached, without TensorFlow"
MEMORY = "in memory: from_tensor_slices, shuffle(all), batch"
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


def copying_rate(chosen: Selection, decoded: np.ndarray) -> float:
    """Windows/s of one epoch that numpy gathers in its order, and nobody takes."""
    start = time.perf_counter()
    n = sum(len(y) for _, y in blocks(Order(chosen, seed=0), lambda places: (decoded, places), epoch=0))
    return n / (time.perf_counter() - start)


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
        decoded = np.stack([opened.mel[int(track)] for track in chosen.tracks])
        ways = {name: lambda f=feed: epoch_rate(f) for name, feed in made.items()}
        read = medians({**ways, COPIES: lambda: copying_rate(chosen, decoded)}, rounds)
        if rate := by_xbatcher(opened):
            read["xbatcher's loader for Keras, without shuffling"] = rate
        model = network(opened.spec, int(chosen.labels.max()) + 1, frontend="none")
        model.compile("sgd", "sparse_categorical_crossentropy")
        trained = medians(
            {name: lambda f=made[name]: training_rate(model, f) for name in (CACHED, STREAMED, MEMORY)}, rounds
        )
    remark = f"{n:,} windows of {chosen.tracks.size} tracks in batches of {BATCH}; files are in the page cache."
    tables = [rates("one epoch, read only", read, remark), rates("training", trained)]
    copies = f"copying windows in their order, which without TensorFlow reaches {read[COPIES] / read[MEMORY]:.1f}"
    decoding = "decoding, for which the network's threads leave no core"
    loader, memory = "speed of the loader", "relative to from_tensor_slices.shuffle.batch"
    training, ram = "speed of training from the store", "relative to training from memory"
    goals = [
        at_least(f"{loader}, cached, {memory}", 3, read[CACHED] / read[MEMORY], copies),
        at_least(
            f"{loader}, streamed, {memory}",
            1,
            read[STREAMED] / read[MEMORY],
            f"decoding on the same two cores, and {copies}",
        ),
        at_least(f"{training}, cached, {ram}", 0.95, trained[CACHED] / trained[MEMORY]),
        at_least(f"{training}, streamed, {ram}", 0.95, trained[STREAMED] / trained[MEMORY], decoding),
    ]
    Result("Loader and training", tables, goals).tell(out)


if __name__ == "__main__":
    sys.exit(main())
