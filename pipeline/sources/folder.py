"""List the tracks of a folder of label/file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.audio_names import new_track, without_extension
from melzarr.pipeline.sources.tracks import Track
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.ignored_files import is_ignored


def folder_tracks(root: Directory, left_out: list[str]) -> Iterator[Track]:
    """Yield the tracks of a class-per-folder tree; append all other files to `left_out`."""
    for source in _files(root.folder, left_out) if root.folder else _objects(root):
        _refuse_undecodable(source)
        label, slash, _ = source.partition("/")
        if without_extension(source) is None:
            left_out.append(source)
        elif not slash:
            raise CatalogError(
                f"{source!r} is directly in {root}, so it has no label; put each file into a folder named after its "
                f"label, or give a manifest with the columns path and label"
            )
        else:
            yield new_track(source, label)


def _files(root: Path, left_out: list[str]) -> Iterator[str]:
    """Yield the files below a folder, without ignored ones.

    Links to folders are appended to `left_out`: they are not followed, because they may leave the tree or form a cycle.
    """
    for folder, names, files in os.walk(root, onerror=_refuse_unlisted):
        names[:] = [name for name in names if not is_ignored(name)]
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        left_out += [f"{prefix}{name}/ (a link to a folder)" for name in names if Path(folder, name).is_symlink()]
        yield from (f"{prefix}{name}" for name in files if not is_ignored(name))


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
