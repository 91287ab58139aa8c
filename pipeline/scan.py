"""A look at the audio before a build: formats, rates, durations, problems, and what a build would cost."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.audio import Header, read_header, stream_header
from pipeline.catalog import Catalog, missing_parts
from pipeline.chunk import encode_chunk
from pipeline.errors import AudioError
from pipeline.plan import Estimate, Plan, estimate
from pipeline.spec import FeatureSpec
from pipeline.tracks import Track
from pipeline.worker import featurise, one_thread, padded

TRIALS = 3  # tracks that are computed to learn what one costs here


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What was found.

    Parameters
    ----------
    labels : dict of str to dict of str to int
        For each label its tracks in each part of the split.
    codecs, rates, channels : Counter
        Tracks by codec, by sample rate in Hz, by number of channels.
    hours : float
        Length of all audio together.
    durations : tuple of float, in s
        Shortest, median and longest file.
    problems : tuple of str
        Sentences about tracks that will be short or failed, and about labels without a part.
    left_out : tuple of str
        Files that are no audio by their extension.
    cost : Estimate or None
        What a build would cost; None where not one track could be computed.
    """

    labels: dict[str, dict[str, int]]
    codecs: Counter[str]
    rates: Counter[int]
    channels: Counter[int]
    hours: float
    durations: tuple[float, ...]
    problems: tuple[str, ...]
    left_out: tuple[str, ...]
    cost: Estimate | None = field(default=None)


def scan(catalog: Catalog, plan: Plan, n_workers: int, progress: Callable[[int], object] = lambda _: None) -> Scan:
    """Read the header of every track and try a few of them.

    Parameters
    ----------
    catalog : Catalog
        The tracks.
    plan : Plan
        What would be computed.
    n_workers : int
        Workers to count on.
    progress : callable
        Called with the number of tracks read since the last call.
    """
    headers: list[tuple[Track, Header]] = []
    problems = missing_parts(catalog)
    with ThreadPoolExecutor(max(catalog.root.readers, os.cpu_count() or 1)) as pool:  # waits for the disk or the server
        for track, found in zip(catalog.tracks, pool.map(lambda t: _header(catalog, t), catalog.tracks), strict=True):
            progress(1)
            if isinstance(found, Header):
                headers.append((track, found))
                if found.duration < plan.spec.seconds:
                    problems.append(
                        f"{track.source}: {found.duration:.2f} s, shorter than the spec's {plan.spec.seconds:.2f} s"
                    )
            else:
                problems.append(f"{track.source}: {found}")
    seconds = sorted(header.duration for _, header in headers)
    return Scan(
        labels=_labels(catalog),
        codecs=Counter(header.codec for _, header in headers),
        rates=Counter(header.sample_rate for _, header in headers),
        channels=Counter(header.channels for _, header in headers),
        hours=sum(seconds) / 3600,
        durations=(seconds[0], seconds[len(seconds) // 2], seconds[-1]) if seconds else (),
        problems=tuple(problems),
        left_out=catalog.left_out,
        cost=_cost(catalog, plan, [track for track, _ in headers], n_workers),
    )


def _header(catalog: Catalog, track: Track) -> Header | str:
    """Header of a track's file, or the sentence that says why there is none."""
    root, name = catalog.root, track.source
    if not root.folder:  # the start of a file often does, and is fetched sooner than all of it
        with suppress(AudioError, OSError), closing(root.open(name)) as stream:
            return stream_header(stream)
    try:
        with root.local(name) as path:
            return read_header(path)
    except AudioError as error:
        return str(error)


def _labels(catalog: Catalog) -> dict[str, dict[str, int]]:
    labels: dict[str, Counter[str]] = {}
    for track in catalog.tracks:
        labels.setdefault(track.label, Counter())[track.split] += 1
    return {label: dict(labels[label]) for label in sorted(labels)}


def _cost(catalog: Catalog, plan: Plan, readable: list[Track], n_workers: int) -> Estimate | None:
    """Estimate from tracks spread over the catalog; the first one warms up and is not counted."""
    step = max(1, len(readable) // TRIALS)
    trials = readable[: step * TRIALS : step]
    if not trials:
        return None
    with one_thread():
        _try(catalog, trials[0], plan.spec)
        start = time.perf_counter()
        for track in trials:
            _try(catalog, track, plan.spec)
    # Statistics and writing take a fifth to a third of the time of the rest, measured.
    return estimate(plan, 1.3 * (time.perf_counter() - start) / len(trials), n_workers)


def _try(catalog: Catalog, track: Track, spec: FeatureSpec) -> None:
    """Do what takes a worker most of its time."""
    with catalog.root.local(track.source) as path:
        windows, _ = featurise(path, spec)
    encode_chunk(padded(windows, spec))


def as_dict(found: Scan) -> dict[str, Any]:
    """Return a scan as plain values, for JSON."""
    cost = found.cost
    return {
        "labels": found.labels,
        "codecs": dict(found.codecs),
        "rates": {str(rate): count for rate, count in found.rates.items()},
        "channels": {str(channels): count for channels, count in found.channels.items()},
        "hours": found.hours,
        "durations": list(found.durations),
        "problems": list(found.problems),
        "left_out": list(found.left_out),
        "cost": None if cost is None else {name: getattr(cost, name) for name in type(cost).__dataclass_fields__},
    }
