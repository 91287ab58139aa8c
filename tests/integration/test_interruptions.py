"""What a terminal and a clock do to a build: Ctrl-C again and again, and a time of day that jumps."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import command, digests, start

from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.versions import versions

pytestmark = pytest.mark.slow

PATIENCE = 240  # seconds
N_TRACKS = 60
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tracks enough for a build that can be interrupted."""
    root = tmp_path_factory.mktemp("many")
    for number in range(N_TRACKS):
        path = root / ("bells", "drums")[number % 2] / f"{number:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        demo_music.write_track(path, "bells", number, seed=0, sample_rate=22050, seconds=24.1)
    return root


@pytest.fixture(scope="module")
def undisturbed(many: Path) -> dict[str, str]:
    """Digest of each file of a store that nothing has disturbed."""
    catalog, target = read_catalog(many), many.parent / "undisturbed.zarr"
    build(make_plan(FeatureSpec(), catalog.tracks, versions(), 1), catalog, target, InProcess())
    return digests(target)


def features(music: Path, target: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a build on two workers, in a session of its own, as a terminal does."""
    return start(command("features", music, target, "--workers", 2, "--tracks-per-shard", 1), **environment)


def as_shards_come(process: subprocess.Popen[str], target: Path, numbers: Iterator[int]) -> Iterator[int]:
    """Yield each number once that many shards are there, until the build ends."""
    deadline, receipts = time.monotonic() + PATIENCE, open_workspace(target).n_receipts
    for number in numbers:
        while receipts() < number and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if process.poll() is not None:
            return
        yield number


@pytest.mark.timeout(600)
@pytest.mark.parametrize("gap", [0.02, 0.2])
def test_ctrl_c_again_and_again_ends_a_build_as_once_does(
    gap: float, many: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    target = tmp_path / "s.zarr"
    process = features(many, target)
    assert next(as_shards_come(process, target, iter([5]))) == 5
    family = psutil.Process(process.pid).children(recursive=True)
    for _ in range(3):  # while it closes, which takes a second
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(gap)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode in {1, -signal.SIGINT}  # the latter where it had said all, and was just leaving
    assert "Traceback" not in said
    assert "stopped; what was finished is kept" in said
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    done = features(many, target)
    _, said = done.communicate(timeout=PATIENCE)
    assert done.returncode == 0, said
    assert digests(target) == undisturbed


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["forkserver", "client"])
def test_no_process_outlives_the_one_that_it_depends_on(
    victim: str, many: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    target = tmp_path / "s.zarr"
    process = features(many, target)
    assert next(as_shards_come(process, target, iter([5]))) == 5
    client = psutil.Process(process.pid)
    family = client.children(recursive=True)
    (server,) = (child for child in client.children() if child.children())
    workers = server.children()
    {"client": client, "forkserver": server}[victim].kill()
    _, alive = psutil.wait_procs(workers if victim == "forkserver" else family, timeout=60)
    assert not alive
    _, said = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in said
    if process.returncode:  # a build whose workers have ended may end too, with a sentence
        process = features(many, target)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert digests(target) == undisturbed


@pytest.mark.skipif(FAKETIME is None, reason="a clock that jumps needs libfaketime")
@pytest.mark.timeout(900)
def test_a_clock_that_jumps_costs_a_second_run_at_most(many: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    target, clock = tmp_path / "s.zarr", tmp_path / "clock"
    clock.write_text("+0\n")
    process = features(
        many, target, LD_PRELOAD=str(FAKETIME), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_CACHE_DURATION="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1",
    )  # fmt: skip
    for jump, _ in zip(("+3d", "-3d", "+1h"), as_shards_come(process, target, itertools.count(5, 15)), strict=False):
        clock.write_text(f"{jump}\n")
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode:
        assert "clock was set back by" in said
        process = features(many, target)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert digests(target) == undisturbed
