"""Text of others, made harmless where it is shown or read: on a terminal, in a spreadsheet."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula; an apostrophe before it makes it text, and one more keeps that one.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def printable(text: str, keep: str = "") -> str:
    r"""Write out what would steer a terminal or reorder text.

    Parameters
    ----------
    text : str
        Any text.
    keep : str
        Characters that stay as they are though they cannot be printed, such as a line break.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def harmless(cell: str) -> str:
    """Write a cell of a CSV file such that no spreadsheet runs it; `as_was` reads it back.

    Examples
    --------
    >>> harmless("=1+1"), harmless("Kind of Blue")
    ("'=1+1", 'Kind of Blue')
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def as_was(cell: str) -> str:
    """Read what `harmless` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
