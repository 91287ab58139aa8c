"""Scan audio before a build: formats, rates, durations, problems, and the cost of a build."""

from __future__ import annotations

import math
import os
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

import numpy as np

from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.builder.plan import Estimate, Plan, estimate
from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio import read_header
from melzarr.pipeline.features.audio_header import Header
from melzarr.pipeline.features.extract import featurise, one_thread, padded
from melzarr.pipeline.features.libsndfile_decoder import stream_header
from melzarr.pipeline.sources.catalog import Catalog, missing_splits
from melzarr.pipeline.sources.tracks import Track
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.zarr_store.shard import encode_chunk

NAMED = 1000  # problems that a scan lists; further ones are only counted
TRIALS = 3  # tracks that are computed to measure the cost of one track


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """Result of a scan.

    Parameters
    ----------
    labels : dict of str to dict of str to int
        For each label, its number of tracks in each split.
    codecs, rates, channels : dict
        Number of tracks by codec, by sample rate in Hz, by number of channels.
    hours : float
        Total duration of the audio, in h.
    durations : tuple of float, in s
        Of the shortest, median and longest file.
    problems : tuple of str
        Sentences about links, labels, paths and splits, and about the first thousand tracks that will be short or
        failed.
    n_problems : int
        Number of all problems.
    left_out : tuple of str
        Files that are not audio, by their extension.
    cost : Estimate or None
        Estimated cost of a build; None if no track is readable.
    """

    labels: dict[str, dict[str, int]]
    codecs: dict[str, int]
    rates: dict[int, int]
    channels: dict[int, int]
    hours: float
    durations: tuple[float, ...]
    problems: tuple[str, ...]
    n_problems: int
    left_out: tuple[str, ...]
    cost: Estimate | None = field(default=None)


def scan(catalog: Catalog, plan: Plan, n_workers: int, feedback: Feedback = SILENT) -> Scan:
    """Read the header of every track, and compute a few tracks to estimate the cost of a build.

    Parameters
    ----------
    catalog : Catalog
        The tracks.
    plan : Plan
        Plan of the build.
    n_workers : int
        Number of workers to assume.
    feedback : Feedback
        What the caller is told.
    """
    codecs, rates, channels = Counter[str](), Counter[int](), Counter[int]()
    readable, lengths = array("q"), array("d")
    problems = [*catalog.findings, *missing_splits(catalog)]
    n_problems = len(problems)
    n_threads = max(catalog.root.io_threads, os.cpu_count() or 1)  # threads mostly wait for the disk or the server
    headers = in_order(lambda track: (track, _header(catalog, track)), catalog.tracks, n_threads)
    with feedback.counting(len(catalog.tracks), "scan") as progress:
        for number, (track, found) in enumerate(headers):
            progress(1)
            problem = ""
            if isinstance(found, Header):
                readable.append(number)
                lengths.append(found.duration)
                codecs[found.codec] += 1
                rates[found.sample_rate] += 1
                channels[found.channels] += 1
                problem = _too_short(found, track, plan.spec)
            else:
                problem = found
            n_problems += bool(problem)
            if problem and len(problems) < NAMED:
                problems.append(f"{track.source}: {problem}")
    seconds = np.sort(np.array(lengths))
    return Scan(
        labels=_labels(catalog),
        codecs=dict(codecs),
        rates=dict(rates),
        channels=dict(channels),
        hours=float(seconds.sum()) / 3600,
        durations=(float(seconds[0]), float(seconds[len(seconds) // 2]), float(seconds[-1])) if seconds.size else (),
        problems=tuple(problems),
        n_problems=n_problems,
        left_out=catalog.left_out,
        cost=_cost(catalog, plan, readable, n_workers),
    )


def _header(catalog: Catalog, track: Track) -> Header | str:
    """Return the header of a track's file, or a sentence why it cannot be read."""
    root, name = catalog.root, track.source
    if not root.folder:  # the start of a file is often enough, and is faster to fetch than the whole
        with suppress(AudioError, OSError), closing(root.open(name)) as stream:
            return stream_header(stream)
    try:
        with root.local(name) as path:
            return read_header(path)
    except AudioError as error:
        return str(error)


def _too_short(header: Header, track: Track, spec: FeatureSpec) -> str:
    """Return a sentence if a track has less than the spec takes, else an empty text."""
    start = track.spec(spec).start
    if isinstance(start, str):
        if math.isnan(header.duration):
            return "it does not say how long it is, so that its middle is not known"
        start = 0.0
    seconds = min(header.duration, track.end_seconds) - start
    if not seconds < spec.seconds:
        return ""
    where = f" from {start:.2f} s on" if start else ""
    return f"{max(0.0, seconds):.2f} s{where}, shorter than the spec's {spec.seconds:.2f} s"


def _labels(catalog: Catalog) -> dict[str, dict[str, int]]:
    labels: dict[str, Counter[str]] = {}
    for track in catalog.tracks:
        labels.setdefault(track.label, Counter())[track.split] += 1
    return {label: dict(labels[label]) for label in sorted(labels)}


def _cost(catalog: Catalog, plan: Plan, readable: Sequence[int], n_workers: int) -> Estimate | None:
    """Estimate the cost from tracks spread over the catalog, after an uncounted warm-up run of the first one."""
    step = max(1, len(readable) // TRIALS)
    trials = [catalog.tracks[number] for number in readable[: step * TRIALS : step]]
    if not trials:
        return None
    with one_thread():
        _chunk_bytes(catalog, trials[0], plan.spec)
        start = time.perf_counter()
        n_bytes = sum(_chunk_bytes(catalog, track, plan.spec) for track in trials)
        seconds = 1.3 * (time.perf_counter() - start)  # statistics and writing add a fifth to a third, measured
    return estimate(plan, seconds / len(trials), n_bytes / len(trials), n_workers)


def _chunk_bytes(catalog: Catalog, track: Track, spec: FeatureSpec) -> int:
    """Compute and encode one track, which takes most of a worker's time; return the size of its chunk."""
    with catalog.root.local(track.source) as path:
        windows, _ = featurise(path, track.spec(spec), end=track.end_seconds)
    return len(encode_chunk(padded(windows, spec)))
