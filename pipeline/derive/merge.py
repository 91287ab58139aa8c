"""Merge stores of one spec into one: concatenate their tracks and merge their attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.builder.plan import as_json
from melzarr.pipeline.builder.run_build import Summary
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.sources.tracks import FIELDS
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.layout import SCHEMA_VERSION
from melzarr.pipeline.zarr_store.reader import Store, open_store

MERGED = "merged"  # split method and recipe field of a merged store
COLUMNS = (*FIELDS, "status", "source_blake3")  # as text


def merge(
    stores: Sequence[Directory], target: Directory, *, replace: bool = False, feedback: Feedback = SILENT
) -> tuple[Summary | None, list[str]]:
    """Merge stores into one, resume an interrupted run, or find that the store is there.

    Parameters
    ----------
    stores : sequence of Directory
        The stores; the first one determines the number of tracks per shard.
    target : Directory
        Where to write the new store.
    replace : bool
        Whether to replace an existing store.
    feedback : Feedback
        What the caller is told.

    Returns
    -------
    summary : Summary, optional
        What was done; None if the target is this merge already.
    versions : list of str
        Libraries whose versions differ between the stores; see `differing_versions`.

    Raises
    ------
    BuildError
        If another store is at the target, and `replace` is False.
    MelzarrError
        As for `derive`.
    """
    workspace = open_workspace(target)
    refuse_place(workspace, stores, replace=True)
    opened = [open_store(store) for store in stores]
    versions = differing_versions([store.attributes["versions"] for store in opened])
    if workspace.occupied() and not replace:
        finished = open_store(target)
        if not is_merged(finished, opened):
            raise BuildError(
                f"{target} is finished, but is not the merge of these stores; choose another path, or replace it with "
                f"{feedback.force}: it stays until the new one is complete"
            )
        workspace.cleanup_after_crash(finished.receipts())
        return None, versions
    for line in versions:
        feedback.say(f"computed by different versions: {line}")
    parts = [TrackSelection.whole(store) for store in opened]
    about = merged_attributes([store.attributes for store in opened])
    with feedback.building(sum(store.n_tracks for store in opened), "merge") as progress:
        summary = derive(parts, workspace, about, replace=replace, progress=progress)
    return summary, versions


def is_merged(store: Store, stores: Sequence[Store]) -> bool:
    """Whether a store equals the merger of other stores: the same tracks, files, layout and attributes.

    Parameters
    ----------
    store : Store
        The store.
    stores : sequence of Store
        The stores to merge.
    """
    about = merged_attributes([other.attributes for other in stores])
    same_attributes = {**about, "uuid": store.attributes["uuid"]} == store.attributes
    if not same_attributes or store.tracks_per_shard != stores[0].tracks_per_shard:
        return False
    return all(
        store.field(name).tolist() == [value for other in stores for value in other.field(name).tolist()]
        for name in COLUMNS
    )


def merged_attributes(attributes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the attributes of stores.

    Parameters
    ----------
    attributes : sequence of mapping
        Attributes of each store; those that are equal in all are kept.

    Returns
    -------
    dict of str to value
        Attributes of the merged store, without its UUID. They do not depend on the number of merge steps.
    """
    first = attributes[0]
    joined = {
        **{name: join((each[name] for each in attributes), "; ") for name in ("title", "licence")},
        "split": merged_splits([each["split"] for each in attributes]),
        "recipe": _recipes([each["recipe"] for each in attributes]),
        "versions": merged_versions([each["versions"] for each in attributes]),
        "schema_version": SCHEMA_VERSION,
    }
    same = {name: value for name, value in first.items() if all(each.get(name) == value for each in attributes)}
    return {name: value for name, value in {**first, **same, **joined}.items() if name in {*same, *joined} - {"uuid"}}


def merged_splits(rules: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the split rule that all stores share, or a merged rule that lists the different ones."""
    different = _different(part for rule in rules for part in (rule["of"] if rule.get("method") == MERGED else [rule]))
    return different[0] if len(different) == 1 else {"method": MERGED, "of": different}


def merged_versions(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return all versions of each library that computed a track, joined by commas."""
    names = dict.fromkeys(name for each in versions for name in each)
    return {name: join((each[name] for each in versions if name in each), ", ") for name in names}


def differing_versions(versions: Sequence[Mapping[str, str]]) -> list[str]:
    """List the libraries that have several versions, such as "numpy 2.3.1, 2.4.0"."""
    joined = merged_versions(versions)
    return [
        f"{name} {version}" for name, version in joined.items() if any(each.get(name) != version for each in versions)
    ]


def _recipes(recipes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    different: list[dict[str, Any]] = _different(part for recipe in recipes for part in recipe.get(MERGED, [recipe]))
    if len(different) == 1:
        return different[0]
    return {
        "name": join((recipe.get("name", "unnamed") for recipe in different), " + "),
        "origin": join((recipe["origin"] for recipe in different if recipe.get("origin")), "; "),
        MERGED: different,
    }


def _different(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values, in the order of their first occurrence."""
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(as_json(value), value)
    return list(found.values())


def join(texts: Iterable[str], glue: str) -> str:
    """Join texts without repeats, even if some of them are already joined.

    Parameters
    ----------
    texts : iterable of str
        The texts.
    glue : str
        The separator.

    Examples
    --------
    >>> join(["a", "b; a", "c"], "; ")
    'a; b; c'
    """
    return glue.join(dict.fromkeys(part for text in texts for part in text.split(glue)))
