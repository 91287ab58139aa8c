"""Name the tracks that a report mentions: a bounded list of them, with their columns in the store."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES
from melzarr.pipeline.zarr_store.reader import Store

LISTED = 50  # tracks or pairs that are named; the rest is only counted

Floats = npt.NDArray[np.float64]
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Listing(Generic[Row]):
    """The first rows of a list, and the length of the list.

    Parameters
    ----------
    rows : tuple
        The rows that are named.
    n : int
        Number of all rows.
    """

    rows: tuple[Row, ...] = ()
    n: int = 0

    @property
    def n_more(self) -> int:
        """Number of rows that are not named."""
        return self.n - len(self.rows)


@dataclass(frozen=True, slots=True)
class Noted:
    """A track that is named in a report.

    Parameters
    ----------
    track, label, split, status, source : str
        Its columns in the store.
    error : str
        What is wrong with it.
    value : float
        Why it is named: its peak in dBFS, or its clipped share; NaN if neither applies.
    """

    track: str
    label: str
    split: str
    status: str
    source: str
    error: str
    value: float


class TrackNames:
    """Look up the columns of some tracks by number; each chunk that contains one is read once."""

    def __init__(self, store: Store, numbers: set[int]) -> None:
        self.facts: dict[int, dict[str, str]] = {number: {} for number in numbers}
        for start, some in itertools.groupby(sorted(numbers), lambda n: n // CHUNK_VALUES * CHUNK_VALUES):
            wanted = list(some)
            for name in ("track", "label", "split", "status", "source", "error"):
                column = store.column(name, slice(start, start + CHUNK_VALUES))
                for number in wanted:
                    self.facts[number][name] = str(column[number - start])

    def noted(self, number: int, value: float = float("nan"), error: str | None = None) -> Noted:
        """Return the entry of one track."""
        facts = self.facts[number]
        return Noted(**{**facts, "error": facts["error"] if error is None else error}, value=value)

    def listing(self, numbers: npt.NDArray[np.intp], values: Floats | None = None) -> Listing[Noted]:
        """Return the entries of the first `LISTED` tracks, and the number of all."""
        named = numbers[:LISTED].tolist()
        rows = (self.noted(n) if values is None else self.noted(n, float(values[n])) for n in named)
        return Listing(tuple(rows), len(numbers))
