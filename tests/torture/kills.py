"""Kill builds at random moments, run them again until they are done, and compare the store with an undisturbed one.

    python tests/torture/kills.py --rounds 200 --seed 0 --json kills.json

A round is one build with one victim: the client, a worker, the process that workers are forked from, the scheduler, the
nanny that looks after a worker, or all at once; a process that is stopped goes on after a time in which Dask has given
it up. Before a process gets its signal it is held, and py-spy reads off its stack what it was at. Every wait is
bounded, and only processes that the round itself has started are signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import psutil
import soundfile
from processes import command, digests, start

from melzarr.pipeline.publishing.workspace import BUILT
from melzarr.pipeline.sources import demo_music

MODES = {
    "in process": ("client",),
    "local cluster": ("client", "worker", "forkserver", "all"),
    "scheduler": ("client", "worker", "nanny", "scheduler", "all"),
}
SIGNALS = {signal.SIGKILL: 5, signal.SIGTERM: 4, signal.SIGSTOP: 1}  # how often each is sent, of ten times
HELD = 20  # seconds that a stopped process is held
# Shorter than that; Dask's own patience is half a minute for connections and five minutes for workers.
SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "8s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "12s",
}
PATIENCE = 180  # seconds that a build may take
RERUNS = 4
N_TRACKS, TRACKS_PER_SHARD = 96, 4
ARGUMENTS = ("--tracks-per-shard", f"{TRACKS_PER_SHARD}")

# What a stack says that its process was at, the innermost first.
PHASES = {
    "receipt": r"to_json|add \(.*receipt_table",
    "publish": r"publish|write_description|_sweep|coordinates",
    "write": r"encode_chunk|pack|write_whole|write \(.*workspace|_compute",
    "statistics": r"sum_levels",
    "mel": r"mel_windows|compiled_kernel|_judge",
    "decode": r"read_audio|source_digest|featurise",
    "plan": r"read_catalog|make_plan",
    "start": r"_find_and_load|connect \(.*task_runner|local \(|existing \(",
}


@dataclass(slots=True)
class Round:
    """What became of one round."""

    number: int
    mode: str
    victim: str
    signal: str
    after: float
    phases: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    fault: str = ""


def music(folder: Path) -> Path:
    """Tracks of two labels; one is too short, and one is no audio."""
    for number in range(N_TRACKS):
        style = ("bells", "drums")[number % 2]
        path = folder / style / f"{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        demo_music.write_track(path, style, number, seed=0, sample_rate=22050, seconds=24.1)
    (folder / "bells/04.wav").write_text("la la la")
    soundfile.write(folder / "drums/07.wav", soundfile.read(folder / "drums/07.wav", 22050)[0], 22050)
    return folder


def features(source: Path, target: Path, cluster: list[str]) -> subprocess.Popen[str]:
    """Start a build in a session of its own."""
    return start(command("features", source, target, *cluster, *ARGUMENTS), **SETTINGS)


class Cluster:
    """A scheduler and two workers with their nannies, each a process, on loopback."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        port, dask = self.address.rpartition(":")[2], [sys.executable, "-m", "distributed.cli"]
        self.folder = folder
        dask = [str(Path(sys.executable).with_name("dask"))]
        self.scheduler = self._start([*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"])
        self.nannies = [self._start([*dask, "worker", self.address, "--nthreads", "1", "--no-dashboard",
                                     "--death-timeout", "60"]) for _ in range(2)]  # fmt: skip

    def _start(self, command: list[str]) -> psutil.Popen:
        return psutil.Popen(
            command, cwd=self.folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, **SETTINGS},
        )  # fmt: skip

    def workers(self) -> list[psutil.Process]:
        """Processes that the nannies look after."""
        return [child for nanny in self.nannies for child in workers_of(nanny)]

    def end(self) -> None:
        """End all of it."""
        for process in (*self.nannies, self.scheduler):
            end(process)


def children_of(parent: psutil.Process, how: str) -> list[psutil.Process]:
    """Children of a process that multiprocessing has started in a way."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in parent.children() if any(how in word for word in child.cmdline())]
    return []


def forkservers_of(client: psutil.Process) -> list[psutil.Process]:
    """The process that the workers of a client are forked from."""
    return children_of(client, "multiprocessing.forkserver")


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    """Worker processes of a client or a nanny."""
    forked = [worker for server in forkservers_of(parent) for worker in forkservers_of(server)]
    return [*children_of(parent, "spawn_main"), *forked]


def end(process: psutil.Process) -> None:
    """End a process that was started here, and its children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*process.children(recursive=True), process]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)


def phase_of(process: psutil.Process) -> str:
    """Say what a process that is held is at, from its stack."""
    command = [str(Path(sys.executable).with_name("py-spy")), "dump", "--nonblocking", "--pid", str(process.pid)]
    stack = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    for line in stack.splitlines():
        for phase, pattern in PHASES.items():
            if re.search(pattern, line):
                return phase
    return "waiting" if "Thread" in stack else "start"


def strike(victims: list[psutil.Process], number: signal.Signals) -> list[str]:
    """Hold processes, see what they are at, and signal them; one that is only stopped goes on after a while."""
    phases = []
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            phases.append(phase_of(process))
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            if number != signal.SIGSTOP:
                process.resume()
    if number == signal.SIGSTOP:
        time.sleep(HELD)
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
    return phases


