"""Draw the charts of a report: SVG that follows the reader's colour scheme, and mel spectrograms as PNG pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.inspection.durations import Lengths
from melzarr.pipeline.report.mel_figure import RANGE_DB, draw
from melzarr.pipeline.zarr_store.reader import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

    from melzarr.pipeline.report.run_reader import Training

POINTS = 8.0  # font size, 11 pixels of the page
MEL_CMAP = "magma"
SPECTRUM, LENGTHS, HISTORY = (320, 160), (360, 190), (320, 200)  # width and height, in pixels of the page
NEAREST_TICKS = 0.17  # smallest distance of two tick labels, as a share of the axis: the width of a label
FEW_EPOCHS = 40  # up to this number of epochs, each has a marker
CELL = 2  # pixels per band, so that an enlarged image stays sharp
FONT = "DejaVu Sans"  # comes with matplotlib, so that text has the same width on every machine

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scheme:
    """Colours of a chart. `paper` is the background of the page's cards. No two are the same (see `_dark_rules`)."""

    paper: str
    ink: str
    muted: str
    grid: str
    first: str
    second: str


LIGHT = Scheme("#ffffff", "#1c2330", "#5a6372", "#e3e6eb", "#1d5f9e", "#c2510c")
DARK = Scheme("#171b22", "#e6e9ef", "#a3adbb", "#2b323d", "#7db8f0", "#f0a35e")


class Charts(Protocol):
    """Interface of the functions that draw the pictures of a page: this module, or a substitute in a test."""

    def draw_examples(self, store: Store, path: Path) -> object:
        """Draw one track of each label into a PNG file."""

    def mel_pixels(self, levels: npt.NDArray[np.floating]) -> bytes:
        """Draw levels as PNG, without axes."""

    def draw_spectra(
        self, bands: Floats, levels: Sequence[Floats], everything: Floats, limits: tuple[float, float]
    ) -> list[bytes]:
        """Draw mean spectra as SVG."""

    def draw_lengths(self, found: Lengths) -> bytes:
        """Draw durations as SVG."""

    def draw_history(self, training: Training) -> tuple[bytes, bytes]:
        """Draw loss and accuracies as SVG."""


def draw_examples(store: Store, path: Path) -> object:
    """Draw one track of each label; see `mel_figure.draw`."""
    return draw(store, path)


