"""Select windows of a store: those of the ok tracks of one split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.zarr_store.readable_store import ReadableStore


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected windows of a store.

    Parameters
    ----------
    tracks : np.ndarray [shape=(n,), dtype=int]
        Numbers of the tracks, ascending; all are ok.
    labels : np.ndarray [shape=(n,), dtype=int32]
        Class of each track.
    windows : np.ndarray [shape=(n, n_windows), dtype=bool]
        Mask of the selected windows of each track.
    """

    tracks: npt.NDArray[np.intp]
    labels: npt.NDArray[np.int32]
    windows: npt.NDArray[np.bool_]

    def take(self, places: npt.NDArray[np.intp]) -> Selection:
        """Select some of the tracks, by their positions in this selection."""
        return Selection(self.tracks[places], self.labels[places], self.windows[places])

    @property
    def n_windows(self) -> int:
        """Total number of windows."""
        return int(self.windows.sum())


def label_names(store: ReadableStore) -> list[str]:
    """Return the sorted names of a store's classes; a class is an index into this list."""
    return sorted({str(label) for label in store.values("label")})


def select(store: ReadableStore, split: str, parts: npt.NDArray[Any] | None = None) -> Selection:
    """Select all windows of the ok tracks of one split.

    Parameters
    ----------
    store : ReadableStore
        The store.
    split : str
        Name of the split: "train", "valid", "test", or another name in `parts`.
    parts : np.ndarray [shape=(n_tracks,)], optional
        Split of each track; by default the split in the store.

    Raises
    ------
    StoreError
        If the split has no ok track.
    """
    chosen = store.values("split") if parts is None else np.asarray(parts)
    tracks = np.flatnonzero((chosen == split) & (store.values("status") == "ok"))
    if not tracks.size:
        known = ", ".join(sorted({str(part) for part in chosen}))
        raise StoreError(f"{store.address} has no ok track in the split {split!r}; it has {known}: give more tracks")
    names = label_names(store)
    labels = np.searchsorted(names, store.values("label")[tracks].astype(str)).astype(np.int32)
    everything = np.broadcast_to(np.True_, (tracks.size, store.spec.n_windows))  # takes no memory
    return Selection(tracks, labels, everything)
