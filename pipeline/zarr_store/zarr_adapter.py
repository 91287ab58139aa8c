"""What zarr reads a store through: a tree of files, in which nothing that holds values may be missing."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable
from typing import NoReturn

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from melzarr.pipeline.storage.directory import Directory

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class ReadOnlyDirectoryStore(Store):
    """A tree as zarr reads it, in which a chunk that is missing is an error: zarr by itself fills in what is absent.

    Parameters
    ----------
    directory : Directory
        Where the store lies.
    """

    supports_writes = False
    supports_deletes = False

    def __init__(self, directory: Directory) -> None:
        super().__init__(read_only=True)
        self.directory = directory

    @property
    def supports_listing(self) -> bool:
        """Whether the tree says what there is."""
        return self.directory.can_list

    def __eq__(self, other: object) -> bool:
        """Whether the other is the same tree."""
        return isinstance(other, ReadOnlyDirectoryStore) and str(self.directory) == str(other.directory)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        """Say where it lies."""
        return str(self.directory)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a file, or a part of it.

        Raises
        ------
        FileNotFoundError
            Where it holds values and is not there.
        """
        try:
            data = await asyncio.to_thread(self._read, key, byte_range)
        except ABSENT as error:
            if "/c/" in key:
                raise FileNotFoundError(errno.ENOENT, "it is missing", f"{self.directory}/{key}") from error
            return None
        return prototype.buffer.from_bytes(data)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes:
        if self.directory.folder and self.directory.size(key) is None:  # a named pipe would block for ever
            raise FileNotFoundError(errno.ENOENT, "no file is there", f"{self.directory}/{key}")
        with self.directory.error_context(key):
            match byte_range:
                case RangeByteRequest(start, end):
                    return self.directory.read_range(key, start, end - start)
                case SuffixByteRequest(suffix):
                    return self.directory.read_end(key, suffix)[0]
                case OffsetByteRequest(offset):
                    return self.directory.read(key)[offset:]
                case _:
                    return self.directory.read(key)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read some parts of files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether a file is there."""
        return await asyncio.to_thread(self.directory.size, key) is not None

    async def list(self) -> AsyncIterator[str]:
        """Name all files."""
        for name, _ in await asyncio.to_thread(lambda: [*self.directory.files()]):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Name all files whose names begin so."""
        async for name in self.list():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Name what lies in a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        found = {name.removeprefix(folder).partition("/")[0] async for name in self.list_prefix(folder)}
        for name in sorted(found):
            yield name

    async def set(self, key: str, value: Buffer) -> NoReturn:
        """Refuse: a store that is finished is not changed."""
        raise NotImplementedError(f"{self.directory} is read only")

    async def delete(self, key: str) -> NoReturn:
        """Refuse likewise."""
        raise NotImplementedError(f"{self.directory} is read only")
