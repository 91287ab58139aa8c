"""A directory in one zip archive; its files are stored uncompressed, so that any part of a file can be read."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import shutil
import weakref
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Never

from blake3 import blake3

from melzarr.pipeline.errors import CallError, StoreError
from melzarr.pipeline.storage.atomic import files_below, naming
from melzarr.pipeline.storage.digests import Hash
from melzarr.pipeline.storage.local import LocalDirectory

SIGNATURE = b"PK\3\4"  # first bytes of a file's header
LOCAL_HEADER = 30  # bytes before a file's name; the last four are the lengths of name and extra field
OLDEST = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can store, for files without a time
COPIED = 1 << 20  # bytes that are copied at a time


class Archive:
    """The files of an archive, with the offset and the size of each.

    Parameters
    ----------
    where : str
        Path or address, for messages.
    file : binary file
        The archive, open for random access.
    read : callable
        Thread-safe; returns a number of bytes from an offset on.

    Notes
    -----
    If the archive was made from the folder of a store, and not from its contents, names are those in that folder.
    """

    def __init__(self, where: str, file: IO[bytes], read: Callable[[int, int], bytes]) -> None:
        self.where, self.bytes = where, read
        self.n_bytes = file.seek(0, os.SEEK_END)
        try:
            with zipfile.ZipFile(file) as found:
                infos = {info.filename: info for info in found.infolist() if not info.is_dir()}
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise StoreError(f"{where} is not a complete zip archive ({error}); copy or download it again") from error
        top = self._top(infos)
        self.infos = {name.removeprefix(top): info for name, info in infos.items() if name.startswith(top)}
        self._places: dict[str, tuple[int, int]] = {}

    def _top(self, names: Iterable[str]) -> str:
        """Return the folder of the archive's Zarr group, with a slash; empty if it is at the top or there is none."""
        folders = sorted(name.removesuffix("zarr.json") for name in names if f"/{name}".endswith("/zarr.json"))
        tops: list[str] = []
        for folder in folders:
            if not tops or not folder.startswith(tops[-1]):
                tops.append(folder)
        if len(tops) > 1:
            raise StoreError(
                f"{self.where} has no zarr.json at its top, but in several folders, such as {tops[0]} and {tops[1]}; "
                f"unzip it, and use one of them"
            )
        return tops[0] if tops else ""

    def place(self, name: str) -> tuple[int, int]:
        """Return the offset and the size of a file, in bytes."""
        if name not in self._places:
            self._places[name] = self._found(name)
        return self._places[name]

    def _found(self, name: str) -> tuple[int, int]:
        info = self.infos.get(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "no file is there", f"{self.where}/{name}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 or info.compress_size != info.file_size:
            raise StoreError(
                f"{self.where}: {name} is compressed or encrypted in it; unzip it, and use the folder, or archive that "
                f"without compression: zip -0 -r NAME.zarr.zip FOLDER"
            )
        header = self.bytes(info.header_offset, LOCAL_HEADER) if 0 <= info.header_offset < self.n_bytes else b""
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + LOCAL_HEADER + lengths
        if not header.startswith(SIGNATURE) or start + info.file_size > self.n_bytes:
            raise StoreError(f"{self.where}: {name} is not where it should be; copy or download the archive again")
        return start, info.file_size


@functools.lru_cache(maxsize=8)
def _opened(path: Path, identity: tuple[int, int, int]) -> Archive:  # noqa: ARG001  (cache key: a replaced archive is opened again)
    file = path.open("rb")
    try:
        archive = Archive(str(path), file, lambda start, n_bytes: os.pread(file.fileno(), n_bytes, start))
    except BaseException:
        file.close()
        raise
    weakref.finalize(archive, file.close)
    return archive


class ZipMembers:
    """Reads the files of an archive below `prefix`; the archive itself cannot be changed."""

    __slots__ = ()
    prefix: str
    can_list = True
    folder = None

    @property
    def _archive(self) -> Archive:
        raise NotImplementedError

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
        info = self._archive.infos.get(self.prefix + name)
        return None if info is None else info.file_size

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Yield names and sizes of all files except those in the folder `without`."""
        for name, info in self._archive.infos.items():
            inner = name.removeprefix(self.prefix)
            if name.startswith(self.prefix) and not (without and inner.startswith(f"{without}/")):
                yield inner, info.file_size

    def digest(self, name: str, algorithm: Hash = blake3) -> str:
        """Return the digest of a file, in hexadecimal."""
        archive, digest = self._archive, algorithm()
        start, size = archive.place(self.prefix + name)
        for first in range(0, size, COPIED):
            digest.update(archive.bytes(start + first, min(COPIED, size - first)))
        return digest.hexdigest()

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Raise CallError: audio is not read from archives."""
        raise CallError(f"{self}: {name} cannot be used in an archive; unzip it, and use the folder")

    def local_files(self, names: Iterable[str]) -> Generator[Path, None, None]:
        """Raise CallError: audio is not read from archives."""
        raise CallError(f"{self}: {next(iter(names))} cannot be used in an archive; unzip it, and use the folder")

    def _refuse(self, *_: object) -> Never:
        raise CallError(f"{self} is an archive, which cannot be changed; make another one")

    write = move = remove = _refuse


@dataclass(frozen=True, slots=True)
class ZipDirectory(ZipMembers):
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

    def __str__(self) -> str:
        """Return the path as it was given."""
        return f"{self.path}/{self.prefix}".rstrip("/") if self.prefix else str(self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.prefix.rstrip("/").rpartition("/")[2] or self.path.name

    @property
    def _archive(self) -> Archive:
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

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it or the archive does not exist."""
        return ZipMembers.size(self, name) if self.path.is_file() else None

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Add the path to disk errors that lack it."""
        return naming(self.path / name)


def pack_folder(folder: Path, path: Path) -> str:
    """Write all files of a folder to a zip archive: uncompressed, without times, and in a fixed order.

    Each file is hashed in the archive while the next one is written.

    Parameters
    ----------
    folder : Path
        The folder.
    path : Path
        The archive; the same files give the same bytes.

    Returns
    -------
    str
        SHA-256 of the archive, in hexadecimal.

    Notes
    -----
    Metadata comes first, as in the zipped stores of OME-Zarr (RFC 9 of ome.ngff), so that a program that reads an
    archive from its start soon knows its contents.
    """
    names = sorted((name for name, _ in files_below(folder)), key=_metadata_first)
    digest, n_hashed, hashed = hashlib.sha256(), 0, Future[None]()
    hashed.set_result(None)

    def add(end: int) -> None:
        nonlocal n_hashed
        while n_hashed < end:
            block = os.pread(file.fileno(), min(COPIED, end - n_hashed), n_hashed)
            digest.update(block)
            n_hashed += len(block)

    with naming(path), path.open("w+b") as file, ThreadPoolExecutor(1) as beside:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                info = zipfile.ZipInfo(name, OLDEST)
                info.create_system, info.external_attr = 3, 0o100644 << 16  # Unix; a file that all users may read
                info.file_size = (folder / name).stat().st_size  # decides whether the header gets ZIP64 fields
                with (folder / name).open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, COPIED)
                file.flush()
                hashed.result()
                hashed = beside.submit(add, file.tell())
        file.flush()
        hashed.result()
        add(file.tell())
        os.fsync(file.fileno())
    return digest.hexdigest()


def _metadata_first(name: str) -> tuple[bool, int, str]:
    return not name.endswith("zarr.json"), name.count("/"), name
