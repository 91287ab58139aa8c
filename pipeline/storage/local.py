"""A folder of this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from melzarr.pipeline.storage.atomic import files_below, naming, sha256_of, write_whole


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A folder of this machine.

    Parameters
    ----------
    path : Path
        The folder; it need not be there.
    """

    path: Path
    io_threads = 2
    can_list = True

    def __str__(self) -> str:
        """Say the path, as it was given."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.name

    @property
    def folder(self) -> Path:
        """The path."""
        return self.path

    def child(self, name: str) -> LocalDirectory:
        """Give a folder in it."""
        return LocalDirectory(self.path / name)

    def sibling(self, name: str) -> LocalDirectory:
        """Give a folder beside it."""
        return LocalDirectory(self.path.parent / name)

    def with_retries(self) -> LocalDirectory:
        """Give the same; a disk is there or not."""
        return LocalDirectory(self.path.absolute())

    def exists(self) -> bool:
        """Whether there is anything at its path."""
        return self.path.exists()

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.path / name).read_bytes()

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Read the last bytes of a file, and say how many it has in all."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - n_bytes))
            return file.read(n_bytes), size

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Read some bytes of a file."""
        with self.open(name) as file:
            file.seek(start)
            return file.read(n_bytes)

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""
        return (self.path / name).open("rb")

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return (self.path / name).stat().st_size if (self.path / name).is_file() else None
        except OSError:
            return None

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Names and sizes of all files but those in one folder."""
        for name, entry in files_below(self.path, without=without):
            with suppress(FileNotFoundError):  # gone since it was listed, as what is being written is
                yield name, entry.stat().st_size

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, in hexadecimal; a named pipe, which would block for ever, is none."""
        if not (self.path / name).is_file():
            raise FileNotFoundError(errno.ENOENT, "no file is there", f"{self.path / name}")
        return sha256_of(self.path / name)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Give a file as it lies there."""
        yield self.path / name

    def local_files(self, names: Iterable[str]) -> Iterator[Path]:
        """Give files as they lie there."""
        return (self.path / name for name in names)

    def write(self, name: str, *parts: bytes) -> None:
        """Write a file, which is then on the disk with all of its bytes or not at all."""
        write_whole(self.path / name, *parts)

    def move(self, name: str, new_name: str, to: LocalDirectory | None = None) -> None:
        """Rename a file."""
        target = (to or self).path / new_name
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).replace(target)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Have an error of the disk say where it was."""
        return naming(self.path / name)
