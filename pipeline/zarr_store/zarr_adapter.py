"""A read-only Zarr store on top of a directory, in which a missing chunk is an error."""

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
    """A directory as a read-only Zarr store that raises for missing chunks, which zarr would replace by fill values.

    Parameters
    ----------
    directory : Directory
        The store's directory.
    """

    supports_writes = False
    supports_deletes = False

    def __init__(self, directory: Directory) -> None:
        super().__init__(read_only=True)
        self.directory = directory

    @property
    def supports_listing(self) -> bool:
        """Whether the directory can list its files."""
        return self.directory.can_list

    def __eq__(self, other: object) -> bool:
        """Return whether the other is the same directory."""
        return isinstance(other, ReadOnlyDirectoryStore) and str(self.directory) == str(other.directory)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        """Return the address of the directory."""
        return str(self.directory)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a file or a byte range of it; return None if a metadata file is missing.

        Raises
        ------
        FileNotFoundError
            If the file is a chunk or a shard and is missing.
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
        """Read several byte ranges of files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether a file is there."""
        return await asyncio.to_thread(self.directory.size, key) is not None

    async def list(self) -> AsyncIterator[str]:
        """Yield the names of all files."""
        for name, _ in await asyncio.to_thread(lambda: [*self.directory.files()]):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of all files that start with a prefix."""
        async for name in self.list():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of the files and folders in a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        found = {name.removeprefix(folder).partition("/")[0] async for name in self.list_prefix(folder)}
        for name in sorted(found):
            yield name

    async def set(self, key: str, value: Buffer) -> NoReturn:
        """Raise: a finished store is read-only."""
        raise NotImplementedError(f"{self.directory} is read-only")

    async def delete(self, key: str) -> NoReturn:
        """Raise: a finished store is read-only."""
        raise NotImplementedError(f"{self.directory} is read-only")
