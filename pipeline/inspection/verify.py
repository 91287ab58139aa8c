"""Verify a store: every checksum, every status against its data, and a sample recomputed with librosa."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from melzarr.pipeline.builder.feedback import SILENT, Advance, Feedback
from melzarr.pipeline.errors import StorageError, StoreError
from melzarr.pipeline.features.decibels import quick_levels
from melzarr.pipeline.inspection.consistency import contradictions
from melzarr.pipeline.inspection.librosa_reference import MAX_DB, MAX_RELATIVE, distances, librosa_windows
from melzarr.pipeline.shard_receipt import STATUSES, counts
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory, source_digest
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.zarr_store.companion_files import CHECKSUMS, differences
from melzarr.pipeline.zarr_store.reader import Store, access_to
from melzarr.pipeline.zarr_store.shard import shard_name

STATISTICS_DB = 1e-3  # tolerance of mean and deviation, which are summed in another order here
ROOM = 1 << 29  # bytes that the shards which are read at the same time may take together; one shard is always allowed


@dataclass(slots=True)
class Verdict:
    """Result of a verification.

    Parameters
    ----------
    problems : list of str
        One sentence per problem, with the name of the track or file; empty if the store is intact.
    n_tracks, n_sampled, n_sources : int
        Number of tracks read back, recomputed with librosa, and compared with the digests of their files.
    n_files : int
        Number of files compared with the checksum list of a shared store.
    max_relative : float
        Largest difference of power from librosa's, relative to the window's largest value; NaN if nothing was
        recomputed.
    max_db : float, in dB
        Largest difference of levels from librosa's, over the loud values of windows; NaN if nothing was recomputed.
    """

    problems: list[str] = field(default_factory=list)
    n_tracks: int = 0
    n_sampled: int = 0
    n_sources: int = 0
    n_files: int = 0
    max_relative: float = float("nan")
    max_db: float = float("nan")


def verify(
    store: Store,
    root: str | Path | Directory | None = None,
    *,
    n_samples: int = 0,
    seed: int = 0,
    feedback: Feedback = SILENT,
) -> Verdict:
    """Check that a store is intact and consistent, and optionally that it fits its audio files.

    Parameters
    ----------
    store : Store
        The store.
    root : str, Path or Directory, optional
        Directory of its audio files. If given, their digests are compared too.
    n_samples : int
        Number of tracks to recompute with librosa, drawn at random; needs `root`.
    seed : int
        Seed of the draw.
    feedback : Feedback
        What the caller is told.

    Raises
    ------
    StorageError
        If the store may not be read, or its server does not answer.
    BuildError
        If another store replaced it in the meantime, so that the problems found are meaningless.
    """
    with access_to(store.directory), feedback.counting(store.n_tracks, "verify") as progress:
        verdict = _verify(store, root, n_samples, seed, progress)
    if verdict.problems:
        store.refuse_replaced()
    return verdict


def _verify(store: Store, root: str | Path | Directory | None, n_samples: int, seed: int, progress: Advance) -> Verdict:
    verdict, of_sources = Verdict(), Verdict()
    beside, sample = ThreadPoolExecutor(1), list[Future[_Distance]]()
    try:
        facts = {name: store.values(name) for name in ("track", "status", "error", "n_windows", "split", "source")}
        facts |= {name: store.values(name) for name in ("source_blake3", "start", "end")}
        if root is not None:
            audio = open_directory(root)
            drawn = _drawn(_check_sources(audio, facts, of_sources), n_samples, seed)
            sample = [beside.submit(_distance, store, audio, facts, number) for number in drawn]
        levels, digests, checksums = _check_shards(store, facts, verdict, progress)
        if store.content_uuid(digests) != store.attributes["uuid"]:
            verdict.problems.append("the store's UUID does not match its files: a file was changed, added or removed")
        differing, verdict.n_files = differences(store.directory, checksums)
        verdict.problems += [*differing, *contradictions(store)]
        _check_statistics(store, levels, verdict)
        verdict.problems += of_sources.problems
        verdict.n_sources = of_sources.n_sources
        _judge(sample, store.spec, verdict)
    except (StorageError, PermissionError):  # an error of the server or of permissions, not of the store
        raise
    except (OSError, ValueError, KeyError, TypeError, StoreError) as error:
        verdict.problems.append(f"the store's metadata or coordinates cannot be read: {error}")
    finally:
        beside.shutdown(cancel_futures=True)
    return verdict


@dataclass(slots=True)
class _Shard:
    """What was found in a shard: problems, levels of each training track, and its digests; empty if it is missing."""

    problems: list[str] = field(default_factory=list)
    n_tracks: int = 0
    levels: list[_Levels] = field(default_factory=list)
    digest: str = ""
    checksum: str = ""


def _check_shards(
    store: Store, facts: dict[str, npt.NDArray[Any]], verdict: Verdict, progress: Advance
) -> tuple[_Levels, dict[str, str], dict[str, str]]:
    """Check all shards in threads, each track and then the bytes.

    Returns
    -------
    levels : _Levels
        Levels of the training tracks.
    digests : dict of str to str
        Digest of each shard, by name.
    checksums : dict of str to str
        SHA-256 of each shard, if the store has a list of checksums.
    """
    digests, checksums, levels = dict[str, str](), dict[str, str](), _Levels.zero(store.spec.n_mels)
    metadata, is_shared = store.directory.read("mel/zarr.json"), store.directory.size(CHECKSUMS) is not None
    expected, step, n_tracks = store.values("receipts/blake3"), store.tracks_per_shard, store.n_tracks
    members = [range(start, min(start + step, n_tracks)) for start in range(0, n_tracks, step)]

    def check(index: int) -> _Shard:
        found, name = _Shard(), shard_name(index)
        try:
            shard = store.directory.read(name)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return found
        mel = _mel_of(metadata, name, shard)
        for number in members[index]:
            _check_track(store, mel, facts, number, found)
        digest = store.algorithm()
        digest.update(shard)
        found.digest = digest.hexdigest()
        if is_shared:
            found.checksum = hashlib.sha256(shard).hexdigest()
        return found

    largest = int(store.values("receipts/n_bytes").max(initial=1))
    n_threads = max(1, min(max(store.directory.io_threads, os.cpu_count() or 1), ROOM // largest))
    for index, found in enumerate(in_order(check, range(len(expected)), n_threads)):
        name, names = shard_name(index), ", ".join(facts["track"][members[index].start : members[index].stop])
        progress(len(members[index]))
        if not found.digest:
            verdict.problems.append(f"the shard {name} is missing, with the tracks {names}")
            continue
        verdict.problems += found.problems
        verdict.n_tracks += len(members[index])
        for part in found.levels:
            levels.add(part)
        digests[name] = found.digest
        if is_shared:
            checksums[name] = found.checksum
        if found.n_tracks == len(members[index]) and found.digest != expected[index]:
            verdict.problems.append(f"the shard {name} is not the one that was written, with the tracks {names}")
    return levels, digests, checksums


def _mel_of(metadata: bytes, name: str, shard: bytes) -> zarr.Array[Any]:
    """Return the array `mel` with one of its shards, to decode it with zarr itself, not with the code that wrote it."""
    as_buffer = default_buffer_prototype().buffer.from_bytes
    store = MemoryStore({"mel/zarr.json": as_buffer(metadata), name: as_buffer(shard)}, read_only=True)
    return zarr.open_array(store, path="mel", mode="r", zarr_format=3)


def _check_track(
    store: Store, stored: zarr.Array[Any], facts: dict[str, npt.NDArray[Any]], number: int, found: _Shard
) -> None:
    """Check one track, and take its levels for the statistics."""
    name, status = facts["track"][number], facts["status"][number]
    try:
        mel = np.asarray(stored[number])
    except Exception as error:  # noqa: BLE001  (any error of a codec on damaged bytes is a problem of this track)
        found.problems.append(f"{name}: its chunk cannot be decoded ({type(error).__name__}: {error})")
        return
    found.n_tracks += 1
    n_valid = int(facts["n_windows"][number])
    if problem := status_problem(mel, status, n_valid, facts["error"][number]):
        found.problems.append(f"{name}: {problem}")
    if counts(facts["split"][number], status):
        found.levels.append(_Levels.of(mel[:n_valid], store.spec))


def status_problem(mel: npt.NDArray[Any], status: str, n_valid: int, error: str) -> str:
    """Return how a track's status contradicts its data; an empty string if it does not.

    Parameters
    ----------
    mel : np.ndarray [shape=(n_windows, n_frames, n_mels)]
        Stored windows of the track.
    status, error : str
        Stored status and error of the track.
    n_valid : int
        Stored number of valid windows.
    """
    n_windows = len(mel)
    faults = (
        (status not in STATUSES, f"its status {status!r} is unknown"),
        (not 0 <= n_valid <= n_windows, f"it cannot have {n_valid} valid windows of {n_windows}"),
        (not np.isfinite(mel[:n_valid]).all(), f"one of its {n_valid} valid windows is not finite"),
        (not np.isnan(mel[n_valid:]).all(), f"a window beyond its {n_valid} valid ones is not NaN"),
        (status == "ok" and n_valid < n_windows, f"it is ok, but only {n_valid} of {n_windows} windows are valid"),
        (status == "short" and n_valid == n_windows, "it is short, but all windows are valid"),
        (status == "failed" and n_valid > 0, f"it failed, but has {n_valid} valid windows"),
        ((status == "ok") != (error == ""), f"its status is {status}, its error {error!r}"),
    )
    return next((sentence for is_fault, sentence in faults if is_fault), "")


@dataclass(slots=True)
class _Levels:
    """Count, mean and squared deviation of levels, in dB, of each band (Chan et al. 1979, parallel update)."""

    count: int
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]

    @classmethod
    def zero(cls, n_mels: int) -> _Levels:
        return cls(0, np.zeros(n_mels), np.zeros(n_mels))

    @classmethod
    def of(cls, mel: npt.NDArray[Any], spec: FeatureSpec) -> _Levels:
        """Return the levels of valid windows."""
        levels = quick_levels(mel, spec).reshape(-1, spec.n_mels)
        if not len(levels):
            return cls.zero(spec.n_mels)
        mean = levels.mean(0)
        levels -= mean
        return cls(len(levels), mean, np.square(levels, out=levels).sum(0))

    def add(self, other: _Levels) -> None:
        if not other.count:
            return
        total, shift = self.count + other.count, other.mean - self.mean
        self.deviation += other.deviation + shift**2 * self.count * other.count / total
        self.mean += shift * other.count / total
        self.count = total


def _check_statistics(store: Store, levels: _Levels, verdict: Verdict) -> None:
    if verdict.problems:
        return  # they come from damaged data
    if not levels.count:
        expected = {"mean_db": np.full(store.spec.n_mels, np.nan), "std_db": np.full(store.spec.n_mels, np.nan)}
    else:
        expected = {"mean_db": levels.mean, "std_db": np.sqrt(levels.deviation / levels.count)}
    for name, values in expected.items():
        if not np.allclose(store.values(name), values, rtol=0, atol=STATISTICS_DB, equal_nan=True):
            verdict.problems.append(f"{name} does not match the windows of the ok tracks of the train split")


def _check_sources(root: Directory, facts: dict[str, npt.NDArray[Any]], verdict: Verdict) -> list[int]:
    """Compare the files' digests; return the numbers of tracks with an unchanged file and valid windows."""
    unchanged = []
    n_threads = max(root.io_threads, os.cpu_count() or 1)  # hashing releases the interpreter lock
    files = zip(facts["source"], facts["source_blake3"], strict=True)
    for number, found in enumerate(in_order(lambda file: source_digest(root, *file), files, n_threads)):
        name, source = facts["track"][number], facts["source"][number]
        verdict.n_sources += bool(found)
        if found == facts["source_blake3"][number]:
            unchanged += [number] if found and facts["n_windows"][number] else []
        elif found:
            verdict.problems.append(f"{name}: its file {source} is not the one that the store was made from")
        else:
            verdict.problems.append(f"{name}: its file {source} is missing below {root}, or cannot be read")
    return unchanged


