"""A directory in a zip archive in an object store or behind a web server, which is read by ranges."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.zip import Archive, ZipMembers


@functools.lru_cache(maxsize=8)
def _opened(holder: Directory, name: str) -> Archive:
    with holder.open(name) as file:
        return Archive(f"{holder}/{name}", file, functools.partial(holder.read_range, name))


@dataclass(frozen=True, slots=True)
class RemoteZipDirectory(ZipMembers):
    """The files of a zip archive that is not on this machine, read-only.

    Parameters
    ----------
    holder : Directory
        Directory of the archive.
    file_name : str
        Name of the archive in it.
    prefix : str
        Folder in the archive, with a trailing slash; empty for the whole archive.

    Notes
    -----
    The list of its files is read once. If the archive is replaced later, what is read does not fit its checksums.
    """

    holder: Directory
    file_name: str
    prefix: str = ""

    @property
    def io_threads(self) -> int:
        """Number of threads needed to read at full speed."""
        return self.holder.io_threads

    def __str__(self) -> str:
        """Return the address."""
        return f"{self.holder}/{self.file_name}/{self.prefix}".rstrip("/")

    @property
    def name(self) -> str:
        """Last part of the address."""
        return str(self).rpartition("/")[2]

    @property
    def _archive(self) -> Archive:
        return _opened(self.holder, self.file_name)  # type: ignore[arg-type]  # a frozen dataclass

    def child(self, name: str) -> RemoteZipDirectory:
        """Return the directory of one of its folders."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def sibling(self, name: str) -> Directory:
        """Return the directory `name` in the same folder: beside the archive, or in it below its top folder."""
        if not self.prefix:
            return self.holder.child(name) if name else self.holder
        above, slash, _ = self.prefix[:-1].rpartition("/")
        return replace(self, prefix=f"{above}{slash}{name}/" if name else f"{above}{slash}")

    def with_retries(self) -> RemoteZipDirectory:
        """Return this directory with retries."""
        return replace(self, holder=self.holder.with_retries())

    def exists(self) -> bool:
        """Return whether the archive contains any file below `prefix`."""
        return any(True for _ in self.files())

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Re-raise errors about the archive within a `with` block with a readable message."""
        return self.holder.error_context(f"{self.file_name}/{self.prefix}{name}")
