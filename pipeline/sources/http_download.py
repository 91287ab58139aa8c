"""Download an archive over HTTP: try its addresses in turn, resume cut connections, and verify the checksum."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

from melzarr.pipeline.errors import FetchError
from melzarr.pipeline.sources.dataset_recipe import Archive

TIMEOUT_S = (15, 60)  # to connect, and between two blocks
PAUSES_S = (1, 2, 4)  # before each attempt to resume a cut connection
BLOCK = 1 << 16  # bytes read at a time; an incomplete block is lost if the connection is cut


class _UnusableError(Exception):
    """An address that does not provide the archive; the next one may."""


class _CutError(_UnusableError):
    """A connection that ended early; the download can be resumed."""


def download(source: Archive, folder: Path) -> Path:
    """Download an archive from the first address that provides it; a partial download is resumed.

    Parameters
    ----------
    source : Archive
        The archive and its addresses.
    folder : Path
        Folder of the file ``NAME.part``; a partial download stays there.

    Returns
    -------
    Path
        The file ``NAME.part``, complete and verified.

    Raises
    ------
    FetchError
        If no address provides it; the message gives each address and the reason.
    """
    part = folder / f"{PurePosixPath(urlsplit(source.urls[0]).path).name}.part"
    if _size(part) >= source.n_bytes:
        if not mismatch(part, source):
            return part
        part.unlink()
    failures = []
    for url in source.urls:
        try:
            _pull(url, part, source.n_bytes)
            if not (wrong := mismatch(part, source)):
                return part
            part.unlink()
            failures.append(f"{url}: {wrong}, so the downloaded file was removed")
        except _UnusableError as error:
            failures.append(f"{url}: {error}")
    kept = f" ({_size(part):,} bytes are kept, and the download continues from there)" if _size(part) else ""
    raise FetchError(
        f"the archive could not be downloaded: {'; '.join(failures)}. Check the network and run again{kept}, or give "
        f"a copy with --from PATH"
    )


def _pull(url: str, part: Path, n_bytes: int) -> None:
    """Download the rest of a file; resume a cut connection after each of `PAUSES_S`."""
    for pause in itertools.chain(PAUSES_S, [None]):
        try:
            _transfer(url, part, n_bytes)
            return
        except _CutError:
            if pause is None:
                raise
            time.sleep(pause)


def _transfer(url: str, part: Path, n_bytes: int) -> None:
    """Request the rest of a file, once."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            start = _start(response, have, n_bytes)
            with (
                _opened(part, start) as file,
                tqdm(disable=None, total=n_bytes, initial=start, desc=part.stem, unit="B", unit_scale=True) as n,
            ):
                # Not iter_content: it would decompress a response that is marked as Content-Encoding: gzip.
                for block in response.raw.stream(BLOCK, decode_content=False):
                    file.write(block)
                    n.update(len(block))
    except urllib3.exceptions.HTTPError as error:
        raise _CutError(f"the connection was cut after {_size(part):,} of {n_bytes:,} bytes ({_why(error)})") from error
    except requests.RequestException as error:
        raise _UnusableError(f"no connection ({_why(error)})") from error
    if _size(part) < n_bytes:
        raise _CutError(f"the connection ended after {_size(part):,} of {n_bytes:,} bytes")


def _start(response: requests.Response, have: int, n_bytes: int) -> int:
    """Return the offset of a response's first byte; raise if the response does not fit the requested file."""
    status = response.status_code
    if status == 429 or status >= 500:
        raise _CutError(f"HTTP {status} {response.reason}")
    if status not in {200, 206}:
        raise _UnusableError(f"HTTP {status} {response.reason}")
    # A server may answer 200 with the whole file, or 206 with more than was requested.
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", "")) if status == 206 else None
    start = int(match[1]) if match else 0
    offered = start + int(response.headers.get("Content-Length", -1))
    if offered != n_bytes or start > have or (status == 206 and not match):
        raise _UnusableError(f"it offers {max(offered, 0):,} bytes, but the archive has {n_bytes:,}")
    return start


@contextlib.contextmanager
def _opened(path: Path, start: int) -> Iterator[IO[bytes]]:
    """Open a file for writing at an offset; what follows the offset is removed."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(start)
        file.seek(start)
        yield file


def mismatch(path: Path, source: Archive) -> str:
    """Return how a file differs from the archive of a recipe; empty if it does not.

    Parameters
    ----------
    path : Path
        The file.
    source : Archive
        The expected archive.
    """
    if (size := _size(path)) != source.n_bytes:
        return f"it has {size:,} bytes, but the archive has {source.n_bytes:,}"
    digest = hashlib.sha256()
    with path.open("rb") as file, tqdm(disable=None, total=size, desc="checking", unit="B", unit_scale=True) as n:
        while block := file.read(BLOCK):
            digest.update(block)
            n.update(len(block))
    found = digest.hexdigest()
    return "" if found == source.sha256 else f"its SHA-256 is {found}, but that of the archive is {source.sha256}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _why(error: Exception) -> str:
    """Return the innermost reason of a network error, without the object's name before it."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner)).rsplit("): ", 1)[-1]
