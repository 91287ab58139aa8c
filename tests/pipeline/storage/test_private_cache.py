"""A folder for caches that no other user can read or prepare."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from melzarr.pipeline.storage import private_cache as module
from melzarr.pipeline.storage.private_cache import has_home, private_cache


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files."""
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    private_cache.cache_clear()
    yield tmp_path
    private_cache.cache_clear()


def test_it_is_private_and_kept_for_the_next_process(tmp: Path) -> None:
    made = private_cache()
    assert made.parent == tmp
    assert made.stat().st_mode & 0o777 == 0o700
    private_cache.cache_clear()
    assert private_cache() == made


@pytest.mark.parametrize("prepared", ["a link", "open to others", "another user's"])
def test_what_another_user_may_have_prepared_is_not_used(tmp: Path, prepared: str) -> None:
    name, other = private_cache(), tmp / "other"
    private_cache.cache_clear()
    if prepared == "a link":
        name.rename(other)
        name.symlink_to(other)
    elif prepared == "open to others":
        name.chmod(0o770)
    elif os.geteuid():
        pytest.skip("to give a folder to another user takes root")
    else:
        os.chown(name, 65534, 65534)
    made = private_cache()
    assert made != name
    assert made.stat().st_mode & 0o777 == 0o700
    assert made.stat().st_uid == os.geteuid()


def test_a_home_that_is_missing_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert has_home()
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert not has_home()


def test_matplotlib_says_nothing_without_a_home(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code = "from melzarr.pipeline.report.mel_figure import require_matplotlib as r; r(); import matplotlib.font_manager"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG", "MPL"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "HOME": os.devnull, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
