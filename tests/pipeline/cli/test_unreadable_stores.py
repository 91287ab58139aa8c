"""A store of a colleague that may not be read: permission is denied, and no command says that it is not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from melzarr.pipeline.zarr_store.reader import Store

CODE = """
import sys
from pathlib import Path
from click.testing import CliRunner
import melzarr
from melzarr.cli import main
store, music = sys.argv[1:]
for words in (
    ("inspect", store), ("verify", store), ("share", store, "new"), ("append", store, music, "--workers", "0"),
    ("merge", store, store, "new.zarr"), ("features", music, store, "--workers", "0"),
):
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1, words
    print(done.stderr.strip().splitlines()[-1])
try:
    melzarr.open(store)
except melzarr.MelzarrError as error:
    print(error)
"""


@pytest.fixture
def as_any_user() -> tuple[str, ...]:
    """The start of a command whose process has no more permissions than other users have, even if root starts it."""
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("to bound what root may do needs util-linux")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


@pytest.fixture
def forbidden(own_store: Store) -> Iterator[Path]:
    """The folder of a store that nobody may read."""
    folder = own_store.directory.path
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)


def sentences(as_any_user: tuple[str, ...], store: Path, music: Path, cwd: Path) -> list[str]:
    done = subprocess.run(
        [*as_any_user, sys.executable, "-c", CODE, str(store), str(music)],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_store_that_may_not_be_read(
    as_any_user: tuple[str, ...], forbidden: Path, music: Path, tmp_path: Path
) -> None:
    found = sentences(as_any_user, forbidden, music, tmp_path)
    assert len(found) == 7
    assert all(f"{forbidden}/" in said and "permission denied; " in said.lower() for said in found), found
    assert found[0].endswith(f"have its owner allow it, such as with: chmod -R a+rX {forbidden}")


def test_an_archive_in_a_folder_that_may_not_be_read(as_any_user: tuple[str, ...], music: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    store = tmp_path / "closed/s.zarr.zip"
    store.write_bytes(b"")
    store.parent.chmod(0)
    found = sentences(as_any_user, store, music, tmp_path)
    store.parent.chmod(0o700)
    assert len(found) == 7
    assert all(str(store) in said and "permission denied; " in said.lower() for said in found), found


def test_a_part_of_a_store_that_may_not_be_read_is_no_fault_of_the_store(
    as_any_user: tuple[str, ...], own_store: Store
) -> None:
    part = own_store.directory.path / "mel"
    part.chmod(0)
    code = "import sys; from melzarr.cli import main; main(['verify', sys.argv[1]])"
    done = subprocess.run(
        [*as_any_user, sys.executable, "-c", code, str(part.parent)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    part.chmod(0o700)
    assert done.returncode == 1
    assert f"{part}/zarr.json: permission denied; have its owner allow it" in done.stderr
    assert "problem" not in done.stdout