def _drawn(numbers: list[int], n_samples: int, seed: int) -> list[int]:
    """Draw up to `n_samples` tracks at random; return their numbers in order."""
    drawn = np.random.default_rng(seed).permutation(numbers)[:n_samples]
    return sorted(drawn.astype(int).tolist())


@dataclass(frozen=True, slots=True)
class _Distance:
    """How far a track is from librosa, as `distances` gives it, or why it cannot be computed again."""

    name: str
    relative: float = 0.0
    decibel: float = 0.0
    error: str = ""


def _distance(store: Store, root: Directory, facts: dict[str, npt.NDArray[Any]], number: int) -> _Distance:
    """Recompute a track with librosa, and compare it with the store."""
    name, n_valid = facts["track"][number], facts["n_windows"][number]
    try:
        here = np.asarray(store.mel[number], np.float64)[:n_valid]
        with root.local(facts["source"][number]) as path:
            there = librosa_windows(path, store.spec, n_valid, facts["start"][number], facts["end"][number])
        return _Distance(name, *distances(here, there, store.spec))
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001  (any error of librosa or a codec is a problem of this track)
        return _Distance(name, error=f"{type(error).__name__}: {error}")


def _judge(sample: list[Future[_Distance]], spec: FeatureSpec, verdict: Verdict) -> None:
    """Compare the distances of a sample with what is allowed."""
    found = [future.result() for future in sample]
    for track in found:
        if track.error:
            verdict.problems.append(f"{track.name}: it cannot be computed again ({track.error})")
        elif track.relative > MAX_RELATIVE or track.decibel > MAX_DB[spec.dtype]:
            verdict.problems.append(
                f"{track.name}: {track.relative:.1e} relative and {track.decibel:.1e} dB from librosa"
            )
    if computed := [track for track in found if not track.error]:
        verdict.n_sampled = len(computed)
        verdict.max_relative = max(track.relative for track in computed)
        verdict.max_db = max(track.decibel for track in computed)
