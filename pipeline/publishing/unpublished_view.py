"""A read-only view of a complete store before it is published: local metadata, and shards in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, Self

from blake3 import blake3

from melzarr.pipeline.errors import CallError
from melzarr.pipeline.storage.digests import Hash
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.zarr_store.shard import SHARDS, shard_name

Place = Callable[[int], tuple[Directory, str]]


@dataclass(frozen=True, slots=True)
class Preview:
    """A read-only directory of the files that a store will have.

    Parameters
    ----------
    target : Directory
        Where the store will be published.
    described : LocalDirectory
        All files except the shards.
    n_shards : int
        Number of shards.
    place : callable
        Returns the directory of a shard and its name there, by number.
    """

    target: Directory
    described: LocalDirectory
    n_shards: int
    place: Place
    can_list = True

    def __str__(self) -> str:
        """Return the address of the store."""
        return str(self.target)

    @property
    def io_threads(self) -> int:
        """Number of threads needed to read at full speed."""
        return self.target.io_threads

    @property
    def name(self) -> str:
        """Last part of the store's address."""
        return self.target.name

    @property
    def folder(self) -> None:
        """None: the view as a whole is in no local folder."""
        return

    def located(self, name: str) -> tuple[Directory, str]:
        """Return the directory of a file, and its name there."""
        number = name.removeprefix(f"{SHARDS}/").partition("/")[0]
        if number.isdecimal() and name == shard_name(int(number)) and int(number) < self.n_shards:
            return self.place(int(number))
        return self.described, name

    def exists(self) -> bool:
        """Return whether the folder with the description exists."""
        return self.described.exists()

    def read(self, name: str) -> bytes:
        """Read a file."""
        directory, there = self.located(name)
        return directory.read(there)

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Read the last bytes of a file, and return them with the file's size."""
        directory, there = self.located(name)
        return directory.read_end(there, n_bytes)

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Read a range of bytes of a file."""
        directory, there = self.located(name)
        return directory.read_range(there, start, n_bytes)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for random access."""
        directory, there = self.located(name)
        return directory.open(there)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is no file."""
        directory, there = self.located(name)
        return directory.size(there)

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Yield names and sizes of all files except those in one folder."""
        yield from self.described.files(without=without)
        if without != SHARDS:
            names = map(shard_name, range(self.n_shards))
            yield from ((name, size) for name in names if (size := self.size(name)) is not None)

    def digest(self, name: str, algorithm: Hash = blake3) -> str:
        """Return the digest of a file, in hexadecimal."""
        directory, there = self.located(name)
        return directory.digest(there, algorithm)

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Provide a file as a local path until the end of the block."""
        directory, there = self.located(name)
        return directory.local(there)

    def local_files(self, names: Iterable[str]) -> Generator[Path, None, None]:
        """Yield files as local paths, each valid until the next is requested."""
        for name in names:
            with self.local(name) as path:
                yield path

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Re-raise errors about a file with a readable message."""
        directory, there = self.located(name)
        return directory.error_context(there)

    def with_retries(self) -> Self:
        """Return this view, unchanged."""
        return self

    def child(self, name: str) -> NoReturn:
        """Raise: only whole stores can be viewed before they are published."""
        self._refuse(name)

    def sibling(self, name: str) -> NoReturn:
        """Raise: only whole stores can be viewed before they are published."""
        self._refuse(name)

    def write(self, name: str, *parts: bytes) -> None:  # noqa: ARG002  (signature of Directory)
        """Raise: the view is read-only."""
        self._refuse(name)

    def move(self, name: str, new_name: str, to: Self | None = None) -> None:  # noqa: ARG002  (likewise)
        """Raise: the view is read-only."""
        self._refuse(name)

    def remove(self, names: Iterable[str]) -> None:
        """Raise: the view is read-only."""
        self._refuse(next(iter(names), ""))

    def _refuse(self, name: str) -> NoReturn:
        raise CallError(f"{self.target} is not published yet and can only be read; {name} cannot be changed in it")
