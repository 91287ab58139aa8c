"""Training recipes: the two that come with melzarr, and any TOML file of the same form."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import keras

from melzarr.model.network import FRONTENDS
from melzarr.pipeline.errors import RecipeError

OPTIMIZERS = ("adadelta", "adamw")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryRecipe:
    """Hyperparameters of a second opinion: small networks of each track's summary, see `melzarr.model.track_summary`.

    Parameters
    ----------
    members : int > 0
        Number of networks, which differ by their initial weights; their log-probabilities are averaged.
    units : int > 0
        Units of the dense layer of each.
    learning_rate, weight_decay : float
        Parameters of AdamW. The learning rate decreases to 0 as a cosine.
    batch_size, epochs : int > 0
        Tracks per batch, and number of epochs.
    weight : float in [0, 1]
        Weight of the summary's log-probabilities; the rest is that of the mean log-probabilities of the windows.
    """

    members: int
    units: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    weight: float

    def __post_init__(self) -> None:
        """Raise RecipeError if a value is invalid."""
        for name in ("members", "units", "batch_size", "epochs"):
            _require_whole(f"summary.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "weight_decay", "weight"):
            _require_number(f"summary.{name}", getattr(self, name))
        if not self.learning_rate > 0:
            raise RecipeError(f"summary.learning_rate={self.learning_rate!r} is not above 0")
        if self.weight > 1:
            raise RecipeError(f"summary.weight={self.weight!r} is not in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """Hyperparameters of a training.

    Parameters
    ----------
    frontend : {"db", "none"}
        Front end of the network; see `melzarr.model.network`.
    dropout : float in [0, 1)
        Share of the dense layer that is dropped.
    optimizer : {"adadelta", "adamw"}
        Name of the optimizer.
    learning_rate : float > 0
        Learning rate at the start.
    rho, epsilon : float
        Parameters of Adadelta.
    weight_decay : float >= 0
        Parameter of AdamW.
    schedule : {"constant", "cosine"}
        "cosine" decreases the learning rate to 0 by the last epoch.
    batch_size, epochs : int > 0
        Windows per batch, and maximum number of epochs.
    patience : int >= 0
        Number of epochs without a better validation accuracy before training stops; 0 never stops it. The weights of
        the last epoch are used in any case: Keras can restore the best ones only since version 2.2.3 of 2018, and on
        few validation tracks the best epoch is best by chance.
    windows_per_track : int >= 0
        Number of windows per track in an epoch; 0 uses all.
    summary : SummaryRecipe, optional
        A second opinion from each whole track; without it, the network of windows is alone.
    """

    frontend: str
    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    dropout: float = 0.5
    rho: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    schedule: str = "constant"
    patience: int = 0
    windows_per_track: int = 0
    summary: SummaryRecipe | None = None

    def __post_init__(self) -> None:
        """Raise RecipeError if a value is invalid."""
        for name, choices in (("frontend", FRONTENDS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise RecipeError(f"{name}={getattr(self, name)!r} is unknown; use one of {', '.join(choices)}")
        for name, least in (("batch_size", 1), ("epochs", 1), ("patience", 0), ("windows_per_track", 0)):
            _require_whole(name, getattr(self, name), least)
        for name in ("learning_rate", "rho", "epsilon", "weight_decay"):
            _require_number(name, getattr(self, name))
        if not self.learning_rate > 0:
            raise RecipeError(f"learning_rate={self.learning_rate!r} is not above 0")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout={self.dropout!r} is not in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, without a summary that there is not."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def read(cls, name: str) -> Self:
        """Read a recipe that comes with melzarr, by its name, or a recipe file, by its path.

        Raises
        ------
        RecipeError
            If there is none, or it is invalid.
        """
        own = files("melzarr.model") / "recipes" / f"{name}.toml"
        try:
            text = own.read_text(encoding="utf-8") if own.is_file() else Path(name).read_text(encoding="utf-8")
            found = tomllib.loads(text)
            summary = found.pop("summary", None)
            return cls(**found, summary=None if summary is None else SummaryRecipe(**summary))
        except OSError as error:
            raise RecipeError(f"no training recipe {name!r}: use {' or '.join(recipe_names())}, or a file") from error
        except (TypeError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RecipeError(f"{name} is not a training recipe: {error}; copy one that comes with melzarr") from error

    def make_optimizer(self, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Return a new optimizer for this recipe.

        Parameters
        ----------
        steps_per_epoch : int
            Batches per epoch, for the learning rate schedule.
        """
        rate: Any = self.learning_rate
        if self.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, self.epochs * steps_per_epoch)
        if self.optimizer == "adadelta":
            return keras.optimizers.Adadelta(rate, rho=self.rho, epsilon=self.epsilon)
        return keras.optimizers.AdamW(rate, weight_decay=self.weight_decay)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with melzarr."""
    return sorted(path.name.removesuffix(".toml") for path in (files("melzarr.model") / "recipes").iterdir())


def _require_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecipeError(f"{name}={value!r} is not a whole number of at least {least}")


def _require_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise RecipeError(f"{name}={value!r} is not a number of at least 0; give one")
