"""Batches of windows as a tf.data.Dataset."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from melzarr.model.track_memory import TrackMemory
from melzarr.model.window_order import Order
from melzarr.model.window_pools import pools

GATHERS = 4  # batches that are gathered at the same time
PREFETCH = 16  # most batches that wait for the network; of 4, some were late if Python takes them
PREFETCH_BYTES = 32 << 20  # bytes that they take, unless two take more


def as_dataset(order: Order, tracks: TrackMemory, batch_size: int, first_epoch: int) -> tf.data.Dataset:
    """Return batches as a dataset. Decoded windows cross from Python to TensorFlow without a copy, a pool at a time.

    Parameters
    ----------
    order : Order
        The windows and their order.
    tracks : TrackMemory
        The decoded tracks; closed when the dataset is garbage.
    batch_size : int > 0
        Windows per batch.
    first_epoch : int
        Number of the first epoch.

    Returns
    -------
    tf.data.Dataset
        Pairs of (batch, …) float32 windows, and (batch,) int32 classes. Each iteration is the next epoch.
    """
    epochs = itertools.count(first_epoch)

    def epoch() -> Iterator[tuple[Any, ...]]:
        for pool in pools(order, tracks, next(epochs), batch_size):
            yield pool.windows, pool.indices, pool.classes
            del pool

    of_windows = tf.TensorSpec((None, *tracks.store.spec.shape[1:]), tf.float32)
    signature = of_windows, tf.TensorSpec((None, None), tf.int64), tf.TensorSpec((None, None), tf.int32)
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature).flat_map(_gathered)
    n_batches = -(-order.n_windows(first_epoch) // batch_size)
    if order.n_ranks == 1:  # otherwise epochs can differ
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(n_batches))
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and autotuning takes longer than the batches
    n_waiting = min(PREFETCH, max(2, PREFETCH_BYTES // (4 * batch_size * math.prod(tracks.store.spec.shape[1:]))))
    dataset = dataset.prefetch(n_waiting).with_options(options)
    weakref.finalize(dataset, tracks.close)
    return dataset


def _gathered(windows: tf.Tensor, indices: tf.Tensor, classes: tf.Tensor) -> tf.data.Dataset:
    """Return the batches of a pool."""
    return tf.data.Dataset.from_tensor_slices((indices, classes)).map(
        lambda which, labels: (tf.gather(windows, which), labels), num_parallel_calls=GATHERS, deterministic=True
    )
