"""Workers that lack melzarr get it, and workers that have another are found before the first shard."""

from __future__ import annotations

import functools
import importlib.metadata
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from processes import Processes, digests, environment_without, wait_for

import pipeline
from pipeline.apart import featurise_apart
from pipeline.build import build
from pipeline.cluster import InProcess, OnDask, connect
from pipeline.errors import BuildError
from pipeline.shipping import archive, differences, module
from pipeline.versions import versions

ROOT = Path(pipeline.__file__).parents[1]


def names() -> list[str]:
    return zipfile.ZipFile(io.BytesIO(archive())).namelist()


def test_the_archive_holds_all_source_and_says_its_version() -> None:
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in ("pipeline", "model")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"pipeline/worker.py", "model/recipes/article.toml"} <= ours
    assert set(names()) == {*ours, f"melzarr-{importlib.metadata.version('melzarr')}.dist-info/METADATA"}


def test_the_same_source_is_the_same_archive_wherever_it_is_installed(tmp_path: Path) -> None:
    site = tmp_path / ".venv/lib/site-packages"  # folders that Dask's own way of sending code leaves out
    for package in ("pipeline", "model"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "pipeline/__pycache__").mkdir()
    (site / "pipeline/__pycache__/worker.cpython-399.pyc").write_bytes(b"what is compiled is not sent")
    program = "import sys, pipeline.shipping as s; sys.stdout.write(s.__file__ + '\\n' + s.module()[0])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    where, name = done.stdout.splitlines()
    assert Path(where).is_relative_to(site)
    assert name == module()[0]


def test_an_archive_of_nothing_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shipping._sources", lambda: iter(()))
    with pytest.raises(BuildError, match=r"no source of melzarr to send.*pipeline/__init__\.py is missing"):
        archive()


def test_what_differs_is_named_with_its_worker() -> None:
    here = {"melzarr": "1+a", "numpy": "2.0"}
    found = {
        "tcp://a": here,
        "tcp://b": {**here, "numpy": "2.1"},
        "tcp://c": ModuleNotFoundError("No module named 'librosa'", name="librosa"),
        "tcp://d": importlib.metadata.PackageNotFoundError("soxr"),
        "tcp://e": OSError("no sound"),
        "tcp://f": {"melzarr": "1+a"},
    }
    assert differences(found, here) == [
        "the worker tcp://b has numpy 2.1, here 2.0",
        "the worker tcp://c has no librosa",
        "the worker tcp://d has no soxr",
        "the worker tcp://e cannot say its versions (OSError: no sound)",
        "the worker tcp://f has numpy None, here 2.0",
    ]


@pytest.mark.slow
def test_workers_without_melzarr_get_it_and_build_the_same(music: Path, tmp_path: Path, plan_of) -> None:
    python = environment_without(tmp_path / "bare")
    bare = subprocess.run([python, "-P", "-c", "import pipeline"], env={}, capture_output=True, check=False)
    assert b"No module named 'pipeline'" in bare.stderr
    catalog, plan = plan_of(music)
    with Processes(tmp_path) as dask:
        dask.scheduler(python)
        dask.worker(python)
        with connect(dask.address, None, plan.worker_bytes) as runner:
            build(plan, catalog, tmp_path / "made.zarr", runner)
            assert isinstance(runner, OnDask)
            dask.worker(python)  # one that comes later
            wait_for(lambda: len(runner.client.nthreads()) == 2)
            assert list(runner.client.run(versions).values()) == [versions()] * 2
            # A process of its own for a track finds it too.
            files = sorted((music / "bells").iterdir())[2:]
            apart = list(runner.run(functools.partial(featurise_apart, spec=plan.spec), files))
        with connect(dask.address, None, plan.worker_bytes) as runner:  # another build, and it is there already
            assert runner.n_workers == 2
    build(plan, catalog, tmp_path / "local.zarr", InProcess())
    assert digests(tmp_path / "made.zarr") == digests(tmp_path / "local.zarr")
    assert [entry.status for _, entry in apart] == ["ok"] * len(files)


@pytest.mark.slow
def test_a_worker_with_another_melzarr_ends_the_build_before_its_first_shard(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "pipeline", other / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "pipeline/mel.py").open("a") as file:
        file.write("# another\n")
    python = environment_without(tmp_path / "bare")
    metadata = other / f"melzarr-{importlib.metadata.version('melzarr')}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(importlib.metadata.distribution("melzarr").read_text("METADATA") or "")
    with Processes(tmp_path) as dask:
        dask.scheduler(python)
        dask.worker(python, PYTHONPATH=str(other))
        expected = rf"the worker tcp://127\.0\.0\.1:\d+ has melzarr .*here {versions()['melzarr'][:5]}"
        with pytest.raises(BuildError, match=expected), connect(dask.address, None, 1):
            pass


@pytest.mark.slow
def test_a_worker_that_lacks_a_library_is_named(tmp_path: Path) -> None:
    python = environment_without(tmp_path / "bare", "soxr")
    with Processes(tmp_path) as dask:
        dask.scheduler(environment_without(tmp_path / "whole"))
        dask.worker(python)
        with pytest.raises(BuildError, match=r"the worker tcp://\S+ has no soxr"), connect(dask.address, None, 1):
            pass
