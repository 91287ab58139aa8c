"""make takes a Python on which all of melzarr works, and says at once where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TRAINS = PROJECT["tool"]["melzarr"]["tensorflow-pythons"].split()
GONE = 127  # what a shell gives for a program that is not there

MAKE = shutil.which("make") or ""

pytestmark = pytest.mark.skipif(
    not (MAKE and (ROOT / "Makefile").is_file()), reason="make, or the Makefile, is not here"
)


def make(folder: Path, *words: str, **pythons: str) -> subprocess.CompletedProcess[str]:
    """Call make where some Pythons are installed: name of the program, with dots as underscores, and its version."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("python3", *(f"python{version}" for version in TRAINS)):
        version = pythons.get(name.replace(".", "_"))
        (programs / name).write_text(f"#!/bin/sh\n{f'echo {version}' if version else f'exit {GONE}'}\n")
        (programs / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHON", "VENV", "MAKEFLAGS"}}
    return subprocess.run(
        [MAKE, *words, f"VENV={folder / 'venv'}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3": "3.12"}, "python3"),
        ({"python3": "3.11", "python3_13": "3.13"}, "python3"),
        ({"python3": "3.14", "python3_12": "3.12"}, "python3.12"),
        ({"python3": "3.14", "python3_12": "3.12", "python3_13": "3.13"}, "python3.13"),
        ({"python3": "3.9", "python3_11": "3.11"}, "python3.11"),
        ({"python3_13": "3.13"}, "python3.13"),
    ],
)
@pytest.mark.parametrize("target", ["features", "train", "test"])
def test_it_takes_the_first_that_can_do_all(tmp_path: Path, target: str, pythons: dict[str, str], taken: str) -> None:
    done = make(tmp_path, "-n", target, **pythons)
    assert done.returncode == 0, done.stderr
    assert f"\n{taken} -m venv --clear" in done.stdout


def test_a_newer_python_than_tensorflow_knows_makes_features(tmp_path: Path) -> None:
    done = make(tmp_path, "-n", "features", python3="3.14")
    assert (done.returncode, "\npython3 -m venv --clear" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ("FOLDS=5", '--folds 5 --run "runs/music-default-folds-5"'),
        ("FOLDS=", '--protocol "track" --run "runs/music-default-track"'),
    ],
)
def test_folds_take_the_place_of_a_protocol(tmp_path: Path, folds: str, words: str) -> None:
    done = make(tmp_path, "-n", "train", folds, "STORE=music.zarr", python3="3.13")
    assert (done.returncode, f'melzarr train "music.zarr" --recipe "default" {words}' in done.stdout) == (0, True)


@pytest.mark.parametrize("target", ["train", "evaluate", "reproduce", "test", "lint"])
def test_but_training_and_tests_are_refused_at_once_with_what_to_install(tmp_path: Path, target: str) -> None:
    done = make(tmp_path, target, python3="3.14")
    assert done.returncode == 2
    assert "training and tests need Python 3.13 or 3.12 or 3.11, for which TensorFlow has wheels" in done.stderr
    assert "python3 is 3.14; install Python 3.13, which make then finds" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_who_names_a_python_gets_it_or_hears_of_it(tmp_path: Path) -> None:
    done = make(tmp_path, "test", "PYTHON=python3", python3="3.14", python3_13="3.13")
    assert (done.returncode, "python3 is 3.14" in done.stderr) == (2, True)


def test_what_pyproject_says_of_its_pythons_is_one_thing() -> None:
    said = {line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if ":: Python :: 3." in line}
    assert said == set(TRAINS)
    assert PROJECT["project"]["requires-python"] == f">={TRAINS[-1]}"
    assert sorted(TRAINS, key=lambda version: int(version.partition(".")[2]), reverse=True) == TRAINS
