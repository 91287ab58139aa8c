"""Draw the history, confusion matrix and network of a run, and the genre of songs over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from melzarr.pipeline.errors import MelzarrError
from melzarr.pipeline.report.mel_figure import drawable, new_figure, save
from melzarr.pipeline.report.run_files import answered_by, drawn_words

if TYPE_CHECKING:
    from melzarr.model.predict import Prediction
    from melzarr.pipeline.report.run_files import History

SONGS_DRAWN = 12  # songs in one picture; more would be too small to read
STEPS_DRAWN = 400  # points in time per song
MAX_CELLS = 30  # with more classes, a confusion matrix has no numbers in its cells
MAX_CLASSES = 60  # with more classes, the most frequent confusions are listed instead of drawn
LISTED = 30


def draw_history(history: History, path: Path) -> None:
    """Draw loss and accuracy of each epoch."""
    figure = new_figure(path, (9, 3.4))
    left, right = figure.subplots(1, 2)
    epochs = [figures["epoch"] for figures in history]
    left.plot(epochs, [figures["loss"] for figures in history], "o-", color="C0")
    left.set(xlabel="epoch", ylabel="loss of train windows", ylim=(0, 1.05 * max(row["loss"] for row in history)))
    for name, colour, words in (("accuracy", "C0", "train windows"), ("valid_accuracy", "C1", "valid windows")):
        right.plot(epochs, [figures[name] for figures in history], "o-", color=colour, label=words)
    right.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)


def draw_confusion(metrics: Mapping[str, Any], words: str, path: Path) -> None:
    """Draw the confusion matrix, or list the most frequent confusions if there are many labels.

    Parameters
    ----------
    metrics : mapping
        Metrics of one split, from `melzarr.model.metrics.metrics`.
    words : str
        Description of the protocol.
    path : Path
        Image file to write.
    """
    labels, counts = [drawable(label) for label in metrics["labels"]], np.array(metrics["confusion"])
    accuracy = metrics["track_accuracy"]
    interval = f"(95 %: {accuracy['low']:.2f} to {accuracy['high']:.2f})"
    title = f"{accuracy['value']:.2f} {interval} of {metrics['n_tracks']} tracks{drawn_words(metrics)}\n{words}"
    if len(labels) > MAX_CLASSES:
        _list_confusions(labels, counts, title, path)
        return
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.8 + 0.42 * len(labels) + 0.1 * max(12, *map(len, labels))
    figure = new_figure(path, (side + 1.2, side))
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=45, ha="right")
    axes.set_yticks(places, labels)
    axes.set(xlabel=f"predicted, by {answered_by(metrics)}", ylabel="true")
    axes.set_title(title, fontsize="small")
    if len(labels) <= MAX_CELLS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize="small")
    figure.colorbar(image, ax=axes, label="share of the label's tracks", shrink=0.8)
    save(figure, path)


def _list_confusions(labels: Sequence[str], counts: npt.NDArray[np.int_], title: str, path: Path) -> None:
    """Draw the most frequent confusions as a table."""
    wrong = counts - np.diag(np.diag(counts))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(int(place), len(labels)) for place in worst if wrong.flat[place]]
    figure = new_figure(path, (9, 1.2 + 0.24 * max(1, len(pairs))))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title(f"{title}\n{len(labels)} labels; the most frequent confusions", fontsize="small", loc="left")
    for row, (true, found) in enumerate(pairs):
        cells = (labels[true], "→", labels[found], str(counts[true, found]))
        for x, cell in zip((0.0, 0.46, 0.5, 0.97), cells, strict=True):
            axes.text(x, 1 - (row + 0.5) / len(pairs), cell, va="center", fontsize="small")
    save(figure, path)


def draw_network(model: keras.Model, path: Path) -> None:
    """Draw a model's layers from top to bottom, each with its output shape and number of weights."""
    layers = [layer for layer in model.layers if layer.count_params() or not _is_operation(layer)]
    figure = new_figure(path, (6.4, 0.62 * len(layers) + 0.4))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(layers) - 0.4, -0.6))
    for row, layer in enumerate(layers):
        shape = " × ".join("batch" if size is None else str(size) for size in layer.output.shape)
        weights = f"{layer.count_params():,} weights" if layer.count_params() else ""
        fill = "C0" if weights else "white"
        box = {"boxstyle": "round,pad=0.35", "facecolor": fill, "alpha": 0.25, "edgecolor": "C0"}
        axes.text(0.3, row, _title(layer), ha="center", va="center", bbox=box)
        axes.text(0.58, row, shape, va="center", fontsize="small")
        axes.text(1.0, row, weights, va="center", ha="right", fontsize="small")
        if row:
            arrow = {"arrowstyle": "->", "color": "C0", "shrinkA": 11, "shrinkB": 11}
            axes.annotate("", (0.3, row), (0.3, row - 1), arrowprops=arrow)
    total = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    axes.set_title(f"{total:,} trainable weights", loc="left", fontsize="small")
    save(figure, path)


