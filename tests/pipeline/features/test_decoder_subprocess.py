"""What crashes or hangs a decoder costs its track, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import connect
from melzarr.pipeline.features import decoder_subprocess
from melzarr.pipeline.features.decoder_subprocess import featurise_apart
from melzarr.pipeline.features.extract import featurise
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.reader import open_store

SPEC = FeatureSpec(n_windows=60)

# Loaded by every Python that finds it: a libsndfile that crashes, or hangs, on files of these names.
SHIM = """
import ctypes, os, time, soundfile
opened = soundfile.SoundFile.__init__
def hostile(self, file, *arguments, **named):
    name = os.path.basename(os.readlink(f"/proc/self/fd/{os.path.basename(file)}"))
    if "crash" in name:
        ctypes.string_at(0)
    if "hang" in name:
        time.sleep(600)
    opened(self, file, *arguments, **named)
soundfile.SoundFile.__init__ = hostile
"""


@pytest.fixture
def hostile(own_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Music of which one track crashes its decoder, in every process that is started from here on."""
    if sys.platform != "linux":
        pytest.skip("the decoder that crashes finds its file's name in /proc")
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim/sitecustomize.py").write_text(SHIM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "shim"), *filter(None, sys.path)]))
    (own_music / "bells/bells.00003.wav").rename(own_music / "bells/crash.wav")
    return own_music


def test_a_track_is_the_same_apart(music: Path) -> None:
    for name in ("bells/bells.00000.wav", "bells/bells.00001.wav", "drums/drums.00004.wav"):
        windows, receipt = featurise(music / name, SPEC)
        same, told = featurise_apart(music / name, SPEC)
        np.testing.assert_array_equal(same, windows)
        assert repr(told) == repr(receipt)  # NaN is not itself


def test_a_crash_is_a_sentence(hostile: Path) -> None:
    windows, receipt = featurise_apart(hostile / "bells/crash.wav", SPEC)
    assert windows.shape == (0, 5, 128)
    assert receipt.status == "failed"
    assert receipt.error.startswith("its decoder crashed (SIGSEGV); the file is damaged or hostile")
    assert receipt.source_blake3


def test_what_hangs_is_ended_and_is_a_sentence(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_subprocess, "TRACK_SECONDS", 3)
    path = hostile / "bells/crash.wav"
    path.rename(path.with_name("hang.wav"))
    _, receipt = featurise_apart(path.with_name("hang.wav"), SPEC)
    assert receipt.error.startswith("it was not decoded within 3 s")


def test_a_fault_of_our_own_is_not_taken_for_the_files(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"a process for bells.00000.wav failed"):
        featurise_apart(music / "bells/bells.00000.wav", SPEC)


@pytest.mark.slow
def test_a_track_that_crashes_its_decoder_costs_no_other_track(hostile: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(hostile)
    with connect("local", 2, plan.worker_bytes) as runner:
        build(plan, catalog, tmp_path / "made.zarr", runner)
    store = open_store(tmp_path / "made.zarr")
    status = dict(zip(store.values("track"), store.values("status"), strict=True))
    assert status["bells/crash"] == "failed"
    assert "SIGSEGV" in dict(zip(store.values("track"), store.values("error"), strict=True))["bells/crash"]
    assert sorted(status.values()) == ["failed", "failed", *["ok"] * 8, "short", "silent"]


@pytest.mark.slow
def test_a_worker_that_a_track_holds_too_long_ends_itself(hostile: Path, tmp_path: Path) -> None:
    (hostile / "bells/crash.wav").rename(hostile / "bells/hang.wav")
    script = tmp_path / "build.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from melzarr.pipeline.builder import run_build\n"
        "from melzarr.pipeline.features import decoder_subprocess\n"
        "decoder_subprocess.TRACK_SECONDS = run_build.TRACK_SECONDS = 4\n"
        "from melzarr.cli import main\n"
        "if __name__ == '__main__':\n"
        "    main(sys.argv[1:])\n"
    )
    arguments = ["features", hostile, tmp_path / "made.zarr", "--n-windows", "60", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "bells/hang.wav' failed: it was not decoded within" in done.stdout
