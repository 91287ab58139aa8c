"""Select tracks from stores, check that they are compatible, and plan a store of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.builder.plan import Plan, make_plan
from melzarr.pipeline.errors import CallError, CatalogError, SpecError
from melzarr.pipeline.sources.catalog import refuse_separated_groups
from melzarr.pipeline.sources.tracks import FIELDS, Tracks, joined, picked
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store

CONVERSIONS = {"scale": {("power", "db")}, "dtype": {("float32", "float16")}}  # spec fields: allowed (from, to)


@dataclass(frozen=True, slots=True)
class TrackSelection:
    """Some tracks of a store.

    Parameters
    ----------
    store : Store
        The store.
    numbers : np.ndarray [shape=(n,), dtype=int]
        Numbers of the selected tracks, ascending.
    """

    store: Store
    numbers: npt.NDArray[np.intp]

    def __post_init__(self) -> None:
        """Raise a ValueError if the numbers are out of range or not ascending."""
        inside = not self.numbers.size or (self.numbers[0] >= 0 and self.numbers[-1] < self.store.n_tracks)
        if not inside or (np.diff(self.numbers) < 1).any():
            raise ValueError(
                f"numbers of tracks of {self.store.directory} must be ascending, below {self.store.n_tracks}"
            )

    @classmethod
    def whole(cls, store: Store) -> TrackSelection:
        """Select all tracks of a store."""
        return cls(store, np.arange(store.n_tracks))


def plan_of(
    parts: Sequence[TrackSelection], about: Mapping[str, Any], spec: FeatureSpec | None, tracks_per_shard: int | None
) -> Plan:
    """Plan a store of selected tracks of other stores.

    Parameters
    ----------
    parts : sequence of TrackSelection
        The tracks, in this order.
    about, spec, tracks_per_shard
        As for `derive`.

    Raises
    ------
    CallError, SpecError, CatalogError
        If there are no tracks, two specs are incompatible, an id occurs twice, or a group is in two splits.
    """
    tracks, first = compatible_tracks(parts, spec), parts[0].store
    return make_plan(spec or first.spec, tracks, about["versions"], tracks_per_shard or first.tracks_per_shard)


def compatible_tracks(parts: Sequence[TrackSelection], spec: FeatureSpec | None = None) -> Tracks:
    """Concatenate the tracks of selections that fit together; raises the errors of `plan_of`."""
    if not parts:
        raise CallError("no tracks are selected to make a store of; select others")
    for part in parts:
        _require_spec(parts[0].store, part.store, spec)
    tracks = tracks_of(parts)
    _refuse_duplicates(tracks, parts)
    refuse_separated_groups(tracks)
    return tracks


def _require_spec(first: Store, other: Store, spec: FeatureSpec | None) -> None:
    """Raise a SpecError if a store does not have the wanted spec and cannot be converted to it."""
    before, after = other.spec.to_dict(), (spec or first.spec).to_dict()
    differing = [name for name in before if before[name] != after[name]]
    if spec is None and differing:
        named = ", ".join(f"{name}={after[name]} and {before[name]}" for name in differing)
        raise SpecError(
            f"{first.directory} and {other.directory} differ in {named}; build one of them again with the settings of "
            f"the other"
        )
    lost = [name for name in differing if (before[name], after[name]) not in CONVERSIONS.get(name, ())]
    if lost:
        named = ", ".join(f"{name}={before[name]}" for name in lost)
        asked = ", ".join(f"{name}={after[name]}" for name in lost)
        raise SpecError(
            f"{other.directory} has {named}, from which {asked} cannot be derived; compute it from the audio"
        )


def tracks_of(parts: Sequence[TrackSelection]) -> Tracks:
    """Concatenate the tracks of all selections, in columns."""
    columns = {field: joined([picked(part.store.field(field), part.numbers) for part in parts]) for field in FIELDS}
    if np.array_equal(columns["group"], columns["id"]):
        columns["group"] = columns["id"]  # without named groups, both columns share memory
    return Tracks(columns)


def _refuse_duplicates(tracks: Tracks, parts: Sequence[TrackSelection]) -> None:
    ids = tracks.column("id")
    order = np.argsort(ids, kind="stable")
    for place in np.flatnonzero(ids[order][1:] == ids[order][:-1])[:1].tolist():
        ends = np.cumsum([part.numbers.size for part in parts])
        first, second = (parts[int(np.searchsorted(ends, n, "right"))].store for n in order[place : place + 2])
        raise CatalogError(
            f"{str(ids[order[place]])!r} is the id of a track in {first.directory} and of one in {second.directory}; "
            f"leave one of them out"
        )