def victims_of(
    victim: str, client: psutil.Process, cluster: Cluster | None, rng: random.Random
) -> list[psutil.Process]:
    """Processes that a round strikes."""
    workers = cluster.workers() if cluster else workers_of(client)
    if victim == "client":
        return [client]
    if victim == "worker":
        return [rng.choice(workers)] if workers else []
    if victim == "forkserver":
        return forkservers_of(client)
    if victim == "scheduler" and cluster:
        return [cluster.scheduler]
    if victim == "nanny" and cluster:
        return [rng.choice(cluster.nannies)]
    return [client, *forkservers_of(client), *workers, *([cluster.scheduler, *cluster.nannies] if cluster else [])]


@contextlib.contextmanager
def place(mode: str, folder: Path) -> Iterator[tuple[list[str], Cluster | None]]:
    """Where a build of a mode runs: its arguments, and the cluster that was started for it."""
    if mode == "in process":
        yield ["--workers", "0"], None
    elif mode == "local cluster":
        yield ["--workers", "2"], None
    else:
        cluster = Cluster(folder)
        try:
            yield ["--cluster", cluster.address], cluster
        finally:
            cluster.end()


def disturbed(source: Path, target: Path, found: Round, rng: random.Random) -> None:
    """Run one build, strike, and run it again until it is done."""
    for attempt in range(RERUNS + 1):
        with place(found.mode, target.parent) as (arguments, cluster):
            process = features(source, target, arguments)
            client = psutil.Process(process.pid)
            try:
                if attempt == 0:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(found.after)
                    if process.poll() is None:
                        struck = victims_of(found.victim, client, cluster, rng)
                        found.phases = strike(struck, signal.Signals[found.signal])
                said = "".join(process.communicate(timeout=PATIENCE))
            except subprocess.TimeoutExpired:
                found.fault = f"it hung for {PATIENCE} s"
                return
            finally:
                end(client)
            found.codes.append(process.returncode)
            if process.returncode == 0:
                return
            if "Traceback" in said:
                found.fault = f"it showed a traceback: {said[-2000:]}"
                return
    found.fault = f"it was not done after {RERUNS} more runs: {said[-500:]}"


def one_round(
    number: int, source: Path, expected: dict[str, str], folder: Path, seed: int, longest: dict[str, float]
) -> Round:
    """Do one round, and see whether the store is the undisturbed one."""
    rng = random.Random(f"{seed}/{number}")
    mode = list(MODES)[(0, 0, 1, 1, 2)[number % 5]]
    sent = rng.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    found = Round(number, mode, rng.choice(MODES[mode]), sent.name, rng.uniform(0.2, 1) * longest[mode])
    target, begun = folder / f"{number}/made.zarr", time.perf_counter()
    target.parent.mkdir()
    disturbed(source, target, found, rng)
    if not found.fault:
        made = digests(target)
        if made != expected:
            apart = sorted(name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name))
            found.fault = f"other bytes in {', '.join(apart[:5])}"
        elif left := sorted(
            {path.name for path in target.parent.glob("*zarr*")} - {target.name, f"{target.name}{BUILT}"}
        ):
            found.fault = f"left behind: {', '.join(left)}"
    found.seconds = time.perf_counter() - begun
    if not found.fault:
        shutil.rmtree(target.parent)
    return found


def undisturbed(source: Path, folder: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Build once in each mode; return the digests of the files, and how long each took."""
    longest, expected = {}, {}
    for mode in MODES:
        target, begun = folder / f"{mode}/made.zarr", time.perf_counter()
        target.parent.mkdir()
        with place(mode, folder) as (arguments, _):
            process = features(source, target, arguments)
            said = "".join(process.communicate(timeout=PATIENCE))
        if process.returncode:
            raise RuntimeError(said)
        longest[mode], expected = time.perf_counter() - begun, digests(target)
    return expected, longest


def tell(rounds: list[Round]) -> str:
    """Count the rounds by mode, victim and phase, as Markdown."""
    places = Counter((found.mode, found.victim, phase) for found in rounds for phase in found.phases or ["none left"])
    lines = ["| mode | victim | at | strikes |", "|---|---|---|---:|"]
    lines += [f"| {' | '.join(where)} | {count} |" for where, count in sorted(places.items())]
    faults = [f"round {found.number}, {found.mode}, {found.victim}: {found.fault}" for found in rounds if found.fault]
    reruns = sum(len(found.codes) > 1 for found in rounds)
    summary = f"{len(rounds)} rounds, {reruns} of which had to be run again; {len(faults)} with a fault"
    return "\n".join([*lines, "", summary, *faults])


@click.command()
@click.option("--rounds", "n_rounds", type=int, default=20, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--minutes", type=float, default=60, show_default=True, help="No round begins later.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write every round as JSON.")
def main(n_rounds: int, seed: int, minutes: float, out: Path | None) -> None:
    """Kill builds, and see that nothing is lost."""
    deadline, rounds = time.monotonic() + 60 * minutes, []
    os.environ.pop("DASK_CONFIG", None)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = music(folder / "music")
        expected, longest = undisturbed(source, folder)
        for number in range(n_rounds):
            if time.monotonic() > deadline:
                break
            rounds.append(one_round(number, source, expected, folder, seed, longest))
            click.echo(json.dumps(asdict(rounds[-1])), err=True)
    print(tell(rounds))
    if out:
        out.write_text(json.dumps([asdict(found) for found in rounds], indent=1) + "\n")
    sys.exit(any(found.fault for found in rounds))


if __name__ == "__main__":
    main()
