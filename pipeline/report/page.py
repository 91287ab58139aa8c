"""Write the report about a store: one self-contained HTML page, with its pictures as files beside it."""

from __future__ import annotations

import base64
import functools
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.builder.build_timings import STEPS, Built, read_built
from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.human_units import duration, size
from melzarr.pipeline.inspection import duplicate_candidates, quality, time_alignment
from melzarr.pipeline.inspection.quality import QualityReport
from melzarr.pipeline.inspection.track_statistics import MAX_DRAWN, Example
from melzarr.pipeline.publishing.target_guard import refuse_inside
from melzarr.pipeline.report import charts
from melzarr.pipeline.report.charts import Charts
from melzarr.pipeline.report.mel_figure import RANGE_DB, require_matplotlib
from melzarr.pipeline.report.page_text import brief, clean, db, hertz, hours, items, number, percent
from melzarr.pipeline.report.run_files import ahead_words
from melzarr.pipeline.report.run_reader import Training, read_run
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.threads import done_beside
from melzarr.pipeline.zarr_store.reader import Store

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
MAX_CELLS = 20  # up to this number of classes, the page shows the full confusion matrix
CONFUSIONS = 30  # most frequent confusions to list if there are more classes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as a data URL, and its description."""

    image: str
    said: str


@dataclass(frozen=True, slots=True)
class Mel:
    """A mel spectrogram as a data URL, and its description."""

    example: Example
    image: str
    said: str


def report(
    store: Store, folder: Path | None = None, run: Path | None = None, feedback: Feedback = SILENT
) -> tuple[list[Path], QualityReport]:
    """Assess a store and write a page about it, with its pictures.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path, optional
        Folder of the page; by default ``NAME-report`` in the current folder.
    run : Path, optional
        Folder of a training run to include in the page.
    feedback : Feedback
        What the caller is told.

    Returns
    -------
    files : list of Path
        The files written, the page first.
    found : QualityReport
        Findings about the store.

    Raises
    ------
    CallError
        If the folder is inside a store.
    MelzarrError, RunError
        As for `write_report`, before the store is read, which takes long.
    """
    stem = re.sub(r"(\.zarr)?(\.zip)?$", "", store.directory.name) or "store"
    folder = folder or Path(f"{stem}-report")
    refuse_inside(LocalDirectory(folder / PAGE))
    require_matplotlib()
    if run:
        read_run(run)
    with feedback.steps() as step, done_beside(_load_drawing):
        found = quality.find(store, step("report", store.n_tracks), step)
    return write_report(store, found, folder, run, read_built(store)), found


def write_report(
    store: Store,
    found: QualityReport,
    folder: Path,
    run: Path | None = None,
    built: Built | None = None,
    *,
    pictures: str = "",
    name: str = "",
    draw: Charts = charts,
) -> list[Path]:
    """Write a page about a store, and its pictures.

    Parameters
    ----------
    store : Store
        The store; the page shows the last part of its path, never the whole path.
    found : QualityReport
        Findings about the store.
    folder : Path
        Folder for ``report.html``; created if missing.
    run : Path, optional
        Folder of a training run to include in the page.
    built : Built, optional
        How the store was built, if known.
    pictures : str
        Subfolder of `folder` for the picture files; by default they are beside the page. The page embeds them all.
    name : str
        Name of the store in the page; by default the last part of its path.
    draw : Charts
        Functions that draw the pictures.

    Returns
    -------
    list of Path
        The files written, the page first. The same store and run give the same bytes.

    Raises
    ------
    MelzarrError
        If matplotlib is missing.
    RunError
        If `run` is not a training run.
    """
    require_matplotlib()
    training = None if run is None else read_run(run)
    drawn = _Pictures(folder / pictures, draw)
    view = {
        "name": name or store.directory.name or "store",
        "found": found,
        "facts": found.facts,
        "faults": found.faults(),
        "legend": drawn.keep_png("scale", draw.mel_pixels(np.linspace(*RANGE_DB, 250)[None, :].repeat(8, axis=0))),
        "range_db": RANGE_DB,
        "mels": _mels(found, drawn),
        "spectra": _spectra(found, drawn),
        "lengths": _lengths(found, drawn),
        "built": built,
        "training": training,
        "other_store": training is not None and training.store_uuid != found.facts.uuid,
        "curves": _curves(training, drawn),
        "confusion": _confusion(training),
        "limits": {
            "quiet": quality.QUIET_DB,
            "clipped": quality.CLIPPED_SHARE,
            "same": time_alignment.SAME,
            "near": duplicate_candidates.NEAR_DB,
            "bands": time_alignment.BANDS,
            "fewest": time_alignment.FEWEST,
        },
        "max_drawn": MAX_DRAWN,
    }
    page = _environment().get_template(PAGE).render(view)
    write_whole(folder / PAGE, page.encode())
    return [folder / PAGE, *drawn.write()]


