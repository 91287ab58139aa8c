"""Append to a store: build the tracks that it lacks beside it, then merge both into the store in one step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from melzarr.pipeline.builder.feedback import SILENT, Advance, Feedback
from melzarr.pipeline.builder.plan import Plan, make_plan
from melzarr.pipeline.builder.run_build import Summary, build
from melzarr.pipeline.builder.up_to_date import changes, compare_tracks, count_tracks
from melzarr.pipeline.clusters.task_runner import Connect
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.merge import differing_versions, merged_splits, merged_versions
from melzarr.pipeline.derive.track_selection import TrackSelection, tracks_of
from melzarr.pipeline.errors import BuildError, CatalogError
from melzarr.pipeline.human_units import count
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.sources.catalog import Catalog, refuse_separated_groups
from melzarr.pipeline.sources.tracks import Tracks
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.companion_files import CHECKSUMS
from melzarr.pipeline.zarr_store.reader import Store, is_store, open_store

SHARES = ("valid", "test", "seed")  # parameters of a split by hash


@dataclass(frozen=True, slots=True)
class Addition:
    """The tracks of a source that a store lacks.

    Parameters
    ----------
    workspace : Workspace
        Workspace of the store, in which the extended store is made.
    store : Store
        The store.
    catalog : Catalog
        Only the new tracks, each with its split.
    plan : Plan
        Plan to build the new tracks with the store's spec.
    n_there : int
        Number of tracks of the source that the store already has, from the same files.
    differing : tuple of str
        Ids of those tracks whose label, path, group, split, start or end is now different in the source; the store
        keeps its own.
    """

    workspace: Workspace
    store: Store
    catalog: Catalog
    plan: Plan
    n_there: int
    differing: tuple[str, ...]

    @property
    def sibling(self) -> Directory:
        """Directory of the temporary store of the new tracks, beside the store."""
        return self.store.directory.sibling(f"{self.store.directory.name}.appended")

    @property
    def versions(self) -> list[str]:
        """Libraries whose versions differ between the tracks of the store and the new ones."""
        return differing_versions([self.store.attributes["versions"], self.plan.versions])

    @property
    def about(self) -> dict[str, Any]:
        """Attributes of the store after the append: split and versions are merged, the others are kept."""
        before = self.store.attributes
        return {
            **before,
            "split": merged_splits([before["split"], self.catalog.rule]),
            "versions": merged_versions([before["versions"], self.plan.versions]),
        }


def append(
    target: Directory,
    source: str,
    read: Callable[[dict[str, Any]], Catalog],
    connect: Connect,
    *,
    max_failed: float | None = None,
    feedback: Feedback = SILENT,
) -> tuple[Addition, Summary | None]:
    """Add the tracks of a source that a store lacks to the store, or resume an append that was stopped.

    The new tracks are built beside the store, then merged into it in one step. Its full shards are kept. Its last
    shard, if it is not full, and the new tracks are repacked.

    Parameters
    ----------
    target : Directory
        The store.
    source : str
        Name of the source in messages.
    read : callable
        Lists the tracks of the source. It is called with the result of `shares_of`, by which new tracks are split
        unless a manifest gives the splits.
    connect, max_failed, feedback
        As for `build_store`.

    Returns
    -------
    added : Addition
        The new tracks.
    summary : Summary, optional
        What was done; None if the store has all tracks of the source.

    Raises
    ------
    MelzarrError
        As for `growing`, `addition`, `build` and `derive`; the store is then unchanged.
    """
    with growing(target) as workspace:
        store = open_store(workspace.target)
        catalog = read(shares_of(store))
        for line in catalog.remarks:
            feedback.warn(line)
        with feedback.counting(len(catalog.tracks), "compare") as progress:
            added = addition(workspace, store, catalog, progress)
        for line in count_tracks(
            f"kept unchanged, although {source} gives another label, path, group, split or excerpt", added.differing
        ):
            feedback.say(line)
        n_new = len(added.catalog.tracks)
        if not n_new:
            _clean(added)
            return added, None
        for line in added.versions:
            feedback.say(f"computed by different versions: {line}")
        feedback.say(f"{count(n_new, 'new track')}, {added.n_there} already there")
        if not _is_built(added):
            with connect(added.plan.worker_bytes) as runner, feedback.building(n_new, "features") as shard:
                plan, catalog, beside = added.plan, added.catalog, added.sibling
                summary = build(plan, catalog, beside, runner, replace=True, max_failed=max_failed, progress=shard)
            feedback.made(summary)
        with feedback.building(store.n_tracks + n_new, "append") as shard:
            parts = [TrackSelection.whole(store), TrackSelection.whole(open_store(added.sibling))]
            summary = derive(parts, workspace, added.about, replace=True, in_place=True, progress=shard)
        open_workspace(added.sibling).remove_store()
        return added, summary


@contextmanager
def growing(directory: Directory) -> Iterator[Workspace]:
    """Lock a store for an append, so that no other process changes it; first finish an interrupted append.

    Parameters
    ----------
    directory : Directory
        Directory of the store.

    Yields
    ------
    Workspace
        Workspace of the store, locked until the end of the block.

    Raises
    ------
    BuildError, CallError, StoreError
        If the store does not exist, is a share, is read-only, is locked by another process, or has foreign files in it.
    """
    workspace = open_workspace(directory)
    if directory.size(CHECKSUMS) is not None:
        raise BuildError(
            f"{directory} is a share, whose card, report and checksums would no longer match; append to the store "
            f"that it was made from, and share that again"
        )
    workspace.finish_interrupted_publish()
    open_store(directory)
    refuse_place(workspace, replace=True)
    with workspace.locked():
        yield workspace


def shares_of(store: Store) -> dict[str, Any]:
    """Return the shares and the seed of a store's split if it was made by hash, else an empty dict."""
    rule = store.attributes["split"]
    return {name: rule[name] for name in SHARES if name in rule} if rule.get("method") == "hash" else {}


