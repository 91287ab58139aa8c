"""Codecs and shard sizes for mel windows: how small, how fast to write and to read.

    python tests/benchmarks/bench_store.py music.zarr

Every round takes each way once, in turn; what is printed is the median of the rounds. Files lie in the page cache, so
reading is decoding. What is read back is compared with what was written; dB in float16 says what it loses.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from pipeline.files import tree_bytes
from pipeline.mel import level_db
from pipeline.store import open_store

TRACKS = 64
DEFAULT_SHARD = 16

CODECS: dict[str, list[Any]] = {
    "blosc zstd 1, shuffle (melzarr)": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")],
    "none": [],
    "blosc lz4 1, shuffle": [BloscCodec(cname="lz4", clevel=1, shuffle="shuffle")],
    "blosc zstd 1, bitshuffle": [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")],
    "blosc zstd 3, shuffle": [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")],
    "blosc zstd 5, shuffle": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")],
    "zstd 1, no shuffle": [ZstdCodec(level=1)],
}


class Way:
    """One way to keep the windows: written and read whole, track by track."""

    def __init__(
        self, folder: Path, data: np.ndarray, codecs: list[Any], tracks_per_shard: int = DEFAULT_SHARD
    ) -> None:
        self.path, self.data, self.codecs, self.tracks_per_shard = folder, data, codecs, tracks_per_shard

    def write(self) -> None:
        """Write all tracks, a shard at a time, as workers do."""
        shutil.rmtree(self.path, ignore_errors=True)
        array = zarr.create_array(
            self.path,
            shape=self.data.shape,
            chunks=(1, *self.data.shape[1:]),
            shards=(self.tracks_per_shard, *self.data.shape[1:]),
            dtype=self.data.dtype,
            compressors=[*self.codecs, Crc32cCodec()],
        )
        for start in range(0, len(self.data), self.tracks_per_shard):
            array[start : start + self.tracks_per_shard] = self.data[start : start + self.tracks_per_shard]

    def read(self) -> None:
        """Read all tracks in another order, one at a time, as the loader does."""
        array = zarr.open_array(self.path, mode="r")
        for track in np.random.default_rng(0).permutation(len(self.data)):
            array[int(track)]

    def check(self) -> None:
        """See that what is read is what was written."""
        np.testing.assert_array_equal(zarr.open_array(self.path, mode="r")[...], self.data)


def milliseconds(ways: dict[str, Way], act: Callable[[Way], None], rounds: int) -> dict[str, float]:
    """Time an act of each way, in turn, in ms a track."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            act(way)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) / len(ways[name].data) for name, values in seconds.items()}


def show(title: str, ways: dict[str, Way], rounds: int) -> None:
    """Time all ways and print a table; sizes are beside float32 without a codec."""
    writing = milliseconds(ways, Way.write, rounds)
    for way in ways.values():
        way.check()
    reading = milliseconds(ways, Way.read, rounds)
    print(f"\n| {title} | times smaller | write, ms a track | read, ms a track |\n|---|---:|---:|---:|")
    for name, way in ways.items():
        smaller = way.data.size * 4 / tree_bytes(way.path)
        print(f"| {name} | {smaller:.2f} | {writing[name]:.1f} | {reading[name]:.1f} |")


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--rounds", type=int, default=5, show_default=True)
def main(store: Path, rounds: int) -> None:
    """Measure on the first 64 tracks of a store of power in float32."""
    opened = open_store(store)
    power = np.asarray(opened.mel[:TRACKS])
    levels = level_db(power, opened.spec)
    halves = levels.astype(np.float16)
    lost = float(np.abs(halves.astype(np.float32) - levels).max())
    print(f"{platform.machine()}, Python {platform.python_version()}, zarr {zarr.__version__}; {rounds} rounds")
    print(f"{len(power)} tracks of {store.name}, {power[0].nbytes / 1e6:.2f} MB each")
    blosc = CODECS["blosc zstd 1, shuffle (melzarr)"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ways = {name: Way(root / name, power, codecs) for name, codecs in CODECS.items()}
        ways["levels in dB, float32"] = Way(root / "db32", levels, blosc)
        ways[f"levels in dB, float16: {lost:.3f} dB at most lost"] = Way(root / "db16", halves, blosc)
        show("codec, 16 tracks a shard", ways, rounds)
        sizes = {f"{n} tracks a shard": Way(root / f"shard{n}", power, blosc, n) for n in (16, 1, 4, 64)}
        show("shard size", sizes, rounds)
        try:
            import zarrs  # noqa: F401
        except ImportError:
            print("\nzarrs is not installed: its codec pipeline was not measured")
            return
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            show("the same with the codec pipeline of zarrs", {"16 tracks a shard": sizes["16 tracks a shard"]}, rounds)


if __name__ == "__main__":
    sys.exit(main())
