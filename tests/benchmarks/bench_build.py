"""Many tracks on all cores: `melzarr features` whole, beside joblib with one batched librosa call and np.save a track;
and the questions that are asked of a store: `melzarr verify`, `report` and `share`, beside the build and a plain copy.

    python tests/benchmarks/bench_build.py --tracks 1000

All start as processes of their own, in turn, once a round; what is printed is the median of the rounds. Wall time is
from the start of the process to its end; memory is the sum over all of its processes at its highest, by their
proportional share (PSS) where the system tells it. The windows of some tracks are compared before the table is printed.
What a further worker costs is the processor time of a worker that gets no track, in a build of one shard.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import psutil
from suite import Goal, Result, Table, at_least, at_most, json_option

from melzarr.pipeline.builder.build_timings import read_built
from melzarr.pipeline.builder.plan import TRACKS_PER_SHARD
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.sources.dataset_recipe import find_recipe
from melzarr.pipeline.sources.fetch_dataset import fetch
from melzarr.pipeline.zarr_store.reader import open_store

DATASETS = Path(__file__).parents[2] / "datasets"
LABELS = 10
COMPARED = 5
FEW = 4  # tracks of one shard, which one worker computes
POLL = 0.05  # s between looks for the first result
MEMORY_POLL = 0.5  # s between looks at memory: to add up the pages of all processes takes a part of a core
VERIFY, REPORT, SHARE, COPY = "melzarr verify --source", "melzarr report", "melzarr share", "cp -r, sha256sum"
MELZARR, JOBLIB, LHOTSE = "melzarr features", "joblib, one batched librosa call, np.save", "lhotse"
BY_LHOTSE_EACH = 50  # one in so many tracks goes through lhotse, which takes long; its time is extrapolated

BY_JOBLIB = """
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


BY_LHOTSE = """
import sys
from pathlib import Path
import joblib, lhotse, torch

torch.set_num_threads(1)

def one(path, folder):
    recording = lhotse.Recording.from_file(path)
    cuts = lhotse.CutSet.from_cuts([recording.to_cut().truncate(duration=24.02)])
    windows = cuts.cut_into_windows(0.1, hop=0.04)
    fbank = lhotse.Fbank(lhotse.FbankConfig(sampling_rate=22050, num_filters=128, frame_length=0.025, frame_shift=0.02))
    with lhotse.NumpyFilesWriter(folder / path.stem) as writer:
        for cut in windows:
            cut.compute_and_store_features(fbank, writer)

if __name__ == "__main__":
    source, folder, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir()
    paths = sorted(source.rglob("*.wav"))[::step]
    joblib.Parallel(n_jobs=-1)(joblib.delayed(one)(path, folder) for path in paths)
"""


@dataclass(frozen=True, slots=True)
class Timing:
    """One run: seconds in all and until its first result lay on the disk, and peak of memory in bytes."""

    wall: float
    first: float
    memory: int


def timed(results: Callable[[], bool], *command: str) -> Timing:
    """Run a process to its end, and watch its memory, that of its children, and whether there is a result."""
    start, first, peak, looked = time.perf_counter(), float("nan"), 0, 0.0
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **one_thread})
        while process.poll() is None:
            if np.isnan(first) and results():
                first = time.perf_counter() - start
            if time.perf_counter() - looked > MEMORY_POLL:
                peak, looked = max(peak, tree_memory(process.pid)), time.perf_counter()
            time.sleep(POLL)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {text}")
    return Timing(wall, first, peak)


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


