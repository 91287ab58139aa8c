"""Divide tracks into shards of work, and estimate their cost. Pure functions without I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from melzarr.pipeline.defaults import TRACKS_PER_SHARD
from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.sources.tracks import Track, Tracks
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.shard import MAX_TRACKS_PER_SHARD

SHARD_BYTES = 256 << 20  # a larger shard gets fewer tracks by default, so that a wide spec needs no big worker

WORKER_BASE_BYTES = 400 << 20  # Python with its libraries (160 MB, measured), and memory that the allocator keeps
SOURCE_RATE = 96_000  # Hz; the highest common sample rate, for the memory of a decoded file before resampling


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of work: some consecutive tracks.

    Parameters
    ----------
    index : int
        Index of the shard.
    start : int
        Index of its first track.
    tracks : tuple of Track
        Its tracks.
    """

    index: int
    start: int
    tracks: tuple[Track, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one build.

    Parameters
    ----------
    spec : FeatureSpec
        Features to compute for each track.
    tracks : sequence of Track
        All tracks, sorted by id.
    versions : dict of str to str
        Versions of the features and libraries that will compute them, from `versions`.
    tracks_per_shard : int > 0
        Tracks of every shard but the last, which may have fewer.
    """

    spec: FeatureSpec
    tracks: Sequence[Track]
    versions: dict[str, str]
    tracks_per_shard: int
    _basis: str = field(init=False, repr=False, compare=False)  # common beginning of all keys, as JSON

    def __post_init__(self) -> None:
        """Compute the common beginning of all keys once."""
        object.__setattr__(self, "_basis", as_json([self.spec.to_dict(), self.versions, self.tracks_per_shard]))

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-len(self.tracks) // self.tracks_per_shard)

    def shard(self, index: int) -> Shard:
        """Return a shard by its index."""
        start = index * self.tracks_per_shard
        return Shard(index, start, tuple(self.tracks[start : start + self.tracks_per_shard]))

    def shards(self) -> Iterator[Shard]:
        """Iterate over all shards in order."""
        return (self.shard(index) for index in range(self.n_shards))

    @property
    def shard_bytes(self) -> int:
        """Size of one shard, uncompressed, in bytes."""
        return self.tracks_per_shard * self.spec.track_bytes

    @property
    def worker_bytes(self) -> int:
        """Memory of one worker, in bytes: libraries, a track's samples, a shard in work and one in upload."""
        samples = 4 * round(self.spec.seconds * SOURCE_RATE) + 4 * self.spec.n_samples
        return WORKER_BASE_BYTES + 2 * samples + 4 * self.shard_bytes

    def key(self, shard: Shard) -> str:
        """Return a digest of everything that a shard's bytes and receipt depend on, except the audio itself."""
        tracks = as_json(
            [
                [track.id, track.split == "train", *((track.start, track.end) if track.start or track.end else ())]
                for track in shard.tracks
            ]
        )
        return _sha256(f"{self._basis[:-1]},{tracks}]")


def make_plan(
    spec: FeatureSpec,
    tracks: Sequence[Track],
    versions: dict[str, str],
    tracks_per_shard: int | None = None,
) -> Plan:
    """Divide tracks into shards.

    Parameters
    ----------
    spec : FeatureSpec
        Features to compute for each track.
    tracks : sequence of Track
        All tracks, sorted by id.
    versions : dict of str to str
        Versions of the features and libraries that will compute them, from `versions`.
    tracks_per_shard : int > 0, optional
        By default 16, or fewer if a shard would exceed 256 MiB.

    Raises
    ------
    SpecError
        If `tracks_per_shard` exceeds its maximum, or both the spec and a track say where the track starts.
    """
    if tracks_per_shard and tracks_per_shard > MAX_TRACKS_PER_SHARD:
        raise SpecError(
            f"{tracks_per_shard} tracks per shard are too many; use --tracks-per-shard {MAX_TRACKS_PER_SHARD}"
        )
    if spec.start != 0 and (Tracks.of(tracks).column("start") != "").any():
        raise SpecError(
            f"start={spec.start} is for tracks without a start of their own; leave it out, or the column start of the "
            f"manifest"
        )
    fitting = max(1, min(TRACKS_PER_SHARD, SHARD_BYTES // spec.track_bytes))
    return Plan(spec, tracks, versions, tracks_per_shard or fitting)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated cost of a plan.

    Parameters
    ----------
    store_bytes : int
        Approximate size of the store.
    seconds : float, in s
        Approximate time of the build, without its start.
    worker_bytes : int
        Memory that each worker needs, in bytes.
    n_workers : int
        Number of workers that the estimate assumes.
    """

    store_bytes: int
    seconds: float
    worker_bytes: int
    n_workers: int


def estimate(plan: Plan, seconds_per_track: float, bytes_per_track: float, n_workers: int) -> Estimate:
    """Estimate the size, time and memory of a plan.

    Parameters
    ----------
    plan : Plan
        The plan.
    seconds_per_track : float, in s
        Measured time of one track on one worker.
    bytes_per_track : float
        Measured size of one track, compressed.
    n_workers : int
        Number of workers that share the shards.

    Returns
    -------
    Estimate
    """
    busiest = -(-plan.n_shards // max(1, n_workers)) * plan.tracks_per_shard
    return Estimate(
        store_bytes=round(len(plan.tracks) * bytes_per_track),
        seconds=min(busiest, len(plan.tracks)) * seconds_per_track,
        worker_bytes=plan.worker_bytes,
        n_workers=n_workers,
    )


def digest(value: Any) -> str:
    """Return the SHA-256 of a plain value's canonical JSON, in hexadecimal."""
    return _sha256(as_json(value))


def as_json(value: Any) -> str:
    """Return the canonical JSON of a plain value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
