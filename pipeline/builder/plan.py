"""Tracks + spec → shards of work, and what they will cost. Pure; no I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.sources.tracks import Track
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.layout import MAX_TRACKS_PER_SHARD

# 16 tracks of the default spec are 24 MB: few enough for a small worker and for fine-grained progress, enough that
# a thousand tracks are 63 files rather than a thousand. The same for every size of dataset and every number of
# workers, because the bytes of a store must not depend on where it was made.
TRACKS_PER_SHARD = 16
SHARD_BYTES = 256 << 20  # above it a shard takes fewer tracks, so that a wide spec needs no big worker

WORKER_BASE_BYTES = 400 << 20  # Python with its libraries (160 MB, measured), and what the allocator keeps
SOURCE_RATE = 96_000  # Hz; the highest that is common, for what a decoded file takes before it is resampled
COMPRESSION = 0.88  # bytes on disk for one in memory, measured on music (blosc lz4 with shuffle)


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of work: some neighbouring tracks.

    Parameters
    ----------
    index : int
        Number of the shard.
    start : int
        Number of its first track.
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
        What each track becomes.
    tracks : sequence of Track
        All tracks, sorted by id.
    versions : dict of str to str
        What will compute them.
    tracks_per_shard : int > 0
        Tracks of every shard but the last, which may have fewer.
    sharded : bool
        False where each track is a file of its own, and a "shard" but another word for it.
    """

    spec: FeatureSpec
    tracks: Sequence[Track]
    versions: dict[str, str]
    tracks_per_shard: int
    sharded: bool = True
    _basis: str = field(init=False, repr=False, compare=False)  # what all keys have in common, as JSON

    def __post_init__(self) -> None:
        """Write out once what every key begins with."""
        layout = self.tracks_per_shard if self.sharded else "unsharded"
        object.__setattr__(self, "_basis", as_json([self.spec.to_dict(), self.versions, layout]))

    @property
    def n_shards(self) -> int:
        """How many shards there are."""
        return -(-len(self.tracks) // self.tracks_per_shard)

    def shard(self, index: int) -> Shard:
        """One shard by its number."""
        start = index * self.tracks_per_shard
        return Shard(index, start, tuple(self.tracks[start : start + self.tracks_per_shard]))

    def shards(self) -> Iterator[Shard]:
        """All shards in order."""
        return (self.shard(index) for index in range(self.n_shards))

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard, uncompressed."""
        return self.tracks_per_shard * self.spec.track_bytes

    @property
    def worker_bytes(self) -> int:
        """Memory that one worker needs: its libraries, a track's samples, and a shard computed, encoded and joined."""
        samples = 4 * round(self.spec.seconds * SOURCE_RATE) + 4 * self.spec.n_samples
        return WORKER_BASE_BYTES + 2 * samples + 4 * self.shard_bytes

    def key(self, shard: Shard) -> str:
        """Digest of all that a shard's bytes and receipt depend on, but for the audio itself."""
        tracks = as_json([[track.id, track.split == "train"] for track in shard.tracks])
        return _sha256(f"{self._basis[:-1]},{tracks}]")


def make_plan(
    spec: FeatureSpec,
    tracks: Sequence[Track],
    versions: dict[str, str],
    tracks_per_shard: int | None = None,
    *,
    sharded: bool = True,
) -> Plan:
    """Divide tracks into shards.

    Parameters
    ----------
    spec : FeatureSpec
        What each track becomes.
    tracks : sequence of Track
        All tracks, sorted by id.
    versions : dict of str to str
        What will compute them.
    tracks_per_shard : int > 0, optional
        By default 16, or fewer where that would be over 256 MiB.
    sharded : bool
        False for each track in a file of its own, whatever `tracks_per_shard` says.

    Raises
    ------
    SpecError
        Where a shard is to have more tracks than it can.
    """
    if tracks_per_shard and tracks_per_shard > MAX_TRACKS_PER_SHARD:
        raise SpecError(
            f"{tracks_per_shard} tracks a shard are too many; use --tracks-per-shard {MAX_TRACKS_PER_SHARD}"
        )
    fitting = max(1, min(TRACKS_PER_SHARD, SHARD_BYTES // spec.track_bytes))
    return Plan(spec, tracks, versions, (tracks_per_shard or fitting) if sharded else 1, sharded)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan will cost.

    Parameters
    ----------
    store_bytes : int
        Size of the store, about.
    seconds : float, in s
        Time of the build beyond its start, about.
    worker_bytes : int
        Memory that each worker needs.
    n_workers : int
        Workers that were counted on.
    """

    store_bytes: int
    seconds: float
    worker_bytes: int
    n_workers: int


def estimate(plan: Plan, seconds_per_track: float, n_workers: int) -> Estimate:
    """Estimate what a plan will cost.

    Parameters
    ----------
    plan : Plan
        The work.
    seconds_per_track : float, in s
        Time of one track on one worker, measured.
    n_workers : int
        Workers that share the shards.
    """
    busiest = -(-plan.n_shards // max(1, n_workers)) * plan.tracks_per_shard
    return Estimate(
        store_bytes=round(len(plan.tracks) * plan.spec.track_bytes * COMPRESSION),
        seconds=min(busiest, len(plan.tracks)) * seconds_per_track,
        worker_bytes=plan.worker_bytes,
        n_workers=n_workers,
    )


def digest(value: Any) -> str:
    """SHA-256 of a plain value's canonical JSON, in hexadecimal."""
    return _sha256(as_json(value))


def as_json(value: Any) -> str:
    """Canonical JSON of a plain value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
