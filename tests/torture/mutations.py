"""Mutate audio files of every format, and see that each becomes a status and a sentence, in bounded time and memory.

    PYTHONPATH=tests/stores python tests/torture/mutations.py --files 10000 --seed 0

A process of its own takes one file after the other as a worker does; where it crashes or hangs, that is counted for the
file, and another process goes on with the next. What is mutated are synthesised tracks, and real ones where a folder of
them is given.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
import soundfile
from encode import CODECS, encode

from melzarr.pipeline.features.extract import featurise, one_thread
from melzarr.pipeline.shard_receipt import STATUSES
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.audio_names import EXTENSIONS
from melzarr.pipeline.spec import FeatureSpec

SPEC = FeatureSpec(n_windows=60)
FORMATS = {
    "wav": "PCM_16",
    "au": "PCM_16",
    "aiff": "PCM_16",
    "flac": "PCM_24",
    "ogg": "VORBIS",
    "opus": "OPUS",
    "mp3": "MPEG_LAYER_III",
}
EDGES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80",
         b"\1\0\0\0", b"\0\0\0\1", b"\0\x01\0\0", b"\xff\0\xff\0")  # fmt: skip
HEAD = 256  # bytes in which headers lie
SECONDS = 20.0  # that a file may take; it is 3 s long
MEGABYTES = 700  # that the process may take


@dataclass(slots=True)
class Verdict:
    """What became of one file."""

    number: int
    name: str
    status: str
    error: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def fault(self) -> str:
        """What must not be, or nothing."""
        if self.status not in STATUSES:
            return self.status
        if self.status == "failed" and len(self.error.split()) < 4:
            return f"no sentence: {self.error!r}"
        if self.seconds > SECONDS:
            return f"{self.seconds:.0f} s"
        return f"{self.megabytes:.0f} MB" if self.megabytes > MEGABYTES else ""


def originals(folder: Path, music: Path | None) -> list[Path]:
    """Tracks of 3 s in every format, one and two channels, and real ones."""
    folder.mkdir()
    made = []
    for number, (extension, subtype) in enumerate(FORMATS.items()):
        rate = 48000 if extension == "opus" else 44100
        mono = demo_music.synthesise("chords", number, seed=0, sample_rate=rate, seconds=3.0)
        for channels in (1, 2):
            path = folder / f"{channels}.{extension}"
            container = {"format": "OGG"} if extension == "opus" else {}
            soundfile.write(path, np.repeat(mono[:, None], channels, axis=1), rate, subtype=subtype, **container)
            made.append(path)
    for name, (codec, form) in CODECS.items():
        rate = {"libopus": 48000, "g726": 8000}.get(codec, 44100)
        mono = demo_music.synthesise("chords", 0, seed=0, sample_rate=rate, seconds=3.0)
        made.append(encode(folder / name, mono.astype(np.float32)[:, None], rate, codec, form))
    real = sorted(path for path in music.rglob("*") if path.suffix.lower() in EXTENSIONS) if music else []
    return [*made, *(path for path in real if path.stat().st_size < 4 << 20)]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if len(damaged) < 16:
            break
        head = rng.random() < 0.6
        place = rng.randrange(min(HEAD, len(damaged)) if head else len(damaged))
        way = rng.randrange(6)
        if way == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            edge = rng.choice(EDGES)
            damaged[place : place + len(edge)] = edge
        elif way == 2:
            length = rng.choice((1, 2, 4, 64, 1024))
            damaged[place : place + length] = rng.randbytes(length)
        elif way == 3:
            del damaged[rng.randrange(len(damaged)) :]
        elif way == 4:
            length = rng.choice((1, 3, 16, 4096))
            damaged[place:place] = damaged[:length] if rng.random() < 0.5 else rng.randbytes(length)
        else:
            del damaged[place : place + rng.choice((1, 2, 7, 512))]
    return bytes(damaged)


def serve(connection: Connection, sources: list[Path], folder: Path, seed: int) -> None:
    """Take numbers of files, and tell what became of each."""
    with one_thread():
        while (number := connection.recv()) is not None:
            rng = random.Random(f"{seed}/{number}")
            source = rng.choice(sources)
            path = folder / f"mutated{source.suffix}"
            path.write_bytes(mutated(source.read_bytes(), rng))
            start = time.perf_counter()
            windows, receipt = featurise(path, SPEC)
            seconds = time.perf_counter() - start
            status = receipt.status if np.isfinite(windows).all() else "windows that are no numbers"
            connection.send((status, receipt.error, seconds, peak_megabytes()))


def peak_megabytes() -> float:
    """Peak of this process's resident memory; Linux counts that of its parent too, but for the figure in /proc."""
    try:
        return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[0]) / 1e3
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def verdicts(n_files: int, seed: int, sources: list[Path], folder: Path) -> Iterator[Verdict]:
    """Go through all files; a process that dies or hangs is replaced."""
    context, process, ours = multiprocessing.get_context("spawn"), None, None
    for number in range(n_files):
        if process is None or ours is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, sources, folder, seed), daemon=True)
            process.start()
            theirs.close()
        name = random.Random(f"{seed}/{number}").choice(sources).name
        ours.send(number)
        try:
            told = ours.recv() if ours.poll(SECONDS + 10) else ("it hung",)
        except EOFError:
            process.join()
            told = (f"it crashed: exit code {process.exitcode}",)
        if len(told) == 1:
            process.kill()
            process.join()
            process = None
        yield Verdict(number, name, *told)
    if process is not None and ours is not None:
        ours.send(None)
        process.join()


def tell(found: list[Verdict]) -> str:
    """Count what became of the files of each format, as Markdown."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in found:
        rows[Path(verdict.name).suffix][verdict.status if verdict.status in STATUSES else "other"] += 1
    names = [*STATUSES, "other"]
    lines = [f"| format | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines += [f"| {kind} | {' | '.join(str(count[name]) for name in names)} |" for kind, count in sorted(rows.items())]
    faults = [f"file {verdict.number}, {verdict.name}: {verdict.fault}" for verdict in found if verdict.fault]
    slowest, largest = max(verdict.seconds for verdict in found), max(verdict.megabytes for verdict in found)
    summary = f"{len(found)} files; the slowest took {slowest:.2f} s, the process {largest:.0f} MB at most; "
    return "\n".join([*lines, "", summary + f"{len(faults)} with a fault", *faults])


@click.command()
@click.option("--files", "n_files", type=int, default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--music", type=click.Path(path_type=Path), help="Real files that are mutated too.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write every verdict as JSON.")
def main(n_files: int, seed: int, music: Path | None, out: Path | None) -> None:
    """Mutate audio files, and see what becomes of them."""
    with tempfile.TemporaryDirectory() as name:
        sources = originals(Path(name) / "originals", music)
        found = list(verdicts(n_files, seed, sources, Path(name)))
    print(tell(found))
    if out:
        out.write_text(json.dumps([asdict(verdict) for verdict in found], indent=1) + "\n", encoding="utf-8")
    sys.exit(any(verdict.fault for verdict in found))


if __name__ == "__main__":
    main()
