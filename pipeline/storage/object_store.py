"""A directory in an object store: s3, gs, az, and https for reading, through obstore."""

from __future__ import annotations

import errno
import io
import itertools
import os
import re
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import obstore
from blake3 import blake3
from obstore import exceptions

from melzarr.pipeline.errors import CallError, StorageError
from melzarr.pipeline.storage.digests import Hash
from melzarr.pipeline.storage.obstore_client import head, list_blocks, open_service, readable_errors

AHEAD = 4  # files fetched in advance while one is processed: a request takes longer than computing a track
BLOCK = 1 << 20  # bytes of a file that are read at a time, if not all of it is needed at once
HEAD = 1 << 16  # the same, if mostly the start of the file is needed
ONE_PUT = 64 << 20  # bytes of the largest file written in one request; if killed, one request leaves nothing behind
LONGEST_NAME = 200  # bytes of a local file name; file systems allow 255
DELETED = 20_000  # names per call; obstore sends twenty requests at a time, each with the 1000 that S3 allows

Version = tuple[tuple[str, str], ...]  # of an object: its digest or version number, by the service's name for it


@dataclass(frozen=True, slots=True)
class ObjectStoreDirectory:
    """The files below a prefix of an object store.

    Parameters
    ----------
    url : str
        Address, such as ``s3://bucket/prefix``, without a slash at the end.
    patience : {"soon", "patient"}
        How long requests to an unresponsive server are retried.

    Notes
    -----
    A pickle contains the address and no credentials. obstore finds credentials on the machine that uses the directory:
    in the environment (such as ``AWS_ACCESS_KEY_ID``, ``GOOGLE_APPLICATION_CREDENTIALS``,
    ``AZURE_STORAGE_ACCOUNT_KEY``), from the role of the machine, and for S3, if boto3 is installed, in its profiles.
    """

    url: str
    patience: str = "soon"
    io_threads = 16

    @classmethod
    def at(cls, url: str) -> ObjectStoreDirectory:
        """Return the directory at an address.

        Raises
        ------
        CallError
            If the address names no bucket, or contains a password or a signature, which would end up in logs.
        """
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise CallError(f"{url} is not an address ({error}); give one such as s3://BUCKET/NAME") from error
        if not parts.netloc:
            raise CallError(f"{url} names no bucket; give {parts.scheme}://BUCKET/NAME")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise CallError(
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: give the address without password, "
                f"query or fragment; credentials are read from the environment"
            )
        names = parts.path.strip("/").split("/") if parts.path.strip("/") else []
        if re.search("%[0-9A-Fa-f]{2}", parts.path) or {"", ".", ".."} & set(names):
            raise CallError(
                f"{url}: write the names in it unescaped, without %20 and similar codes, and without //, . and .."
            )
        return cls(url.rstrip("/"))

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def folder(self) -> None:
        """None: it is not on this machine."""
        return

    def child(self, name: str) -> ObjectStoreDirectory:
        """Return the directory of one of its folders."""
        return replace(self, url=f"{self.url}/{name}")

    def sibling(self, name: str) -> ObjectStoreDirectory:
        """Return the directory `name` in the same folder; the folder itself if `name` is empty."""
        return replace(self, url=f"{self.url.rpartition('/')[0]}/{name}".rstrip("/"))

    def with_retries(self) -> ObjectStoreDirectory:
        """Return this directory with retries: it waits minutes for an unresponsive server before it fails."""
        return replace(self, patience="patient")

    def _client(self, patience: str | None = None) -> Any:
        return open_service(self.url, patience or self.patience)

    @property
    def can_list(self) -> bool:
        """Whether the server can list its files; a web server cannot."""
        return not self.url.startswith("http")

    def exists(self) -> bool:
        """Return whether there is any file; this is a user's first request, so retries end soon."""
        client = self._client("at once" if self.patience == "soon" else self.patience)
        with readable_errors(self.url):
            if self.can_list:
                return any(len(some) for some in list_blocks(client, 1))
            return head(client, "zarr.json") is not None

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        with readable_errors(f"{self.url}/{name}"):
            return obstore.get(self._client(), name).bytes().to_bytes()

    def read_end(self, name: str, n_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of a file, and its total size in bytes."""
        try:
            with readable_errors(f"{self.url}/{name}"):
                found = obstore.get(self._client(), name, options={"range": {"suffix": n_bytes}})
                return found.bytes().to_bytes(), found.meta["size"]
        except StorageError:
            if self.size(name) != 0:  # an empty file has no last bytes, and the server reports an error
                raise
            return b"", 0

    def read_range(self, name: str, start: int, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes of a file from `start` on."""
        if not n_bytes:
            return b""
        with readable_errors(f"{self.url}/{name}"):
            return obstore.get_range(self._client(), name, start=start, length=n_bytes).to_bytes()

    def open(self, name: str) -> IO[bytes]:
        """Open a file for random access."""
        if (size := self.size(name)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{name}")
        return io.BufferedReader(_Ranges(self, name, size), HEAD)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        with readable_errors(f"{self.url}/{name}"):
            found = head(self._client(), name)
            return found["size"] if found else None

    def files(self, without: str = "") -> Iterator[tuple[str, int]]:
        """Yield names and sizes of all files except those in the folder `without`."""
        if not self.can_list:
            raise StorageError(f"{self.url}: a folder on a web server cannot be listed; give a manifest (.csv)")
        with readable_errors(self.url):
            for some in list_blocks(self._client(), 1000):
                for found in some:
                    if not (without and found["path"].startswith(f"{without}/")):
                        yield found["path"], found["size"]

    def digest(self, name: str, algorithm: Hash = blake3) -> str:
        """Return the digest of a file, in hexadecimal."""
        digest = algorithm()
        with readable_errors(f"{self.url}/{name}"):
            for block in obstore.get(self._client(), name).stream(min_chunk_size=BLOCK):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Provide a file at a local path within a `with` block; if the file is missing, the path does not exist."""
        with tempfile.TemporaryDirectory(prefix="melzarr-") as folder:
            yield self._fetch(name, Path(folder))

    def local_files(self, names: Iterable[str]) -> Generator[Path, None, None]:
        """Yield local paths of files in turn, each valid until the next is requested; fetch some in advance.

        A name that follows itself, such as that of a file with several excerpts, is fetched once.
        """
        runs = ((name, sum(1 for _ in same)) for name, same in itertools.groupby(names))
        waiting, coming = iter(enumerate(runs)), deque[tuple[Future[Path], int]]()
        with tempfile.TemporaryDirectory(prefix="melzarr-") as folder, ThreadPoolExecutor(AHEAD) as pool:

            def ask() -> None:
                for number, (name, n_times) in itertools.islice(waiting, AHEAD - len(coming)):
                    (place := Path(folder, str(number))).mkdir()
                    coming.append((pool.submit(self._fetch, name, place), n_times))

            ask()
            while coming:
                fetched, n_times = coming.popleft()
                path = fetched.result()
                ask()
                yield from itertools.repeat(path, n_times)
                path.unlink(missing_ok=True)

    def _fetch(self, name: str, folder: Path) -> Path:
        """Download a file into a folder under the same name, because error messages show it."""
        base = re.sub(r"[\x00-\x1f]", "_", name.rpartition("/")[2])
        path = folder / os.fsencode(base)[-LONGEST_NAME:].decode(errors="ignore")
        try:
            with readable_errors(f"{self.url}/{name}"), path.open("wb") as file:
                file.writelines(obstore.get(self._client(), name).stream(min_chunk_size=BLOCK))
        except FileNotFoundError:
            path.unlink()
        return path

    def write(self, name: str, *parts: bytes) -> None:
        """Write a file; an object is complete or absent."""
        with readable_errors(f"{self.url}/{name}"):
            big = sum(map(len, parts)) > ONE_PUT
            obstore.put(self._client(), name, iter(parts), use_multipart=big, chunk_size=ONE_PUT // 4)

    def exchange(self, name: str, data: bytes, version: Version | None) -> Version | None:
        """Write a file only if it is unchanged since it was last seen.

        Parameters
        ----------
        name : str
            The file.
        data : bytes
            Contents, a few kB at most.
        version : Version or None
            Version from an earlier call or from `version_of`; None if the file must not exist yet.

        Returns
        -------
        Version or None
            The new version; None if the service has no conditional writes, and the file was written unconditionally.

        Raises
        ------
        FileExistsError
            If the file has changed.
        """
        mode: Any = "create" if version is None else dict(version)
        with readable_errors(f"{self.url}/{name}"):
            try:
                return _version(obstore.put(self._client(), name, data, mode=mode, use_multipart=False))
            except FileNotFoundError as error:  # it was expected unchanged, and is gone
                raise exceptions.PreconditionError from error
            except exceptions.NotSupportedError:
                obstore.put(self._client(), name, data, use_multipart=False)
                return None

    def version_of(self, name: str) -> tuple[bytes, Version]:
        """Return the contents of a file, and its version for `exchange`."""
        with readable_errors(f"{self.url}/{name}"):
            found = obstore.get(self._client(), name)
            return found.bytes().to_bytes(), _version(found.meta)

    def move(self, name: str, new_name: str, to: ObjectStoreDirectory | None = None) -> None:
        """Copy a file within the service, then remove the original."""
        whole, root = (to or self).url, f"{urlsplit(self.url).scheme}://{urlsplit(self.url).netloc}"
        with readable_errors(f"{self.url}/{name}"):
            bucket = open_service(root, self.patience)
            source, target = f"{self.url}/{name}", f"{whole}/{new_name}"
            obstore.copy(bucket, source.removeprefix(f"{root}/"), target.removeprefix(f"{root}/"))
            obstore.delete(bucket, source.removeprefix(f"{root}/"))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; missing files are ignored."""
        waiting = iter(names)
        while some := list(itertools.islice(waiting, DELETED)):
            try:
                with readable_errors(self.url):
                    obstore.delete(self._client(), some)
            except FileNotFoundError:  # some services report a missing file, and may have kept the others
                with ThreadPoolExecutor(self.io_threads) as pool:
                    for _ in pool.map(self._remove_one, some):
                        pass

    def _remove_one(self, name: str) -> None:
        with suppress(FileNotFoundError), readable_errors(f"{self.url}/{name}"):
            obstore.delete(self._client(), name)

    def error_context(self, name: str) -> AbstractContextManager[None]:
        """Re-raise errors of the service within a `with` block with a readable message."""
        return readable_errors(f"{self.url}/{name}")


def _version(facts: Mapping[str, Any]) -> Version:
    """Return the fields of an object's metadata that a conditional request needs."""
    return tuple((name, facts[name]) for name in ("e_tag", "version") if facts.get(name))


class _Ranges(io.RawIOBase):
    """A file that is read by range requests; obstore's own reader holds the GIL while it waits."""

    def __init__(self, directory: ObjectStoreDirectory, name: str, size: int) -> None:
        self.directory, self.file_name, self.size, self.place = directory, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, room: Any) -> int:
        n_bytes = max(0, min(len(room), self.size - self.place))
        if n_bytes:
            room[:n_bytes] = self.directory.read_range(self.file_name, self.place, n_bytes)
            self.place += n_bytes
        return n_bytes
