"""A sequence of tracks that is stored in columns, so that a million tracks need little memory."""

from __future__ import annotations

import dataclasses
import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.spec import FeatureSpec

# UTF-8 of any length: 16 bytes per cell and, beyond 15, the text itself; a Python string takes 49 bytes or more.
TEXT = np.dtypes.StringDType()
_NOTHING = np.array("", TEXT)
BLOCK = 1 << 14  # rows that are Python objects at a time, when columns are built or read


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a catalog.

    Parameters
    ----------
    id : str
        Name of the track in the store, such as ``blues/blues.00000``.
    label : str
        Class of the track.
    source : str
        Path of the file below the catalog's root, with forward slashes.
    group : str
        A split never separates tracks of one group. A catalog gives a track without a group one, which is named by its
        id, or by its file if the catalog has excerpts of files.
    split : str
        "train", "valid", "test" or "unused".
    start, end : str, in s
        Where an excerpt begins in its file, and where it ends at the latest, as `seconds_text`.
    """

    id: str
    label: str
    source: str
    group: str
    split: str
    start: str = ""
    end: str = ""

    def spec(self, spec: FeatureSpec) -> FeatureSpec:
        """Return the spec of a store with the start of this track."""
        return replace(spec, start=float(self.start)) if self.start else spec

    @property
    def end_seconds(self) -> float:
        """Latest end of the track in its file, in s; NaN if only the file's end limits it."""
        return float(self.end or math.nan)


FIELDS = tuple(field.name for field in dataclasses.fields(Track))


def seconds_text(seconds: float) -> str:
    """Return a time as the only text that stands for it, such as "12.5"; zero and NaN are empty."""
    return repr(seconds).removesuffix(".0") if seconds and not math.isnan(seconds) else ""


def as_column(texts: Sequence[str]) -> npt.NDArray[Any]:
    """Return texts as a column; one without any text takes no memory."""
    return np.array(texts, TEXT) if any(texts) else np.broadcast_to(_NOTHING, len(texts))


def joined(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate columns; those without any text still take no memory."""
    if all(map(_is_nothing, columns)):
        return np.broadcast_to(_NOTHING, sum(column.size for column in columns))
    return np.concatenate(columns)


def picked(column: npt.NDArray[Any], numbers: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return the texts at these positions."""
    return np.broadcast_to(_NOTHING, numbers.size) if _is_nothing(column) else column[numbers]


def _is_nothing(column: npt.NDArray[Any]) -> bool:
    return column.strides == (0,) and not (column[:1] != "").any()


def matches(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Find the texts that are in both of two columns; each column has no duplicates.

    Parameters
    ----------
    first, second : np.ndarray [shape=(n,), dtype=TEXT]
        The columns.

    Returns
    -------
    in_first, in_second : np.ndarray [shape=(n_same,)]
        Positions of the common texts in each column, in the order of the texts.
    """
    here, there = array("q"), array("q")
    waiting = _in_order(second)
    other = next(waiting, None)
    for text, number in _in_order(first):
        while other is not None and other[0] < text:
            other = next(waiting, None)
        if other is not None and other[0] == text:
            here.append(number)
            there.append(other[1])
    return np.array(here, np.intp), np.array(there, np.intp)


def _in_order(column: npt.NDArray[Any]) -> Iterator[tuple[str, int]]:
    """Yield the texts of a column and their positions, in Python's order; in blocks, because objects are large."""
    order = np.argsort(column, kind="stable")
    for start in range(0, order.size, BLOCK):
        some = order[start : start + BLOCK]
        yield from zip(column[some].tolist(), some.tolist(), strict=True)


class Tracks(Sequence[Track]):
    """An immutable sequence of tracks.

    Parameters
    ----------
    columns : dict of str to np.ndarray [shape=(n_tracks,), dtype=TEXT]
        One per field of `Track`.

    Notes
    -----
    A million `Track` objects with separate strings take 240 MB, or 450 MB while they are sorted and split; these
    columns take 130 MB. `Track` objects are made on access and are not kept.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        self._columns = columns

    @classmethod
    def of(cls, tracks: Iterable[Track], *, by: str | None = None) -> Tracks:
        """Make a sequence from tracks.

        Parameters
        ----------
        tracks : iterable of Track
            The tracks; an iterator is read in blocks, and never held as a whole.
        by : str, optional
            Field to sort by, as Python sorts text; by default the order is kept.
        """
        if isinstance(tracks, cls) and by is None:
            return tracks
        rows = iter(tracks)
        blocks: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in FIELDS}
        while block := list(itertools.islice(rows, BLOCK)):
            made = {name: as_column([getattr(track, name) for track in block]) for name in FIELDS}
            if np.array_equal(made["group"], made["id"]):
                made["group"] = made["id"]  # if no track has a group, both columns share memory
            for name, values in made.items():
                blocks[name].append(values)
        if all(group is name for group, name in zip(blocks["group"], blocks["id"], strict=True)):
            del blocks["group"]
        columns = {name: joined(blocks.pop(name)) for name in tuple(blocks)}
        if by is not None:
            order = np.argsort(columns.get(by, columns["id"]), kind="stable")
            for name, values in columns.items():
                columns[name] = picked(values, order)
        return cls({"group": columns["id"], **columns})

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return the values of one field, [shape=(n_tracks,), dtype=TEXT]; do not write to them."""
        return self._columns[name]

    def with_column(self, name: str, values: npt.ArrayLike) -> Tracks:
        """Return these tracks with other values of one field."""
        return Tracks({**self._columns, name: np.asarray(values, TEXT)})

    def take(self, numbers: npt.NDArray[np.intp]) -> Tracks:
        """Return the tracks at these positions."""
        taken = {name: picked(values, numbers) for name, values in self._columns.items() if name != "group"}
        same = self._columns["group"] is self._columns["id"]
        return Tracks({"group": taken["id"] if same else picked(self._columns["group"], numbers), **taken})

    def rows(self, *names: str) -> Iterator[tuple[str, ...]]:
        """Yield the values of some fields, track by track."""
        for start in range(0, len(self), BLOCK):
            yield from self._rows(names, slice(start, start + BLOCK))

    def _rows(self, names: tuple[str, ...], which: slice) -> Iterator[tuple[str, ...]]:
        return zip(*(self._columns[name][which].tolist() for name in names), strict=True)

    def __len__(self) -> int:
        """Return the number of tracks."""
        return self._columns["id"].size

    @overload
    def __getitem__(self, which: int) -> Track: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Track, ...]: ...
    def __getitem__(self, which: int | slice) -> Track | tuple[Track, ...]:
        """Return one track, or a tuple of tracks for a slice."""
        if isinstance(which, slice):
            return tuple(itertools.starmap(Track, self._rows(FIELDS, which)))
        return Track(*(str(self._columns[name][which]) for name in FIELDS))

    def __iter__(self) -> Iterator[Track]:
        """Yield the tracks in order."""
        return itertools.starmap(Track, self.rows(*FIELDS))

    def __eq__(self, other: object) -> bool:
        """Return whether the other is a sequence of the same tracks."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the number of tracks and the first ids."""
        return f"Tracks({len(self)}: {', '.join(self.column('id')[:3].tolist())}{' …' if len(self) > 3 else ''})"
