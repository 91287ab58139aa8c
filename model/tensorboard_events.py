"""Write the metrics of a training in the format of TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf


def write_event(folder: Path, figures: Mapping[str, float]) -> None:
    """Write the metrics of an epoch as one event file, so that TensorBoard shows each epoch exactly once.

    Parameters
    ----------
    folder : Path
        Folder of the event files; created if missing.
    figures : mapping of str to float
        Metrics of the epoch, and its number as ``epoch``.
    """
    name, epoch = "events.out.tfevents", int(figures["epoch"])
    path = folder / f"{name}.{epoch:010d}.melzarr"
    folder.mkdir(exist_ok=True)
    part = path.with_name(f".{epoch}.part")
    values = [tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
    event = tf.compat.v1.Event(wall_time=time.time(), step=epoch, summary=tf.compat.v1.Summary(value=values))
    with tf.io.TFRecordWriter(str(part)) as writer:
        writer.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
        writer.write(event.SerializeToString())
    part.replace(path)