def further_worker(few: Path, store: Path, *command: str) -> float:
    """Seconds of processor time that a worker takes to start and to end, which gets nothing of the only shard."""
    shutil.rmtree(store, ignore_errors=True)
    used: dict[int, float] = {}
    with subprocess.Popen([*command, few, store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            for child in parent.children():
                with suppress(psutil.NoSuchProcess):  # a worker is forked from a child, and may end at any time
                    used |= {worker.pid: sum(worker.cpu_times()[:2]) for worker in child.children()}
            time.sleep(POLL)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    idle = sorted(used.values())[:-1]
    return statistics.mean(idle) if idle else float("nan")


def work(store: Path) -> float:
    """Seconds of work for each track of a store, from the timings beside it."""
    built = read_built(open_store(store))
    return float("nan") if built is None else sum(built.seconds.values()) / built.tracks


@click.command()
@click.option("--tracks", "n_tracks", type=int, default=1000, show_default=True)
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where audio and stores go.  [default: a temporary one]"
)
@json_option
def main(n_tracks: int, rounds: int, folder: Path | None, out: Path | None) -> None:
    """Build the features of synthesised tracks in every way."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        here = Path(root)
        shutil.copytree(DATASETS / "demo", here / "datasets/demo", ignore=shutil.ignore_patterns("audio*"))
        audio = fetch(find_recipe("demo", here / "datasets"), tracks_per_label=n_tracks // LABELS).audio
        saved, store, cuts, few = here / "npy", here / "made.zarr", here / "cuts", here / "few"
        for path in sorted(Path(audio).rglob("*.wav"))[:FEW]:
            (few / "some").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, few / "some")
        for name, script in (("by_joblib", BY_JOBLIB), ("by_lhotse", BY_LHOTSE)):
            (here / f"{name}.py").write_text(script)
        melzarr = str(Path(sys.executable).with_name("melzarr"))
        ways = {
            MELZARR: (store, [melzarr, "features", audio, store]),
            JOBLIB: (saved, [sys.executable, here / "by_joblib.py", audio, saved]),
        }
        if importlib.util.find_spec("lhotse"):
            ways[LHOTSE] = (cuts, [sys.executable, here / "by_lhotse.py", audio, cuts, BY_LHOTSE_EACH])
        shared, copied, page = here / "shared", here / "copied", here / "page"
        questions = {
            VERIFY: (page, [melzarr, "verify", store, "--source", audio]),
            REPORT: (page, [melzarr, "report", store, "--to", page]),
            SHARE: (shared, [melzarr, "share", store, shared]),
            COPY: (
                copied,
                ["sh", "-c", 'cp -r "$1" "$2" && find "$2" -type f -exec sha256sum {} +', "sh", store, copied],
            ),
        }
        workspace = open_workspace(store)
        found: dict[str, list[Timing]] = {name: [] for name in (*ways, *questions)}
        further, works = [], []
        for _ in range(rounds):
            further.append(further_worker(few, here / "few.zarr", melzarr, "features"))
            for name, (made, command) in {**ways, **questions}.items():
                shutil.rmtree(made, ignore_errors=True)
                found[name].append(timed(lambda: workspace.n_receipts() > 0, *map(str, command)))
            works.append(work(store))
        compare(store, saved)
    result(found, n_tracks, statistics.median(works), statistics.median(further)).tell(out)


def compare(store: Path, saved: Path) -> None:
    """See that both made the same windows."""
    opened = open_store(store)
    for number in np.linspace(0, opened.n_tracks - 1, COMPARED).astype(int):
        theirs = np.load(saved / f"{Path(opened.values('source')[number]).stem}.npy")
        ours = np.asarray(opened.mel[int(number)])
        np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-4 * theirs.max())


def result(found: dict[str, list[Timing]], n_tracks: int, each: float, further: float) -> Result:
    """Make the table, and say how near the build comes to its work divided by the cores."""
    cores = os.cpu_count() or 1
    walls = {name: statistics.median(timing.wall for timing in timings) for name, timings in found.items()}
    asked = {name: found.pop(name) for name in (VERIFY, REPORT, SHARE, COPY)}
    if LHOTSE in walls:
        walls[LHOTSE] *= BY_LHOTSE_EACH
    rows, answers = (
        [
            (
                name, f"{walls[name]:.1f}", f"{n_tracks / walls[name]:.1f}",
                f"{statistics.median(timing.memory for timing in timings) / 1e6:.0f}",
                f"{walls[name] / walls[MELZARR]:.2f}",
            )
            for name, timings in which.items()
        ]
        for which in (found, asked)
    )  # fmt: skip
    first = statistics.median(timing.first for timing in found[MELZARR])
    start = first - TRACKS_PER_SHARD * each
    shared = n_tracks * each / cores
    remark = (
        f"{n_tracks} tracks of 30 s, 22.05 kHz mono WAV, on {cores} cores. melzarr reports "
        f"{1000 * each:.1f} ms of one core per track, which is {shared:.1f} s divided by the cores; the build takes "
        f"{walls[MELZARR]:.1f} s. Its first shard of {TRACKS_PER_SHARD} tracks is on disk after {first:.1f} s."
    )
    if LHOTSE in walls:
        remark += (
            " lhotse computes other features (Kaldi's log filter banks, five frames of 25 ms per window) for one track "
            f"in {BY_LHOTSE_EACH}; its time is extrapolated."
        )
    columns = ("s", "tracks/s", "peak memory, MB", f"relative to {MELZARR}")
    goals: list[Goal] = [
        at_most("time of a build without its start, relative to the work of its tracks divided by the cores", 1.1,
                (walls[MELZARR] - start) / shared, "its end: 0.2 s to publish, 0.2 s to end its processes"),
        at_most("start of a build, from its process to its first shard without the shard's work, s", 3, start,
                "imports, side by side in the client and in what workers are forked from: Dask, SciPy, numba"),
        at_most("processor time of each further worker, s", 1, further, "its connections to the scheduler"),
        at_least("speed of a build, relative to joblib with librosa's batched call", 4, walls[JOBLIB] / walls[MELZARR],
                 "its start, which matters less for more tracks"),
        at_most("time of verify with the source's files, relative to the build", 0.4, walls[VERIFY] / walls[MELZARR],
                "decoding with zarr-python, which is not the code that wrote the store"),
        at_most("time of report, relative to the build", 0.3, walls[REPORT] / walls[MELZARR],
                "imports, a second on one core, and reading all windows"),
        at_most("time of share, relative to cp -r and sha256sum", 1.2, walls[SHARE] / walls[COPY],
                "its report, which takes the processor as long as the copy"),
    ]  # fmt: skip
    tables = [
        Table("from files to windows on disk", columns, rows, remark),
        Table("from the store", columns, answers, "Files are in the page cache."),
    ]
    return Result("Many tracks, all cores", tables, goals)


if __name__ == "__main__":
    sys.exit(main())
