"""One shard, from audio files to a written chunk and its receipt: what a worker does."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from pipeline.apart import featurise_apart
from pipeline.audio import SILENCE_PEAK, Audio, read_audio
from pipeline.chunk import encode_chunk, pack
from pipeline.errors import AudioError, BuildError
from pipeline.files import source_sha256
from pipeline.mel import as_stored, mel_windows, quick_levels
from pipeline.plan import Shard
from pipeline.receipt import BandSums, Receipt, TrackReceipt, counts
from pipeline.spec import FeatureSpec
from pipeline.tree import Tree
from pipeline.tree import source_sha256 as digest_below
from pipeline.versions import versions
from pipeline.workspaces import open_workspace

BLOCK_WINDOWS = 128  # windows whose levels are summed at a time, so that they stay in a core's cache


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """All that a worker needs to make one shard.

    Parameters
    ----------
    spec : FeatureSpec
        What each track becomes.
    versions : dict of str to str
        What must compute it.
    root : Tree
        Below which the audio files lie.
    target : Tree
        Where the store will be.
    tracks_per_shard : int
        Tracks of every shard but the last.
    shard : Shard
        The tracks.
    key : str
        The shard's key, from the plan.
    track_seconds : float, optional
        Time that a track may take, where the process may be ended that takes longer.
    plan_id : str
        Which plan it is part of, where a plan was written down; see `Workspace.require_plan`.
    """

    spec: FeatureSpec
    versions: dict[str, str]
    root: Tree
    target: Tree
    tracks_per_shard: int
    shard: Shard
    key: str
    track_seconds: float | None = None
    plan_id: str = ""


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of a block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


Featurise = Callable[[Path, FeatureSpec, "Stopwatch"], tuple[npt.NDArray[Any], TrackReceipt]]


def make_shard(job: ShardJob) -> Receipt:
    """Make one whole shard, or keep the one that an earlier run left if it is still right.

    Parameters
    ----------
    job : ShardJob
        What to make.

    Returns
    -------
    Receipt
        What became of it.

    Raises
    ------
    BuildError
        Where this worker's versions are not those of the plan.
    """

    def limited(path: Path, spec: FeatureSpec, watch: Stopwatch) -> tuple[npt.NDArray[Any], TrackReceipt]:
        with _time_limit(job.track_seconds):
            return featurise(path, spec, watch)

    return _make(job, limited)


def make_shard_apart(job: ShardJob) -> Receipt:
    """Make the same shard, each of its tracks in a process of its own, after its workers have died of one of them."""

    def apart(path: Path, spec: FeatureSpec, watch: Stopwatch) -> tuple[npt.NDArray[Any], TrackReceipt]:
        with watch.step("decode"):
            return featurise_apart(path, spec)

    return _make(job, apart)


def _make(job: ShardJob, featurise: Featurise) -> Receipt:
    _require_versions(job.versions)
    with one_thread():
        workspace = open_workspace(job.target, job.plan_id)
        workspace.require_plan()
        earlier = workspace.read_receipt(job.shard.index)
        if earlier is None:
            return _compute(job, featurise)
        outdated = _outdated(earlier, job)
        if not outdated:
            return replace(earlier, reused=True)
        workspace.drop(earlier)
        return replace(_compute(job, featurise), outdated=outdated)


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """End this process where a block takes longer: what hangs in a codec cannot be interrupted."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep every thread pool of this process to one thread: a worker owns one core, and order must not vary."""
    with threadpoolctl.threadpool_limits(1):
        yield


def _require_versions(expected: dict[str, str]) -> None:
    here = versions()
    if here != expected:
        differing = "; ".join(
            f"{name} {here.get(name)} here, {expected.get(name)} in the plan"
            for name in sorted(here.keys() | expected.keys())
            if here.get(name) != expected.get(name)
        )
        raise BuildError(f"a worker runs other versions than the client ({differing}); install the same on both")


def _outdated(earlier: Receipt, job: ShardJob) -> str:
    """Say why the shard of an earlier run cannot be kept; nothing where all that it depends on was found unchanged."""
    if earlier.key != job.key:
        return "the spec, the versions or the tracks have changed"
    if not open_workspace(job.target).holds(earlier):
        return "its bytes are not those that were written"
    for track, entry in zip(job.shard.tracks, earlier.tracks, strict=True):
        if digest_below(job.root, track.source) != entry.source_sha256:
            return f"{track.source} has changed"
    return ""


def _compute(job: ShardJob, featurise: Featurise) -> Receipt:
    spec, watch = job.spec, Stopwatch()
    entries, sums, chunks = [], [], []
    paths = job.root.local_files(track.source for track in job.shard.tracks)
    for track in job.shard.tracks:
        with watch.step("fetch"):
            path = next(paths)
        windows, entry = featurise(path, spec, watch)
        entries.append(entry)
        if counts(track.split, entry.status):
            with watch.step("mel"):
                sums.append(sum_levels(windows, spec))
        with watch.step("write"):
            chunks.append(encode_chunk(padded(windows, spec)))
    parts, digest = pack(chunks, job.tracks_per_shard), hashlib.sha256()
    with watch.step("write"):
        for part in parts:
            digest.update(part)
    receipt = Receipt(
        index=job.shard.index,
        key=job.key,
        sha256=digest.hexdigest(),
        n_bytes=sum(map(len, parts)),
        tracks=tuple(entries),
        sums=add_sums(sums, spec.n_mels),
    )
    with watch.step("write"):
        workspace = open_workspace(job.target, job.plan_id)
        workspace.require_plan()  # once more, for the shard took its time
        workspace.write(parts, receipt)
    return replace(receipt, seconds=watch.seconds)