def mel_pixels(levels: npt.NDArray[np.floating]) -> bytes:
    """Draw levels as a palette PNG without axes, low bands at the bottom, on the scale of all mel spectrograms.

    Parameters
    ----------
    levels : np.ndarray [shape=(n_mels, n_columns)], in dB
        NaN is drawn as the lowest level.
    """
    from matplotlib import colormaps  # noqa: PLC0415  (an extra)
    from PIL import Image  # noqa: PLC0415  (comes with matplotlib)

    low, high = RANGE_DB
    share = (np.nan_to_num(levels, nan=low, posinf=high, neginf=low) - low) / (high - low)
    places = np.clip(np.rint(255 * share), 0, 255).astype(np.uint8)[::-1]
    width = max(1, round(CELL * 250 / places.shape[1]))
    image = Image.fromarray(places.repeat(CELL, axis=0).repeat(width, axis=1), "P")
    image.putpalette((colormaps[MEL_CMAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())
    data = io.BytesIO()
    image.save(data, format="png", optimize=True)
    return data.getvalue()


def draw_spectra(
    bands: Floats, levels: Sequence[Floats], everything: Floats, limits: tuple[float, float]
) -> list[bytes]:
    """Draw the mean level of each label in each band, and that of all labels as a dashed line.

    Parameters
    ----------
    bands, everything : np.ndarray [shape=(n_mels,)]
        Band centres in Hz, and levels of all labels in dB.
    levels : sequence of np.ndarray [shape=(n_mels,)]
        Levels of each label, in dB.
    limits : tuple of float, in dB
        Ends of the level axis, the same for all labels.
    """
    with _style():
        figure, axes = _chart(SPECTRUM)
        places = np.arange(len(bands))
        axes.plot(places, everything, color=LIGHT.muted, linewidth=1, linestyle=(0, (4, 2)))
        (line,) = axes.plot(places, everything, color=LIGHT.first, linewidth=1.6)
        axes.set(xlim=(0, max(1, len(bands) - 1)), ylim=limits, ylabel="dB")
        ticks = band_ticks(bands)
        axes.set_xticks([place for place, _ in ticks], [said for _, said in ticks])
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is the same for all, and takes most of the time
        drawn = []
        for level in levels:
            line.set_ydata(level)
            drawn.append(_svg(figure))
        return drawn


def band_ticks(bands: Floats) -> list[tuple[int, str]]:
    """Return the bands nearest to round frequencies and their tick labels, without labels too close to the previous."""
    ticks: list[tuple[int, str]] = []
    for hertz in (100, 250, 500, 1000, 2000, 4000, 8000, 16000):
        place = int(np.argmin(np.abs(bands - hertz)))
        last = ticks[-1][0] if ticks else -len(bands)
        if bands[0] <= hertz <= bands[-1] and place - last >= len(bands) * NEAREST_TICKS:
            ticks.append((place, f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"))
    return ticks


def draw_lengths(found: Lengths) -> bytes:
    """Draw a histogram of track durations."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: PLC0415  (an extra)

    with _style():
        figure, axes = _chart(LENGTHS)
        widths = np.diff(found.edges)
        axes.bar(found.edges[:-1], found.counts, widths, align="edge", color=LIGHT.first, edgecolor=LIGHT.paper)
        if not np.allclose(widths, widths[0]):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="duration, s", ylabel="tracks")
        axes.yaxis.set_major_locator(_whole_numbers())
        return _svg(figure)


def draw_history(training: Training) -> tuple[bytes, bytes]:
    """Draw loss and accuracies by epoch, as two charts."""
    names = ("epoch", "loss", "accuracy", "valid_accuracy")
    epochs, loss, accuracy, valid = ([figures[name] for figures in training.history] for name in names)
    lines: dict[str, Any] = {"linewidth": 1.6, "marker": "o" if len(epochs) <= FEW_EPOCHS else "", "markersize": 3.5}
    with _style():
        left, axes = _chart(HISTORY)
        axes.plot(epochs, loss, color=LIGHT.first, **lines)
        axes.set(xlabel="epoch", ylim=(0, 1.05 * max(*loss, 1e-3)))
        axes.xaxis.set_major_locator(_whole_numbers())
        right, axes = _chart(HISTORY)
        axes.plot(epochs, accuracy, color=LIGHT.first, label="train windows", **lines)
        axes.plot(epochs, valid, color=LIGHT.second, linestyle="--", label="valid windows", **lines)
        axes.set(xlabel="epoch", ylim=(0, 1))
        axes.xaxis.set_major_locator(_whole_numbers())
        right.legend(loc="outside upper left", ncols=2, frameon=False)
        return _svg(left), _svg(right)


def level_limits(levels: Sequence[Floats]) -> tuple[float, float]:
    """Return the ends of an axis that holds all finite levels, at multiples of 10 dB."""
    known = [float(value) for level in levels for value in level if math.isfinite(value)]
    if not known:
        return RANGE_DB
    return 10.0 * math.floor((min(known) - 1) / 10), 10.0 * math.ceil((max(known) + 1) / 10)


def _style() -> AbstractContextManager[None]:
    """Return a context that sets the style of the charts, regardless of the user's matplotlib settings."""
    import matplotlib as mpl  # noqa: PLC0415  (an extra)

    own: dict[Any, Any] = {
        "figure.facecolor": LIGHT.paper, "axes.facecolor": LIGHT.paper, "savefig.facecolor": LIGHT.paper,
        "font.family": FONT, "font.size": POINTS, "legend.fontsize": POINTS,
        "xtick.labelsize": POINTS, "ytick.labelsize": POINTS,
        "text.color": LIGHT.ink, "axes.labelcolor": LIGHT.muted, "xtick.color": LIGHT.muted,
        "ytick.color": LIGHT.muted, "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": LIGHT.grid, "axes.edgecolor": LIGHT.grid,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.linewidth": 0.8,
        "patch.linewidth": 0.5, "svg.fonttype": "none", "svg.hashsalt": "melzarr",
    }  # fmt: skip
    # Without the backend: asking for it imports pyplot.
    defaults: dict[Any, Any] = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
    return mpl.rc_context({**defaults, **own})


def _chart(pixels: tuple[int, int]) -> tuple[Figure, Axes]:
    """Create the figure and axes of a chart, given its width and height in pixels of the page."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (an extra)

    figure = Figure(figsize=(pixels[0] / 100, pixels[1] / 100), layout="constrained")
    return figure, figure.subplots()


def _whole_numbers() -> Locator:
    """Return a locator that sets ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (an extra)

    return MaxNLocator(integer=True, nbins=6)


def _svg(figure: Figure) -> bytes:
    """Return a chart as SVG that also has the colours of the dark scheme."""
    data = io.BytesIO()
    figure.savefig(data, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return data.getvalue().replace(b"</style>", f"{_dark_rules()}</style>".encode(), 1)


def _dark_rules() -> str:
    """Return CSS that replaces each colour in a dark scheme; viewers without colour schemes show the light one."""
    pairs = [(getattr(LIGHT, role), getattr(DARK, role)) for role in Scheme.__slots__]
    rules = [f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
             for light, dark in pairs for what in ("fill", "stroke")]  # fmt: skip
    return f"@media (prefers-color-scheme: dark){{{''.join(rules)}}}"
