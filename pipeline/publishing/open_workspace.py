"""Open the workspace for the path or address of a store."""

from __future__ import annotations

import os
from pathlib import Path

from melzarr.pipeline.errors import CallError
from melzarr.pipeline.publishing.local_workspace import LocalWorkspace
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.publishing.zip_workspace import ZipWorkspace
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.storage.zip import ZipDirectory


def open_workspace(where: str | Path | Directory | Workspace, plan_id: str = "", entry: str = "zarr.json") -> Workspace:
    """Return the workspace of a store, or of another folder, on a disk, in a zip archive, or in an object store.

    Parameters
    ----------
    where : str, Path, Directory or Workspace
        Path or address of the store; a link is followed. A workspace is returned unchanged, with its lock.
    plan_id : str
        Plan whose receipts are read and written; empty for a build in one piece.
    entry : str
        File without which the target does not open. In an object store it appears last.
    """
    if isinstance(where, Workspace):
        return where
    target = open_directory(where)
    if isinstance(target, ZipDirectory):
        return ZipWorkspace(target, plan_id)
    if not target.folder:
        from melzarr.pipeline.publishing.object_workspace import ObjectWorkspace  # noqa: PLC0415  (an extra: most stores are local)

        return ObjectWorkspace(target, plan_id, entry)
    if not target.folder.is_symlink():
        return LocalWorkspace(target, plan_id)
    place = Path(os.path.realpath(target.folder))
    if place.is_symlink():
        raise CallError(f"{target} is a link that points to itself; remove it, or choose another path")
    return LocalWorkspace(open_directory(place), plan_id)
