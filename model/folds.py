"""Group folds: divisions of a store in which each track is judged once, by a network that has not heard its group."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from melzarr.model.streams import OF_PARTS, stream
from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.human_units import count
from melzarr.pipeline.sources.split import UNUSED
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

VALID_SHARE = 0.05  # about this share of the tracks that are not judged validates; the others are trained on

Numbers = npt.NDArray[np.intp]


def fold_name(number: int, n_folds: int) -> str:
    """Return the name of the protocol of one fold, numbered from 1."""
    return f"fold-{number}-of-{n_folds}"


def parse_fold(name: str) -> tuple[int, int] | None:
    """Return the number of a fold and that of all folds, or None if it is not the name of one."""
    found = re.fullmatch(r"fold-(\d{1,6})-of-(\d{1,6})", name)
    return (int(found[1]), int(found[2])) if found and 1 <= int(found[1]) <= int(found[2]) > 1 else None


def fold_parts(store: ReadableStore, n_folds: int, seed: int) -> list[npt.NDArray[np.object_]]:
    """Divide a store into train, valid and test for each fold.

    Parameters
    ----------
    store : ReadableStore
        The store.
    n_folds : int > 1
        Number of folds.
    seed : int
        Seed of the division.

    Returns
    -------
    list of np.ndarray [shape=(n_tracks,)]
        For each fold "test" for the tracks that it judges, "train" and "valid" for the others, and "unused" for tracks
        that are not ok. Groups are whole, and labels are divided as evenly as groups allow (scikit-learn's
        `StratifiedGroupKFold`). "valid" takes no group without which a label had no track to train on.

    Raises
    ------
    CatalogError
        If the groups are too few, or each label is a single group.
    """
    judges, labels, groups = _judges(store, n_folds, seed), _numbered(store, "label"), _numbered(store, "group")
    found = []
    for number in range(1, n_folds + 1):
        parts = np.full(store.n_tracks, UNUSED, object)
        parts[judges == number] = "test"
        others = np.flatnonzero((judges > 0) & (judges != number))
        parts[others] = "train"
        parts[others[_validation(labels[others], groups[others], seed)]] = "valid"
        found.append(parts)
    return found


def _judges(store: ReadableStore, n_folds: int, seed: int) -> Numbers:
    """Return the fold that judges each track, from 1, or 0 for a track that is not ok."""
    ok = np.flatnonzero(store.column("status") == "ok")
    labels, groups = _numbered(store, "label")[ok], _numbered(store, "group")[ok]
    n_groups, largest = len(np.unique(groups)), int(np.max(np.bincount(labels), initial=0))
    if n_groups < n_folds:
        remedy = "use fewer folds, or give more groups" if n_groups > 1 else "give more groups"
        raise CatalogError(
            f"{store.address}: the ok tracks are in {count(n_groups, 'group')}, too few for {n_folds} folds; {remedy}"
        )
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    if len(np.unique(labels)) > 1 and len(np.unique(pairs[0])) == pairs.shape[1]:
        raise CatalogError(
            f"{store.address}: each label is one group, so no fold could train on a label that it judges; give more "
            f"groups of each label, such as artists or albums"
        )
    if largest < n_folds:
        raise CatalogError(
            f"{store.address}: no label has more than {largest} ok tracks, too few for {n_folds} folds; use fewer "
            f"folds, or give more tracks"
        )
    judges = np.zeros(store.n_tracks, np.intp)
    judges[ok] = _divided(labels, groups, n_folds, seed)
    return judges


def _validation(labels: Numbers, groups: Numbers, seed: int) -> npt.NDArray[np.bool_]:
    """Draw whole groups of about `VALID_SHARE` of the tracks, such that each label keeps tracks to train on."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    valid, n_valid, wanted = np.zeros(len(labels), bool), 0, math.ceil(VALID_SHARE * len(labels))
    left = np.bincount(labels)
    drawn = stream(OF_PARTS, seed).permutation(len(members)).tolist()
    for number in sorted(drawn, key=lambda group: len(members[group]) > wanted):  # a large one if there is no other
        tracks = members[number]
        if n_valid >= wanted or (n_valid and len(tracks) > wanted):
            break
        taken = np.bincount(labels[tracks], minlength=len(left))
        if (left > taken)[taken > 0].all():
            valid[tracks] = True
            left, n_valid = left - taken, n_valid + len(tracks)
    return valid


def _divided(labels: Numbers, groups: Numbers, n_parts: int, seed: int) -> Numbers:
    """Return the part of each track, from 1."""
    found = np.zeros(len(labels), np.intp)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # not every part has each label
        splits = StratifiedGroupKFold(n_parts, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, part) in enumerate(splits, start=1):
            found[part] = number
    return found


def _numbered(store: ReadableStore, column: str) -> Numbers:
    return np.asarray(np.unique(store.values(column).astype(str), return_inverse=True)[1], np.intp)
