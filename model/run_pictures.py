"""Draw the pictures of a run; a failure is only logged, because the metrics are complete without them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import keras

from melzarr.model.plots import draw_confusion, draw_history, draw_network
from melzarr.model.run_directory import Run
from melzarr.model.song_model import SongModel

logger = logging.getLogger(__name__)


def draw_pictures(run: Run, model: keras.Model | None = None) -> None:
    """Draw those pictures of a finished run that are not there: a kill may have prevented them.

    They are the history of the epochs, which a run over folds has not; the confusion matrix of the test split; and the
    network of windows, which in a run over folds is that of a member.

    Parameters
    ----------
    run : Run
        The run.
    model : keras.Model, optional
        Its model; by default it is loaded if needed.
    """
    found = run.metrics
    draw: dict[str, Callable[[Path], None]] = {
        "confusion.png": lambda path: draw_confusion(found["test"], found["protocol"]["words"], path),
        "network.png": lambda path: draw_network(SongModel.of(model or _model_to_draw(run)).windows, path),
    }
    if run.history_file.is_file():
        draw["history.png"] = lambda path: draw_history(run.history(), path)
    for name, draw_to in draw.items():
        if (run.path / name).is_file():
            continue
        try:
            draw_to(run.path / name)
        except Exception as error:  # noqa: BLE001  (matplotlib may raise anything)
            said = "%s could not be drawn (%s: %s); the metrics are complete without it"
            logger.warning(said, run.path / name, type(error).__name__, error)


def _model_to_draw(run: Run) -> keras.Model:
    """Load the model of a run, or that of a member of a run over folds."""
    return (run.member(1) if run.n_folds else run).model()
