"""The protocol of what can be trained on and evaluated: one store, or several that are read as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from melzarr.pipeline.spec import FeatureSpec

Reader = Callable[[int, npt.NDArray[Any]], None]  # reads a track, by number, into an array of the track's shape


class ReadableStore(Protocol):
    """Tracks with their windows and columns, numbered from 0."""

    @property
    def spec(self) -> FeatureSpec:
        """Feature specification of the tracks."""
        ...

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group: spec, split, recipe, versions, licence, UUID."""
        ...

    @property
    def address(self) -> str:
        """Path or address, for messages."""
        ...

    @property
    def n_tracks(self) -> int:
        """Number of tracks."""
        ...

    @property
    def io_threads(self) -> int:
        """Number of threads that read at the same time."""
        ...

    def values(self, name: str) -> npt.NDArray[Any]:
        """Return the values of one array, such as a coordinate; text as Python strings."""
        ...

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return the same, with text as numpy strings."""
        ...

    def reader(self) -> Reader:
        """Return a thread-safe function that reads a track, by number, into an array of the track's shape."""
        ...

    def locate(self, number: int) -> tuple[str, int]:
        """Return the address of the store that has a track, and the number of the track in it."""
        ...
