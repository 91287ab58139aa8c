"""Build many tracks on workers that are replaced all the time, and see whether anything grows.

    python tests/torture/recycled.py --tracks 10000

A scheduler and two workers run on loopback; each worker lives for some seconds, and its nanny starts another one.
Memory, open files and temporary files of client, scheduler, nannies and workers are looked at twice a second, and the
second quarter of the build is compared with the last one. The store takes 1.4 MB a track.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import click
import psutil
from kills import end, workers_of

from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.zarr_store.reader import open_store

N_FILES = 50  # audio files; each is the source of many tracks
LIFETIME = ("--lifetime", "20s", "--lifetime-stagger", "5s", "--lifetime-restart")
PATIENCE = 3600  # seconds
GROWTH = {"memory": 64e6, "files": 16, "temporary": 8}  # more than this from the second quarter to the last is a fault
# What Dask keeps of the past is bounded, at lengths that a build of ten thousand tracks does not come to.
SETTINGS = {"DASK_DISTRIBUTED__ADMIN__LOG_LENGTH": "1000", "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "1000"}

Figures = dict[str, dict[str, list[float]]]  # role → what → one figure a look


def manifest(folder: Path, n_tracks: int) -> Path:
    """Write some audio files, and a manifest in which each is many tracks."""
    rows = ["path,label,id"]
    for number in range(N_FILES):
        demo_music.write_track(folder / f"{number:02d}.wav", "bells", number, seed=0, sample_rate=22050, seconds=24.1)
    rows += [f"{number % N_FILES:02d}.wav,{number % 10},{number:06d}" for number in range(n_tracks)]
    path = folder / "tracks.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def look(roles: dict[str, list[psutil.Process]], temporary: Path, into: Figures) -> None:
    """Add the figures of now: of the largest process of each role."""
    for role, processes in roles.items():
        found = []
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found.append((process.memory_info().rss, process.num_fds()))
        if found:
            into[role]["memory"].append(max(memory for memory, _ in found))
            into[role]["files"].append(max(files for _, files in found))
    into["all"]["temporary"].append(sum(1 for _ in temporary.rglob("*")))


def quarters(figures: list[float]) -> tuple[float, float]:
    """Medians of the second quarter and of the last."""
    step = max(1, len(figures) // 4)
    return statistics.median(figures[step : 2 * step]), statistics.median(figures[-step:])


def build(source: Path, target: Path, folder: Path) -> tuple[Figures, int]:
    """Build, and look at it meanwhile; return the figures, and how many workers there were."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address, temporary = f"tcp://127.0.0.1:{port}", folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, **SETTINGS, "TMPDIR": str(temporary)}

    def start(program: str, *words: str) -> psutil.Popen:
        command = [str(Path(sys.executable).with_name(program)), *words]
        with (folder / "log").open("ab") as log:
            return psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)

    scheduler = start("dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    nannies = [
        start("dask", "worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(temporary),
              *LIFETIME) for _ in range(2)
    ]  # fmt: skip
    client = start("melzarr", "features", str(source), str(target), "--cluster", address)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    seen, deadline = set(), time.monotonic() + PATIENCE
    try:
        while client.poll() is None and time.monotonic() < deadline:
            workers = [worker for nanny in nannies for worker in workers_of(nanny)]
            seen |= {worker.pid for worker in workers}
            roles = {"client": [client], "scheduler": [scheduler], "nanny": nannies, "worker": workers}
            look(roles, temporary, figures)
            time.sleep(0.5)
    finally:
        for process in (client, *nannies, scheduler):
            end(process)
    if client.returncode:
        raise RuntimeError(f"the build ended with {client.returncode}: {(folder / 'log').read_text()[-2000:]}")
    return figures, len(seen)


@click.command()
@click.option("--tracks", "n_tracks", type=int, default=10_000, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write all figures as JSON.")
def main(n_tracks: int, out: Path | None) -> None:
    """Build on workers that come and go, and see that nothing grows."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, start = Path(name), time.perf_counter()
        (folder / "music").mkdir()
        source = manifest(folder / "music", n_tracks)
        figures, n_workers = build(source, folder / "made.zarr", folder)
        store = open_store(folder / "made.zarr")
        ok = int((store.values("status") == "ok").sum())
        print(f"{ok} of {n_tracks} tracks are ok after {time.perf_counter() - start:.0f} s on {n_workers} workers\n")
    print("| process | what | second quarter | last quarter |\n|---|---|---:|---:|")
    grown = []
    for role, found in figures.items():
        for what, row in found.items():
            before, after = quarters(row)
            scale, unit = (1e6, " MB") if what == "memory" else (1, "")
            print(f"| {role} | {what} | {before / scale:.0f}{unit} | {after / scale:.0f}{unit} |")
            grown += [f"{role}'s {what}"] if after - before > GROWTH[what] else []
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n")
    if grown or ok != n_tracks:
        sys.exit(f"grown: {', '.join(grown)}")


if __name__ == "__main__":
    main()
