"""Evaluation protocols: the division of a store into train, valid and test, and what it means for a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.model.folds import fold_name, fold_parts, parse_fold
from melzarr.model.loader import tracks
from melzarr.model.selection import Selection, select
from melzarr.model.streams import OF_PARTS, stream
from melzarr.pipeline.errors import CatalogError, StoreError
from melzarr.pipeline.features.decibels import sum_levels
from melzarr.pipeline.sources.dataset_recipe import named_split
from melzarr.pipeline.sources.split import SPLITS, UNUSED
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

TRACK, WINDOW = "track", "window"  # the two protocols that every store has
FOLD_WORDS = "fold {} of {}: nothing of the group of a test track was trained on"
SHARES = (0.7, 0.15, 0.15)  # shares of the windows in each of SPLITS, if a store is split by window


@dataclass(frozen=True, slots=True)
class Protocol:
    """Division of a store into train, valid and test.

    Parameters
    ----------
    name : str
        "track", "window", or the name of a split in the dataset's recipe.
    words : str
        Description of the protocol, printed next to metrics.
    parts : dict of str to Selection
        The windows of "train", "valid" and "test"; a split without windows is missing.
    """

    name: str
    words: str
    parts: dict[str, Selection]

    def remarks(self, labels: Sequence[str]) -> list[str]:
        """Return a warning for each label that has tracks in another split but none in train.

        Parameters
        ----------
        labels : sequence of str
            Names of the classes.
        """
        learnt = set(self.parts["train"].labels.tolist()) if "train" in self.parts else set()
        found = {part: set(self.parts[part].labels.tolist()) - learnt for part in self.parts if part != "train"}
        return [
            f"label {labels[number]} has no track to train on, but some in the {part} split, which the model cannot "
            f"classify correctly"
            for part, numbers in found.items()
            for number in sorted(numbers)
        ]

    def part(self, name: str) -> Selection:
        """Return the windows of one split.

        Raises
        ------
        StoreError
            If the split has no windows.
        """
        if name not in self.parts:
            raise StoreError(
                f"protocol {self.name!r}: no ok track is in the split {name!r}, only in {', '.join(self.parts)}; give "
                f"more tracks, or groups, so that each split gets some"
            )
        return self.parts[name]


def protocol_names(store: ReadableStore) -> list[str]:
    """Return the names of the protocols that a store has."""
    return [TRACK, *_named_splits(store), WINDOW]


def _named_splits(store: ReadableStore) -> dict[str, Any]:
    """Return the splits in the store's recipe, or none if the entry is no dict: a stranger may have made the store."""
    splits = store.attributes["recipe"].get("splits")
    return splits if isinstance(splits, dict) else {}


def make_protocol(store: ReadableStore, name: str, seed: int = 0) -> Protocol:
    """Divide a store by a protocol.

    Parameters
    ----------
    store : ReadableStore
        The store.
    name : str
        "track" for the split in the store, the name of a split in its dataset's recipe, "window", or the name of a
        fold such as "fold-1-of-5".
    seed : int
        Seed of the split by window, and of folds.

    Raises
    ------
    CatalogError
        If the store has no protocol of this name, the split in the recipe cannot be read, or the store cannot be
        divided into the folds.
    """
    if name == WINDOW:
        shared = max(0.0, 1 - store.spec.stride / store.spec.window)
        words = f"split by window, which leaks: neighbours of a test window, {shared:.0%} the same, were trained on"
        return Protocol(name, words, _by_window(store, seed))
    if fold := parse_fold(name):
        number, n_folds = fold
        return fold_protocols(store, n_folds, seed)[number - 1]
    if name == TRACK:
        unit = "group" if (store.values("group") != store.values("track")).any() else "track"
        words = f"split by {unit}: nothing of a test {unit} was trained on"
        return Protocol(name, words, _by_track(store, store.values("split")))
    splits = _named_splits(store)
    if name not in splits:
        known = ", ".join(protocol_names(store))
        raise CatalogError(f"{store.address} has no protocol {name!r}; use one of {known}")
    try:
        given = named_split(splits[name])
    except (ValueError, TypeError, AttributeError) as error:
        raise CatalogError(
            f"{store.address}: the split {name!r} of its recipe cannot be read ({error}); use another protocol"
        ) from error
    parts = np.array([given.get(str(track), UNUSED) for track in store.values("track")])
    words = (
        f"split {name} of the dataset's recipe: nothing of a test track was trained on, and tracks in no part are out"
    )
    return Protocol(name, words, _by_track(store, parts))


def fold_protocols(store: ReadableStore, n_folds: int, seed: int) -> list[Protocol]:
    """Divide a store into folds, each a protocol; see `melzarr.model.folds.fold_parts`.

    Raises
    ------
    CatalogError
        If the store cannot be divided into the folds.
    """
    return [
        Protocol(fold_name(number, n_folds), FOLD_WORDS.format(number, n_folds), _by_track(store, parts))
        for number, parts in enumerate(fold_parts(store, n_folds, seed), start=1)
    ]


def _by_track(store: ReadableStore, parts: npt.NDArray[np.object_]) -> dict[str, Selection]:
    ok = store.values("status") == "ok"
    return {part: select(store, part, parts) for part in SPLITS if (ok & (parts == part)).any()}


def _by_window(store: ReadableStore, seed: int) -> dict[str, Selection]:
    """Assign each window of every ok track to a split at random."""
    everything = select(store, "all", np.full(store.n_tracks, "all"))
    drawn = stream(OF_PARTS, seed).choice(len(SPLITS), everything.windows.shape, p=SHARES)
    masks = {part: drawn == number for number, part in enumerate(SPLITS)}
    return {part: replace(everything, windows=mask) for part, mask in masks.items() if mask.any()}


def every_third(selection: Selection) -> Selection:
    """Return every third window, for a quick evaluation: in the default spec 83 % of the audio, without overlap."""
    sparse = np.zeros_like(selection.windows)
    sparse[:, ::3] = selection.windows[:, ::3]
    return replace(selection, windows=sparse) if sparse.any() else selection


def level_statistics(store: ReadableStore, selection: Selection) -> tuple[Sequence[float], Sequence[float]]:
    """Compute the mean and standard deviation of the level in each band, in dB, over the training windows.

    Parameters
    ----------
    store : ReadableStore
        The store.
    selection : Selection
        The train split of a protocol.

    Returns
    -------
    mean_db, std_db : sequence of float, length n_mels
    """
    spec = store.spec
    count, level, square = 0, np.zeros(spec.n_mels), np.zeros(spec.n_mels)
    for _, mel, _ in tracks(store, selection):
        sums = sum_levels(mel, spec)
        count += sums.count
        level += sums.level
        square += sums.square
    mean = level / count
    return mean.tolist(), np.sqrt(np.maximum(square / count - mean**2, 0.0)).tolist()
