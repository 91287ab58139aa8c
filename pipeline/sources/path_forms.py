"""Find the files of a manifest's paths, also of paths that another system wrote."""

from __future__ import annotations

import itertools
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence

from melzarr.pipeline.errors import StorageError
from melzarr.pipeline.sources.remarks import Tally
from melzarr.pipeline.storage.directory import Directory

SAMPLE = 20  # paths that are looked for in an object store, with some requests each
COMBINATIONS = 16  # Unicode forms of one path that are tried

WRITTEN, PLAIN, NFC, NFD = range(4)  # forms of a path

SPACES = "paths taken without the spaces around them"
SLASHES = "paths taken with slashes in place of backslashes"
HOME = "paths taken below the home folder, which ~ stands for"
UNICODE = "paths taken in another Unicode form, in which the file exists"
AMBIGUOUS = "paths not found, whose files exist in several other Unicode forms"


class PathForms:
    """The paths of a manifest, below the folder of the audio files.

    Most paths are plain, and are taken as they are. Others have spaces around them, backslashes, ``~``, or characters
    that Unicode can write in two ways: they are taken as written if that file exists, and otherwise in a form that
    exists, or else without spaces, backslashes and ``~``.

    Parameters
    ----------
    root : Directory
        Directory of the audio files; no path leads outside.
    tally : Tally
        Counts the paths that are not taken as written.
    home : bool
        Whether ``~`` stands for the home folder.

    Notes
    -----
    A look into an object store takes a request. Only the first `SAMPLE` of the paths that are not plain are looked for
    there; the others are taken in the form that all of those had.
    """

    def __init__(self, root: Directory, tally: Tally, *, home: bool) -> None:
        self._root, self._tally, self._home = root, tally, home
        self._prefix = f"{root}/"
        self._folder = str(root.folder.absolute()) if root.folder else ""
        self._looks = math.inf if root.folder else SAMPLE
        self._fitting = {WRITTEN, PLAIN, NFC, NFD}  # the forms that all found paths had

    def source(self, number: int, path: str) -> str | None:
        """Return the path of a file below the root; None if it is outside.

        Parameters
        ----------
        number : int
            Row of the path, for the tally.
        path : str
            The path as written, which is not empty.
        """
        written = self._below(path)
        if _is_plain(path):
            return written
        has_drive = re.match(r"\s*[A-Za-z]:[\\/]", path)  # of Windows
        plain = None if has_drive else self._below(self._plain(path))
        forms = [written, plain, *(plain and unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]
        if self._looks:
            self._looks -= 1
            found = self._existing(forms, number, path)
            if found is None:
                found = plain
            else:
                self._fitting &= {place for place, form in enumerate(forms) if form == found}
        else:
            found = plain if PLAIN in self._fitting or not self._fitting else forms[min(self._fitting)]
        if found not in {None, written}:
            self._count(number, path, unicode=found != plain)
        return found

    def _below(self, path: str) -> str | None:
        """Return a path relative to the root; None if it is outside."""
        path = path.removeprefix(self._prefix)
        source = os.path.normpath(path)
        if source.startswith("/") and self._folder:
            source = os.path.relpath(source, self._folder)
        return None if "://" in path or source.startswith(("/", "../")) or source == ".." else source

    def _plain(self, path: str) -> str:
        plain = path.strip().replace("\\", "/")
        return os.path.expanduser(plain) if self._home else plain  # noqa: PTH111  (a Path drops ./ and //)

    def _existing(self, forms: Sequence[str | None], number: int, path: str) -> str | None:
        """Return the form of a path in which its file exists; None if there is none, or no single one."""
        written, plain = forms[WRITTEN], forms[PLAIN]
        for form in (written, plain):
            if self._exists(form):
                return form
        others = {*forms[NFC:], *_mixed(plain)} - {written, plain} if plain else set()
        found = sorted(form for form in others if form and self._exists(form))
        if len(found) > 1:
            self._tally.add(AMBIGUOUS, number, ascii(path))
        return found[0] if len(found) == 1 else None

    def _exists(self, source: str | None) -> bool:
        try:
            return source is not None and self._root.size(source) is not None
        except StorageError:  # a bucket may not report missing files; the build reports what it cannot read
            self._looks, self._fitting = 0, {PLAIN}
            return False

    def _count(self, number: int, path: str, *, unicode: bool) -> None:
        bare = path.strip()
        kinds = [
            (SPACES, path != bare),
            (SLASHES, "\\" in bare),
            (HOME, self._home and bare[0] == "~"),
            (UNICODE, unicode),
        ]
        for kind in (kind for kind, holds in kinds if holds):
            self._tally.add(kind, number, ascii(path) if unicode else repr(path))


def _is_plain(path: str) -> bool:
    """Return whether there is no other form of a path."""
    one_form = path.isascii() or (unicodedata.is_normalized("NFC", path) and unicodedata.is_normalized("NFD", path))
    return one_form and not (
        "\\" in path or path[0] == "~" or path[1:2] == ":" or path[0].isspace() or path[-1].isspace()
    )


def _mixed(path: str) -> Iterator[str]:
    """Yield a path with its folders and its file in different Unicode forms."""
    parts = (
        dict.fromkeys([part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))])
        for part in path.split("/")
    )
    return map("/".join, itertools.islice(itertools.product(*parts), COMBINATIONS))
