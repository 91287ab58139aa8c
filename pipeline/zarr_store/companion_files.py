"""What lies in the folder of a store and explains it: no part of the store, and named in none of its metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from melzarr.pipeline.storage.directory import Directory

CARD: Final = "README.md"
CHECKSUMS: Final = "SHA256SUMS"
CROISSANT: Final = "croissant.json"
REPORT: Final = "report.html"
TRACKS: Final = "tracks.csv"
PICTURES: Final = "report"  # folder of the report's pictures
AUDIO: Final = "audio"  # folder of the audio files, where they are shared too
NAMES: Final = frozenset({CARD, CHECKSUMS, CROISSANT, REPORT, TRACKS, PICTURES, AUDIO})

# How sha256sum of GNU's coreutils writes a name that would break a line, which then begins with a backslash itself.
_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_PLAIN: Final = {escape: char for char, escape in _ESCAPES.items()}


def is_companion(name: str) -> bool:
    """Whether a file is no part of the store in whose folder it lies.

    Parameters
    ----------
    name : str
        Its path there. Hidden files are companions too: versioning and file managers leave them.
    """
    first = name.partition("/")[0]
    return first in NAMES or first.startswith(".")


def checksum_lines(digests: Mapping[str, str]) -> bytes:
    r"""Write a list of files that ``sha256sum --check`` reads, sorted by name.

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
    """Read such a list back.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    dict of str to str
        SHA-256 of each file, in hexadecimal, by its path.

    Raises
    ------
    ValueError
        Where a line is no digest with a name, or names a file outside the folder.
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
        Where the store lies.
    known : mapping of str to str
        SHA-256 of files that need not be read again, by their names.

    Returns
    -------
    problems : list of str
        What is missing, changed or too many, a sentence each.
    n_files : int
        How many files the list has; none where there is no list, as in a store that was not shared.

    Raises
    ------
    ValueError
        Where the list is none.
    """
    if directory.size(CHECKSUMS) is None:  # as of a store that was not shared
        alone = sorted(name for name in NAMES if "." in name and directory.size(name) is not None)
        return [f"{name} is there without {CHECKSUMS}" for name in alone], 0
    listed = read_checksums(directory.read(CHECKSUMS))
    problems = []
    for name, expected in listed.items():
        try:
            if (known.get(name) or directory.sha256(name)) != expected:
                problems.append(f"{name} is not the file that {CHECKSUMS} lists")
        except FileNotFoundError:
            problems.append(f"{name} is missing, and {CHECKSUMS} lists it")
    if directory.can_list:
        there = {name for name, _ in directory.files() if not name.startswith(".")}
        problems += [f"{name} is in no line of {CHECKSUMS}" for name in sorted(there - listed.keys() - {CHECKSUMS})]
    return problems, len(listed)