def featurise(path: Path, spec: FeatureSpec, watch: Stopwatch | None = None) -> tuple[npt.NDArray[Any], TrackReceipt]:
    """Compute what the store holds of one file.

    Parameters
    ----------
    path : Path
        The audio file.
    spec : FeatureSpec
        What it becomes.
    watch : Stopwatch, optional
        Takes the time of "decode" and "mel".

    Returns
    -------
    windows : np.ndarray [shape=(n_valid_windows, n_frames, n_mels), dtype=spec.dtype]
        The valid windows, in the spec's scale; none where the file cannot be used.
    receipt : TrackReceipt
        What became of the track.
    """
    watch = watch or Stopwatch()
    nothing = np.empty((0, *spec.shape[1:]), spec.dtype)
    with watch.step("decode"):
        before = _identity(path)
        digest = source_sha256(path)
        try:
            audio = read_audio(path, spec.sample_rate, spec.n_samples)
        except AudioError as error:
            return nothing, TrackReceipt(status="failed", error=str(error), source_sha256=digest)
        if _identity(path) != before:
            remark = "the file changed while it was read; run again when nothing writes to it"
            return nothing, TrackReceipt(status="failed", error=remark)
    facts = TrackReceipt(
        status="failed",
        source_sha256=digest,
        source_rate=float(audio.header.sample_rate),
        source_channels=float(audio.header.channels),
        duration=audio.header.duration,
        peak=audio.peak,
        clipped=audio.clipped,
    )
    with watch.step("mel"):
        windows = mel_windows(audio.samples, spec)
        if not np.isfinite(windows).all():
            peak = _peak(audio)
            remark = f"samples as large as {peak:.3g} overflow {spec.dtype}; scale the audio into -1 to 1"
            return nothing, replace(facts, error=remark)
        stored = as_stored(windows, spec)
    status, remark = _judge(audio, len(windows), spec)
    return stored, replace(facts, status=status, error=remark, n_windows=len(windows))


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written to or replaced."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _judge(audio: Audio, n_valid: int, spec: FeatureSpec) -> tuple[str, str]:
    """Status of decoded audio, and a sentence where it is not ok."""
    header = audio.header
    if audio.samples.size and (peak := _peak(audio)) < SILENCE_PEAK:
        level = f"{20 * np.log10(peak):.0f} dBFS" if peak else "digital silence"
        return "silent", f"the first {audio.samples.size / spec.sample_rate:.2f} s are silent (peak {level})"
    if n_valid == spec.n_windows:
        return "ok", ""
    sentence = f"{header.duration:.2f} s of the {spec.seconds:.2f} s that the spec takes: "
    if not n_valid:
        sentence += f"shorter than one window of {spec.window / spec.sample_rate:.3f} s"
    else:
        sentence += f"windows from {n_valid} on are missing"
    if header.promised > header.duration:
        sentence += f"; its header promises {header.promised:.2f} s, so the file was cut off: copy or download it again"
    return "short", sentence


def _peak(audio: Audio) -> float:
    """Largest magnitude of the samples."""
    return float(max(np.max(audio.samples), -np.min(audio.samples)))


def padded(windows: npt.NDArray[Any], spec: FeatureSpec) -> npt.NDArray[Any]:
    """Whole track: its valid windows, and NaN from there on, [shape=spec.shape]."""
    if len(windows) == spec.n_windows:
        return windows
    track = np.full(spec.shape, np.nan, spec.dtype)
    track[: len(windows)] = windows
    return track


def sum_levels(stored: npt.NDArray[Any], spec: FeatureSpec) -> BandSums:
    """Sum what a store holds of one track, as levels in dB, some windows at a time.

    Parameters
    ----------
    stored : np.ndarray [shape=(n_valid_windows, n_frames, n_mels), dtype=spec.dtype]
        Its valid windows, in the spec's scale.
    spec : FeatureSpec
        Gives the scale.
    """
    level, square = np.zeros(spec.n_mels), np.zeros(spec.n_mels)
    for start in range(0, len(stored), BLOCK_WINDOWS):
        block = stored[start : start + BLOCK_WINDOWS]
        levels = quick_levels(block, spec).reshape(-1, spec.n_mels)
        level += levels.sum(axis=0)
        square += np.square(levels, out=levels).sum(axis=0)
    return BandSums(count=len(stored) * spec.n_frames, level=tuple(level.tolist()), square=tuple(square.tolist()))


def add_sums(sums: list[BandSums], n_mels: int) -> BandSums:
    """Add up the sums of a shard's train tracks, in their order, so that the rounding is always the same."""
    zero = np.zeros(n_mels)
    return BandSums(
        count=sum(part.count for part in sums),
        level=tuple(sum((np.array(part.level) for part in sums), zero).tolist()),
        square=tuple(sum((np.array(part.square) for part in sums), zero).tolist()),
    )
