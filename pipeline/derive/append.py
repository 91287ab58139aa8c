"""Append to a store: build the tracks that it lacks beside it, then merge both into the store in one step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.builder.plan import Plan, make_plan
from melzarr.pipeline.builder.run_build import Progress, Summary, build
from melzarr.pipeline.builder.up_to_date import changes, count_tracks
from melzarr.pipeline.clusters.task_runner import Runner
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.merge import merged_splits, merged_versions
from melzarr.pipeline.derive.track_selection import TrackSelection, tracks_of
from melzarr.pipeline.errors import BuildError, CatalogError
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.sources.catalog import Catalog, refuse_separated_groups
from melzarr.pipeline.sources.tracks import FIELDS, TEXT, Tracks, matches
from melzarr.pipeline.storage.directory import Directory, source_sha256
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.companion_files import CHECKSUMS
from melzarr.pipeline.zarr_store.reader import Store, is_store, open_store

SHARES = ("valid", "test", "seed")  # parameters of a split by hash
Advance = Callable[[int], object]


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
        Ids of those tracks whose label, path, group or split is now different in the source; the store keeps its own.
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
        return _beside(self.store.directory)

    @property
    def about(self) -> dict[str, Any]:
        """Attributes of the store after the append: split and versions are merged, the others are kept."""
        before = self.store.attributes
        return {
            **before,
            "split": merged_splits([before["split"], self.catalog.rule]),
            "versions": merged_versions([before["versions"], self.plan.versions]),
        }


def _beside(directory: Directory) -> Directory:
    return directory.sibling(f"{directory.name}.appended")


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
    tracks = Tracks.of(catalog.tracks)
    numbers = np.full(len(tracks), -1, np.intp)
    here, now = matches(store.text("track"), tracks.column("id"))
    numbers[now] = here
    there, new = np.flatnonzero(numbers >= 0), np.flatnonzero(numbers < 0)
    _refuse_changed(store, catalog, tracks, there, numbers[there], progress)
    added = replace(catalog, tracks=tracks.take(new))
    if new.size:
        _require_rule(store, catalog)
        refuse_separated_groups(Tracks.of(itertools.chain(tracks_of([TrackSelection.whole(store)]), added.tracks)))
    plan = make_plan(store.spec, added.tracks, versions(), store.tracks_per_shard)
    return Addition(workspace, store, added, plan, there.size, _differing(store, tracks, there, numbers[there]))


def _refuse_changed(
    store: Store, catalog: Catalog, tracks: Tracks, there: npt.NDArray[np.intp], numbers: npt.NDArray[np.intp],
    progress: Advance,
) -> None:  # fmt: skip
    """Raise a BuildError if the file of a track that is already in the store has changed."""
    before, changed = store.column("source_sha256").astype(TEXT)[numbers], []
    sources = (str(tracks.column("source")[number]) for number in there)
    n_threads = max(catalog.root.io_threads, os.cpu_count() or 1)  # hashing releases the GIL
    for place, digest in enumerate(in_order(lambda name: source_sha256(catalog.root, name), sources, n_threads)):
        progress(1)
        if digest != before[place]:
            changed.append(str(tracks.column("id")[there[place]]))
    if changed:
        (line,) = count_tracks("whose files have changed", changed)
        raise BuildError(
            f"{line}; append only adds new tracks: give these another id, or build {store.directory} again from all "
            f"tracks with: melzarr features --force"
        )


def _differing(
    store: Store, tracks: Tracks, there: npt.NDArray[np.intp], numbers: npt.NDArray[np.intp]
) -> tuple[str, ...]:
    """Return the ids of tracks whose label, path, group or split differs between the source and the store."""
    other = np.zeros(there.size, bool)
    for field in FIELDS:
        if field != "id":
            other |= tracks.column(field)[there] != store.column(field).astype(TEXT)[numbers]
    return tuple(tracks.column("id")[there[other]].tolist())


def _require_rule(store: Store, catalog: Catalog) -> None:
    """Raise a CatalogError if neither the source nor the store defines the split of new tracks."""
    rule = store.attributes["split"]
    if catalog.rule.get("method") != "manifest" and rule.get("method") != "hash":
        raise CatalogError(
            f"the tracks of {store.directory} were split by {rule.get('method', 'no rule')!r}, which does not apply "
            f"to new tracks; give them as a manifest with a column split"
        )


def is_built(added: Addition) -> bool:
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


def build_new(
    added: Addition, runner: Runner, *, max_failed: float | None = None, progress: Progress = lambda _: None
) -> Summary:
    """Build the store of the new tracks, or resume its build.

    Parameters
    ----------
    added : Addition
        The new tracks.
    runner, max_failed, progress
        As for `build`.
    """
    return build(
        added.plan, added.catalog, added.sibling, runner, replace=True, max_failed=max_failed, progress=progress
    )


def append(added: Addition, progress: Progress = lambda _: None) -> Summary:
    """Merge the new tracks, once they are built, into the store in one step.

    Full shards of the store are kept. Its last shard, if it is not full, and the new tracks are repacked.

    Parameters
    ----------
    added : Addition
        The new tracks.
    progress : callable
        Called with each shard's receipt.

    Raises
    ------
    MelzarrError
        As for `derive`; the store is then unchanged.
    """
    parts = [TrackSelection.whole(store) for store in (added.store, open_store(added.sibling))]
    summary = derive(parts, added.workspace, added.about, replace=True, in_place=True, progress=progress)
    open_workspace(added.sibling).remove_store()
    return summary


def clean(added: Addition) -> None:
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
    return zip(store.column("track").tolist(), store.column("source_sha256").tolist(), strict=True)
