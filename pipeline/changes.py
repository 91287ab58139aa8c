"""What has changed since a store was finished: spec, versions, tracks, the bytes of their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.catalog import Catalog
from pipeline.plan import Plan
from pipeline.publish import attributes
from pipeline.store import Store
from pipeline.tree import source_sha256


def changes(
    store: Store, plan: Plan, catalog: Catalog, progress: Callable[[int], object] = lambda _: None
) -> list[str]:
    """Say in what a finished store differs from what would be built now; an empty list if in nothing.

    Parameters
    ----------
    store : Store
        The finished store.
    plan : Plan
        What would be built.
    catalog : Catalog
        The plan's tracks; all of their files are read, to compare their digests.
    progress : callable
        Called with the number of files read since the last call.
    """
    before, after = store.attributes, attributes(plan, catalog)
    found = [line for name in ("spec", "versions", "split") for line in _differing(name, before[name], after[name])]
    if before["recipe"] != after["recipe"] and not found:
        found.append("the recipe has changed")
    if store.tracks_per_shard != plan.tracks_per_shard:
        found.append(f"tracks per shard was {store.tracks_per_shard}, is {plan.tracks_per_shard}")
    elif store.is_sharded != plan.sharded:
        found.append("each track was a file of its own" if plan.sharded else "tracks were in shards")
    return found + _track_changes(store, plan, catalog, progress)


def _differing(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {key} was {before.get(key)}, is {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _track_changes(store: Store, plan: Plan, catalog: Catalog, progress: Callable[[int], object]) -> list[str]:
    fields = ("id", "label", "source", "group", "split")
    columns = [store.values("track" if field == "id" else field).tolist() for field in fields]
    before = {row[0]: row for row in zip(*columns, strict=True)}
    after = {track.id: tuple(getattr(track, field) for field in fields) for track in plan.tracks}
    both = [name for name in after if name in before]
    digests = dict(zip(before, store.values("source_sha256").tolist(), strict=True))
    with ThreadPoolExecutor(max(catalog.root.readers, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter
        now = {}
        for name, digest in zip(both, pool.map(lambda n: source_sha256(catalog.root, after[n][2]), both), strict=True):
            progress(1)
            now[name] = digest
    return [
        *count_tracks("new", after.keys() - before.keys()),
        *count_tracks("gone", before.keys() - after.keys()),
        *count_tracks("now with another label, path, group or split", {n for n in both if before[n] != after[n]}),
        *count_tracks("changed in the bytes of their files", {n for n in both if now[n] != digests[n]}),
    ]


def count_tracks(what: str, names: Iterable[str]) -> list[str]:
    """Name the first of some tracks and say how many more there are; nothing where there are none."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return [f"tracks {what}: {', '.join(ordered[:3])}{more}"] if ordered else []