class _Pictures:
    """Pictures that are embedded in a page and also written as separate files."""

    def __init__(self, folder: Path, draw: Charts) -> None:
        self.folder, self.draw = folder, draw
        self.files: dict[str, bytes] = {}

    def keep_png(self, name: str, data: bytes) -> str:
        """Add a PNG image and return its data URL."""
        return self._keep(f"{name}.png", "png", data)

    def chart(self, name: str, data: bytes, said: str) -> Chart:
        """Add an SVG chart and return it with its description."""
        return Chart(self._keep(f"{name}.svg", "svg+xml", data), said)

    def _keep(self, file: str, kind: str, data: bytes) -> str:
        from markupsafe import Markup  # noqa: PLC0415  (comes with jinja2, which is slow to import)

        self.files[file] = data
        return Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")  # noqa: S704  (plain ASCII)

    def write(self) -> list[Path]:
        """Write the picture files and return their paths."""
        for name, data in self.files.items():
            write_whole(self.folder / name, data)
        return [self.folder / name for name in self.files]


def file_name(kind: str, number: int, label: str) -> str:
    """Return a file name for a picture, with only letters, digits and hyphens; the number keeps it unique."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", label)[:32].strip("-").lower()
    return f"{kind}-{number:02d}{plain and f'-{plain}'}"


def _mels(found: QualityReport, drawn: _Pictures) -> list[Mel]:
    names = [file_name("mel", number, example.label) for number, example in enumerate(found.examples, 1)]
    return [
        Mel(example, drawn.keep_png(name, drawn.draw.mel_pixels(example.levels)), _seen(example, found.bands))
        for name, example in zip(names, found.examples, strict=True)
    ]


def _seen(example: Example, bands: Floats) -> str:
    """Describe a mel spectrogram in words."""
    levels = example.levels[np.isfinite(example.levels)]
    if not levels.size:
        return "its level is not known"
    low, high = np.quantile(levels, (0.1, 0.9))
    mean = np.nanmean(np.where(np.isfinite(example.levels), example.levels, np.nan), axis=1)
    return f"loudest around {hertz(bands[int(np.nanargmax(mean))])}; most of it from {db(low)} to {db(high)}"


def _spectra(found: QualityReport, drawn: _Pictures) -> list[tuple[str, Floats, Chart]]:
    """Draw the mean spectrum of each label that has one."""
    rows = [(label, level) for label, level in zip(found.labels, found.mean_db, strict=True)
            if np.isfinite(level).all()][:MAX_DRAWN]  # fmt: skip
    limits = charts.level_limits([*(level for _, level in rows), found.all_db])
    spectra = []
    images = drawn.draw.draw_spectra(found.bands, [level for _, level in rows], found.all_db, limits)
    for place, ((label, level), image) in enumerate(zip(rows, images, strict=True), 1):
        peak, apart = int(np.argmax(level)), level - found.all_db
        most = int(np.argmax(np.abs(apart)))
        said = (
            f"Mean level of {brief(label)} by frequency: highest at {hertz(found.bands[peak])} with {db(level[peak])}; "
            f"furthest from the mean of all labels at {hertz(found.bands[most])}, by {apart[most]:+.0f} dB."
        )
        spectra.append((label, level, drawn.chart(file_name("spectrum", place, label), image, said)))
    return spectra


def _lengths(found: QualityReport, drawn: _Pictures) -> Chart | None:
    """Draw the durations, unless they are all the same."""
    lengths = found.lengths
    if lengths.edges.size <= 2:
        return None
    most = int(np.argmax(lengths.counts))
    said = (
        f"Histogram of durations from {lengths.shortest:.1f} to {lengths.longest:.1f} s; most tracks, "
        f"{lengths.counts[most]}, last from {lengths.edges[most]:.1f} to {lengths.edges[most + 1]:.1f} s."
    )
    return drawn.chart("durations", drawn.draw.draw_lengths(lengths), said)


def _curves(training: Training | None, drawn: _Pictures) -> list[Chart]:
    """Draw loss and accuracies of a training run, if there is one."""
    if training is None or not training.history:
        return []
    loss, train, valid = (
        [figures[name] for figures in training.history] for name in ("loss", "accuracy", "valid_accuracy")
    )
    said = (
        f"Loss of train windows in each of {len(loss)} epochs: from {loss[0]:.3f} to {loss[-1]:.3f}.",
        (
            f"Accuracy by epoch: in the last {train[-1]:.3f} of train, {valid[-1]:.3f} of valid windows, "
            f"at best {max(valid):.3f}."
        ),
    )
    images = drawn.draw.draw_history(training)
    return [
        drawn.chart(name, image, words) for name, image, words in zip(("loss", "accuracy"), images, said, strict=True)
    ]


def _confusion(training: Training | None) -> dict[str, Any] | None:
    """Return the confusion matrix of the test split, if its classes are few, and the most frequent confusions."""
    if training is None or "test" not in training.parts:
        return None
    figures = training.parts["test"]
    counts = np.array(figures.confusion, np.int64).reshape(len(figures.labels), len(figures.labels))
    there = counts.sum(axis=1)
    shares = counts / np.maximum(there, 1)[:, None]
    cells = [list(zip(row, share, strict=True)) for row, share in zip(counts.tolist(), shares.tolist(), strict=True)]
    wrong = counts - np.diag(np.diag(counts))
    order = np.lexsort((np.arange(wrong.size), -wrong.ravel()))[:CONFUSIONS]
    pairs = [(figures.labels[n // len(counts)], figures.labels[n % len(counts)], int(wrong.ravel()[n]))
             for n in order.tolist() if wrong.ravel()[n]]  # fmt: skip
    rows = list(zip(figures.labels, cells, np.diag(shares).tolist(), there.tolist(), strict=True))
    is_table = len(counts) <= MAX_CELLS
    return {"labels": figures.labels, "rows": rows if is_table else [], "pairs": pairs, "by": figures.answered_by}


def _load_drawing() -> None:
    """Load what draws and fills a page; this takes most of a second."""
    for module in ("matplotlib.figure", "matplotlib.backends.backend_svg"):
        importlib.import_module(module)
    _environment().get_template(PAGE)


# Filters and functions of the page's template.


@functools.cache
def _environment() -> Environment:
    """Return the template environment, which escapes, cleans and shortens all text from outside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415  (slow to import)
    from markupsafe import Markup  # noqa: PLC0415

    def safely(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("melzarr.pipeline.report"), autoescape=True, undefined=StrictUndefined, finalize=safely,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "db": db, "hertz": hertz, "number": number, "percent": percent, "size": size, "duration": duration,
        "brief": brief, "hours": hours,
    }  # fmt: skip
    environment.globals |= {"items": items, "STEPS": STEPS, "ahead_words": ahead_words, "percent": percent}
    return environment
