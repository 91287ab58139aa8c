"""Make untrusted text safe to show in a terminal or to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

# Cells that a spreadsheet takes for a formula. A leading apostrophe makes a cell text. A cell that already starts with
# apostrophes gets one more, so that `as_was` restores it.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def printable(text: str, keep: str = "") -> str:
    r"""Escape characters that would control a terminal or reorder text.

    Parameters
    ----------
    text : str
        Any text.
    keep : str
        Unprintable characters that are not escaped, such as a line break.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def harmless(cell: str) -> str:
    """Return a CSV cell that no spreadsheet runs as a formula; `as_was` reverses it.

    Examples
    --------
    >>> harmless("=1+1"), harmless("Kind of Blue")
    ("'=1+1", 'Kind of Blue')
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def as_was(cell: str) -> str:
    """Return the original text of a cell from `harmless`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_rows(rows: Iterable[Sequence[object]]) -> bytes:
    r"""Return rows as CSV (RFC 4180), with harmless text.

    Lines end in CRLF, so that text with a line break is quoted.

    Examples
    --------
    >>> csv_rows([("track", "=1+1", 0.5)])
    b"track,'=1+1,0.5\r\n"
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue().encode()
