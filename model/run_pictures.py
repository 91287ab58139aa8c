"""Draw the pictures of a run; a failure is only logged, because the metrics are complete without them."""

from __future__ import annotations

import logging
from typing import Any

import keras

from melzarr.model.plots import draw_confusion, draw_history, draw_network
from melzarr.model.run_directory import PICTURES, Run
from melzarr.model.song_model import SongModel

logger = logging.getLogger(__name__)


def draw_pictures(run: Run, model: keras.Model, found: dict[str, Any]) -> None:
    """Draw the history, the confusion matrix of the test split, and the network of windows.

    Parameters
    ----------
    run : Run
        The run; without a history, none is drawn.
    model : keras.Model
        Its model.
    found : dict
        Its metrics.
    """
    draw = {
        "history.png": lambda path: draw_history(run.history(), path),
        "confusion.png": lambda path: draw_confusion(found["test"], found["protocol"]["words"], path),
        "network.png": lambda path: draw_network(SongModel.of(model).windows, path),
    }
    for name in PICTURES:
        if name == "history.png" and not run.history_file.is_file():
            continue
        try:
            draw[name](run.path / name)
        except Exception as error:  # noqa: BLE001  (matplotlib may raise anything)
            said = "%s could not be drawn (%s: %s); the metrics are complete without it"
            logger.warning(said, run.path / name, type(error).__name__, error)
