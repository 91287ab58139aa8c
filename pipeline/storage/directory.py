"""A tree of files: below a folder of this machine, or below a prefix of an object store. Whole files, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol, Self


class Directory(Protocol):
    """Files by their names, which have forward slashes; a name that is not there is a FileNotFoundError."""

    @property
    def io_threads(self) -> int:
        """Threads that are needed to read as fast as it gives."""
        ...

    @property
    def can_list(self) -> bool:
        """Whether it says what there is."""
        ...

    @property
    def name(self) -> str:
        """Last part of its address."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where it lies on this machine, if it does."""
        ...

    def child(self, name: str) -> Self:
        """Give the tree below one of its folders."""
        ...

    def sibling(self, name: str) -> Directory:
        """Give a tree of another name in the same folder; that folder, where the name is empty."""
        ...

    def with_retries(self) -> Self:
        """Give the same tree, for whoever would rather wait some minutes for a server than fail."""
        ...

    def exists(self) -> bool:
        """Whether there is anything."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file."""
        ...

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Read the last bytes of a file, and say how many it has in all."""
        ...

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Read some bytes of a file."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file, to read here and there in it."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Names and sizes of all files but those in one folder, in any order; links to folders are not followed."""
        ...

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, in hexadecimal."""
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Have a file on this machine for the length of a block; where there is none, neither is there."""
        ...

    def local_files(self, names: Iterable[str]) -> Iterator[Path]:
        """Have files on this machine one after the other, each until the next is asked for."""
        ...

    def write(self, name: str, *parts: bytes) -> None:
        """Write a file, which is then there with all of its bytes or not at all."""
        ...

    def move(self, name: str, new_name: str, to: Self | None = None) -> None:
        """Give a file another name, in this tree or in another one of its kind; one that has it is replaced."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are no matter."""
        ...

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Have what goes wrong with a file in a block be a sentence."""
        ...


def source_sha256(root: Directory, name: str) -> str:
    """SHA-256 of an audio file; nothing where there is no file or it cannot be read, which `audio` then explains."""
    try:
        return root.sha256(name)
    except (OSError, ValueError):
        return ""
