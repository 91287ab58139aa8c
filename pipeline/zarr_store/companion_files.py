"""Companion files: files in a store's folder that document it, but are neither part of it nor in its metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Final

from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.ignored_files import is_ignored

CARD: Final = "README.md"
CHECKSUMS: Final = "SHA256SUMS"
CROISSANT: Final = "croissant.json"
REPORT: Final = "report.html"
TRACKS: Final = "tracks.csv"
PICTURES: Final = "report"  # folder of the report's figures
AUDIO: Final = "audio"  # folder of the audio files, if they are shared too
TABLES: Final = "data"  # folder of the tables for Hugging Face
NAMES: Final = frozenset({CARD, CHECKSUMS, CROISSANT, REPORT, TRACKS, PICTURES, AUDIO, TABLES})

# How sha256sum of GNU coreutils escapes a name that would break a line. Such a line starts with a backslash.
_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_PLAIN: Final = {escape: char for char, escape in _ESCAPES.items()}


def is_companion(name: str) -> bool:
    """Return whether a file in a store's folder is a companion, that is, not part of the store.

    Parameters
    ----------
    name : str
        Path of the file in that folder. Ignored files are companions too: version control and file managers create
        them.
    """
    return name.partition("/")[0] in NAMES or is_ignored(name)


def checksum_lines(digests: Mapping[str, str]) -> bytes:
    r"""Return a list of checksums, sorted by name, in the format of ``sha256sum --check``.

    Parameters
    ----------
    digests : mapping of str to str
        SHA-256 of each file, in hexadecimal, by its path.

    Examples
    --------
    >>> checksum_lines({"b": "12", "a": "ef"})
    b'ef  a\n12  b\n'
    """
    return "".join(f"{line}\n" for line in _lines(digests)).encode()


def _lines(digests: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(digests):
        escaped = "".join(_ESCAPES.get(char, char) for char in name)
        mark = "" if escaped == name else "\\"
        yield f"{mark}{digests[name]}  {escaped}"


def read_checksums(data: bytes) -> dict[str, str]:
    """Parse the output of `checksum_lines`.

    Parameters
    ----------
    data : bytes
        Content of the file.

    Returns
    -------
    dict of str to str
        SHA-256 of each file, in hexadecimal, by its path.

    Raises
    ------
    ValueError
        If a line is not a digest with a name, or names a file outside the folder.
    """
    found = {}
    for line in data.decode().removesuffix("\n").split("\n"):
        digest, space, name = line.removeprefix("\\").partition("  ")
        if line.startswith("\\"):
            name = re.sub(r"\\.", lambda found: _PLAIN.get(found[0], found[0]), name)
        if not space or not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{CHECKSUMS} has the line {line!r:.80}, which names no file beside it")
        found[name] = digest
    return found


def differences(directory: Directory, known: Mapping[str, str]) -> tuple[list[str], int]:
    """Compare all files of a shared store with its list of checksums.

    Parameters
    ----------
    directory : Directory
        The store's directory.
    known : mapping of str to str
        SHA-256 of files that need not be read again, by name.

    Returns
    -------
    problems : list of str
        One sentence for each file that is missing, changed or not listed.
    n_files : int
        Number of files in the list; 0 if there is no list, as in a store that was not shared.

    Raises
    ------
    ValueError
        If the list is malformed.
    """
    if directory.size(CHECKSUMS) is None:  # the store was not shared
        alone = sorted(name for name in NAMES if "." in name and directory.size(name) is not None)
        return [f"{name} exists without {CHECKSUMS}" for name in alone], 0
    listed = read_checksums(directory.read(CHECKSUMS))
    problems = []
    for name, expected in listed.items():
        try:
            if (known.get(name) or directory.digest(name, hashlib.sha256)) != expected:
                problems.append(f"{name} is not the file that {CHECKSUMS} lists")
        except FileNotFoundError:
            problems.append(f"{name} is missing, and {CHECKSUMS} lists it")
    if directory.can_list:
        there = {name for name, _ in directory.files() if not is_ignored(name)}
        problems += [f"{name} is not listed in {CHECKSUMS}" for name in sorted(there - listed.keys() - {CHECKSUMS})]
    return problems, len(listed)
