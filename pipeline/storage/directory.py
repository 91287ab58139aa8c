"""The protocol of a directory: files by name in a local folder, a zip archive or below a prefix of an object store."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol, Self

from blake3 import blake3

from melzarr.pipeline.storage.digests import SHA256, Hash


class Directory(Protocol):
    """Files by name, with forward slashes; a missing file raises FileNotFoundError."""

    @property
    def io_threads(self) -> int:
        """Number of threads needed to read at full speed."""
        ...

    @property
    def can_list(self) -> bool:
        """Whether its files can be listed."""
        ...

    @property
    def name(self) -> str:
        """Last part of the path or address."""
        ...

    @property
    def folder(self) -> Path | None:
        """Path on this machine, or None if it is not a local folder."""
        ...

    def child(self, name: str) -> Self:
        """Return the directory of one of its folders."""
        ...

    def sibling(self, name: str) -> Directory:
        """Return the directory `name` in the same folder; the folder itself if `name` is empty."""
        ...

    def with_retries(self) -> Self:
        """Return this directory with retries: it waits minutes for an unresponsive server before it fails."""
        ...

    def exists(self) -> bool:
        """Return whether anything exists at the path or address."""
        ...

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        ...

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of a file, and its total size in bytes."""
        ...

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes of a file from `start` on."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file for random access."""
        ...

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        ...

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Yield names and sizes of all files except those in `without`, in any order; folder links are not followed."""
        ...

    def digest(self, name: str, algorithm: Hash = blake3) -> str:
        """Return the digest of a file, in hexadecimal."""
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Provide a file at a local path within a `with` block; if the file is missing, the path does not exist."""
        ...

    def local_files(self, names: Iterable[str]) -> Generator[Path, None, None]:
        """Yield local paths of files in turn; each is valid until the next is requested or the generator is closed."""
        ...

    def write(self, name: str, *parts: bytes) -> None:
        """Write a file atomically: it is complete or absent."""
        ...

    def move(self, name: str, new_name: str, to: Self | None = None) -> None:
        """Rename a file, in this directory or into another of the same class; an existing file is replaced."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; missing files are ignored."""
        ...

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Re-raise errors about the file `name` within a `with` block with a readable message."""
        ...


def source_digest(root: Directory, name: str, like: str = "") -> str:
    """Return the digest of an audio file; empty if it is missing or unreadable, which `audio` then explains."""
    try:
        return digest_like(root, name, like)
    except (OSError, ValueError):
        return ""


def digest_like(root: Directory, name: str, like: str = "") -> str:
    """Return the BLAKE3 of a file in hexadecimal, or `SHA256` and its SHA-256 if the digest `like` is such a one."""
    return f"{SHA256}{root.digest(name, hashlib.sha256)}" if like.startswith(SHA256) else root.digest(name)
