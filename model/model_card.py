"""Write the card of a shared run: the Markdown page that a user reads first, whose head Hugging Face reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import keras
import numpy as np

from melzarr.model.run_directory import Run
from melzarr.model.song_model import LEAST
from melzarr.pipeline.features.decibels import AMIN
from melzarr.pipeline.report.run_reader import SPLITS, Figures, Training, read_run
from melzarr.pipeline.share.dataset_card import escape, hub_licence, markdown_table


@dataclass(frozen=True, kw_only=True, slots=True)
class AboutModel:
    """Content of a card that is not in the run itself.

    Parameters
    ----------
    name : str
        Name of the shared folder or archive.
    is_zip : bool
        Whether it is an archive.
    title, licence, author, published : str
        Metadata of the model; empty if not given. The date is such as 2026-11-23.
    files : sequence of str
        Names of its files.
    """

    name: str
    is_zip: bool
    title: str
    licence: str
    author: str
    published: str
    files: Sequence[str]

    @property
    def folder(self) -> str:
        """Name of the folder, into which an archive is unpacked."""
        return self.name.removesuffix(".zip")


def takes_song(model: keras.Model) -> bool:
    """Return whether a model maps all windows of a song to one row of probabilities, and not each window to its own."""
    windows = np.zeros((2, *model.input_shape[1:]), np.float32)
    return len(model.predict_on_batch(windows)) == 1


def model_card(run: Run, model: keras.Model, about: AboutModel) -> str:
    """Write the card of a shared run.

    Parameters
    ----------
    run : Run
        The run.
    model : keras.Model
        Its model. How it is used follows from its output.
    about : AboutModel
        Further content of the card.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("melzarr.model"), autoescape=False, keep_trailing_newline=True,  # noqa: S701  (no HTML)
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["md"] = escape
    training, config = read_run(run.path), run.config
    title = about.title or f"Genres of {config['store'].get('title') or 'music'}"
    return environment.get_template("model_card.md").render(
        about=about,
        title=title,
        licence=hub_licence(about.licence),
        labels=run.labels,
        spec=run.spec,
        floor=AMIN ** (run.spec.power / 2),
        least=LEAST,
        takes_song=takes_song(model),
        dataset=str(config["store"].get("title") or "a store of melzarr"),
        slug=re.sub("[^a-z0-9]+", "-", str(config["store"].get("title", "")).lower()).strip("-") or "dataset",
        training=training,
        tables=["\n".join(_figures(part, training.parts[part])) for part in SPLITS if part in training.parts],
        results=[(part, list(_results(training.parts[part]))) for part in SPLITS if part in training.parts],
        settings=_listed(training.recipe),
        versions=_listed(dict(config.get("versions", {}))),
        seed=config["seed"],
        leaks=training.protocol == "window",
        citation=_citation(title, training, about),
    )


def _listed(settings: Mapping[str, Any]) -> str:
    """Return settings as one line; those of a part of the recipe follow its name."""
    return ", ".join(
        f"{name} ({_listed(value)})" if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in settings.items()
        if value is not None
    )


def _figures(part: str, figures: Figures) -> Iterator[str]:
    rows = [[f"{value:.3f}", words, f"{low:.3f} to {high:.3f}"] for words, value, low, high in figures.accuracies]
    yield f"{figures.n_tracks} tracks and {figures.n_windows} windows of the {part} split{figures.drawn}:"
    yield ""
    yield from markdown_table(["right", "of", "95 % interval"], rows)


def _results(figures: Figures) -> Iterator[dict[str, Any]]:
    """Yield the metrics of a split in the form of a model index."""
    for words, value, low, high in figures.accuracies:
        kind = "f1" if "F1" in words else "accuracy"
        yield {"type": kind, "name": f"{words} (95 %: {low:.3f} to {high:.3f})", "value": round(value, 4)}


def _citation(title: str, training: Training, about: AboutModel) -> str:
    by, year = f"{about.author}. " if about.author else "", f" ({about.published[:4]})" if about.published else ""
    return f"{by}{title}{year}. Network of mel-spectrogram windows, trained with melzarr on {training.store_uuid}."
