"""Write files that are complete or absent."""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from melzarr.pipeline.errors import BuildError


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file atomically: after a crash it is complete or absent.

    Parameters
    ----------
    path : Path
        The file; its folder is created if it is missing.
    *parts : bytes
        Contents, written one after the other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with naming(path), part.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut could leave the name without the bytes
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove temporary files that killed processes left in `write_whole`; a process that still writes the file fails.

    Files that cannot be listed or removed, such as those of another user, are kept.
    """
    mine = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.part")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if mine.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    Path(entry.path).unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to system errors that lack it, such as the error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def require_own_folder(path: Path) -> None:
    """Raise BuildError if a folder is a link or another user's; call this before using or removing its contents.

    Parameters
    ----------
    path : Path
        The folder; it may be missing.

    Raises
    ------
    BuildError
        If the path is a link, is not a folder, or belongs to another user.
    """
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(facts.st_mode):
        raise BuildError(f"{path} is a link to {path.readlink()}, and nothing is removed there; remove the link")
    if not stat.S_ISDIR(facts.st_mode):
        raise BuildError(f"{path} is not a folder, and is in the way; move it")
    if facts.st_uid != os.geteuid() and facts.st_uid != _owner_of_new_files(path.parent):
        raise BuildError(
            f"{path} belongs to another user (uid {facts.st_uid}), whose work is not continued; remove it, or take it "
            f"over with chown if you trust it"
        )


def _owner_of_new_files(folder: Path) -> int | None:
    """Return the uid of files that this process creates; on some file systems all files belong to one user."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return None


def files_below(folder: Path | str, prefix: str = "", without: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all files below a folder; links to folders are not followed.

    Parameters
    ----------
    folder : Path or str
        The folder; nothing is yielded if it is missing.
    prefix : str
        Prefix of each name.
    without : str
        Name of one folder that is skipped.

    Yields
    ------
    name : str
        Path below the folder, with forward slashes.
    entry : os.DirEntry
        The file.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                if _is_file(entry):
                    yield name, entry
            elif name != without:
                yield from files_below(entry.path, f"{name}/", without)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file or a link to one; a link to itself is not."""
    try:
        return entry.is_file()
    except OSError:
        return False


def tree_bytes(root: Path) -> int:
    """Return the total size of all files below a folder, in bytes."""
    return sum(entry.stat().st_size for _, entry in files_below(root))


def sync(path: Path | str) -> None:
    """Flush a file or a folder to the disk, so that a power cut loses nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
