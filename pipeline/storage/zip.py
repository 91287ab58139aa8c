"""A directory in one zip archive; its files are stored uncompressed, so that any part of a file can be read."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Never

from melzarr.pipeline.errors import CallError, StoreError
from melzarr.pipeline.storage.atomic import files_below, naming
from melzarr.pipeline.storage.local import LocalDirectory

SIGNATURE = b"PK\3\4"  # first bytes of a file's header
LOCAL_HEADER = 30  # bytes before a file's name; the last four are the lengths of name and extra field
OLDEST = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can store, for files without a time
COPIED = 1 << 20  # bytes that are copied at a time


class _Archive:
    """An open archive, with the offset and the size of each file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("rb")
        try:
            with zipfile.ZipFile(self.file) as found:
                infos = [info for info in found.infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            self.file.close()
            raise StoreError(f"{path} is not a complete zip archive ({error}); copy or download it again") from error
        self.n_bytes = os.fstat(self.file.fileno()).st_size
        self.infos = {info.filename: info for info in infos}

    def __del__(self) -> None:
        """Close the file."""
        self.file.close()

    def place(self, name: str) -> tuple[int, int]:
        """Return the offset and the size of a file, in bytes."""
        info = self.infos.get(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "no file is there", f"{self.path}/{name}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 or info.compress_size != info.file_size:
            raise StoreError(f"{self.path}: {name} is compressed or encrypted in it; unzip it, and use the folder")
        header = self.bytes(info.header_offset, LOCAL_HEADER) if 0 <= info.header_offset < self.n_bytes else b""
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + LOCAL_HEADER + lengths
        if not header.startswith(SIGNATURE) or start + info.file_size > self.n_bytes:
            raise StoreError(f"{self.path}: {name} is not where it should be; copy or download the archive again")
        return start, info.file_size

    def bytes(self, start: int, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes of the archive from `start` on."""
        return os.pread(self.file.fileno(), n_bytes, start)


@functools.lru_cache(maxsize=8)
def _opened(path: Path, identity: tuple[int, int, int]) -> _Archive:  # noqa: ARG001  (cache key: a replaced archive is opened again)
    return _Archive(path)


@dataclass(frozen=True, slots=True)
class ZipDirectory:
    """The files of a zip archive on this machine, read-only.

    Parameters
    ----------
    path : Path
        The archive; it may be missing.
    prefix : str
        Folder in the archive, with a trailing slash; empty for the whole archive.
    """

    path: Path
    prefix: str = ""
    io_threads = 2
    can_list = True
    folder = None

    def __str__(self) -> str:
        """Return the path as it was given."""
        return f"{self.path}/{self.prefix}".rstrip("/") if self.prefix else str(self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.prefix.rstrip("/").rpartition("/")[2] or self.path.name

    @property
    def _archive(self) -> _Archive:
        facts = self.path.stat()
        return _opened(self.path, (facts.st_ino, facts.st_size, facts.st_mtime_ns))

    def child(self, name: str) -> ZipDirectory:
        """Return the directory of one of its folders."""
        return ZipDirectory(self.path, f"{self.prefix}{name}/")

    def sibling(self, name: str) -> LocalDirectory | ZipDirectory:
        """Return the directory `name` in the same folder: on the disk, or in the archive below its top folder."""
        if not self.prefix:
            return LocalDirectory(self.path.parent / name)
        above, slash, _ = self.prefix[:-1].rpartition("/")
        return ZipDirectory(self.path, f"{above}{slash}{name}/" if name else f"{above}{slash}")

    def with_retries(self) -> ZipDirectory:
        """Return this directory with an absolute path; a disk needs no retries."""
        return ZipDirectory(self.path.absolute(), self.prefix)

    def exists(self) -> bool:
        """Return whether the archive exists, and contains any file below `prefix`."""
        return self.path.exists() and (not self.prefix or any(True for _ in self.files()))

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        archive = self._archive
        return archive.bytes(*archive.place(self.prefix + name))

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of a file, and its total size in bytes."""
        archive = self._archive
        start, size = archive.place(self.prefix + name)
        return archive.bytes(start + max(0, size - n_bytes), min(size, n_bytes)), size

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes of a file from `start` on."""
        archive = self._archive
        first, size = archive.place(self.prefix + name)
        return archive.bytes(first + start, max(0, min(n_bytes, size - start)))

    def open(self, name: str) -> IO[bytes]:
        """Open a file; it is read completely, because files that need random access are small."""
        return io.BytesIO(self.read(name))

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        info = self._archive.infos.get(self.prefix + name) if self.path.is_file() else None
        return None if info is None else info.file_size

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Yield names and sizes of all files except those in the folder `without`."""
        for name, info in self._archive.infos.items():
            inner = name.removeprefix(self.prefix)
            if name.startswith(self.prefix) and not (without and inner.startswith(f"{without}/")):
                yield inner, info.file_size

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, in hexadecimal."""
        archive, digest = self._archive, hashlib.sha256()
        start, size = archive.place(self.prefix + name)
        for first in range(0, size, COPIED):
            digest.update(archive.bytes(start + first, min(COPIED, size - first)))
        return digest.hexdigest()

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Raise CallError: audio is not read from archives."""
        raise CallError(f"{self.path}: {name} cannot be used in an archive; unzip it, and use the folder")

    def local_files(self, names: Iterable[str]) -> Iterator[Path]:
        """Raise CallError: audio is not read from archives."""
        raise CallError(f"{self.path}: {next(iter(names))} cannot be used in an archive; unzip it, and use the folder")

    def _refuse(self, *_: object) -> Never:
        raise CallError(f"{self.path} is an archive, which cannot be changed; make another one")

    write = move = remove = _refuse

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Add the path to disk errors that lack it."""
        return naming(self.path / name)


def pack_folder(folder: Path, path: Path) -> None:
    """Write all files of a folder to a zip archive: uncompressed, without times, and in a fixed order.

    Parameters
    ----------
    folder : Path
        The folder.
    path : Path
        The archive; the same files give the same bytes.

    Notes
    -----
    Metadata comes first, as in the zipped stores of OME-Zarr (RFC 9 of ome.ngff), so that a program that reads an
    archive from its start soon knows its contents.
    """
    names = sorted((name for name, _ in files_below(folder)), key=_metadata_first)
    with naming(path), path.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                info = zipfile.ZipInfo(name, OLDEST)
                info.create_system, info.external_attr = 3, 0o100644 << 16  # Unix; a file that all users may read
                info.file_size = (folder / name).stat().st_size  # decides whether the header gets ZIP64 fields
                with (folder / name).open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, COPIED)
        file.flush()
        os.fsync(file.fileno())


def _metadata_first(name: str) -> tuple[bool, int, str]:
    return not name.endswith("zarr.json"), name.count("/"), name