def _is_operation(layer: keras.Layer) -> bool:
    """Return whether a layer is a bare Keras operation, as in the front end."""
    return not isinstance(layer, keras.layers.Layer) or type(layer).__module__.startswith("keras.src.ops")


def _title(layer: keras.Layer) -> str:
    match layer:
        case keras.layers.InputLayer():
            return "windows"
        case keras.layers.Conv1D():
            return f"Conv1D {layer.filters}, kernel {layer.kernel_size[0]}, {layer.activation.__name__}"
        case keras.layers.Dense():
            return f"Dense {layer.units}, {layer.activation.__name__}"
        case keras.layers.Dropout():
            return f"Dropout {layer.rate:g}"
        case keras.layers.Normalization():
            return "level in dB, standardised"
    return str(type(layer).__name__)


def draw_songs(predictions: Sequence[Prediction], path: Path) -> None:
    """Draw the probability of each genre over time for some songs; a second opinion is drawn below the first.

    Parameters
    ----------
    predictions : sequence of Prediction
        The songs; only the first 12 are drawn.
    path : Path
        Image file to write.
    """
    drawn = predictions[:SONGS_DRAWN]
    if not drawn:
        raise MelzarrError(f"none of the songs could be used, so there is nothing to draw into {path}")
    labels = drawn[0].labels
    n_rows = sum(1 if song.summary is None else 2 for song in drawn)
    figure = new_figure(path, (10, 0.6 + (0.6 + 0.17 * len(labels)) * n_rows + 0.45 * len(drawn)))
    rows = figure.subplots(n_rows, 1, squeeze=False)[:, 0]
    row = iter(rows)
    for song in drawn:
        axes = next(row)
        # Draw the mean over short spans, because single windows of 100 ms flicker.
        edges = np.unique(np.linspace(0, len(song.starts), min(STEPS_DRAWN, len(song.starts)) + 1).astype(int))
        sums = np.add.reduceat(song.probabilities, edges[:-1], axis=0)
        end = float(song.starts[-1] + (song.starts[1] if len(song.starts) > 1 else 1.0))
        image = _draw_over_time(axes, np.append(song.starts[edges[:-1]], end), sums / np.diff(edges)[:, None], labels)
        told = ", ".join(f"{label} {share:.2f}" for label, share in song.top(3))
        axes.set_title(f"{drawable(song.path.name)}: {told}", loc="left", fontsize="medium", pad=3)
        if song.summary is not None:
            axes.set_ylabel("windows", fontsize="small")
            axes.tick_params(labelbottom=False)
            below = next(row)
            _draw_over_time(below, np.append(song.summary.starts, end), song.summary.probabilities, labels)
            below.set_ylabel("summary", fontsize="small")
    rows[-1].set_xlabel("time in the song, s")
    figure.colorbar(image, ax=list(rows), label="probability", aspect=40, pad=0.01)
    save(figure, path)


def _draw_over_time(
    axes: Any, edges: npt.NDArray[np.float64], probabilities: npt.NDArray[np.floating], labels: Sequence[str]
) -> Any:
    """Draw probabilities, shape (n, n_classes), of the spans between edges, shape (n + 1,), in s."""
    rows = np.arange(len(labels) + 1) - 0.5
    image = axes.pcolormesh(edges, rows, probabilities.T, cmap="magma", vmin=0, vmax=1)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [drawable(label) for label in labels], fontsize="small")
    return image
