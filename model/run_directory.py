"""Read and write the files of one training in a run directory; each file is complete or absent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import keras

from melzarr.model.model_file import load_model, save_model
from melzarr.model.run_config import wrong_entry
from melzarr.model.tensorboard_events import write_event
from melzarr.pipeline.errors import RunError
from melzarr.pipeline.human_units import count
from melzarr.pipeline.publishing.target_guard import refuse_inside
from melzarr.pipeline.report import run_files
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.digests import SHA256
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.untrusted_text import csv_rows
from melzarr.pipeline.versions import differing

LOCK = ".lock"
MODEL, TRAINED = "model.keras", "trained-on.txt"
BLAKE3 = "blake3:"  # marks a digest in a list of what was trained on; an earlier version wrote SHA-256 without a mark
# Pictures, and what each shows.
PICTURES = {
    "history.png": "loss and accuracy of each epoch",
    "confusion.png": "how often each genre was taken for which other one",
    "network.png": "the layers of the network of windows",
}
# Files that a training writes, in the order in which they may be removed; the configuration comes after them.
OWN_FILES = (
    run_files.METRICS, run_files.ANSWERS, *PICTURES, MODEL, "checkpoint-*.keras", TRAINED,
    ".*.part.keras", ".*.part", run_files.HISTORY, "tensorboard/events.out.tfevents.*.melzarr",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """Run directory: the folder of one training.

    Parameters
    ----------
    path : Path
        The folder. It contains config.json (what is trained, how and on which data), trained-on.txt, history.csv (one
        row per finished epoch) and model.keras. Until the training is finished, it also contains the checkpoint of the
        last epoch. After that, it also contains answers.csv, metrics.json and pictures.
    shared_as : str
        Address of the shared run that the folder is a temporary copy of; empty if it is none.
    """

    path: Path
    shared_as: str = ""

    @property
    def address(self) -> str:
        """Path of the run, or the address of the shared run that was copied; used in messages."""
        return self.shared_as or str(self.path)

    @property
    def config_file(self) -> Path:
        """Configuration of the run."""
        return self.path / run_files.CONFIG

    @property
    def history_file(self) -> Path:
        """Metrics of each epoch."""
        return self.path / run_files.HISTORY

    @property
    def model_file(self) -> Path:
        """Model after the last finished epoch, then joined with the second opinion if the recipe has one."""
        return self.path / MODEL

    @property
    def metrics_file(self) -> Path:
        """Metrics of the model; the last file that a training writes, except for pictures."""
        return self.path / run_files.METRICS

    @property
    def answers_file(self) -> Path:
        """Answer of the model for each track of the valid and test splits."""
        return self.path / run_files.ANSWERS

    @property
    def trained_file(self) -> Path:
        """Digest of each audio file whose windows were trained on, one per line; without a prefix, it is a SHA-256."""
        return self.path / TRAINED

    @property
    def tensorboard(self) -> Path:
        """Folder with the history in the format of TensorBoard."""
        return self.path / "tensorboard"

    def checkpoint(self, n_epochs: int) -> Path:
        """Return the path of the state from which training resumes after n_epochs epochs."""
        return self.path / f"checkpoint-{n_epochs:04d}.keras"

    def member(self, number: int) -> Run:
        """Return the run of one fold, numbered from 1; only a run over folds has them."""
        return Run(self.path / f"fold-{number}")

    @property
    def n_folds(self) -> int:
        """Number of folds, or 0 if the run is one training."""
        folds = self.config.get("folds", 0)
        return folds if isinstance(folds, int) and 0 <= folds < 1 << 20 else 0

    @property
    def is_finished(self) -> bool:
        """Whether training and evaluation are finished."""
        return self.metrics_file.is_file() and self.model_file.is_file()

    def start(self, config: dict[str, Any], *, replace: bool = False) -> None:
        """Write the configuration of the run, or check that it equals that of an earlier start.

        Parameters
        ----------
        config : dict of str to value
            Everything that the weights depend on.
        replace : bool
            Remove the run that the folder holds, if any.

        Raises
        ------
        RunError
            If the folder holds a run with another configuration, or files that are no run.
        """
        self._refuse_foreign()
        if self.config_file.is_file():
            if names := [] if replace else differing(self.config, config):
                raise RunError(
                    f"{self.path} contains a run with another {', '.join(names)}; choose another folder with "
                    f"--run, or replace that one with --force"
                )
            if not replace:
                return
            self.clear()
        write_whole(self.config_file, json.dumps(config, indent=2).encode())

    def _refuse_foreign(self) -> None:
        """Raise RunError if the path is a file, or a folder that is not empty and holds no run."""
        if self.path.exists() and not self.is_run_or_empty():
            raise RunError(f"{self.path} exists and is not a melzarr run; choose another folder with --run")

    def is_run_or_empty(self) -> bool:
        """Return whether the path is a folder that holds a run, or nothing."""
        return self.path.is_dir() and (
            self.config_file.is_file() or all(path.name == LOCK for path in self.path.iterdir())
        )

    def clear(self) -> None:
        """Remove only what a training made, metrics first: if interrupted, the rest is an unfinished run."""
        self.metrics_file.unlink(missing_ok=True)
        for member in map(Run, sorted(self.path.glob("fold-*"))):
            is_named = re.fullmatch(r"fold-[1-9]\d*", member.path.name)  # and is no copy, such as fold-1-before
            if is_named and not member.path.is_symlink() and member.is_run_or_empty():
                with member.locked():
                    member.clear()
                    (member.path / LOCK).unlink()
                _remove_if_empty(member.path)
        for pattern in OWN_FILES:
            for path in sorted(self.path.glob(pattern)):
                path.unlink()
        _remove_if_empty(self.tensorboard)
        self.config_file.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for one training; the lock ends with its process.

        Raises
        ------
        RunError
            If another training holds the lock, or the folder holds files that are no run.
        CallError
            If the folder is inside a store.
        """
        refuse_inside(LocalDirectory(self.config_file))
        self._refuse_foreign()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self.path / LOCK, timeout=0):
                yield
        except filelock.Timeout as error:
            raise RunError(
                f"{self.path} is being trained by another process; wait for it, or choose another --run"
            ) from error

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the run.

        Raises
        ------
        RunError
            If there is none, or it is damaged.
        """
        config = self._read_json(self.config_file)
        if wrong := wrong_entry(config):
            raise RunError(
                f"{self.config_file} is not the configuration of a run ({wrong}); it is damaged, train again with "
                f"--force, or get the shared run again"
            )
        return config

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the model."""
        return self._read_json(self.metrics_file)

    @property
    def spec(self) -> FeatureSpec:
        """Spec of the windows that the model takes."""
        return FeatureSpec.from_dict(self.config["spec"])

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the model's outputs."""
        return list(self.config["labels"])

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            return run_files.read_json(path)
        except FileNotFoundError as error:
            said = f"is not a finished run, it has no {path.name}" if self.path.exists() else "does not exist"
            raise RunError(f"{self.path} {said}; make one with: melzarr train STORE --run {self.path}") from error
        except run_files.DAMAGED as error:
            raise RunError(f"{path} cannot be read ({error}); it is damaged, train again with --force") from error

    def model(self) -> keras.Model:
        """Load the model; nothing in the file is executed except built-in layers of Keras.

        Raises
        ------
        RunError
            If there is none, it cannot be loaded safely, or it does not fit the spec and the labels of the run.
        """
        model, fits = self._open(self.model_file, compiled=False), (self.spec.shape[1:], len(self.labels))
        if (found := (model.input_shape[1:], model.output_shape[-1])) != fits:
            raise RunError(
                f"{self.model_file} maps windows of shape {found[0]} to {count(found[1], 'label')}, but "
                f"{self.config_file} has windows of {fits[0]} and {count(fits[1], 'label')}; one of them is of another "
                f"run: train again with --force, or get the shared run again"
            )
        return model

    def _open(self, path: Path, *, compiled: bool) -> keras.Model:
        if not path.is_file():
            raise RunError(
                f"{self.path} is not a finished run, it has no {path.name}; make one with: melzarr train STORE --run "
                f"{self.path}; if that cannot continue, add --force"
            )
        return load_model(path, compiled=compiled)

    def history(self) -> run_files.History:
        """Return the metrics of the finished epochs."""
        try:
            return list(run_files.read_history(self.history_file))
        except FileNotFoundError:
            return []
        except run_files.DAMAGED as error:
            raise RunError(f"{self.history_file} cannot be read ({error}); train again with --force") from error

    def last_state(self) -> keras.Model:
        """Load the state after the last finished epoch, with its optimizer."""
        return self._open(self.checkpoint(len(self.history())), compiled=True)

    def keep_epoch(self, model: keras.Model, history: run_files.History) -> None:
        """Save an epoch: its state, the model, and its metrics, which mark it as finished.

        Parameters
        ----------
        model : keras.Model
            The model after the epoch.
        history : list of dict
            Metrics of all epochs, including the new one.
        """
        done = len(history)
        save_model(model, self.checkpoint(done))
        save_model(model, self.model_file)
        write_event(self.tensorboard, history[-1])
        rows = ([figures[name] for name in run_files.FIGURES] for figures in history)
        write_whole(self.history_file, csv_rows([run_files.FIGURES, *rows]))
        self._remove_checkpoints(keep=self.checkpoint(done))

    def keep_model(self, model: keras.Model) -> None:
        """Save the model of the run in place of that of the last epoch."""
        save_model(model, self.model_file)

    def keep_trained(self, digests: Iterable[str]) -> None:
        """Write the digests of the audio files whose windows are trained on, if there is no such list yet."""
        if not self.trained_file.is_file():
            lines = (digest if digest.startswith(SHA256) else f"{BLAKE3}{digest}" for digest in sorted(digests))
            write_whole(self.trained_file, "".join(f"{line}\n" for line in lines).encode())

    def trained_on(self) -> frozenset[str] | None:
        """Return the digests of the audio files that were trained on, or None if an earlier version wrote no list."""
        try:
            lines = self.trained_file.read_text(encoding="ascii").split()
            return frozenset(line.removeprefix(BLAKE3) if ":" in line else f"{SHA256}{line}" for line in lines)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{self.trained_file} cannot be read ({error}); train again with --force") from error

    def unfinished(self) -> str:
        """Return a sentence about the progress of an unfinished training, or "" if it is finished."""
        if self.is_finished:
            return ""
        if n_folds := self.n_folds:
            n_done = sum(self.member(number).is_finished for number in range(1, 1 + n_folds))
            how = f"melzarr train --folds {n_folds}"
            return f"{self.path} is not finished: {n_done} of {n_folds} folds; continue with {how}"
        recipe = self.config.get("recipe")
        epochs = recipe.get("epochs", "?") if isinstance(recipe, dict) else "?"
        return f"{self.path} is not finished: {len(self.history())} of {epochs} epochs; continue with melzarr train"

    def keep_answers(self, rows: Iterable[Sequence[object]]) -> None:
        """Write the answers of the model, one `Answer` per track."""
        write_whole(self.answers_file, csv_rows([run_files.Answer._fields, *rows]))

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the metrics of the model, and remove the checkpoints, which are no longer needed."""
        write_whole(self.metrics_file, json.dumps(metrics, indent=2).encode())
        self._remove_checkpoints()

    def _remove_checkpoints(self, keep: Path | None = None) -> None:
        for path in self.path.glob("checkpoint-*.keras"):
            if path != keep:
                path.unlink()


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder, unless it contains files that are not of a training."""
    with suppress(OSError):
        folder.rmdir()
