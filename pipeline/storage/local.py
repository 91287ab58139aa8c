"""A directory on a local disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from blake3 import blake3

from melzarr.pipeline.storage.atomic import files_below, naming, write_whole
from melzarr.pipeline.storage.digests import Hash, digest_of


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A folder on this machine.

    Parameters
    ----------
    path : Path
        The folder; it may be missing.
    """

    path: Path
    io_threads = 2
    can_list = True

    def __str__(self) -> str:
        """Return the path as it was given."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.name

    @property
    def folder(self) -> Path:
        """Path of the folder."""
        return self.path

    def child(self, name: str) -> LocalDirectory:
        """Return the folder `name` in this one."""
        return LocalDirectory(self.path / name)

    def sibling(self, name: str) -> LocalDirectory:
        """Return the folder `name` in the same folder; that folder itself if `name` is empty."""
        return LocalDirectory(self.path.parent / name)

    def with_retries(self) -> LocalDirectory:
        """Return this directory with an absolute path; a disk needs no retries."""
        return LocalDirectory(self.path.absolute())

    def exists(self) -> bool:
        """Return whether the path exists."""
        return _facts(self.path) is not None

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        return (self.path / name).read_bytes()

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of a file, and its total size in bytes."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - n_bytes))
            return file.read(n_bytes), size

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes of a file from `start` on."""
        with self.open(name) as file:
            file.seek(start)
            return file.read(n_bytes)

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""
        return (self.path / name).open("rb")

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        facts = _facts(self.path / name)
        return facts.st_size if facts and stat.S_ISREG(facts.st_mode) else None

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Yield names and sizes of all files except those in the folder `without`."""
        for name, entry in files_below(self.path, without=without):
            with suppress(FileNotFoundError):  # removed since it was listed, such as a temporary file of a write
                yield name, entry.stat().st_size

    def digest(self, name: str, algorithm: Hash = blake3) -> str:
        """Return the digest of a file, in hexadecimal; refuse a named pipe, which would block forever."""
        if self.size(name) is None:
            raise FileNotFoundError(errno.ENOENT, "no file is there", f"{self.path / name}")
        return digest_of(self.path / name, algorithm)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield the file's path."""
        yield self.path / name

    def local_files(self, names: Iterable[str]) -> Generator[Path, None, None]:
        """Yield the files' paths."""
        return (self.path / name for name in names)

    def write(self, name: str, *parts: bytes) -> None:
        """Write a file atomically: on the disk it is complete or absent."""
        write_whole(self.path / name, *parts)

    def move(self, name: str, new_name: str, to: LocalDirectory | None = None) -> None:
        """Rename a file; an existing file is replaced."""
        target = (to or self).path / new_name
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).replace(target)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; missing files are ignored."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Add the path to disk errors that lack it."""
        return naming(self.path / name)


def _facts(path: Path) -> os.stat_result | None:
    """Return the status of a path, or None if it does not exist; raise PermissionError if that may not be read."""
    try:
        return path.stat()
    except PermissionError:
        raise
    except (OSError, ValueError):  # also a link to itself, or a name that no file can have
        return None
