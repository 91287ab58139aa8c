"""Codecs and shard sizes for mel windows: how small, how fast to write and to read.

    python tests/benchmarks/bench_store.py music.zarr

Every round takes each way once, in turn; what is printed is the median of the rounds. Files lie in the page cache, so
reading is decoding. What is read back is compared with what was written; dB in float16 says what it loses.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
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
from suite import Result, Table, json_option
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from melzarr.pipeline.features.decibels import level_db
from melzarr.pipeline.storage.atomic import tree_bytes
from melzarr.pipeline.zarr_store.reader import open_store
from melzarr.pipeline.zarr_store.shard import COMPRESSORS, decode_chunk, encode_chunk, index_bytes, pack, read_index

TRACKS = 64
DEFAULT_SHARD = 16
COMPRESSOR, LEVEL = COMPRESSORS["float32"]
OWN = f"blosc {COMPRESSOR} {LEVEL}, shuffle (used by melzarr)"

CODECS: dict[str, list[Any]] = {
    OWN: [BloscCodec(cname=COMPRESSOR, clevel=LEVEL, shuffle="shuffle")],
    "none": [],
    "blosc lz4 5, shuffle": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")],
    "blosc zstd 1, shuffle": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")],
    "blosc zstd 1, bitshuffle": [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")],
    "blosc zstd 3, shuffle": [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")],
    "blosc zstd 5, shuffle": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")],
    "zstd 1, no shuffle": [ZstdCodec(level=1)],
}

PIPELINES = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarr, fused": "zarr.core.codec_pipeline.FusedCodecPipeline",  # since zarr 3.4
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


class Way:
    """One way to keep the windows: written and read whole, track by track."""

    def __init__(
        self, folder: Path, data: np.ndarray, codecs: list[Any], tracks_per_shard: int = DEFAULT_SHARD
    ) -> None:
        self.path, self.data, self.codecs, self.tracks_per_shard = folder, data, codecs, tracks_per_shard

    def write(self) -> None:
        """Write all tracks, a shard at a time."""
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
        """Read all tracks in another order, one at a time."""
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


class Piped(Way):
    """What melzarr stores, written and read by zarr with one of its codec pipelines."""

    def __init__(self, folder: Path, data: np.ndarray, pipeline: str) -> None:
        super().__init__(folder, data, CODECS[OWN])
        self.pipeline = {"codec_pipeline.path": pipeline}

    def write(self) -> None:
        """Write with the pipeline."""
        with zarr.config.set(self.pipeline):
            super().write()

    def read(self) -> None:
        """Read with the pipeline."""
        with zarr.config.set(self.pipeline):
            super().read()


def pipelines(root: Path, data: np.ndarray) -> dict[str, Way]:
    """Make a way for each codec pipeline that is installed, and melzarr's own."""
    ways: dict[str, Way] = {"melzarr, without zarr-python": Direct(root / "direct", data, [])}
    for name, path in PIPELINES.items():
        module, _, kind = path.rpartition(".")
        if importlib.util.find_spec(module.partition(".")[0]) and hasattr(importlib.import_module(module), kind):
            ways[name] = Piped(root / name, data, path)
    return ways


class Direct(Way):
    """The same as melzarr does it: packed and read without Zarr, to the same bytes."""

    def write(self) -> None:
        """Write all tracks, a shard at a time."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        for start in range(0, len(self.data), self.tracks_per_shard):
            chunks = [encode_chunk(track) for track in self.data[start : start + self.tracks_per_shard]]
            with (self.path / f"{start // self.tracks_per_shard}").open("wb") as file:
                file.writelines(pack(chunks, self.tracks_per_shard))

    def read(self) -> None:
        """Read all tracks in another order, one at a time."""
        out = np.empty(self.data.shape[1:], self.data.dtype)
        for track in np.random.default_rng(0).permutation(len(self.data)):
            shard, place = divmod(int(track), self.tracks_per_shard)
            with (self.path / f"{shard}").open("rb") as file:
                size = file.seek(-index_bytes(self.tracks_per_shard), os.SEEK_END) + index_bytes(self.tracks_per_shard)
                start, n_bytes = map(int, read_index(file.read(), size, self.tracks_per_shard)[place])
                file.seek(start)
                decode_chunk(file.read(n_bytes), out)

    def check(self) -> None:
        """See that the bytes are those of Zarr."""
        for shard in self.path.iterdir():
            if shard.read_bytes() != (self.path.parent / OWN / "c" / shard.name / "0/0/0").read_bytes():
                raise RuntimeError(f"shard {shard.name} is not what Zarr writes")


def measured(title: str, ways: dict[str, Way], rounds: int) -> Table:
    """Time all ways and make a table; sizes are relative to float32 without a codec."""
    writing = milliseconds(ways, lambda way: way.write(), rounds)
    for way in ways.values():
        way.check()
    reading = milliseconds(ways, lambda way: way.read(), rounds)
    rows = []
    for name, way in ways.items():
        smaller = way.data.size * 4 / tree_bytes(way.path)
        rows.append((name, f"{smaller:.2f}", f"{writing[name]:.1f}", f"{reading[name]:.1f}"))
    return Table(title, ("compression ratio", "write, ms per track", "read, ms per track"), rows)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--rounds", type=int, default=5, show_default=True)
@json_option
def main(store: Path, rounds: int, out: Path | None) -> None:
    """Measure on the first 64 tracks of a store of power in float32."""
    opened = open_store(store)
    power = np.asarray(opened.mel[:TRACKS])
    levels = level_db(power, opened.spec)
    halves = levels.astype(np.float16)
    lost = float(np.abs(halves.astype(np.float32) - levels).max())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ways = {name: Way(root / name, power, codecs) for name, codecs in CODECS.items()}
        ways["levels in dB, float32"] = Way(root / "db32", levels, CODECS[OWN])
        ways[f"levels in dB, float16 (error at most {lost:.3f} dB)"] = Way(root / "db16", halves, CODECS[OWN])
        tables = [measured(f"codec, {DEFAULT_SHARD} tracks per shard, one thread", ways, rounds)]
        sizes = {
            f"{n} track{'s' * (n > 1)} per shard": Way(root / f"shard{n}", power, CODECS[OWN], n)
            for n in (16, 1, 4, 64)
        }
        tables.append(measured("shard size", sizes, rounds))
        tables.append(measured("codec pipeline, 16 tracks per shard, one thread", pipelines(root, power), rounds))
    Result("Store", tables).tell(out)


if __name__ == "__main__":
    sys.exit(main())
