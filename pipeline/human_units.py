"""Format sizes, durations, counts and tables for display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def size(n_bytes: float) -> str:
    """Format a number of bytes, such as "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"


def duration(seconds: float) -> str:
    """Format a duration, such as "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def count(n: int, what: str) -> str:
    """Format a number with its noun, such as "2 shards"."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Format rows as aligned columns: text to the left, numbers to the right."""
    cells = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(cell.replace(".", "").isdigit() for cell in column[1:]) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in cells
    ]
