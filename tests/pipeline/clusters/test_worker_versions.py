"""Workers that lack melzarr, or have another version, are found before the first shard."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import Processes, environment_without

import melzarr
from melzarr.pipeline.clusters.task_runner import connect
from melzarr.pipeline.clusters.worker_versions import differences
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.versions import FEATURES_VERSION

ROOT = Path(melzarr.__file__).parents[1]


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
        "the worker tcp://e cannot report its versions (OSError: no sound)",
        "the worker tcp://f has numpy None, here 2.0",
    ]


@pytest.mark.slow
def test_a_scheduler_or_a_worker_without_melzarr_is_named(tmp_path: Path) -> None:
    python = environment_without(tmp_path / "bare")
    bare = subprocess.run([python, "-P", "-c", "import melzarr"], env={}, capture_output=True, check=False)
    assert b"No module named 'melzarr'" in bare.stderr
    (tmp_path / "a").mkdir()
    with Processes(tmp_path / "a") as dask:
        dask.scheduler(python)
        dask.worker()
        expected = r"the scheduler at tcp://\S+ has no melzarr; it needs what the workers need: install melzarr==\d"
        with pytest.raises(BuildError, match=expected), connect(dask.address, None, 1):
            pass
    (tmp_path / "b").mkdir()
    with Processes(tmp_path / "b") as dask:
        dask.scheduler()
        dask.worker(python)
        expected = r"the worker tcp://\S+ has no melzarr\. Install the same versions everywhere"
        with pytest.raises(BuildError, match=expected), connect(dask.address, None, 1):
            pass


@pytest.mark.slow
def test_a_worker_with_another_melzarr_ends_the_build_before_its_first_shard(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "melzarr", other / "melzarr", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "melzarr/pipeline/versions.py").open("a") as file:
        file.write("FEATURES_VERSION = 0\n")
    python = environment_without(tmp_path / "bare")
    metadata = other / f"melzarr-{importlib.metadata.version('melzarr')}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(importlib.metadata.distribution("melzarr").read_text("METADATA") or "")
    with Processes(tmp_path) as dask:
        dask.scheduler()
        dask.worker(python, PYTHONPATH=str(other))
        expected = (
            rf"the worker tcp://127\.0\.0\.1:\d+ has melzarr features 0, here {FEATURES_VERSION}\. Install the same"
        )
        with pytest.raises(BuildError, match=expected), connect(dask.address, None, 1):
            pass


@pytest.mark.slow
def test_a_worker_that_lacks_a_library_is_named(tmp_path: Path) -> None:
    python = environment_without(tmp_path / "bare", "soxr")
    with Processes(tmp_path) as dask:
        dask.scheduler()
        dask.worker(python, PYTHONPATH=str(ROOT))
        with pytest.raises(BuildError, match=r"the worker tcp://\S+ has no soxr"), connect(dask.address, None, 1):
            pass
