"""Draw mel windows as a picture: the first seconds of one track of each label, on one fixed scale."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melzarr.pipeline.errors import MelzarrError
from melzarr.pipeline.features.decibels import stored_levels
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.private_cache import has_home, private_cache
from melzarr.pipeline.zarr_store.reader import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SECONDS = 10.0  # of each track
RANGE_DB = (-60.0, 30.0)  # the same for all pictures, so that two stores can be compared
COLUMNS = 2
MAX_LABELS = 20
MAX_LABEL = 32  # characters of a label


def draw(store: Store, path: Path) -> list[str]:
    """Draw one track of each label.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The picture to write, in the format of its extension: .png, .svg, .pdf.

    Returns
    -------
    list of str
        Ids of the tracks drawn: the first ok track of each label.

    Raises
    ------
    MelzarrError
        If matplotlib is missing, or no track is ok.
    """
    numbers = _examples(store)
    if not numbers:
        raise MelzarrError(f"no track of {store.directory} is ok, so there is nothing to draw")
    n_rows = -(-len(numbers) // COLUMNS)
    figure = new_figure(path, (10, 1.0 + 1.35 * n_rows))
    grid = figure.subplots(n_rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, number in zip(grid.flat, numbers, strict=False):
        image = _draw_track(axes, store, number)
    for axes in grid.flat[len(numbers) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("time in the track, s")
    figure.supylabel("mel band, Hz", fontsize="medium")
    figure.colorbar(image, ax=grid, label="level, dB", aspect=40, pad=0.01)
    save(figure, path)
    return [str(store.values("track")[number]) for number in numbers]


def new_figure(path: Path, inches: tuple[float, float]) -> Figure:
    """Create the figure of a picture.

    Parameters
    ----------
    path : Path
        File that the figure will be saved to; its extension gives the format.
    inches : tuple of float
        Width and height.

    Raises
    ------
    MelzarrError
        If matplotlib is missing, or does not support the format.
    """
    require_matplotlib("a picture")
    from matplotlib.figure import Figure  # noqa: PLC0415  (an extra)

    if path.suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        raise MelzarrError(f"{path} is not a supported image format; use a name that ends in .png, .svg, .pdf or .webp")
    return Figure(figsize=inches, layout="constrained")


def require_matplotlib(what: str = "a report") -> None:
    """Import matplotlib, which gets a private folder for its caches if the user has no home.

    Parameters
    ----------
    what : str
        What needs it, for the message.

    Raises
    ------
    MelzarrError
        If it is not installed.
    """
    if not has_home():
        os.environ.setdefault("MPLCONFIGDIR", str(private_cache() / "matplotlib"))
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415  (an extra)
    except ImportError as error:
        raise MelzarrError(f"{what} needs matplotlib, which is not installed; pip install 'melzarr[plot]'") from error


def save(figure: Figure, path: Path) -> None:
    """Save a picture in the format of the path's extension. A PNG does not name the software that drew it.

    Text is drawn literally, because matplotlib would read some labels as mathematics.
    """
    from matplotlib.text import Text  # noqa: PLC0415  (an extra)

    kind, data = path.suffix[1:].lower(), io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # no installed font has a label's characters
        figure.savefig(data, format=kind, dpi=110, metadata={"Software": None} if kind == "png" else None)
    write_whole(path, data.getvalue())


def drawable(label: str) -> str:
    """Shorten a label or a song title to fit a picture, and replace characters that cannot be drawn by spaces."""
    short = label if len(label) <= MAX_LABEL else f"{label[:MAX_LABEL]}…"
    return "".join(char if char.isprintable() else " " for char in short)


def _examples(store: Store) -> list[int]:
    """Return the index of the first ok track of each label."""
    labels, ok = store.values("label"), store.values("status") == "ok"
    return [int(np.flatnonzero(ok & (labels == label))[0]) for label in sorted(set(labels[ok]))[:MAX_LABELS]]


def _draw_track(axes: Axes, store: Store, number: int) -> Any:
    """Draw the first windows of one track side by side, each with all its frames."""
    spec = store.spec
    n_windows = min(spec.n_windows, max(1, round(SECONDS * spec.sample_rate / spec.stride)))
    mel = np.asarray(store.mel[number])[:n_windows].astype(np.float32)
    image = axes.imshow(
        stored_levels(mel, spec).reshape(-1, spec.n_mels).T,
        aspect="auto",
        origin="lower",
        cmap="magma",
        vmin=RANGE_DB[0],
        vmax=RANGE_DB[1],
        extent=(0.0, n_windows * spec.stride / spec.sample_rate, -0.5, spec.n_mels - 0.5),
        interpolation="nearest",
    )
    bands = store.values("band")
    ticks = sorted({int(np.argmin(np.abs(bands - hertz))) for hertz in (250, 1000, 4000) if hertz < bands[-1]})
    axes.set_yticks(ticks, [f"{bands[tick]:.0f}" for tick in ticks])
    axes.set_title(drawable(store.values("label", slice(number, number + 1))[0]), loc="left", fontsize="medium", pad=2)
    return image
