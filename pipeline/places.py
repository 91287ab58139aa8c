"""Where a new store may be put: nowhere that anything else would be lost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.archive import ZipTree
from pipeline.errors import BuildError, CallError, StorageError, StoreError
from pipeline.store import is_store
from pipeline.tree import Tree
from pipeline.trees import ZIP_SUFFIX
from pipeline.workspace import Workspace

HARMLESS = {".gitattributes", ".DS_Store"}  # hidden files that are made again, or not missed


def refuse_place(workspace: Workspace, others: Iterable[Tree] = (), *, replace: bool) -> None:
    """Refuse to put a store where it cannot be, or where something else would be lost.

    Parameters
    ----------
    workspace : Workspace
        Of the new store.
    others : iterable of Tree
        Stores that it is made of, and that stay.
    replace : bool
        Whether a store that is there may be replaced; what is none never is.

    Raises
    ------
    CallError
        Where the place has no name, or the wrong one, or is a store that stays, in one, or around one.
    BuildError
        Where something is there.
    """
    target = workspace.target
    if target.name in {"", ".", ".."}:
        raise CallError(f"{target} has no name of its own; name a new folder")
    if target.name.endswith(".zip") and not isinstance(target, ZipTree) and not target.exists():
        remedy = "name a folder there" if target.name.endswith(ZIP_SUFFIX) else f"end it in {ZIP_SUFFIX}"
        raise CallError(f"{target} would be no archive; {remedy}")
    for other in others:
        here, there = _place(target), _place(other)
        if here.is_relative_to(there) or there.is_relative_to(here):
            where = "is" if here == there else "lies in" if here.is_relative_to(there) else "holds"
            raise CallError(f"{target} {where} the store {other}, which stays; name another place")
    if workspace.is_spent:
        workspace.tidy()  # what a kill after the last step has left
    if not workspace.occupied():
        return
    if not _is_store(target):
        raise BuildError(f"{target} exists and is no store of melzarr's; name another place, or remove it yourself")
    if not replace:
        raise BuildError(f"{target} is there already; name another place, or replace it with --force")
    if target.folder:
        names = sorted(path.name for path in target.folder.iterdir())
        if hidden := [name for name in names if name.startswith(".") and name not in HARMLESS]:
            raise BuildError(
                f"{target} holds {hidden[0]}, which would go with it; make the new one elsewhere, and copy it over"
            )


def _is_store(target: Tree) -> bool:
    try:
        return is_store(target)
    except StorageError:
        raise
    except StoreError:  # an archive that is none
        return False


def _place(tree: Tree) -> PurePosixPath:
    """Where a tree is, so that places can be compared."""
    path = tree.path if isinstance(tree, ZipTree) else tree.folder
    return PurePosixPath(path.resolve()) if path else PurePosixPath(str(tree))
