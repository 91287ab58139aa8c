"""Workers on other hosts: one vanishes in the middle of a build, and comes back when nobody waits for it any more.

The hosts are network namespaces of this machine, for which Linux, root and iproute2 are needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import digests

from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.versions import versions

pytestmark = pytest.mark.slow

SCHEDULER, PORT = "10.77.0.1", 8786
PATIENCE = 240  # seconds
N_TRACKS = 48
# Dask's own patience is minutes; the same faults at a pace for tests.
SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "15s",
}


def run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=60)


class Hosts:
    """A scheduler's host and two workers', joined by a switch."""

    def __init__(self, script: Path, name: str, folder: Path) -> None:
        self.script, self.name, self.folder = script, name, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Hosts:
        run("bash", self.script, "up", self.name, 2)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        with contextlib.suppress(subprocess.CalledProcessError):
            run("bash", self.script, "down", self.name)
        for process in self.processes:
            process.wait(timeout=30)

    def start(self, host: str, program: str, *arguments: object, log: str = "log") -> subprocess.Popen[bytes]:
        """Start one of this environment's programs on a host; what it says goes to a file."""
        command = ["ip", "netns", "exec", f"{self.name}-{host}", Path(sys.executable).with_name(program), *arguments]
        environment = {**os.environ, **SETTINGS}
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(
                list(map(str, command)), cwd=self.folder, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        return process

    def features(self, host: str, music: Path, target: Path) -> subprocess.Popen[bytes]:
        """Start a build on a host, and wait until it has made some shards."""
        address = f"tcp://{SCHEDULER}:{PORT}"
        arguments = (music, target, "--cluster", address, "--tracks-per-shard", 1)
        client = self.start(host, "melzarr", "features", *arguments, log="client")
        receipts = open_workspace(target).root.path / "receipts"
        wait_for(lambda: len(list(receipts.glob("*.json"))) >= 3 or client.poll() is not None)
        assert client.poll() is None, self.said()
        return client

    def said(self) -> str:
        """What the build has printed."""
        return (self.folder / "client").read_text(encoding="utf-8")

    def link(self, host: str, state: str) -> None:
        """Cut a host off, or let it come back."""
        run("ip", "-n", f"{self.name}-{host}", "link", "set", "eth0", state)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def hosts(shared: Path, tmp_path: Path) -> Iterator[Hosts]:
    """Three hosts, with a scheduler and two workers."""
    script = shared / "tools/hosts-up.sh"
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip") or not script.exists():
        pytest.skip("hosts need Linux, root, iproute2 and ../shared/tools/hosts-up.sh")
    with Hosts(script, f"mz{os.getpid()}", tmp_path) as made:
        made.start("s", "dask", "scheduler", "--host", SCHEDULER, "--port", PORT, "--no-dashboard")
        for host in ("w1", "w2"):
            worker = ("worker", f"tcp://{SCHEDULER}:{PORT}", "--nthreads", 1, "--no-dashboard", "--death-timeout", 60)
            made.start(host, "dask", *worker)
        yield made


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Tracks enough for a build that can be interrupted."""
    for number in range(N_TRACKS):
        path = tmp_path / f"music/{('bells', 'drums')[number % 2]}/{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        demo_music.write_track(path, "bells", number, seed=0, sample_rate=22050, seconds=24.1)
    return tmp_path / "music"


def undisturbed(music: Path, target: Path) -> dict[str, str]:
    catalog = read_catalog(music)
    build(make_plan(FeatureSpec(), catalog.tracks, versions(), 1), catalog, target, InProcess())
    return digests(target)


@pytest.mark.timeout(900)
def test_a_worker_whose_host_vanishes_and_comes_back_harms_nothing(hosts: Hosts, many: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.zarr"
    client = hosts.features("s", many, target)
    hosts.link("w1", "down")
    assert client.wait(PATIENCE) == 0, hosts.said()
    made = digests(target)
    hosts.link("w1", "up")
    time.sleep(10)  # whatever it still had to do
    assert digests(target) == made == undisturbed(many, tmp_path / "undisturbed.zarr")


@pytest.mark.timeout(900)
def test_a_scheduler_whose_host_vanishes_is_a_sentence_and_nothing_is_lost(
    hosts: Hosts, many: Path, tmp_path: Path
) -> None:
    target = tmp_path / "made.zarr"
    client = hosts.features("w2", many, target)
    hosts.link("s", "down")
    assert client.wait(PATIENCE) == 1, hosts.said()
    assert "Traceback" not in hosts.said()
    assert "run the same command" in hosts.said()
    catalog = read_catalog(many)
    build(make_plan(FeatureSpec(), catalog.tracks, versions(), 1), catalog, target, InProcess())
    assert digests(target) == undisturbed(many, tmp_path / "undisturbed.zarr")
