"""Training on a GPU: fed by the store, beside the same windows that lie in the memory of the device.

    python tests/benchmarks/bench_gpu.py demo.zarr

The second way gathers each batch on the device, so that it never waits for data: what the first takes longer is the
time for which the GPU waits. Epochs of both run in turn; what is printed is the median of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from suite import Result, Table, json_option

from melzarr.model.tensorflow_setup import load_tensorflow

load_tensorflow()

import keras  # noqa: E402  (after TensorFlow has been quieted)
import tensorflow as tf  # noqa: E402

from melzarr.model.loader import Batches  # noqa: E402
from melzarr.model.network import network  # noqa: E402
from melzarr.model.selection import select  # noqa: E402
from melzarr.pipeline.zarr_store.reader import open_store  # noqa: E402

CACHED, STREAMED, DEVICE = "from the store, cached", "from the store, streamed", "from the memory of the device"


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--batch-size", type=int, default=1024, show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--device", default="GPU:0", show_default=True, help="CPU:0 tries this benchmark without a GPU.")
@json_option
def main(store: Path, batch_size: int, rounds: int, device: str, out: Path | None) -> None:
    """Train on the train split of a store that fits into the memory of a device."""
    kind = device.partition(":")[0]
    if not tf.config.list_physical_devices(kind):
        raise click.ClickException(f"there is no {kind} that TensorFlow can use; pip install 'tensorflow[and-cuda]'")
    opened = open_store(store)
    chosen = select(opened, "train")
    model = network(opened.spec, int(chosen.labels.max()) + 1, frontend="none")
    model.compile("sgd", "sparse_categorical_crossentropy")
    with tf.device(device):
        x = tf.concat([opened.mel[int(track)] for track in chosen.tracks], 0)
        y = tf.constant(np.repeat(chosen.labels, opened.spec.n_windows))

    @tf.function
    def held() -> None:
        with tf.device(device):
            order = tf.random.shuffle(tf.range(len(x)))
            for start in tf.range(0, len(x), batch_size):
                some = order[start : start + batch_size]
                step(model, tf.gather(x, some), tf.gather(y, some))

    def fed(feed: tf.data.Dataset) -> Callable[[], None]:
        @tf.function
        def epoch() -> None:
            for windows, classes in feed:
                with tf.device(device):
                    step(model, windows, classes)

        return epoch

    model.optimizer.build(model.trainable_variables)
    ways = {
        DEVICE: held,
        CACHED: fed(Batches(opened, chosen, batch_size).tf()),
        STREAMED: fed(Batches(opened, chosen, batch_size, memory=1).tf()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first one compiles
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            float(tf.reduce_sum(model.trainable_variables[0]))  # waits for the device
            seconds[name].append(time.perf_counter() - start)
    took = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    rates = {name: len(x) / value for name, value in took.items()}
    rows = [
        (name, f"{rate:,.0f}", f"{rate / rates[DEVICE]:.2f}", f"{100 * max(0.0, 1 - rate / rates[DEVICE]):.0f}")
        for name, rate in rates.items()
    ]
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices(kind)[0])
    remark = (
        f"{len(x):,} windows of {chosen.tracks.size} tracks in batches of {batch_size}, on "
        f"{details.get('device_name', device)}."
    )
    columns = ("windows/s", f"relative to {DEVICE}", "the device waits, %")
    Result("Training on a GPU", [Table("one epoch of training", columns, rows, remark)]).tell(out)


def step(model: keras.Model, windows: tf.Tensor, classes: tf.Tensor) -> None:
    """Train on one batch."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(windows, classes, model(windows, training=True))
    model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)


if __name__ == "__main__":
    sys.exit(main())
