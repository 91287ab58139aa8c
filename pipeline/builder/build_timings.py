"""Timings of a build, in a file beside the store. The store has no times: its bytes are the same in each build."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from melzarr.pipeline.errors import StorageError
from melzarr.pipeline.publishing.workspace import BUILT
from melzarr.pipeline.zarr_store.reader import Store

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Summary

STEPS = ("fetch", "decode", "mel", "write")  # of a worker, in the order of execution


@dataclass(frozen=True, slots=True)
class Built:
    """Timings of the build of a store.

    Parameters
    ----------
    uuid : str
        UUID of the store.
    tracks, reused : int
        Number of all tracks, and of tracks that an earlier run made, whose times are not known.
    workers : int, optional
        Number of workers; None if the parts of the build ran separately.
    wall : float, in s, optional
        Time from the first job to the finished store; None if `workers` is None.
    seconds : mapping of str to float, in s
        Total time of the workers in each of `STEPS`.
    """

    uuid: str
    tracks: int
    reused: int
    workers: int | None
    wall: float | None
    seconds: Mapping[str, float]


def write_built(store: Store, summary: Summary, n_workers: int | None) -> str:
    """Write the timings of a build to a file beside the store.

    Parameters
    ----------
    store : Store
        The finished store.
    summary : Summary
        Summary of its build.
    n_workers : int, optional
        Number of workers of the whole build; None if its parts ran separately, at different times.

    Returns
    -------
    str
        What went wrong, as a sentence; empty if the file was written. The store is complete in both cases.
    """
    seconds = {step: round(summary.seconds[step], 3) for step in STEPS if step in summary.seconds}
    wall = None if n_workers is None else round(summary.seconds["wall"], 3)
    # A build in this process counts as one worker.
    workers = None if n_workers is None else max(1, n_workers)
    built = Built(str(store.attributes["uuid"]), store.n_tracks, summary.n_reused, workers, wall, seconds)
    name = f"{store.directory.name}{BUILT}"
    try:
        store.directory.sibling("").write(name, json.dumps(asdict(built), indent=2).encode() + b"\n")
    except (OSError, StorageError) as error:
        return (
            f"the timings of the build could not be written beside the store as {name} ({error}); the store is "
            f"finished, but a report of it does not show them"
        )
    return ""


def read_built(store: Store) -> Built | None:
    """Read the timings of a store's build; return None if unknown, or of another store of the same name."""
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
        raise ValueError(f"{value!r:.40} is not a time")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError(f"{value!r:.40} is not a count")
    return value
