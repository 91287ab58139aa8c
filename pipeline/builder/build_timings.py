"""How fast a store was built: a note beside it, for a store itself has no times and is the same bytes each time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from melzarr.pipeline.builder.run_build import Summary
from melzarr.pipeline.errors import StorageError
from melzarr.pipeline.publishing.workspace import BUILT
from melzarr.pipeline.zarr_store.reader import Store

STEPS = ("fetch", "decode", "mel", "write")  # of a worker, in their order


@dataclass(frozen=True, slots=True)
class Built:
    """How a store was built.

    Parameters
    ----------
    uuid : str
        Of the store.
    tracks, reused : int
        Tracks in all, and those that an earlier run had made, whose times are not known.
    workers : int, optional
        How many there were; None where parts were made by themselves.
    wall : float, in s, optional
        From the first job to the finished store; None likewise.
    seconds : mapping of str to float, in s
        The workers' time in each of `STEPS`.
    """

    uuid: str
    tracks: int
    reused: int
    workers: int | None
    wall: float | None
    seconds: Mapping[str, float]


def write_built(store: Store, summary: Summary, n_workers: int | None) -> str:
    """Write down how a store was built, beside it.

    Parameters
    ----------
    store : Store
        The finished store.
    summary : Summary
        Of its build.
    n_workers : int, optional
        Workers of the whole build; None where it was made in parts, each at its own time.

    Returns
    -------
    str
        What went wrong, as a sentence; empty where it was written. The store is whole all the same.
    """
    seconds = {step: round(summary.seconds[step], 3) for step in STEPS if step in summary.seconds}
    wall = None if n_workers is None else round(summary.seconds["wall"], 3)
    # A build in this process has no workers but itself.
    workers = None if n_workers is None else max(1, n_workers)
    built = Built(str(store.attributes["uuid"]), store.n_tracks, summary.n_reused, workers, wall, seconds)
    name = f"{store.directory.name}{BUILT}"
    try:
        store.directory.sibling("").write(name, json.dumps(asdict(built), indent=2).encode() + b"\n")
    except (OSError, StorageError) as error:
        return (
            f"how fast it was built could not be noted beside it as {name} ({error}); the store is finished, and a "
            f"report of it leaves that out"
        )
    return ""


def read_built(store: Store) -> Built | None:
    """Read how a store was built; None where that is not known, or was another store under the same name."""
    try:
        found = json.loads(store.directory.sibling("").read(f"{store.directory.name}{BUILT}"))
        seconds = {step: _time(found["seconds"][step]) for step in STEPS if step in found["seconds"]}
        wall = None if found["wall"] is None else _time(found["wall"])
        workers = None if found["workers"] is None else _count(found["workers"])
        built = Built(str(found["uuid"]), _count(found["tracks"]), _count(found["reused"]), workers, wall, seconds)
    except (OSError, StorageError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return built if built.uuid == store.attributes["uuid"] else None


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r:.40} is no time")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError(f"{value!r:.40} is no number of anything")
    return value
