"""The blocks of README.md, run as a newcomer would: commands in a copy of the checkout, then its Python."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
VENV = Path(sys.prefix)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not README.is_file(), reason="README.md is not here"),
]


def blocks(kind: str) -> list[str]:
    """Blocks of one language, in their order."""
    return [text for name, text in BLOCK.findall(README.read_text(encoding="utf-8")) if name == kind]


@pytest.fixture(scope="module")
def checkout(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, with the environment of this process, beside a home with music in it."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(music, home / "Music/genres")
    ignored = shutil.ignore_patterns(".*", "*.zarr*", "*-share", "*-report", "runs", "audio", "__pycache__")
    copy = Path(shutil.copytree(ROOT, home / "melzarr", ignore=ignored, symlinks=True))
    # Its programs are those of this environment; the stamps are newer than what make compares them with, so that it
    # installs nothing.
    (copy / ".venv").mkdir()
    (copy / ".venv/bin").symlink_to(VENV / "bin")
    for stamp in ("python", "features", "train", "dev"):
        (copy / f".venv/.{stamp}-{VERSION}").touch()
    return copy


def run(checkout: Path, line: str) -> str:
    """Run a command of the README on a small demo; return what it has printed."""
    environment = {
        **os.environ, "HOME": str(checkout.parent), "TRACKS_PER_STYLE": "6", "WORKERS": "1",
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable,
        "ARGS": "--epochs 1" if line == "make train" else "",
    }  # fmt: skip
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=checkout, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_block_is_of_a_kind_that_is_run() -> None:
    kinds = {name for name, _ in BLOCK.findall(README.read_text(encoding="utf-8"))}
    assert kinds == {"sh", "console", "python"}
    assert "\n    " not in re.sub(BLOCK, "", README.read_text(encoding="utf-8")), "an indented block would not be run"


def test_its_blocks_run(checkout: Path) -> None:
    for text in blocks("sh"):
        for line in text.splitlines():
            if line == "make test":  # which is what runs now
                continue
            run(checkout, line)
    for text in blocks("console"):
        for line in text.splitlines():
            if line.startswith("$ "):
                said = run(checkout, line.removeprefix("$ "))
                assert said.strip(), line
    program = "\n".join(blocks("python"))
    run(checkout, f"python -W error::UserWarning -c {shlex.quote(program)}")