def addition(workspace: Workspace, store: Store, catalog: Catalog, progress: Advance = lambda _: None) -> Addition:
    """Find the tracks of a source that a store lacks.

    Parameters
    ----------
    workspace : Workspace
        From `growing`.
    store : Store
        The store.
    catalog : Catalog
        All tracks of the source, split with `shares_of` unless a manifest gives the splits.
    progress : callable
        Called with the number of files read since the last call.

    Raises
    ------
    BuildError
        If the file of a track in the store has changed.
    CallError
        If an audio file of the source is inside the store, or the store is inside the source folder.
    CatalogError
        If the split of a new track is not defined, or a group would be in two splits.
    """
    refuse_place(workspace, replace=True, catalog=catalog)
    tracks, shared = Tracks.of(catalog.tracks), compare_tracks(store, catalog, progress)
    ids = tracks.column("id")
    for line in count_tracks("whose files have changed", ids[shared.now[shared.changed]]):
        raise BuildError(
            f"{line}; append only adds new tracks: give these another id, or build {store.directory} again from all "
            f"tracks with: melzarr features --force"
        )
    new = np.delete(np.arange(len(tracks)), shared.now)
    added = replace(catalog, tracks=tracks.take(new))
    if new.size:
        _require_rule(store, catalog)
        refuse_separated_groups(Tracks.of(itertools.chain(tracks_of([TrackSelection.whole(store)]), added.tracks)))
    plan = make_plan(store.spec, added.tracks, versions(), store.tracks_per_shard)
    return Addition(workspace, store, added, plan, shared.now.size, tuple(ids[shared.now[shared.other]].tolist()))


def _require_rule(store: Store, catalog: Catalog) -> None:
    """Raise a CatalogError if neither the source nor the store defines the split of new tracks."""
    rule = store.attributes["split"]
    if catalog.rule.get("method") != "manifest" and rule.get("method") != "hash":
        raise CatalogError(
            f"the tracks of {store.directory} were split by {rule.get('method', 'no rule')!r}, which does not apply "
            f"to new tracks; give them as a manifest with a column split"
        )


def _is_built(added: Addition) -> bool:
    """Whether an earlier run has already built the store of the new tracks.

    Raises
    ------
    BuildError
        If something else exists under its name.
    """
    if not open_workspace(added.sibling).occupied():
        return False
    if not is_store(added.sibling):
        raise BuildError(
            f"{added.sibling} exists and is not a melzarr store; move it, because the new tracks are built there"
        )
    return not changes(open_store(added.sibling), added.plan, added.catalog)


def _clean(added: Addition) -> None:
    """Remove the leftovers of an append that was killed after its last step.

    The store of the new tracks is removed only if the store contains all its tracks.

    Parameters
    ----------
    added : Addition
        An addition without new tracks.
    """
    added.workspace.cleanup_after_crash(added.store.receipts())
    beside = open_workspace(added.sibling)
    beside.cleanup_after_crash()
    if beside.occupied() and is_store(beside.target):
        here = set(_files(added.store))
        if all(row in here for row in _files(open_store(beside.target))):
            beside.remove_store()


def _files(store: Store) -> Iterator[tuple[str, str]]:
    """Return the id of each track and the digest of its file."""
    return zip(store.column("track").tolist(), store.column("source_blake3").tolist(), strict=True)
