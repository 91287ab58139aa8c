"""A real Slurm: jobs that are cancelled, refused, never start, wait, end before their time, and lose their client.

For which a Slurm is needed that answers; or its programs, root and ../shared/tools/slurm-up.sh, which runs one on this
machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dask
import psutil
import pytest
from processes import digests

from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess, OnDask, connect
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.versions import versions
from melzarr.pipeline.worker_processes import ENVIRONMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 240  # seconds
N_TRACKS = 120


def run(program: str, *words: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program by its name; what it starts and leaves running holds no pipe of this process."""
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [shutil.which(program) or program, *map(str, words)],
            env={**os.environ, **environment}, stdout=output, stderr=output, timeout=60, check=check,
        )  # fmt: skip
        output.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, output.read())


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm that answers, started for these tests where none does."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'melzarr[cluster]'")
    if not shutil.which("sbatch"):
        pytest.skip("Slurm is not installed: apt-get install --no-install-recommends slurm-wlm slurmctld slurmd munge")
    if run("sinfo", check=False).returncode == 0:
        yield
        return
    script = Path(__file__).parents[3] / "shared/tools/slurm-up.sh"
    if os.geteuid() != 0 or not script.exists() or not shutil.which("slurmctld"):
        pytest.skip("no Slurm answers, and to start one root, slurmctld and ../shared/tools/slurm-up.sh are needed")
    folder = tmp_path_factory.mktemp("slurm")
    run("bash", script, "up", SLURM_LOCAL=str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
    run("bash", script, "down", SLURM_LOCAL=str(folder))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the logs of jobs; whatever a test does, it leaves no job."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield tmp_path / "state"
    for number in jobs():
        run("scancel", number, check=False)
    wait_for(lambda: not jobs())


def jobs(state: str = "") -> list[str]:
    """Numbers of the jobs that are queued or running."""
    return run("squeue", "--me", "--noheader", "--format=%i", *([f"--states={state}"] if state else [])).stdout.split()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tracks enough for a build that can be interrupted."""
    root = tmp_path_factory.mktemp("music")
    for number in range(N_TRACKS):
        path = root / f"{('bells', 'drums')[number % 2]}/{number:03d}.wav"
        path.parent.mkdir(exist_ok=True)
        demo_music.write_track(path, "bells", number, seed=0, sample_rate=22050, seconds=24.1)
    return root


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of a local build."""
    target, catalog = tmp_path_factory.mktemp("store") / "undisturbed.zarr", read_catalog(many)
    build(make_plan(FeatureSpec(), catalog.tracks, versions(), 1), catalog, target, InProcess())
    return digests(target)


class Features:
    """A build on Slurm, as a process."""

    def __init__(self, music: Path, target: Path, **environment: str) -> None:
        self.target, self.log = target, target.with_suffix(".log")
        command = [str(Path(sys.executable).with_name("melzarr")), "features", str(music), str(target)]
        options = ["--cluster", "slurm", "--workers", "2", "--walltime", "00:10:00", "--tracks-per-shard", "1"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, cwd=target.parent, env={**os.environ, **environment}
            )

    def begun(self, shards: int) -> None:
        """Wait until some shards are made."""
        receipts = open_workspace(self.target).root.path / "receipts"
        wait_for(lambda: self.process.poll() is not None or len(list(receipts.glob("*.json"))) >= shards)
        assert self.process.poll() is None, self.said()

    def end(self) -> int:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(PATIENCE)
        self.process.kill()
        pytest.fail(f"it did not end: {self.said()}")

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


def test_a_build_that_loses_a_job_gives_the_bytes_of_a_local_one(
    many: Path, undisturbed: dict[str, str], tmp_path: Path, state: Path
) -> None:
    features = Features(many, tmp_path / "made.zarr")
    features.begun(5)
    running = jobs("running")
    run("scancel", running[0])
    assert features.process.poll() is None, "it was over before the job was cancelled"
    assert features.end() == 0, features.said()
    assert digests(features.target) == undisturbed
    wait_for(lambda: not jobs())
    assert not list(state.rglob("*.err")), "logs of a build that went well are of no use"
    assert {path.name for path in tmp_path.iterdir()} == {"made.zarr", "made.zarr.built.json", "made.log", "state"}


def test_what_ctrl_c_stops_leaves_no_job_and_goes_on(many: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    features = Features(many, tmp_path / "made.zarr")
    features.begun(3)
    features.process.send_signal(signal.SIGINT)
    assert features.end() == 1
    assert "stopped; what was finished is kept" in features.said()
    wait_for(lambda: not jobs())
    again = Features(many, features.target)
    assert again.end() == 0, again.said()
    assert "from an earlier run" in again.said()
    assert digests(features.target) == undisturbed


def test_sigterm_which_slurm_sends_to_a_client_that_is_a_job_leaves_no_job_either(many: Path, tmp_path: Path) -> None:
    features = Features(many, tmp_path / "made.zarr")
    features.begun(3)
    features.process.send_signal(signal.SIGTERM)
    assert features.end() == 1
    assert "stopped" in features.said()
    wait_for(lambda: not jobs())


def test_the_jobs_of_a_client_that_was_killed_end_by_themselves(many: Path, tmp_path: Path) -> None:
    features = Features(many, tmp_path / "made.zarr")
    features.begun(3)
    assert jobs("running")
    for process in [*psutil.Process(features.process.pid).children(recursive=True), features.process]:
        process.kill()
    features.process.wait(PATIENCE)
    wait_for(lambda: not jobs())


JOB = "SLURM_JOB_ID"  # what Slurm tells a job of itself; what workers are given here has to be known everywhere
ENOUGH = 1 << 29  # bytes of a worker


def test_workers_end_before_their_time_and_others_take_over() -> None:
    with connect("slurm", 1, ENOUGH, walltime=30) as runner:
        done = list(runner.run(lambda _: (time.sleep(2), os.environ[JOB])[1], range(20)))
    assert len(done) == 20
    assert len(set(done)) >= 2


def test_client_and_workers_speak_tls_and_a_worker_has_one_thread() -> None:
    with connect("slurm", 1, ENOUGH) as runner:
        assert isinstance(runner, OnDask)
        assert list(runner.run(os.getenv, [*ENVIRONMENT])) == [*ENVIRONMENT.values()]
        (number,) = runner.run(os.getenv, [JOB])
        assert list(runner.client.nthreads().values()) == [1]
        addresses = [runner.client.scheduler.address, *runner.client.nthreads()]
        assert {urlsplit(address).scheme for address in addresses} == {"tls"}
    wait_for(lambda: number not in jobs())


def fails(settings: dict[str, object], say: Callable[[str], None] = lambda _: None) -> str:
    """Run a job that cannot be run, and return the sentence."""
    with (
        pytest.raises(BuildError) as caught,
        dask.config.set(settings),
        connect("slurm", 1, ENOUGH, say=say) as runner,
    ):
        list(runner.run(os.getenv, [JOB]))
    return str(caught.value)


def test_a_job_that_is_refused_is_a_sentence_in_the_words_of_slurm() -> None:
    sentence = fails({"jobqueue.slurm.queue": "moon"})
    assert sentence.startswith("Slurm refuses a job: ")
    assert "nvalid partition" in sentence
    assert "moon" in sentence


def test_jobs_that_never_become_workers_are_a_sentence_that_names_the_log(
    monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    monkeypatch.setattr("melzarr.pipeline.clusters.job_scaling.LOOK", 1.0)
    sentence = fails({"jobqueue.slurm.python": "/no/python"})
    assert "ended before they became workers, 3 times in a row" in sentence
    assert "/no/python: No such file" in sentence
    assert str(state) in sentence


def test_who_waits_is_told_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melzarr.pipeline.clusters.job_scaling.LOOK", 1.0)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "BeginTime" in line:
            raise BuildError("enough")

    assert fails({"jobqueue.slurm.job-extra-directives": ["--begin=now+1hour"]}, say) == "enough"
    assert said[-1] == "waiting for Slurm: 1 jobs without a worker yet (PENDING BeginTime)"
    wait_for(lambda: not jobs())


ARRAY = """#!/bin/bash
#SBATCH --job-name=melzarr-part
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=00:10:00
#SBATCH --output={folder}/part-%a.log
exec {melzarr} job-array part $SLURM_ARRAY_TASK_ID/2 {store} --workers 1
"""


def test_a_job_array_of_parts_gives_the_same_bytes_though_one_of_them_was_cancelled(
    many: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    melzarr, store = Path(sys.executable).with_name("melzarr"), tmp_path / "made.zarr"
    script = tmp_path / "parts.sh"
    script.write_text(ARRAY.format(folder=tmp_path, melzarr=melzarr, store=store))
    run(str(melzarr), "job-array", "init", many, store, "--tracks-per-shard", "1")
    number = run("sbatch", "--parsable", "--array=1-2", script).stdout.strip()
    receipts = open_workspace(store).root.path / "receipts"
    wait_for(lambda: list(receipts.glob("0000000.*.json")))
    run("scancel", f"{number}_1")
    wait_for(lambda: not jobs())
    refused = run(str(melzarr), "job-array", "finish", store, check=False)
    assert refused.returncode == 1
    assert "of 120 shards are missing" in refused.stdout
    assert not store.exists()
    run("sbatch", "--array=1", script)
    wait_for(lambda: not jobs())
    assert "tracks from an earlier run were checked and kept" in (tmp_path / "part-1.log").read_text()
    run(str(melzarr), "job-array", "finish", store)
    assert digests(store) == undisturbed
