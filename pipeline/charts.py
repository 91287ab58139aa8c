"""The charts of a report, each drawn for light and for dark, and mel spectrograms as bare pixels; all as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import MelzarrError
from pipeline.findings import Lengths
from pipeline.picture import RANGE_DB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

    from pipeline.run_files import Training

DPI = 200  # two pixels for each of a page's, of which there are a hundred to the inch here
POINTS = 8.0  # eleven of a page's pixels
MEL_CMAP = "magma"
SPECTRUM, LENGTHS, HISTORY = (320, 160), (360, 190), (320, 200)  # width and height, in pixels of the page
NEAREST_TICKS = 0.17  # of the axis; a frequency takes that much room
FEW_EPOCHS = 40  # that are marked, each by itself
COLOURS = 64  # of a chart: a few, and what lies between them at edges
CELL = 2  # pixels of a band, so that a picture of pixels may be enlarged without growing soft
FONT = "DejaVu Sans"  # comes with matplotlib, so that the same store gives the same picture everywhere

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scheme:
    """Colours of a chart; the paper is that of the page's cards."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    first: str
    second: str


LIGHT = Scheme("light", "#ffffff", "#1c2330", "#5a6372", "#e3e6eb", "#1d5f9e", "#c2510c")
DARK = Scheme("dark", "#171b22", "#e6e9ef", "#a3adbb", "#2b323d", "#7db8f0", "#f0a35e")
SCHEMES = (LIGHT, DARK)


def require_matplotlib() -> None:
    """Raise MelzarrError where there is nothing to draw with."""
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415  (an extra)
    except ImportError as error:
        raise MelzarrError("a report needs matplotlib, which is not installed; pip install 'melzarr[plot]'") from error


def mel_pixels(levels: npt.NDArray[np.floating]) -> bytes:
    """Draw levels on the one scale of all mel spectrograms, low bands below: bare pixels, a palette, no axes.

    Parameters
    ----------
    levels : np.ndarray [shape=(n_mels, n_columns)], in dB
        What is NaN is drawn as the quietest.
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


def draw_spectrum(
    bands: Floats, level: Floats, everything: Floats, limits: tuple[float, float], scheme: Scheme
) -> bytes:
    """Draw the mean level of a label in each band, over that of all labels.

    Parameters
    ----------
    bands, level, everything : np.ndarray [shape=(n_mels,)]
        Centres in Hz, and levels in dB.
    limits : tuple of float, in dB
        Of the axis, the same for all labels.
    scheme : Scheme
        Its colours.
    """
    with _style(scheme):
        figure, axes = _chart(SPECTRUM)
        places = np.arange(len(bands))
        axes.plot(places, everything, color=scheme.muted, linewidth=1, linestyle=(0, (4, 2)))
        axes.plot(places, level, color=scheme.first, linewidth=1.6)
        axes.set(xlim=(0, max(1, len(bands) - 1)), ylim=limits, ylabel="dB")
        ticks = band_ticks(bands)
        axes.set_xticks([place for place, _ in ticks], [said for _, said in ticks])
        return _png(figure)


def band_ticks(bands: Floats) -> list[tuple[int, str]]:
    """Places of round frequencies among the bands, and what is written there; none too near to the one before."""
    ticks: list[tuple[int, str]] = []
    for hertz in (100, 250, 500, 1000, 2000, 4000, 8000, 16000):
        place = int(np.argmin(np.abs(bands - hertz)))
        last = ticks[-1][0] if ticks else -len(bands)
        if bands[0] <= hertz <= bands[-1] and place - last >= len(bands) * NEAREST_TICKS:
            ticks.append((place, f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"))
    return ticks


def draw_lengths(found: Lengths, scheme: Scheme) -> bytes:
    """Draw how many tracks are how long."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: PLC0415  (an extra)

    with _style(scheme):
        figure, axes = _chart(LENGTHS)
        widths = np.diff(found.edges)
        axes.bar(found.edges[:-1], found.counts, widths, align="edge", color=scheme.first, edgecolor=scheme.paper)
        if not np.allclose(widths, widths[0]):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="duration, s", ylabel="tracks")
        axes.yaxis.set_major_locator(_whole_numbers())
        return _png(figure)


def draw_history(training: Training, scheme: Scheme) -> tuple[bytes, bytes]:
    """Draw the loss and the accuracies of each epoch, as two charts."""
    epochs, loss, accuracy, valid = (list(column) for column in zip(*training.history, strict=True))
    lines: dict[str, Any] = {"linewidth": 1.6, "marker": "o" if len(epochs) <= FEW_EPOCHS else "", "markersize": 3.5}
    with _style(scheme):
        left, axes = _chart(HISTORY)
        axes.plot(epochs, loss, color=scheme.first, **lines)
        axes.set(xlabel="epoch", ylim=(0, 1.05 * max(*loss, 1e-3)))
        axes.xaxis.set_major_locator(_whole_numbers())
        right, axes = _chart(HISTORY)
        axes.plot(epochs, accuracy, color=scheme.first, label="train windows", **lines)
        axes.plot(epochs, valid, color=scheme.second, linestyle="--", label="valid windows", **lines)
        axes.set(xlabel="epoch", ylim=(0, 1))
        axes.xaxis.set_major_locator(_whole_numbers())
        right.legend(loc="outside upper left", ncols=2, frameon=False)
        return _png(left), _png(right)


def level_limits(levels: Sequence[Floats]) -> tuple[float, float]:
    """Choose the ends of an axis for some levels in dB, at whole tens."""
    known = [float(value) for level in levels for value in level if math.isfinite(value)]
    if not known:
        return RANGE_DB
    return 10.0 * math.floor((min(known) - 1) / 10), 10.0 * math.ceil((max(known) + 1) / 10)


def _style(scheme: Scheme) -> AbstractContextManager[None]:
    """Have all that is drawn in a block look alike, whatever a person has set for charts of their own."""
    import matplotlib as mpl  # noqa: PLC0415  (an extra)

    own: dict[Any, Any] = {
        "figure.facecolor": scheme.paper, "axes.facecolor": scheme.paper, "savefig.facecolor": scheme.paper,
        "font.family": FONT, "font.size": POINTS, "legend.fontsize": POINTS,
        "xtick.labelsize": POINTS, "ytick.labelsize": POINTS,
        "text.color": scheme.ink, "axes.labelcolor": scheme.muted, "xtick.color": scheme.muted,
        "ytick.color": scheme.muted, "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": scheme.grid, "axes.edgecolor": scheme.grid,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.linewidth": 0.8,
        "patch.linewidth": 0.5,
    }  # fmt: skip
    return mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **own})


def _chart(pixels: tuple[int, int]) -> tuple[Figure, Axes]:
    """Begin a chart of so many of a page's pixels."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (an extra)

    figure = Figure(figsize=(pixels[0] / 100, pixels[1] / 100), layout="constrained")
    return figure, figure.subplots()


def _whole_numbers() -> Locator:
    """Put no ticks between whole numbers."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (an extra)

    return MaxNLocator(integer=True, nbins=6)


def _png(figure: Figure) -> bytes:
    """Give a chart's bytes: a palette, which is a quarter of full colour, and not a word of what drew it."""
    from PIL import Image  # noqa: PLC0415  (comes with matplotlib)

    drawn, data = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(data, format="png", optimize=True)
    return data.getvalue()
