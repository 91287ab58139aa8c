"""Tracks: a row to whoever asks for one, columns in memory, so that a million of them are no burden."""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

# UTF-8 of any length: 16 bytes a cell and, beyond 15, the text itself, where a string of Python's takes 49 and more.
TEXT = np.dtypes.StringDType()
BLOCK = 1 << 14  # rows that are objects at a time, on their way into columns and out of them


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a catalog.

    Parameters
    ----------
    id : str
        Its name in the store, such as ``blues/blues.00000``.
    label : str
        Its class.
    source : str
        Path of its file below the catalog's root, with forward slashes.
    group : str
        Tracks of one group are never separated by a split; by itself a track is a group named by its id.
    split : str
        "train", "valid", "test" or "unused".
    """

    id: str
    label: str
    source: str
    group: str
    split: str


FIELDS = tuple(field.name for field in dataclasses.fields(Track))


def matches(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Find the texts that are in both of two columns, in each of which they come once.

    Parameters
    ----------
    first, second : np.ndarray [shape=(n,), dtype=TEXT]
        The columns.

    Returns
    -------
    in_first, in_second : np.ndarray [shape=(n_same,)]
        Where each of them is, in the order of the texts.
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
    """Texts of a column and their places, as Python sorts text; some at a time, since an object takes much memory."""
    order = np.argsort(column, kind="stable")
    for start in range(0, order.size, BLOCK):
        some = order[start : start + BLOCK]
        yield from zip(column[some].tolist(), some.tolist(), strict=True)


class Tracks(Sequence[Track]):
    """An immutable sequence of tracks.

    Parameters
    ----------
    columns : dict of str to np.ndarray [shape=(n_tracks,), dtype=TEXT]
        One for each field of `Track`.

    Notes
    -----
    A million `Track` with strings of their own take 240 MB, or 450 while they are sorted and split; these columns take
    130. What is asked for becomes a `Track`, for as long as it is held.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        self._columns = columns

    @classmethod
    def of(cls, tracks: Iterable[Track], *, by: str | None = None) -> Tracks:
        """Take tracks as they come.

        Parameters
        ----------
        tracks : iterable of Track
            The tracks; an iterator is never held as a whole.
        by : str, optional
            Field by which they are sorted, as Python sorts text.
        """
        if isinstance(tracks, cls) and by is None:
            return tracks
        rows, none = iter(tracks), np.array([], TEXT)
        blocks = {name: [none] for name in FIELDS}
        while block := list(itertools.islice(rows, BLOCK)):
            made = {name: np.array([getattr(track, name) for track in block], TEXT) for name in FIELDS}
            if np.array_equal(made["group"], made["id"]):
                made["group"] = made["id"]  # where nobody names groups, they need no memory of their own
            for name, values in made.items():
                blocks[name].append(values)
        if all(group is name for group, name in zip(blocks["group"], blocks["id"], strict=True)):
            del blocks["group"]
        columns = {name: np.concatenate(blocks.pop(name)) for name in tuple(blocks)}
        if by is not None:
            order = np.argsort(columns.get(by, columns["id"]), kind="stable")
            for name in columns:
                columns[name] = columns[name][order]
        return cls({"group": columns["id"], **columns})

    def column(self, name: str) -> npt.NDArray[Any]:
        """Values of one field, [shape=(n_tracks,), dtype=TEXT]; not to be written to."""
        return self._columns[name]

    def with_column(self, name: str, values: npt.ArrayLike) -> Tracks:
        """Return these tracks with other values of one field."""
        return Tracks({**self._columns, name: np.asarray(values, TEXT)})

    def take(self, numbers: npt.NDArray[np.intp]) -> Tracks:
        """Return some of these tracks, by their numbers."""
        taken = {name: values[numbers] for name, values in self._columns.items() if name != "group"}
        same = self._columns["group"] is self._columns["id"]
        return Tracks({"group": taken["id"] if same else self._columns["group"][numbers], **taken})

    def rows(self, *names: str) -> Iterator[tuple[str, ...]]:
        """Values of some fields, track by track."""
        for start in range(0, len(self), BLOCK):
            yield from self._rows(names, slice(start, start + BLOCK))

    def _rows(self, names: tuple[str, ...], which: slice) -> Iterator[tuple[str, ...]]:
        return zip(*(self._columns[name][which].tolist() for name in names), strict=True)

    def __len__(self) -> int:
        """How many there are."""
        return self._columns["id"].size

    @overload
    def __getitem__(self, which: int) -> Track: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Track, ...]: ...
    def __getitem__(self, which: int | slice) -> Track | tuple[Track, ...]:
        """One track, or a tuple of some."""
        if isinstance(which, slice):
            return tuple(itertools.starmap(Track, self._rows(FIELDS, which)))
        return Track(*(str(self._columns[name][which]) for name in FIELDS))

    def __iter__(self) -> Iterator[Track]:
        """One track after the other."""
        return itertools.starmap(Track, self.rows(*FIELDS))

    def __eq__(self, other: object) -> bool:
        """Whether the other is a sequence of the same tracks."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Say how many there are, and the first of them."""
        return f"Tracks({len(self)}: {', '.join(self.column('id')[:3].tolist())}{' …' if len(self) > 3 else ''})"
