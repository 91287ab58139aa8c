"""List the tracks of a folder of label/file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.audio_names import without_extension
from melzarr.pipeline.sources.remarks import LeftOut
from melzarr.pipeline.sources.tracks import Track
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.ignored_files import is_ignored


def folder_tracks(root: Directory, left_out: LeftOut, *, follow_links: bool = False) -> Iterator[Track]:
    """Yield the tracks of a class-per-folder tree; list all else in `left_out`.

    Parameters
    ----------
    root : Directory
        The tree.
    left_out : LeftOut
        Gets the files without a known extension, and the links to folders that are not followed.
    follow_links : bool
        Whether links to folders are followed. They may leave the tree; those to a folder that they are in are not.
    """
    for source in _files(root.folder, left_out, follow_links) if root.folder else _objects(root):
        _refuse_undecodable(source)
        label, slash, _ = source.partition("/")
        name = without_extension(source)
        if name is None:
            left_out.files.append(source)
        elif not slash:
            raise CatalogError(
                f"{source!r} is directly in {root}, so it has no label; put each file into a folder named after its "
                f"label, or give a manifest with the columns path and label"
            )
        else:
            yield Track(name, label, source, group="", split="")


def _files(root: Path, left_out: LeftOut, follow_links: bool) -> Iterator[str]:
    """Yield the files below a folder, without ignored ones."""
    for folder, names, files in os.walk(root, onerror=_refuse_unlisted, followlinks=follow_links):
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        names[:] = [name for name in names if not is_ignored(name)]
        for name in [name for name in names if Path(folder, name).is_symlink()]:
            if not follow_links:
                left_out.links.append(f"{prefix}{name}/")
            elif _is_circle(root, Path(folder), name):
                left_out.circles.append(f"{prefix}{name}/")
                names.remove(name)
        yield from (f"{prefix}{name}" for name in files if not is_ignored(name))


def _is_circle(root: Path, folder: Path, name: str) -> bool:
    """Return whether a link leads to a folder that contains it, also by way of other links."""
    there = os.path.realpath(folder / name)
    above = [folder, *folder.parents]
    return any(Path(os.path.realpath(path)).is_relative_to(there) for path in above[: above.index(root) + 1])


def _objects(root: Directory) -> Iterator[str]:
    """Yield the names of files below a prefix, without ignored ones and placeholders of folders."""
    for name, size in root.files():
        if (size or without_extension(name)) and not is_ignored(name):
            yield name


def _refuse_unlisted(error: OSError) -> None:
    raise CatalogError(f"the folder {error.filename} cannot be listed: {error.strerror}; make it readable") from error


def _refuse_undecodable(source: str) -> None:
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise CatalogError(f"the file name {source!r} is not UTF-8, so it cannot be stored; rename the file") from error
