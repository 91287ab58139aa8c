"""Compute the mel windows of one audio file, with a status and facts about the file."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio import SILENCE_PEAK, Audio, read_audio
from melzarr.pipeline.features.decibels import as_stored
from melzarr.pipeline.features.mel import mel_windows
from melzarr.pipeline.shard_receipt import TrackReceipt
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import source_digest
from melzarr.pipeline.storage.local import LocalDirectory

SOME = 1 << 16  # samples; few tracks are silent so long and not to their end


@dataclass(slots=True)
class Stopwatch:
    """Measure the seconds spent in each step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
        """Add the duration of a block to a step, by a clock in seconds."""
        start = clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + clock() - start


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the thread pools of this process to one thread: a worker has one core, and sums need a fixed order."""
    with threadpoolctl.threadpool_limits(1):
        yield


def featurise(
    path: Path, spec: FeatureSpec, watch: Stopwatch | None = None, end: float = math.nan
) -> tuple[npt.NDArray[Any], TrackReceipt]:
    """Compute the windows of one file, as the store holds them.

    Parameters
    ----------
    path : Path
        The audio file.
    spec : FeatureSpec
        Features to compute.
    watch : Stopwatch, optional
        Receives the time of the steps "decode" and "mel".
    end : float, in s
        Where the track ends in the file, at the latest; NaN if only the file's end limits it.

    Returns
    -------
    windows : np.ndarray [shape=(n_valid_windows, n_frames, n_mels), dtype=spec.dtype]
        The valid windows, in the spec's scale; none if the file cannot be used.
    receipt : TrackReceipt
        Status of the track, its error and facts about the file.
    """
    watch = watch or Stopwatch()
    nothing = np.empty((0, *spec.shape[1:]), spec.dtype)
    with watch.step("decode"):
        before = _identity(path)
        digest = _digest(path, before)
        try:
            audio = read_audio(path, spec.sample_rate, spec.n_samples, spec.start, end)
        except AudioError as error:
            return nothing, failed(str(error), digest, spec, end)
        if _identity(path) != before:
            remark = "the file changed while it was read; run again when nothing writes to it"
            return nothing, failed(remark, "", spec, end)
    facts = replace(
        failed("", digest, spec, end),
        start=audio.start,
        source_rate=float(audio.header.sample_rate),
        source_channels=float(audio.header.channels),
        duration=audio.header.duration,
        peak=audio.peak,
        clipped=audio.clipped,
        decoder=audio.header.decoder,
    )
    with watch.step("mel"):
        windows = mel_windows(audio.samples, replace(spec, start=0.0))  # whose tables all excerpts share
        if not np.isfinite(np.max(windows, initial=0)):  # mel values are positive, infinite or NaN
            peak = _peak(audio.samples)
            remark = f"samples as large as {peak:.3g} overflow {spec.dtype}; scale the audio into -1 to 1"
            return nothing, replace(facts, error=remark)
        stored = as_stored(windows, spec)
    status, remark = _judge(audio, len(windows), spec, end)
    return stored, replace(facts, status=status, error=remark, n_windows=len(windows))


def failed(error: str, digest: str, spec: FeatureSpec, end: float) -> TrackReceipt:
    """Return the receipt of a track that cannot be decoded; its start is NaN if that depends on the file."""
    start = math.nan if isinstance(spec.start, str) else spec.start
    return TrackReceipt(status="failed", error=error, source_blake3=digest, start=start, end=end)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return values that change when a file is written to or replaced."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@functools.lru_cache(maxsize=1)
def _digest(path: Path, identity: tuple[int, int, int] | None) -> str:  # noqa: ARG001  (part of the key)
    """Return the digest of a file, which is read once for all excerpts of it that follow one another."""
    return source_digest(LocalDirectory(path.parent), path.name)


def _judge(audio: Audio, n_valid: int, spec: FeatureSpec, end: float) -> tuple[str, str]:
    """Return the status of decoded audio, and a sentence if it is not ok."""
    header, start, seconds = audio.header, audio.start, audio.samples.size / spec.sample_rate
    if audio.samples.size and _peak(audio.samples[:SOME]) < SILENCE_PEAK > (peak := _peak(audio.samples)):
        level = f"{20 * np.log10(peak):.0f} dBFS" if peak else "digital silence"
        which = f"{seconds:.2f} s from {start:.2f} s on" if start else f"the first {seconds:.2f} s"
        return "silent", f"{which} are silent (peak {level})"
    if n_valid == spec.n_windows:
        return "ok", ""
    is_cut = end <= header.duration or (not math.isnan(end) and math.isnan(header.duration))
    if is_cut:
        sentence = f"{end - start:.2f} s from {start:.2f} s to its end at {end:.2f} s,"
    elif start >= header.duration > 0:
        sentence = f"it starts at {start:.2f} s, but its file has {header.duration:.2f} s; none"
    elif start:
        sentence = f"{header.duration - start:.2f} s from {start:.2f} s on, to the end of its file,"
    else:
        sentence = f"{header.duration:.2f} s"
    sentence += f" of the {spec.seconds:.2f} s that the spec takes: "
    if not n_valid:
        sentence += f"shorter than one window of {spec.window / spec.sample_rate:.3f} s"
    else:
        sentence += f"windows from {n_valid} on are missing"
    if is_cut:
        return "short", sentence
    if audio.fault:
        sentence += f"; {audio.fault}"
    elif header.promised > header.duration:
        sentence += f"; its header promises {header.promised:.2f} s, so the file was cut off: copy or download it again"
    return "short", sentence


def _peak(samples: npt.NDArray[np.float32]) -> float:
    """Return the largest magnitude of samples."""
    return float(max(np.max(samples), -np.min(samples)))


def padded(windows: npt.NDArray[Any], spec: FeatureSpec) -> npt.NDArray[Any]:
    """Return a whole track: its valid windows followed by NaN, [shape=spec.shape]."""
    if len(windows) == spec.n_windows:
        return windows
    track = np.full(spec.shape, np.nan, spec.dtype)
    track[: len(windows)] = windows
    return track
