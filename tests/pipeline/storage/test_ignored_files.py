"""Files that are hidden, or that a system makes by itself, are nobody's data."""

from __future__ import annotations

import pytest

from melzarr.pipeline.storage.ignored_files import is_ignored, is_worthless


@pytest.mark.parametrize(
    "path", [".a", "a/.b", ".a/b", "a/._b.wav", "Thumbs.db", "a/THUMBS.DB", "a/desktop.ini", "__MACOSX/a/b.wav"]
)
def test_hidden_and_system_files_are_ignored(path: str) -> None:
    assert is_ignored(path)


@pytest.mark.parametrize("path", ["a", "a/b.wav", "a.b/c", "thumbs/a.wav", "a/desktop.ini.wav", "macosx/a.wav"])
def test_other_files_are_not(path: str) -> None:
    assert not is_ignored(path)


@pytest.mark.parametrize("path", ["a/.DS_Store", "a/thumbs.db", "._a", "__MACOSX/a/b", "a/@eaDir/b", ".AppleDouble/a"])
def test_what_a_system_made_may_be_lost(path: str) -> None:
    assert is_ignored(path)
    assert is_worthless(path)


@pytest.mark.parametrize("path", [".git/HEAD", ".notes", "a/.env", "$RECYCLE.BIN/a.wav", "lost+found/a.wav", "a.wav"])
def test_what_may_be_a_users_may_not(path: str) -> None:
    assert not is_worthless(path)
