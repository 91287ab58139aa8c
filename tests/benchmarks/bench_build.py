"""Many tracks on all cores: `melzarr features` whole, beside joblib with one batched librosa call and np.save a track.

    python tests/benchmarks/bench_build.py --tracks 1000

Both start as processes of their own, in turn, once a round; what is printed is the median of the rounds. Wall time is
from the start of the process to its end; memory is the sum over all of its processes at its highest, by their
proportional share (PSS) where the system tells it. The windows of some tracks are compared before the table is printed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import psutil

from pipeline.fetch import fetch
from pipeline.recipe import find_recipe
from pipeline.store import open_store

DATASETS = Path(__file__).parents[2] / "datasets"
LABELS = 10
COMPARED = 5
POLL = 0.05  # s

JOBLIB = """
import sys
from pathlib import Path
import joblib, librosa, numpy as np

def one(path, folder):
    y, _ = librosa.load(path, sr=22050, duration=24.02)
    windows = librosa.util.frame(y, frame_length=2205, hop_length=882).T
    mel = librosa.feature.melspectrogram(y=windows, sr=22050, n_mels=128, pad_mode="reflect")
    np.save(folder / f"{path.stem}.npy", mel.swapaxes(1, 2).astype(np.float32))

if __name__ == "__main__":
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir()
    joblib.Parallel(n_jobs=-1)(joblib.delayed(one)(path, folder) for path in sorted(source.rglob("*.wav")))
"""


@dataclass(frozen=True, slots=True)
class Timing:
    """One run of a process: seconds, the peak of its memory in bytes, and what it printed."""

    wall: float
    memory: int
    text: str


def timed(*command: str) -> Timing:
    """Run a process to its end, and watch its memory and that of its children."""
    start, peak = time.perf_counter(), 0
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **one_thread})
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(POLL)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {text}")
    return Timing(wall, peak, text)


def tree_memory(pid: int) -> int:
    """Bytes that a process and its children hold."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            facts = process.memory_full_info()
            total += getattr(facts, "pss", facts.rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def work(text: str) -> float:
    """Seconds of work for each track that a build says it took."""
    found = re.search(r"decode (\d+) ms, mel (\d+) ms, write (\d+) ms", text)
    return sum(map(int, found.groups())) / 1000 if found else float("nan")


@click.command()
@click.option("--tracks", "n_tracks", type=int, default=1000, show_default=True)
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where audio and stores go.  [default: a temporary one]"
)
def main(n_tracks: int, rounds: int, folder: Path | None) -> None:
    """Build the features of synthesised tracks both ways, and print a table."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        here = Path(root)
        shutil.copytree(DATASETS / "demo", here / "datasets/demo", ignore=shutil.ignore_patterns("audio*"))
        audio = fetch(find_recipe("demo", here / "datasets"), tracks_per_label=n_tracks // LABELS).audio
        script, saved, store = here / "by_joblib.py", here / "npy", here / "made.zarr"
        script.write_text(JOBLIB)
        ways = {
            "melzarr features": (store, [str(Path(sys.executable).with_name("melzarr")), "features", audio, store]),
            "joblib, one batched librosa call, np.save": (saved, [sys.executable, script, audio, saved]),
        }
        found: dict[str, list[Timing]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (made, command) in ways.items():
                shutil.rmtree(made, ignore_errors=True)
                found[name].append(timed(*map(str, command)))
        compare(store, saved)
    report(found, n_tracks)


def compare(store: Path, saved: Path) -> None:
    """See that both made the same windows."""
    opened = open_store(store)
    for number in np.linspace(0, opened.n_tracks - 1, COMPARED).astype(int):
        theirs = np.load(saved / f"{Path(opened.values('source')[number]).stem}.npy")
        ours = np.asarray(opened.mel[int(number)])
        np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-4 * theirs.max())


def report(found: dict[str, list[Timing]], n_tracks: int) -> None:
    """Print the table, and how near the build comes to its work divided by the cores."""
    cores = os.cpu_count() or 1
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}; {n_tracks} tracks of 30 s\n")
    print("| all cores | s | tracks/s | peak memory, MB | beside melzarr |\n|---|---:|---:|---:|---:|")
    walls = {name: statistics.median(timing.wall for timing in timings) for name, timings in found.items()}
    own = next(iter(walls.values()))
    for name, timings in found.items():
        memory = statistics.median(timing.memory for timing in timings) / 1e6
        print(f"| {name} | {walls[name]:.1f} | {n_tracks / walls[name]:.1f} | {memory:.0f} | {walls[name] / own:.2f} |")
    each = statistics.median(work(timing.text) for timing in found["melzarr features"])
    print(
        f"\nwork of {1000 * each:.0f} ms a track on {cores} cores: {n_tracks * each / cores:.1f} s of the {own:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
