"""Values as the page shows them: text of others made harmless, numbers with units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from melzarr.pipeline.human_units import duration
from melzarr.pipeline.untrusted_text import printable

MINUS = "\u2212"


TEXT = 200  # maximum length of text that is not from melzarr, in characters


NAME = 80  # maximum length of the name of a label or a track, in characters


def clean(value: object, most: int = TEXT) -> str:
    """Shorten text that is not from melzarr, and escape its control characters."""
    text = str(value)
    text = text if len(text) <= most else f"{text[:most]}…"
    return printable(text)


def brief(name: str) -> str:
    """Shorten and escape the name of a label or a track."""
    return clean(name, NAME)


def hours(value: float) -> str:
    """Format a duration given in hours."""
    return duration(3600 * value) if math.isfinite(value) else number(value)


def db(value: float) -> str:
    """Format a level given in dB."""
    return f"{value:.0f} dB".replace("-", MINUS) if math.isfinite(value) else "no level"


def hertz(value: float) -> str:
    """Format a frequency given in Hz."""
    return f"{value / 1000:.1f} kHz" if value >= 1000 else f"{value:.0f} Hz"


def number(value: float, digits: int = 0) -> str:
    """Format a number; a dash if it is not finite."""
    return f"{value:,.{digits}f}".replace("-", MINUS) if math.isfinite(value) else "\u2013"


def percent(value: float, digits: int = 1) -> str:
    """Format a share, or a difference of shares, as a percentage."""
    return f"{100 * value:.{digits}f} %".replace("-", MINUS) if math.isfinite(value) else "\u2013"


def items(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of each entry of a table, including nested tables."""
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            yield from ((f"{name}.{inner}", said) for inner, said in items(entry))
        else:
            yield str(name), ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry)
