"""Blocks of windows as a tf.data.Dataset of batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

PREFETCH = 2  # blocks that are prefetched for the network


def as_dataset(
    epoch: Callable[[], Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]],
    shape: tuple[int, ...],
    batch_size: int,
    n_batches: int,
    release: Iterable[Callable[[], Any]] = (),
) -> tf.data.Dataset:
    """Return a dataset of batches. Windows cross from Python to TensorFlow in blocks, and are batched there.

    Parameters
    ----------
    epoch : callable
        Returns the blocks of the next epoch: windows and classes.
    shape : tuple of int
        Shape of a window.
    batch_size, n_batches : int > 0
        Windows per batch, and batches per epoch.
    release : iterable of callable
        Called when the dataset is garbage. TensorFlow never releases `epoch`, nor what it refers to.

    Returns
    -------
    tf.data.Dataset
        Pairs of (batch, …) float32 windows, and (batch,) int32 classes. Each iteration is the next epoch.
    """
    signature = (tf.TensorSpec((None, *shape), tf.float32), tf.TensorSpec((None,), tf.int32))
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    for function in release:
        weakref.finalize(dataset, function)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and autotuning takes longer than the batches
    counted = dataset.prefetch(PREFETCH).rebatch(batch_size).apply(tf.data.experimental.assert_cardinality(n_batches))
    return counted.with_options(options)
