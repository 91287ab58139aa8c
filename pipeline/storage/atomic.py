"""Files that are whole or absent."""

from __future__ import annotations

import hashlib
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
    """Write a file so that, whatever happens, it is there with all of its bytes or not at all.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.
    *parts : bytes
        What it holds, one after the other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with naming(path), part.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove what killed processes have left of `write_whole` for a file; who still writes it fails.

    What cannot be seen or removed, such as a file of another user, stays.
    """
    mine = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.part")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if mine.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    Path(entry.path).unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of the system say where it was: a disk that is full does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def require_own_folder(path: Path) -> None:
    """Refuse a folder that is a link or belongs to another user, before anything in it is used or removed.

    Parameters
    ----------
    path : Path
        The folder; it need not be there.

    Raises
    ------
    BuildError
        If it is a link, no folder, or another user's.
    """
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(facts.st_mode):
        raise BuildError(f"{path} is a link to {path.readlink()}, where nothing may be removed; remove the link")
    if not stat.S_ISDIR(facts.st_mode):
        raise BuildError(f"{path} is no folder, and in the way; move it")
    if facts.st_uid != os.geteuid() and facts.st_uid != _owner_of_new_files(path.parent):
        raise BuildError(
            f"{path} belongs to another user (uid {facts.st_uid}), whose work is not gone on with; remove it, or make "
            f"it yours with chown if you trust it"
        )


def _owner_of_new_files(folder: Path) -> int | None:
    """User to whom files belong that this process makes; a file system may say that all are one user's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_sha256(path: Path) -> str:
    """SHA-256 of an audio file; nothing where there is no file or it cannot be read, which `audio` then explains."""
    try:
        return sha256_of(path) if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def files_below(folder: Path | str, prefix: str = "", without: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Walk a folder; links to folders are not followed.

    Parameters
    ----------
    folder : Path or str
        The folder; nothing comes where there is none.
    prefix : str
        What each name begins with.
    without : str
        Name of one folder that is left out.

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
    """Whether it is a file, or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def tree_bytes(root: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(entry.stat().st_size for _, entry in files_below(root))


def sync(path: Path | str) -> None:
    """Have the disk hold a file or a folder, so that a power cut takes nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
