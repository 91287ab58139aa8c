"""What a build costs its client, whatever the tracks themselves cost: catalog, plan, receipts, publishing, opening.

    python tests/benchmarks/bench_scale.py 1000 10000 100000 1000000 --dask-up-to 100000 --folder /dev/shm

The computation is left out. What stands in for it gives receipts of the real size (five facts a track, two sums of 128
bands a shard) and shard files of a few bytes, so that publishing finds every file that it looks for in the size that
its receipt says; all else is what a real build does, and the store's declaration is that of the default spec. The time
that the stand-in takes is the workers', and is subtracted.

Every size is measured in processes of its own, so that the peak of memory is of that size alone: one that builds in its
own process, one that builds on a local Dask cluster of two workers (whose scheduler lives in the client, and so in its
memory), and one that reads the store. The build in its own process is interrupted before it publishes, and run again:
the time until the first shard is submitted is then measured, and likewise for a finished store that is replaced.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from blake3 import blake3
from suite import Goal, Result, Table, at_most, json_option

STATUSES = ["ok"] * 46 + ["short", "silent", "failed", "ok"]  # of neighbouring tracks; 2 % fail
SHARD = b"a shard that nobody reads"
FLAT_FROM = 10_000
REMARK = "Windows are not computed: receipts have their real size, shards a few bytes."
COLUMNS = {
    "catalog_s": "read the catalog, s",
    "plan_s": "make the plan, s",
    "run_s": "build, s",
    "publish_s": "publish, s",
    "resume_s": "continue an interrupted build, until its first shard, s",
    "force_s": "replace a store, until its first shard, s",
    "client_us": "CPU of the client, µs/track",
    "client_mb": "peak memory of the client, MB",
    "dask_s": "build on Dask, s",
    "dask_us": "CPU of Dask's client and scheduler, µs/track",
    "dask_mb": "peak memory of Dask's client and scheduler, MB",
    "metadata_mb": "metadata, MB",
    "open_s": "open, s",
    "xarray_s": "xarray.open_zarr, s",
    "inspect_s": "inspect, s",
    "reader_mb": "peak memory of a reader, MB",
}


FACTS = {"source_rate": 44100.0, "source_channels": 2.0, "peak": 0.9, "clipped": 0.0}


def peak_mb() -> float:
    """Peak of this process's resident memory; not what it inherited from the process that started it."""
    try:
        return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1000
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def manifest(path: Path, n_tracks: int) -> None:
    """Write a manifest of tracks in no order, with names as long as those of real collections."""
    with path.open("w", encoding="utf-8") as file:
        file.write("path,label\n")
        for number in range(n_tracks):
            mixed = number * 7_368_787 % n_tracks  # a prime, so each number comes once
            file.write(f"genre-{mixed % 16:02d}/artist-{mixed % 997:04d}/{mixed:08d}.mp3,genre-{mixed % 16:02d}\n")


