"""Where something new may be put: nowhere that anything else would be lost or damaged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from melzarr.pipeline.errors import BuildError, CallError, StorageError, StoreError
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import Tracks
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.open_storage import ZIP_SUFFIX
from melzarr.pipeline.storage.zip import ZipDirectory
from melzarr.pipeline.zarr_store.companion_files import AUDIO, CHECKSUMS, read_checksums
from melzarr.pipeline.zarr_store.layout import is_file_of_a_store
from melzarr.pipeline.zarr_store.reader import is_store

HARMLESS = {".gitattributes", ".DS_Store"}  # files that are made again, or not missed


def refuse_place(
    workspace: Workspace, others: Iterable[Directory] = (), *, replace: bool, catalog: Catalog | None = None
) -> None:
    """Refuse to put a store where it cannot be, or where something else would be lost.

    Parameters
    ----------
    workspace : Workspace
        Of the new store.
    others : iterable of Directory
        Stores that it is made of and that stay.
    replace : bool
        Whether a store that is there may be replaced; anything else never is.
    catalog : Catalog, optional
        The tracks that it is made of.

    Raises
    ------
    CallError
        If the place has no name or the wrong one, lies in a store, or is, holds or lies in what stays.
    BuildError
        If something is there, or the place cannot be written to.
    """
    target = workspace.target
    if target.name in {"", ".", ".."}:
        raise CallError(f"{target} has no name of its own; name a new folder")
    if target.name.endswith(".zip") and not isinstance(target, ZipDirectory) and not target.exists():
        remedy = "name a folder there" if target.name.endswith(ZIP_SUFFIX) else f"end it in {ZIP_SUFFIX}"
        raise CallError(f"{target} would be no archive; {remedy}")
    refuse_inside(target)
    for other in others:
        here, there = _place(target), _place(other)
        if here.is_relative_to(there) or there.is_relative_to(here):
            where = "is" if here == there else "lies in" if here.is_relative_to(there) else "holds"
            raise CallError(f"{target} {where} the store {other}, which stays; name another place")
    if catalog:
        _refuse_source(target, catalog)
    workspace.probe()
    if workspace.is_spent:
        workspace.cleanup_after_crash()  # what a kill after the last step has left
    if not workspace.occupied():
        return
    if not _is_store(target):
        raise BuildError(f"{target} exists and is no store of melzarr's; name another place, or remove it yourself")
    if not replace:
        raise BuildError(f"{target} is there already; name another place, or replace it with --force")
    if foreign := min(_foreign_files(target), default=""):
        raise BuildError(
            f"{target} holds {foreign}, which is not part of the store and would go with it; move it, or make the new "
            f"store elsewhere"
        )


def refuse_inside(place: Directory) -> None:
    """Refuse to write into a store, for its UUID is that of all its files.

    Parameters
    ----------
    place : Directory
        What would be written: a store, or a file.

    Raises
    ------
    CallError
        If it lies in a store.
    """
    for parent in _parents(place):
        if parent.size("zarr.json") is not None and is_store(parent):
            raise CallError(f"{place} lies in the store {parent}, which it would damage; name a place outside of it")


def _parents(directory: Directory) -> Iterator[Directory]:
    """All folders in which a tree lies, the nearest first."""
    path = directory.path if isinstance(directory, ZipDirectory) else directory.folder
    if path:
        yield from map(LocalDirectory, Path(os.path.realpath(path)).parents)
    elif directory.can_list:
        while str(directory := directory.sibling("")).count("/") > 1:  # as in s3://bucket
            yield directory


def _refuse_source(target: Directory, catalog: Catalog) -> None:
    """Refuse a place that holds the tracks, or lies where it would be taken for tracks itself."""
    here, root = _place(target), _place(catalog.root)
    if root.is_relative_to(here):
        raise CallError(f"the source {catalog.root} lies in {target}, and would go with it; name another place")
    if not here.is_relative_to(root):
        if target.folder and (target.folder / AUDIO).is_dir() and _lead_into(here, catalog):
            raise CallError(f"tracks of {catalog.root} are links into {target}, and would be lost; name another place")
        return
    if catalog.is_folder:
        raise CallError(
            f"{target} lies in the source {catalog.root}, each folder of which is a label; name a place outside of it"
        )
    prefix = f"{here.relative_to(root)}/"
    if source := next(
        (source for (source,) in Tracks.of(catalog.tracks).rows("source") if source.startswith(prefix)), ""
    ):
        raise CallError(f"the track {source} lies in {target}, and would go with it; name another place")


def _lead_into(place: PurePosixPath, catalog: Catalog) -> bool:
    """Whether a file of the tracks is a link to one below a place."""
    root = str(catalog.root)
    files = (os.path.realpath(f"{root}/{source}") for (source,) in Tracks.of(catalog.tracks).rows("source"))
    return any(file.startswith(f"{place}/") for file in files)


def _foreign_files(target: Directory) -> Iterator[str]:
    """Names of the files in the place of a store that neither it nor its list of checksums knows."""
    if isinstance(target, ZipDirectory):
        return
    try:
        listed = read_checksums(target.read(CHECKSUMS)).keys() | {CHECKSUMS}
    except (FileNotFoundError, ValueError):
        listed = set()
    for name, _ in target.files():
        if not (is_file_of_a_store(name) or name in listed or name.rpartition("/")[2] in HARMLESS):
            yield name


def _is_store(target: Directory) -> bool:
    try:
        return is_store(target)
    except StorageError:
        raise
    except StoreError:  # an archive that is none
        return False


def _place(directory: Directory) -> PurePosixPath:
    """Where a tree is, so that places can be compared."""
    path = directory.path if isinstance(directory, ZipDirectory) else directory.folder
    return PurePosixPath(os.path.realpath(path)) if path else PurePosixPath(str(directory))
