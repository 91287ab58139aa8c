"""Write the card of a shared run: the Markdown page that a user reads first, whose head Hugging Face reads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jinja2
import keras
import numpy as np

from melzarr.model.messages import spread_line
from melzarr.model.run_directory import PICTURES, Run
from melzarr.model.song_model import LEAST
from melzarr.pipeline.features.decibels import AMIN
from melzarr.pipeline.report.run_files import ahead_words
from melzarr.pipeline.report.run_reader import SPLITS, Figures, Training, read_run
from melzarr.pipeline.share.dataset_card import escape, hub_licence, markdown_table, python_text, yaml_text
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.zip import ZipDirectory

if TYPE_CHECKING:
    from melzarr.model.share_run import RunShareOptions


def takes_song(model: keras.Model) -> bool:
    """Return whether a model maps all windows of a song to one row of probabilities, and not each window to its own."""
    windows = np.zeros((2, *model.input_shape[1:]), np.float32)
    return len(model.predict_on_batch(windows)) == 1


def model_card(
    run: Run, model: keras.Model, target: Directory, files: Collection[str], options: RunShareOptions
) -> str:
    """Write the card of a shared run.

    Parameters
    ----------
    run : Run
        The run.
    model : keras.Model
        Its model. How it is used follows from its output.
    target : Directory
        Where it is shared; the card has its name.
    files : collection of str
        Names of the other files there.
    options : RunShareOptions
        Metadata of the model.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("melzarr.model"), autoescape=False, keep_trailing_newline=True,  # noqa: S701  (no HTML)
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"md": escape, "yaml": yaml_text, "py": python_text, "sh": shlex.quote}
    training, config, is_zip = read_run(run.path), run.config, isinstance(target, ZipDirectory)
    parts = {part: training.parts[part] for part in SPLITS if part in training.parts}
    title = options.title or f"Genres of {config['store'].get('title') or 'music'}"
    return environment.get_template("model_card.md").render(
        name=target.name,
        is_zip=is_zip,
        folder=target.name.removesuffix(".zip") if is_zip else target.name,
        files=files,
        title=title,
        licence=options.licence,
        hub_licence=hub_licence(options.licence),
        labels=run.labels,
        spec=run.spec,
        floor=AMIN ** (run.spec.power / 2),
        least=LEAST,
        takes_song=takes_song(model),
        dataset=str(config["store"].get("title") or "a store of melzarr"),
        slug=re.sub("[^a-z0-9]+", "-", str(config["store"].get("title", "")).lower()).strip("-") or "dataset",
        training=training,
        n_folds=run.n_folds,
        spread=spread_line(run.metrics["folds"]) if run.n_folds else "",
        pictures=PICTURES,
        tables=["\n".join(_figures(part, found, run.n_folds)) for part, found in parts.items()],
        results=[(part, list(_results(found))) for part, found in parts.items()],
        settings=_listed(training.recipe),
        versions=_listed(dict(config.get("versions", {}))),
        seed=config["seed"],
        leaks=training.protocol == "window",
        citation=_citation(title, training, options),
    )


def _listed(settings: Mapping[str, Any]) -> str:
    """Return settings as one line; those of a part of the recipe follow its name."""
    return ", ".join(
        f"{name} ({_listed(value)})" if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in settings.items()
        if value is not None
    )


def _figures(part: str, figures: Figures, n_folds: int) -> Iterator[str]:
    rows = [[f"{value:.3f}", words, f"{low:.3f} to {high:.3f}"] for words, value, low, high in figures.accuracies]
    whose = f", each judged by one of {n_folds} members" if n_folds else f" of the {part} split"
    yield f"{figures.n_tracks} tracks and {figures.n_windows} windows{whose}{figures.drawn}:"
    yield ""
    yield from markdown_table(["right", "of", "95 % interval"], rows)
    for baseline in figures.baselines:
        yield ""
        yield f"On the same tracks, {escape(ahead_words(baseline))}."


def _results(figures: Figures) -> Iterator[dict[str, Any]]:
    """Yield the metrics of a split in the form of a model index."""
    for words, value, low, high in figures.accuracies:
        kind = "f1" if "F1" in words else "accuracy"
        yield {"type": kind, "name": f"{words} (95 %: {low:.3f} to {high:.3f})", "value": round(value, 4)}


def _citation(title: str, training: Training, options: RunShareOptions) -> str:
    by = f"{options.author}. " if options.author else ""
    year = f" ({options.published[:4]})" if options.published else ""
    return f"{by}{title}{year}. Network of mel-spectrogram windows, trained with melzarr on {training.store_uuid}."
