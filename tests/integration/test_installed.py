"""What is installed from a wheel: one import name, the recipes, and commands that work beside anybody's own files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from processes import environment_without

pytest.importorskip("hatchling.build", reason="hatchling is not installed")
ROOT = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns(".*", "tests", "docs", "*.zarr", "*-share", "runs", "dist", "__pycache__", "audio")


def built(copy: Path, folder: Path, kind: str) -> Path:
    """Build a wheel or an sdist of a checkout; return its path."""
    code = f"import hatchling.build as h; print(h.build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, check=True, capture_output=True, text=True, timeout=120
    )
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the demo has been fetched."""
    copy = Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "copy", ignore=IGNORED, symlinks=True))
    audio = copy / "datasets/demo/audio/bells/bells.00000.wav"
    audio.parent.mkdir(parents=True)
    audio.write_bytes(b"RIFF")
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(checkout, tmp_path_factory.mktemp("wheel"), "wheel")


def test_the_wheel_has_one_import_name_and_the_recipes_without_audio(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"melzarr", "melzarr-0.1.0.dist-info"}
    assert {name for name in names if "/datasets/" in name} == {
        f"melzarr/datasets/{dataset}/{name}" for dataset in ("demo", "gtzan") for name in ("README.md", "recipe.toml")
    }
    expected = {
        "melzarr/py.typed", "melzarr/pipeline/report/templates/report.html", "melzarr/pipeline/share/templates/card.md",
        "melzarr/model/recipes/article.toml", "melzarr/pipeline/features/kernel.py",
    }  # fmt: skip
    assert expected <= set(names)


def test_a_wheel_of_the_sdist_is_the_same(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = built(checkout, tmp_path, "sdist")
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if name.endswith(".wav")]
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "again").mkdir()
    again = built(tmp_path / "melzarr-0.1.0", tmp_path / "again", "wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment in which the wheel is installed."""
    python = environment_without(tmp_path_factory.mktemp("environment") / "venv")
    (site,) = (python.parents[1] / "lib").glob("python3.*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)  # noqa: S202  (of our own making)
    return python


def run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "."}
    return subprocess.run(
        [python, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of names that anybody may choose."""
    for name in ("model", "pipeline"):
        (tmp_path / f"{name}.py").write_text("class Net: pass\n")
    return tmp_path


@pytest.mark.slow
def test_it_works_in_any_folder_beside_anybodys_own_files(python: Path, folder: Path) -> None:
    steps = [
        ("fetch", "demo", "--tracks-per-label", "2"),
        ("features", "demo", "demo.zarr", "--n-windows", "4", "--workers", "1"),
        ("verify", "demo.zarr", "--source", "demo", "--sample", "1"),
    ]
    for step in steps:
        done = run(python, folder, "-m", "melzarr", *step)
        assert done.returncode == 0, done.stderr
    assert (folder / "datasets/demo/audio/bells/bells.00000.wav").is_file()


UNGUARDED = """
from melzarr.cli import main
main(["features", "music", "s.zarr", "--workers", "2"], standalone_mode=False)
"""


def test_a_script_without_a_main_guard_gets_a_sentence_and_builds_nothing(music: Path, tmp_path: Path) -> None:
    shutil.copytree(music, tmp_path / "music")
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = run(Path(sys.executable), tmp_path, "script.py")
    sentences = done.stderr.strip().splitlines()
    assert len(sentences) == 1, done.stderr
    assert "script.py starts workers, each of which imports it again; put the call below a line with if" in sentences[0]
    assert not list(tmp_path.glob("s.zarr*"))


@pytest.mark.slow
def test_a_script_with_a_main_guard_builds(music: Path, tmp_path: Path) -> None:
    shutil.copytree(music, tmp_path / "music")
    lines = UNGUARDED.strip().splitlines()
    (tmp_path / "script.py").write_text(f"{lines[0]}\nif __name__ == '__main__':\n    {lines[1]}\n")
    done = run(Path(sys.executable), tmp_path, "script.py")
    assert (tmp_path / "s.zarr/zarr.json").is_file(), done.stderr
