"""A store that is whole and has not appeared: what describes it lies here, its shards where they were written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, Self

from melzarr.pipeline.errors import CallError
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.zarr_store.shard import SHARDS, shard_name

Place = Callable[[int], tuple[Directory, str]]


@dataclass(frozen=True, slots=True)
class Preview:
    """A tree of the files that a store will have, to read.

    Parameters
    ----------
    target : Directory
        Where the store will be.
    described : LocalDirectory
        All of it but its shards.
    n_shards : int
        How many shards there are.
    place : callable
        Gives the tree in which a shard lies, and its name there, by its number.
    """

    target: Directory
    described: LocalDirectory
    n_shards: int
    place: Place
    can_list = True

    def __str__(self) -> str:
        """Say where the store will be."""
        return str(self.target)

    @property
    def io_threads(self) -> int:
        """Threads that are needed to read as fast as its shards come."""
        return self.target.io_threads

    @property
    def name(self) -> str:
        """Last part of the address that it will have."""
        return self.target.name

    @property
    def folder(self) -> None:
        """Nowhere on this machine, as a whole."""
        return

    def located(self, name: str) -> tuple[Directory, str]:
        """Where a file lies, and its name there."""
        number = name.removeprefix(f"{SHARDS}/").partition("/")[0]
        if number.isdecimal() and name == shard_name(int(number)) and int(number) < self.n_shards:
            return self.place(int(number))
        return self.described, name

    def exists(self) -> bool:
        """Whether there is anything."""
        return self.described.exists()

    def read(self, name: str) -> bytes:
        """Read a file."""
        directory, there = self.located(name)
        return directory.read(there)

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Read the last bytes of a file, and say how many it has in all."""
        directory, there = self.located(name)
        return directory.read_end(there, n_bytes)

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Read some bytes of a file."""
        directory, there = self.located(name)
        return directory.read_range(there, start, n_bytes)

    def open(self, name: str) -> IO[bytes]:
        """Open a file, to read here and there in it."""
        directory, there = self.located(name)
        return directory.open(there)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        directory, there = self.located(name)
        return directory.size(there)

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Names and sizes of all files but those in one folder."""
        yield from self.described.files(without=without)
        if without != SHARDS:
            names = map(shard_name, range(self.n_shards))
            yield from ((name, size) for name in names if (size := self.size(name)) is not None)

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, in hexadecimal."""
        directory, there = self.located(name)
        return directory.sha256(there)

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Have a file on this machine for the length of a block."""
        directory, there = self.located(name)
        return directory.local(there)

    def local_files(self, names: Iterable[str]) -> Iterator[Path]:
        """Have files on this machine one after the other, each until the next is asked for."""
        for name in names:
            with self.local(name) as path:
                yield path

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Have what goes wrong with a file in a block be a sentence."""
        directory, there = self.located(name)
        return directory.error_context(there)

    def with_retries(self) -> Self:
        """Give the same."""
        return self

    def child(self, name: str) -> NoReturn:
        """Refuse: only whole stores are looked at before they appear."""
        self._refuse(name)

    def sibling(self, name: str) -> NoReturn:
        """Refuse likewise."""
        self._refuse(name)

    def write(self, name: str, *parts: bytes) -> None:  # noqa: ARG002  (a tree's signature)
        """Refuse: what is published is not changed."""
        self._refuse(name)

    def move(self, name: str, new_name: str, to: Self | None = None) -> None:  # noqa: ARG002  (likewise)
        """Refuse likewise."""
        self._refuse(name)

    def remove(self, names: Iterable[str]) -> None:
        """Refuse likewise."""
        self._refuse(next(iter(names), ""))

    def _refuse(self, name: str) -> NoReturn:
        raise CallError(f"{self.target} has not appeared yet and can only be read; {name} cannot be changed in it")
