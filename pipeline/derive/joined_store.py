"""Read several stores of one spec as one, without a copy."""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.derive.merge import merged_attributes
from melzarr.pipeline.derive.track_selection import TrackSelection, compatible_tracks
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.layout import COORDINATES, UUID_NAMESPACE, statistics
from melzarr.pipeline.zarr_store.readable_store import Reader
from melzarr.pipeline.zarr_store.reader import Store


@dataclass(frozen=True)
class JoinedStore:
    """Several stores of one spec, read as one: their tracks come one after the other.

    Parameters
    ----------
    stores : sequence of Store
        The stores. Their tracks are compared once, as `merge` does.

    Raises
    ------
    CallError, SpecError, CatalogError
        If there are no stores, two specs differ, an id occurs twice, or a group is in two splits.
    """

    stores: Sequence[Store]

    def __post_init__(self) -> None:
        """Raise an error if the stores do not fit together."""
        compatible_tracks([TrackSelection.whole(store) for store in self.stores])

    @property
    def spec(self) -> FeatureSpec:
        """Feature specification of the tracks."""
        return self.stores[0].spec

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes that a merger of the stores would have, with a UUID of the stores in this order."""
        found = [store.attributes for store in self.stores]
        name = uuid.uuid5(UUID_NAMESPACE, "\n".join(str(each["uuid"]) for each in found))
        return {**merged_attributes(found), "uuid": str(name)}

    @property
    def address(self) -> str:
        """Paths or addresses of the stores."""
        return " + ".join(store.address for store in self.stores)

    @cached_property
    def _ends(self) -> list[int]:
        """Number of the track after each store's last one."""
        return list(accumulate(store.n_tracks for store in self.stores))

    @property
    def n_tracks(self) -> int:
        """Number of tracks of all stores."""
        return self._ends[-1]

    @property
    def io_threads(self) -> int:
        """Number of threads that read at the same time."""
        return max(store.io_threads for store in self.stores)

    def values(self, name: str) -> npt.NDArray[Any]:
        """Return the values of a coordinate; text as Python strings."""
        data = self.column(name)
        return data if data.dtype.kind in "fiu" else data.astype(object)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return the same, with text as numpy strings.

        A coordinate of the tracks is that of all stores. The statistics ``mean_db`` and ``std_db`` are those of the
        train tracks of all stores, from the sums in their receipts.
        """
        if name in {"mean_db", "std_db"}:
            return self._statistics[name]
        if COORDINATES[name][0] != ("track",):
            return self.stores[0].column(name)
        return np.concatenate([store.column(name) for store in self.stores])

    @cached_property
    def _statistics(self) -> dict[str, npt.NDArray[np.float64]]:
        count, level, square = (
            np.concatenate([store.column(f"receipts/{name}") for store in self.stores])
            for name in ("count", "level", "square")
        )
        return dict(zip(("mean_db", "std_db"), statistics(int(count.sum()), level, square), strict=True))

    def _find(self, number: int) -> tuple[int, int]:
        """Return which store has a track, and the number of the track in it."""
        place = bisect_right(self._ends, number)
        return place, number - (self._ends[place - 1] if place else 0)

    def locate(self, number: int) -> tuple[str, int]:
        """Return the address of the store that has a track, and the number of the track in it."""
        place, number = self._find(number)
        return self.stores[place].address, number

    def reader(self) -> Reader:
        """Return a thread-safe function that reads a track, by number, into an array of the track's shape."""
        readers = [store.reader() for store in self.stores]

        def read(number: int, out: npt.NDArray[Any]) -> None:
            place, number = self._find(number)
            readers[place](number, out)

        return read
