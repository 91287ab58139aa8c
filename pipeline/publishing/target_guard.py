"""Refuse to write where existing data would be lost or damaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from melzarr.pipeline.errors import BuildError, CallError, StorageError, StoreError
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import Tracks
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.ignored_files import is_worthless
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.open_storage import ZIP_SUFFIX
from melzarr.pipeline.storage.zip import ZipDirectory
from melzarr.pipeline.zarr_store.companion_files import AUDIO, CHECKSUMS, read_checksums
from melzarr.pipeline.zarr_store.layout import is_file_of_a_store
from melzarr.pipeline.zarr_store.reader import is_store

GENERATED = ".gitattributes"  # a share for Hugging Face has one, which Git may have changed


@dataclass(frozen=True, slots=True)
class Kind:
    """What is created at a target, and may be replaced there.

    Parameters
    ----------
    name : str
        What messages call it.
    is_one : callable
        Returns whether a directory is one.
    has_file : callable
        Returns whether a name is that of one of its files; the files that its checksums list are its own too.
    """

    name: str
    is_one: Callable[[Directory], bool]
    has_file: Callable[[str], bool]


def _is_store(target: Directory) -> bool:
    try:
        return is_store(target)
    except StorageError:
        raise
    except StoreError:  # not a valid archive
        return False


STORE = Kind("store", _is_store, is_file_of_a_store)


def refuse_place(
    workspace: Workspace,
    others: Iterable[Directory] = (),
    *,
    replace: bool,
    catalog: Catalog | None = None,
    kind: Kind = STORE,
) -> None:
    """Raise if a store cannot be created at its target, or if existing data would be lost.

    Parameters
    ----------
    workspace : Workspace
        Workspace of the new store.
    others : iterable of Directory
        What it is derived from, such as stores, and must stay.
    replace : bool
        Whether an existing store may be replaced; anything else is never replaced.
    catalog : Catalog, optional
        The tracks that it is built from.
    kind : Kind
        What is created, if it is not a store.

    Raises
    ------
    CallError
        If the target has no name or a wrong one, is inside a store, or is, contains or is inside data that stays.
    BuildError
        If something is there that may not be replaced, or the target cannot be written to.
    """
    target = workspace.target
    if target.name in {"", ".", ".."}:
        raise CallError(f"{target} is not the name of a {kind.name}; give the path of a new folder")
    if target.name.endswith(".zip") and not isinstance(target, ZipDirectory) and not target.exists():
        remedy = f"end it in {ZIP_SUFFIX}" if target.folder else "choose a folder there"
        raise CallError(f"{target} would not be an archive; {remedy}")
    refuse_inside(target)
    for other in others:
        here, there = _place(target), _place(other)
        if here.is_relative_to(there) or there.is_relative_to(here):
            where = "is" if here == there else "is inside" if here.is_relative_to(there) else "contains"
            raise CallError(f"{target} {where} {other}, which must be kept; choose another path")
    if catalog:
        _refuse_source(target, catalog)
    workspace.probe()
    workspace.clear_trash()  # left by a kill right before its end
    if workspace.is_spent:
        workspace.cleanup_after_crash()  # left by a kill after the last step
    if not workspace.occupied():
        return
    if not kind.is_one(target):
        raise BuildError(
            f"{target} exists and is not a melzarr {kind.name}; choose another path, or remove it yourself"
        )
    if not replace:
        raise BuildError(f"{target} already exists; choose another path, or replace it with --force")
    if foreign := min(_foreign_files(target, kind), default=""):
        raise BuildError(
            f"{target} contains {foreign}, which is not part of the {kind.name} and would be removed with it; move it, "
            f"or make the new {kind.name} elsewhere"
        )


def refuse_inside(place: Directory) -> None:
    """Raise if a path is inside a store, whose UUID depends on all its files.

    Parameters
    ----------
    place : Directory
        The store or the file that would be written.

    Raises
    ------
    CallError
        If it is inside a store.
    """
    for parent in _parents(place):
        if parent.size("zarr.json") is not None and is_store(parent):
            raise CallError(f"{place} is inside the store {parent}, which it would damage; choose a path outside it")


def _parents(directory: Directory) -> Iterator[Directory]:
    """Yield the parent folders of a directory, the nearest first."""
    path = directory.path if isinstance(directory, ZipDirectory) else directory.folder
    if path:
        yield from map(LocalDirectory, Path(os.path.realpath(path)).parents)
    elif directory.can_list:
        while str(directory := directory.sibling("")).count("/") > 1:  # as in s3://bucket
            yield directory


def _refuse_source(target: Directory, catalog: Catalog) -> None:
    """Raise if the target contains the tracks, or is inside the source and would be taken for tracks."""
    here, root = _place(target), _place(catalog.root)
    if root.is_relative_to(here):
        raise CallError(
            f"the source {catalog.root} is inside {target}, and would be removed with it; choose another path"
        )
    if not here.is_relative_to(root):
        if target.folder and (target.folder / AUDIO).is_dir() and _lead_into(here, catalog):
            raise CallError(f"tracks of {catalog.root} are links into {target}, and would be lost; choose another path")
        return
    if catalog.is_folder:
        raise CallError(
            f"{target} is inside the source {catalog.root}, in which each folder is a label; choose a path outside it"
        )
    prefix = f"{here.relative_to(root)}/"
    if source := next(
        (source for (source,) in Tracks.of(catalog.tracks).rows("source") if source.startswith(prefix)), ""
    ):
        raise CallError(f"the track {source} is inside {target}, and would be removed with it; choose another path")


def _lead_into(place: PurePosixPath, catalog: Catalog) -> bool:
    """Return whether any track's file is a link to a file below a path."""
    root = str(catalog.root)
    files = (os.path.realpath(f"{root}/{source}") for (source,) in Tracks.of(catalog.tracks).rows("source"))
    return any(file.startswith(f"{place}/") for file in files)


def _foreign_files(target: Directory, kind: Kind) -> Iterator[str]:
    """Yield the names of files at a target that are neither of its kind nor in its list of checksums."""
    if isinstance(target, ZipDirectory):
        return
    try:
        listed = read_checksums(target.read(CHECKSUMS)).keys() | {CHECKSUMS}
    except (FileNotFoundError, ValueError):
        listed = set()
    for name, _ in target.files():
        if not (kind.has_file(name) or name in listed or name == GENERATED or is_worthless(name)):
            yield name


def _place(directory: Directory) -> PurePosixPath:
    """Return the path or address of a directory in a form that can be compared."""
    path = directory.path if isinstance(directory, ZipDirectory) else directory.folder
    return PurePosixPath(os.path.realpath(path)) if path else PurePosixPath(str(directory))
