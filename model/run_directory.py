"""A run: the folder of one training, in which every file is whole or absent."""

from __future__ import annotations

import csv
import io
import json
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import keras
import tensorflow as tf

from melzarr.pipeline.errors import RunError
from melzarr.pipeline.publishing.target_guard import refuse_inside
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.untrusted_text import harmless

History = list[dict[str, float]]
ANSWERS = ("split", "track", "label", "answer", "probability_of_answer", "probability_of_label")
FIGURES = ("epoch", "loss", "accuracy", "valid_accuracy", "learning_rate", "seconds")  # of each epoch

CONFIGURED = {"store": dict, "spec": dict, "labels": list, "protocol": dict, "seed": int}  # what is always there
# What Keras raises at a file that is damaged, or none of its own, or that brings code.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, OSError, zipfile.BadZipFile)
LOCK = ".lock"
# What a training writes, in the order in which it may be removed.
OWN_FILES = (
    "metrics.json", "answers.csv", "history.png", "confusion.png", "network.png", "model.keras", "checkpoint-*.keras",
    "trained-on.txt",
    ".*.part.keras", ".*.part", "history.csv", "tensorboard/events.out.tfevents.*.melzarr", "config.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one training.

    Parameters
    ----------
    path : Path
        The folder. It holds config.json (what is trained, how, on what), trained-on.txt, history.csv (a row for each
        epoch that is done), model.keras and, while the training is not finished, the state after its last epoch; once
        it is, answers.csv, pictures and metrics.json.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """What the run is made from."""
        return self.path / "config.json"

    @property
    def history_file(self) -> Path:
        """Figures of each epoch."""
        return self.path / "history.csv"

    @property
    def model_file(self) -> Path:
        """The model to use."""
        return self.path / "model.keras"

    @property
    def metrics_file(self) -> Path:
        """How good the model is; the last file to be written."""
        return self.path / "metrics.json"

    @property
    def answers_file(self) -> Path:
        """What the model answered for each track of the valid and the test part."""
        return self.path / "answers.csv"

    @property
    def trained_file(self) -> Path:
        """SHA-256 of each audio file whose windows were trained on, a line each."""
        return self.path / "trained-on.txt"

    @property
    def tensorboard(self) -> Path:
        """The history once more, as TensorBoard reads it."""
        return self.path / "tensorboard"

    def checkpoint(self, n_epochs: int) -> Path:
        """State from which the training goes on after so many epochs."""
        return self.path / f"checkpoint-{n_epochs:04d}.keras"

    @property
    def is_finished(self) -> bool:
        """Whether training and evaluation are done."""
        return self.metrics_file.is_file() and self.model_file.is_file()

    def start(self, config: dict[str, Any], *, replace: bool = False) -> None:
        """Write down what is trained.

        Parameters
        ----------
        config : dict of str to value
            All that the weights depend on.
        replace : bool
            Remove a run of something else.

        Raises
        ------
        RunError
            Where the folder holds another run, or anything else.
        """
        self._refuse_foreign()
        if self.config_file.is_file():
            differing = [] if replace else self._differences(config)
            if differing:
                raise RunError(
                    f"{self.path} holds a run with another {', '.join(differing)}; name another folder with --run, or "
                    f"replace that one with --force"
                )
            if not replace:
                return
            self._clear()
        write_whole(self.config_file, json.dumps(config, indent=2).encode())

    def _refuse_foreign(self) -> None:
        """Refuse a folder in which something else lies."""
        if not self.path.exists():
            return
        if not self.path.is_dir() or (
            not self.config_file.is_file() and any(path.name != LOCK for path in self.path.iterdir())
        ):
            raise RunError(f"{self.path} exists and is no run of melzarr's; name another folder with --run")

    def _differences(self, config: dict[str, Any]) -> list[str]:
        """Names of what another run was made from."""
        before = self.config
        return sorted(name for name in before.keys() | config.keys() if before.get(name) != config.get(name))

    def _clear(self) -> None:
        """Remove what a training wrote, and nothing else; first the figures, so that what is left is unfinished."""
        for pattern in OWN_FILES:
            for path in sorted(self.path.glob(pattern)):
                path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one training; that of a process that died is free.

        Raises
        ------
        RunError
            If another training holds it.
        CallError
            If it lies in a store.
        """
        refuse_inside(LocalDirectory(self.config_file))
        self._refuse_foreign()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self.path / LOCK, timeout=0):
                yield
        except filelock.Timeout as error:
            raise RunError(
                f"{self.path} is being trained by another process; wait for it, or name another --run"
            ) from error

    @property
    def config(self) -> dict[str, Any]:
        """What the run is made from.

        Raises
        ------
        RunError
            Where there is none.
        """
        config = self._read_json(self.config_file)
        if any(not isinstance(config.get(name), kind) for name, kind in CONFIGURED.items()):
            raise RunError(f"{self.config_file} is no configuration of a run; it is damaged, train again with --force")
        return config

    @property
    def metrics(self) -> dict[str, Any]:
        """How good the model is."""
        return self._read_json(self.metrics_file)

    @property
    def spec(self) -> FeatureSpec:
        """What the model takes."""
        return FeatureSpec.from_dict(self.config["spec"])

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the model's outputs."""
        return [str(label) for label in self.config["labels"]]

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} is no finished run, it has no {path.name}; make one with: melzarr train STORE --run "
                f"{self.path}"
            ) from error
        except ValueError as error:
            raise RunError(f"{path} cannot be read ({error}); it is damaged, train again with --force") from error
        if not isinstance(found, dict):
            raise RunError(f"{path} is no table of names and values; it is damaged, train again with --force")
        return found

    def model(self) -> keras.Model:
        """Open the model to use. Nothing in it is executed but layers of Keras' own.

        Raises
        ------
        RunError
            Where there is none, or it cannot be opened safely.
        """
        return self._open(self.model_file, compiled=False)

    def _open(self, path: Path, *, compiled: bool) -> keras.Model:
        if not path.is_file():
            raise RunError(
                f"{self.path} is no finished run, it has no {path.name}; make one with: melzarr train STORE --run "
                f"{self.path}; where that cannot go on, with --force"
            )
        try:
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # Keras reads a part of it, and sees no checksum
                    raise zipfile.BadZipFile(f"{damaged} is not what was written")
            return keras.saving.load_model(path, safe_mode=True, compile=compiled)
        except UNREADABLE as error:
            first = str(error).strip().partition("\n")[0]
            raise RunError(
                f"{path} is no model that can be opened safely ({first}); train again with --force"
            ) from error

    def history(self) -> History:
        """Figures of the epochs that are done."""
        if not self.history_file.is_file():
            return []
        try:
            rows = list(csv.DictReader(io.StringIO(self.history_file.read_text(encoding="utf-8"))))
            return [{name: float(row[name]) for name in (*FIGURES, *(row.keys() - set(FIGURES)))} for row in rows]
        except (TypeError, KeyError, ValueError) as error:
            raise RunError(f"{self.history_file} cannot be read ({error}); train again with --force") from error

    def last_state(self) -> keras.Model:
        """Open the state after the last epoch that is done, with its optimizer."""
        return self._open(self.checkpoint(len(self.history())), compiled=True)

    def keep_epoch(self, model: keras.Model, history: History) -> None:
        """Keep an epoch: its state, the model as it is now, and its figures, which count it as done.

        Parameters
        ----------
        model : keras.Model
            After the epoch.
        history : list of dict
            Figures of all epochs, the new one among them.
        """
        done = len(history)
        _save(model, self.checkpoint(done))
        _save(model, self.model_file)
        self._tell_tensorboard(history[-1])
        rows = ([figures[name] for name in FIGURES] for figures in history)
        _write_table(self.history_file, FIGURES, rows)
        self._remove_checkpoints(keep=self.checkpoint(done))

    def _tell_tensorboard(self, figures: dict[str, float]) -> None:
        """Write the figures of an epoch as one event file, so that TensorBoard sees it and nothing comes twice."""
        name, epoch = "events.out.tfevents", int(figures["epoch"])
        path = self.tensorboard / f"{name}.{epoch:010d}.melzarr"
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{epoch}.part")
        values = [tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        event = tf.compat.v1.Event(wall_time=time.time(), step=epoch, summary=tf.compat.v1.Summary(value=values))
        with tf.io.TFRecordWriter(str(part)) as writer:
            writer.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
            writer.write(event.SerializeToString())
        part.replace(path)

    def keep_trained(self, digests: Iterable[str]) -> None:
        """Write down of which audio files windows are trained on, by their SHA-256."""
        if not self.trained_file.is_file():
            write_whole(self.trained_file, "".join(f"{digest}\n" for digest in sorted(digests)).encode())

    def trained_on(self) -> frozenset[str] | None:
        """SHA-256 of the audio files whose windows were trained on; None if a run of an earlier version has no list."""
        try:
            return frozenset(self.trained_file.read_text(encoding="ascii").split())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{self.trained_file} cannot be read ({error}); train again with --force") from error

    def unfinished(self) -> str:
        """Say how far the training came, if it is not finished."""
        if self.is_finished:
            return ""
        recipe = self.config.get("recipe")
        epochs = recipe.get("epochs", "?") if isinstance(recipe, dict) else "?"
        return f"{self.path} is not finished: {len(self.history())} of {epochs} epochs; go on with melzarr train"

    def keep_answers(self, rows: Iterable[Sequence[object]]) -> None:
        """Write what the model answered, a row of `ANSWERS` for each track."""
        _write_table(self.answers_file, ANSWERS, rows)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write how good the model is; the state to go on from is not needed any more."""
        write_whole(self.metrics_file, json.dumps(metrics, indent=2).encode())
        self._remove_checkpoints()

    def _remove_checkpoints(self, keep: Path | None = None) -> None:
        for path in self.path.glob("checkpoint-*.keras"):
            if path != keep:
                path.unlink()


def _write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file so that it is whole or absent."""
    text = io.StringIO(newline="")
    harmless_rows = ([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv.writer(text).writerows([head, *harmless_rows])
    write_whole(path, text.getvalue().encode())


def _save(model: keras.Model, path: Path) -> None:
    """Save a model so that it is whole or absent."""
    part = path.with_name(f".{path.stem}.part.keras")
    model.save(part)
    part.replace(path)
