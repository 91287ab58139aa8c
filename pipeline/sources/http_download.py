"""An archive → a checked file: downloaded from the first address that gives it, and taken up where it was cut."""

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
PAUSES_S = (1, 2, 4)  # before a connection that was cut is taken up again
BLOCK = 1 << 16  # bytes read at a time; what of the last one came before a connection is cut is lost


class _UnusableError(Exception):
    """A source that gives no archive; the next one may."""


class _CutError(_UnusableError):
    """A connection that ended early; to be taken up again."""


def download(source: Archive, folder: Path) -> Path:
    """Download an archive from the first address that gives it; what arrived before is not asked for again.

    Parameters
    ----------
    source : Archive
        What is sought, and where.
    folder : Path
        Where the file is kept; what has arrived stays there as ``NAME.part`` until it is whole.

    Returns
    -------
    Path
        The file, whole and checked.

    Raises
    ------
    FetchError
        Where no address gives it; the message names each and why.
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
            failures.append(f"{url}: {wrong}, so what came was removed")
        except _UnusableError as error:
            failures.append(f"{url}: {error}")
    kept = f" ({_size(part):,} bytes are kept, and it goes on from there)" if _size(part) else ""
    raise FetchError(
        f"the archive could not be downloaded: {'; '.join(failures)}. Look at the network and run again{kept}, "
        f"or give a copy with --from PATH"
    )


def _pull(url: str, part: Path, n_bytes: int) -> None:
    """Bring the rest of a file, taking the connection up again where it is cut, a few times."""
    for pause in itertools.chain(PAUSES_S, [None]):
        try:
            _transfer(url, part, n_bytes)
            return
        except _CutError:
            if pause is None:
                raise
            time.sleep(pause)


def _transfer(url: str, part: Path, n_bytes: int) -> None:
    """Ask for the rest of a file, once."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            start = _start(response, have, n_bytes)
            with (
                _opened(part, start) as file,
                tqdm(disable=None, total=n_bytes, initial=start, desc=part.stem, unit="B", unit_scale=True) as n,
            ):
                # Not iter_content, which would unpack what a server marks as Content-Encoding: gzip.
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
    """Offset of a response's first byte, once it is sure that it belongs to the file that is sought."""
    status = response.status_code
    if status == 429 or status >= 500:
        raise _CutError(f"HTTP {status} {response.reason}")
    if status not in {200, 206}:
        raise _UnusableError(f"HTTP {status} {response.reason}")
    # A server may answer 200 with the whole file, or 206 with more than it was asked for.
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", "")) if status == 206 else None
    start = int(match[1]) if match else 0
    offered = start + int(response.headers.get("Content-Length", -1))
    if offered != n_bytes or start > have or (status == 206 and not match):
        raise _UnusableError(f"it offers {max(offered, 0):,} bytes where the archive has {n_bytes:,}")
    return start


@contextlib.contextmanager
def _opened(path: Path, start: int) -> Iterator[IO[bytes]]:
    """Open a file for writing from an offset on."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(start)
        file.seek(start)
        yield file


def mismatch(path: Path, source: Archive) -> str:
    """Say how a file differs from the archive that a recipe means; nothing where it does not.

    Parameters
    ----------
    path : Path
        The file.
    source : Archive
        What it should be.
    """
    if (size := _size(path)) != source.n_bytes:
        return f"it has {size:,} bytes where the archive has {source.n_bytes:,}"
    digest = hashlib.sha256()
    with path.open("rb") as file, tqdm(disable=None, total=size, desc="checking", unit="B", unit_scale=True) as n:
        while block := file.read(BLOCK):
            digest.update(block)
            n.update(len(block))
    found = digest.hexdigest()
    return "" if found == source.sha256 else f"its SHA-256 is {found} where the archive has {source.sha256}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _why(error: Exception) -> str:
    """Give the innermost reason of a network error, without the object's name in front of it."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner)).rsplit("): ", 1)[-1]
