"""The work of a worker: compute one shard from audio files, and write it with its receipt."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from blake3 import blake3

from melzarr.pipeline.builder.plan import Shard
from melzarr.pipeline.builder.resume import outdated
from melzarr.pipeline.clusters.overlap import turns
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.features.decibels import add_sums, sum_levels
from melzarr.pipeline.features.decoder_subprocess import featurise_apart
from melzarr.pipeline.features.extract import Stopwatch, featurise, one_thread, padded
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.shard_receipt import Receipt, TrackReceipt, counts
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.digests import digests_of
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.versions import differing, versions
from melzarr.pipeline.zarr_store.shard import encode_chunk, pack


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """Everything that a worker needs to compute one shard.

    Parameters
    ----------
    spec : FeatureSpec
        Features to compute for each track.
    versions : dict of str to str
        Required versions of the features and libraries.
    root : Directory
        Directory of the audio files.
    target : Directory
        Location of the new store.
    tracks_per_shard : int
        Number of tracks of every shard except the last.
    shard : Shard
        The shard with its tracks.
    key : str
        The shard's key, from the plan.
    track_seconds : float, optional
        Time limit of a track, after which the process ends itself; None if it must not end.
    plan_id : str
        Id of the written plan, empty if there is none; see `Workspace.require_plan`.
    """

    spec: FeatureSpec
    versions: dict[str, str]
    root: Directory
    target: Directory
    tracks_per_shard: int
    shard: Shard
    key: str
    track_seconds: float | None = None
    plan_id: str = ""


Featurise = Callable[[Path, FeatureSpec, "Stopwatch", float], tuple[npt.NDArray[Any], TrackReceipt]]


def make_shard(job: ShardJob) -> Receipt:
    """Compute and write one shard, or keep the shard of an earlier run if it is still valid.

    Parameters
    ----------
    job : ShardJob
        The shard to compute.

    Returns
    -------
    Receipt
        Receipt of the shard.

    Raises
    ------
    BuildError
        If the versions of this worker are not those of the plan.
    """

    def limited(path: Path, spec: FeatureSpec, watch: Stopwatch, end: float) -> tuple[npt.NDArray[Any], TrackReceipt]:
        with _time_limit(job.track_seconds):
            return featurise(path, spec, watch, end)

    return _make(job, limited)


def make_shard_apart(job: ShardJob) -> Receipt:
    """Compute one shard with each track in a subprocess, after a track has ended the workers of the shard."""

    def apart(path: Path, spec: FeatureSpec, watch: Stopwatch, end: float) -> tuple[npt.NDArray[Any], TrackReceipt]:
        with watch.step("decode"):
            return featurise_apart(path, spec, end)

    return _make(job, apart)


def _make(job: ShardJob, featurise: Featurise) -> Receipt:
    _require_versions(job.versions)
    workspace = open_workspace(job.target, job.plan_id)
    workspace.require_plan()
    earlier = workspace.read_receipt(job.shard.index)
    if earlier is None:
        return _make_new(job, featurise, workspace)
    reason = outdated(earlier, job, workspace)
    if not reason:
        return replace(earlier, reused=True)
    workspace.drop(earlier)
    return replace(_make_new(job, featurise, workspace), outdated=reason)


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """End this process if a block takes longer, because a codec that hangs cannot be interrupted."""
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


def _require_versions(expected: dict[str, str]) -> None:
    here = versions()
    if names := differing(here, expected):
        listed = "; ".join(f"{name} {here.get(name)} here, {expected.get(name)} in the plan" for name in names)
        raise BuildError(
            f"a worker runs different versions from the client ({listed}); install the same versions on both"
        )


def _make_new(job: ShardJob, featurise: Featurise, workspace: Workspace) -> Receipt:
    """Compute and write a shard; while it is written, the worker computes another."""
    watch = Stopwatch()
    with closing(job.root.local_files(track.source for track in job.shard.tracks)) as paths:
        with watch.step("fetch"):
            first = next(paths)
        in_memory, computing = turns()
        with in_memory:
            with computing, one_thread():
                parts, receipt = _compute(job, featurise, itertools.chain([first], paths), watch)
            with watch.step("write", time.thread_time):  # without waiting, in which the worker computes another
                workspace.require_plan()  # checked again, because the shard took some time
                workspace.write(parts, receipt)
    return replace(receipt, seconds=watch.seconds)


def _compute(
    job: ShardJob, featurise: Featurise, paths: Iterator[Path], watch: Stopwatch
) -> tuple[list[bytes], Receipt]:
    spec = job.spec
    entries, sums, chunks = [], [], []
    for track in job.shard.tracks:
        with watch.step("fetch"):
            path = next(paths)
        windows, entry = featurise(path, track.spec(spec), watch, track.end_seconds)
        entries.append(entry)
        if counts(track.split, entry.status):
            with watch.step("mel"):
                sums.append(sum_levels(windows, spec))
        with watch.step("write"):
            chunks.append(encode_chunk(padded(windows, spec)))
    parts = pack(chunks, job.tracks_per_shard)
    with watch.step("write"):
        digest = digests_of(parts, blake3)["blake3"]
    return parts, Receipt(
        index=job.shard.index,
        key=job.key,
        blake3=digest,
        n_bytes=sum(map(len, parts)),
        tracks=tuple(entries),
        sums=add_sums(sums, spec.n_mels),
    )