class StandIn:
    """In place of the worker's function: gives a receipt of the usual size and writes a shard of a few bytes."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def __call__(self, job: Any) -> Any:
        """Make one shard, but for its content."""
        from melzarr.pipeline.publishing.open_workspace import open_workspace
        from melzarr.pipeline.shard_receipt import BandSums, Receipt, TrackReceipt

        start, cpu = time.perf_counter(), time.process_time()
        entries, first = [], job.shard.start
        for number, track in enumerate(job.shard.tracks, start=first):
            status = STATUSES[number % len(STATUSES)]
            known = status != "failed"
            entries.append(
                TrackReceipt(
                    status=status,
                    error="" if status == "ok" else f"{track.id} is {status}, as one track in fifty is",
                    n_windows=599 if known else 0,
                    source_blake3=blake3(track.source.encode()).hexdigest(),
                    **({**FACTS, "duration": 30.0 + number} if known else {}),
                )
            )
        level = [-40.0 - (band * 1.1 + first * 0.37) % 7 for band in range(job.spec.n_mels)]
        receipt = Receipt(
            index=job.shard.index,
            key=job.key,
            blake3=blake3(SHARD).hexdigest(),
            n_bytes=len(SHARD),
            tracks=tuple(entries),
            sums=BandSums(count=2995, level=tuple(level), square=tuple(value**2 for value in level)),
            seconds={"decode": 0.1, "mel": 0.2, "write": 0.3},
        )
        workspace = open_workspace(job.target)
        for name, data in (
            (workspace.written(receipt.index, receipt.blake3), SHARD),
            (workspace.receipt(receipt.index), receipt.to_json()),
        ):
            path = workspace.root.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)  # as `write_whole`, but for the disk's own time
            path.write_bytes(data)
        self.seconds += time.perf_counter() - start
        self.cpu += time.process_time() - cpu
        return receipt


class Stopped:
    """A runner in this process that says when its first job comes, and is interrupted after so many."""

    n_workers, dashboard, expendable = 1, "", False

    def __init__(self, n_jobs: float = float("inf")) -> None:
        self.n_jobs, self.first = n_jobs, 0.0

    def run(self, function: Callable[[Any], Any], jobs: Iterable[Any], _: object = None) -> Iterator[Any]:
        """Call the function for each job, until it is interrupted."""
        for number, job in enumerate(jobs):
            self.first = self.first or time.perf_counter()
            if number >= self.n_jobs:
                raise KeyboardInterrupt
            yield function(job)
        if self.n_jobs != float("inf"):
            raise KeyboardInterrupt

    def release(self) -> None:
        """Do nothing: there are no workers."""


def timed(function: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[float, Any]:
    """Call a function; return the seconds that it took, and what it gave."""
    start = time.perf_counter()
    result = function(*arguments, **named)
    return time.perf_counter() - start, result


def planned(folder: Path) -> tuple[dict[str, float], Any, Any]:
    """Catalog and plan of the manifest, and what they took; the plan with the keys of all its shards."""
    from melzarr.pipeline.builder.plan import make_plan
    from melzarr.pipeline.features.mel_filterbank import filterbank
    from melzarr.pipeline.sources.catalog import read_catalog
    from melzarr.pipeline.spec import FeatureSpec
    from melzarr.pipeline.versions import versions

    versions()
    filterbank(FeatureSpec())  # as the command line does, and so loads what has no size
    cpu = time.process_time()
    catalog_s, catalog = timed(read_catalog, folder / "tracks.csv")
    cpu, start = time.process_time() - cpu, time.perf_counter()
    plan = make_plan(FeatureSpec(), catalog.tracks, versions())
    for shard in plan.shards():
        plan.key(shard)
    return {"catalog_s": catalog_s, "catalog_cpu": cpu, "plan_s": time.perf_counter() - start}, catalog, plan


def build_here(folder: Path, n_tracks: int) -> dict[str, float]:
    """Build in this process: interrupted once, run again, then once more to replace it."""
    from melzarr.pipeline.builder import run_build as room
    from melzarr.pipeline.publishing.open_workspace import open_workspace

    facts, catalog, plan = planned(folder)
    target, work, publish, publish_s = folder / "s.zarr", StandIn(), room.publish, []

    def published(*arguments: Any, **named: Any) -> None:
        publish_s.append(timed(publish, *arguments, **named)[0])

    room.make_shard, room.publish = work, published  # type: ignore[assignment]
    try:
        room.build(plan, catalog, target, Stopped(plan.n_shards))
    except KeyboardInterrupt:  # after its last shard, and before it publishes
        before = work.seconds, work.cpu
    start, cpu, runner = time.perf_counter(), time.process_time(), Stopped()
    open_workspace(target).n_receipts()
    room.build(plan, catalog, target, runner)
    run_s = time.perf_counter() - start - (work.seconds - before[0]) - publish_s[0]
    run_cpu = time.process_time() - cpu - (work.cpu - before[1])
    facts |= {"run_s": run_s, "publish_s": publish_s[0], "resume_s": runner.first - start}
    facts["client_us"] = 1e6 * (facts.pop("catalog_cpu") + run_cpu) / n_tracks
    facts["client_mb"] = peak_mb()
    start, runner = time.perf_counter(), Stopped(0)
    try:
        room.build(plan, catalog, target, runner, replace=True)
    except KeyboardInterrupt:
        facts["force_s"] = runner.first - start
    return facts


def build_on_dask(folder: Path, n_tracks: int) -> dict[str, float]:
    """Build on a local cluster of two workers."""
    from melzarr.pipeline.builder import run_build as room
    from melzarr.pipeline.clusters.task_runner import connect

    _, catalog, plan = planned(folder)
    # Workers import it as a module, as they do the real one; by value it would travel with every job.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    room.make_shard = importlib.import_module(Path(__file__).stem).StandIn()
    with connect("local", 2, 1 << 29) as runner:
        start, cpu = time.perf_counter(), time.process_time()
        room.build(plan, catalog, folder / "dask.zarr", runner)
        wall, used = time.perf_counter() - start, time.process_time() - cpu
    return {"dask_s": wall, "dask_us": 1e6 * used / n_tracks, "dask_mb": peak_mb()}


def read(folder: Path, n_tracks: int) -> dict[str, float]:
    """Open and describe the store."""
    import xarray as xr

    from melzarr.pipeline.cli.messages import store_lines
    from melzarr.pipeline.inspection.describe import describe
    from melzarr.pipeline.zarr_store.reader import open_store

    path = folder / "s.zarr"
    xr.Dataset({"x": ("x", np.arange(3))}).to_zarr(folder / "warm.zarr")
    xr.open_zarr(folder / "warm.zarr")  # what is loaded at the first call has no size
    metadata = sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and p.parents[3].name != "c")
    open_s, store = timed(open_store, path)
    inspect_s, lines = timed(lambda: store_lines(describe(store)))
    xarray_s, dataset = timed(xr.open_zarr, path)
    if not lines or dataset.mel.shape[0] != n_tracks:
        raise RuntimeError(f"the store of {n_tracks} tracks says {dataset.mel.shape}")
    return {
        "metadata_mb": metadata / 1e6,
        "open_s": open_s,
        "xarray_s": xarray_s,
        "inspect_s": inspect_s,
        "reader_mb": peak_mb(),
    }


PHASES = {"here": build_here, "dask": build_on_dask, "read": read}


def measured(phase: str, folder: Path, n_tracks: int) -> dict[str, float]:
    """Measure one phase in a process of its own."""
    command = [sys.executable, __file__, str(n_tracks), "--phase", phase, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


@click.command()
@click.argument("sizes", type=int, nargs=-1, required=True)
@click.option("--dask-up-to", type=int, default=10_000, show_default=True, help="Largest size that is run on Dask too.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to build; by default a temporary folder.")
@json_option
@click.option("--phase", type=click.Choice(list(PHASES)), hidden=True)
def main(sizes: tuple[int, ...], dask_up_to: int, folder: Path | None, out: Path | None, phase: str | None) -> None:
    """Measure builds of so many tracks and print a table, one row a size."""
    if phase:
        print(json.dumps(PHASES[phase](folder or Path(), sizes[0])))
        return
    rows = []
    for n_tracks in sizes:
        place = Path(tempfile.mkdtemp(prefix="scale-", dir=folder))
        try:
            manifest(place / "tracks.csv", n_tracks)
            facts = {"tracks": n_tracks, **measured("here", place, n_tracks), **measured("read", place, n_tracks)}
            if n_tracks <= dask_up_to:
                facts |= measured("dask", place, n_tracks)
            rows.append(facts)
            print(json.dumps(facts), file=sys.stderr)
        finally:
            shutil.rmtree(place)
    cells = [
        (title, *(f"{facts[name]:.3g}" if name in facts else "" for facts in rows)) for name, title in COLUMNS.items()
    ]
    table = Table("tracks", tuple(f"{facts['tracks']:,}" for facts in rows), cells, REMARK)
    Result("Scale", [table], goals(rows)).tell(out)


def goals(rows: list[dict[str, float]]) -> list[Goal]:
    """What the largest plan sets out to be; the cost of a track beside that of the largest of at most ten thousand."""
    largest, smaller = rows[-1], [facts for facts in rows if facts["tracks"] <= FLAT_FROM][-1]
    n_tracks = f"{largest['tracks']:,} tracks"
    return [
        at_most(f"{n_tracks}: client memory, MB", 500, largest["client_mb"]),
        at_most(f"{n_tracks}: plan with the keys of all shards, s", 10, largest["plan_s"]),
        at_most(f"{n_tracks}: client CPU per track, relative to {smaller['tracks']:,} tracks", 1.2,
                largest["client_us"] / smaller["client_us"]),
        at_most(f"{n_tracks}: an interrupted build until its first shard, s", 10, largest["resume_s"]),
        at_most(f"{n_tracks}: inspect, s", 1.5, largest["inspect_s"],
                "reading labels, splits and statuses as text, and the sources of the 2 % that are not ok"),
        at_most(f"{n_tracks}: xarray.open_zarr, s", 2, largest["xarray_s"]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
