"""Verify a store: every checksum, every status against its data, and a sample recomputed with librosa."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
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
from melzarr.pipeline.inspection.consistency import contradictions
from melzarr.pipeline.inspection.level_sums import LevelSums
from melzarr.pipeline.inspection.librosa_reference import MAX_DB, MAX_RELATIVE, distances, librosa_windows
from melzarr.pipeline.shard_receipt import STATUSES, counts
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory, digest_like
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.threads import in_order, in_order_once
from melzarr.pipeline.zarr_store.companion_files import CHECKSUMS, differences
from melzarr.pipeline.zarr_store.reader import Store, access_to
from melzarr.pipeline.zarr_store.shard import shard_name

STATISTICS_DB = 1e-3  # tolerance of mean and deviation, which are summed in another order here
ROOM = 1 << 29  # bytes that the shards which are read at the same time may take together; one shard is always allowed
BLOCK = 16  # tracks that zarr decodes at a time, which takes half the time of one after the other


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
    """What was found in a shard: problems, levels of its training tracks, and its digests; empty if it is missing."""

    levels: LevelSums
    problems: list[str] = field(default_factory=list)
    n_tracks: int = 0
    digest: str = ""
    checksum: str = ""


def _check_shards(
    store: Store, facts: dict[str, npt.NDArray[Any]], verdict: Verdict, progress: Advance
) -> tuple[LevelSums, dict[str, str], dict[str, str]]:
    """Check all shards in threads, each track and then the bytes.

    Returns
    -------
    levels : LevelSums
        Levels of the training tracks.
    digests : dict of str to str
        Digest of each shard, by name.
    checksums : dict of str to str
        SHA-256 of each shard, if the store has a list of checksums.
    """
    digests, checksums, mean_db = dict[str, str](), dict[str, str](), store.values("mean_db")
    levels = LevelSums(store.spec, mean_db)
    metadata, is_shared = store.directory.read("mel/zarr.json"), store.directory.size(CHECKSUMS) is not None
    expected, step, n_tracks = store.values("receipts/blake3"), store.tracks_per_shard, store.n_tracks
    members = [range(start, min(start + step, n_tracks)) for start in range(0, n_tracks, step)]

    def check(index: int) -> _Shard:
        found, name = _Shard(LevelSums(store.spec, mean_db)), shard_name(index)
        try:
            shard = store.directory.read(name)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return found
        for number, mel in _decoded(_mel_of(metadata, name, shard), members[index]):
            _check_track(mel, facts, number, found)
        digest = store.algorithm()
        digest.update(shard)
        found.digest = digest.hexdigest()
        if is_shared:
            found.checksum = hashlib.sha256(shard).hexdigest()
        return found

    decoded = min(BLOCK, step) * math.prod(store.spec.shape) * np.dtype(store.spec.dtype).itemsize
    largest = int(store.values("receipts/n_bytes").max(initial=1)) + decoded
    n_threads = max(1, min(max(store.directory.io_threads, os.cpu_count() or 1), ROOM // largest))
    for index, found in enumerate(in_order(check, range(len(expected)), n_threads)):
        name, names = shard_name(index), ", ".join(facts["track"][members[index].start : members[index].stop])
        progress(len(members[index]))
        if not found.digest:
            verdict.problems.append(f"the shard {name} is missing, with the tracks {names}")
            continue
        verdict.problems += found.problems
        verdict.n_tracks += len(members[index])
        levels.add(found.levels)
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


def _decoded(mel: zarr.Array[Any], members: range) -> Iterator[tuple[int, npt.NDArray[Any] | Exception]]:
    """Yield the number of each track of a shard, and its windows or why they cannot be decoded."""
    for start in members[::BLOCK]:
        some = range(start, min(start + BLOCK, members.stop))
        windows = _decoded_as_one(mel, slice(some.start, some.stop))
        if isinstance(windows, Exception) or len(windows) != len(some):
            yield from ((number, _decoded_as_one(mel, number)) for number in some)  # which of them is damaged?
        else:
            yield from zip(some, windows, strict=True)


def _decoded_as_one(mel: zarr.Array[Any], which: int | slice) -> npt.NDArray[Any] | Exception:
    try:
        return np.asarray(mel[which])
    except Exception as error:  # noqa: BLE001  (any error of a codec on damaged bytes)
        return error


def _check_track(
    mel: npt.NDArray[Any] | Exception, facts: dict[str, npt.NDArray[Any]], number: int, found: _Shard
) -> None:
    """Check one track, and take its levels for the statistics."""
    name, status = facts["track"][number], facts["status"][number]
    if isinstance(mel, Exception):
        found.problems.append(f"{name}: its chunk cannot be decoded ({type(mel).__name__}: {mel})")
        return
    found.n_tracks += 1
    n_valid = int(facts["n_windows"][number])
    if problem := status_problem(mel, status, n_valid, facts["error"][number]):
        found.problems.append(f"{name}: {problem}")
    if counts(facts["split"][number], status):
        found.levels.add_windows(mel[:n_valid])


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


def _check_statistics(store: Store, levels: LevelSums, verdict: Verdict) -> None:
    if verdict.problems:
        return  # they come from damaged data
    for name, values in zip(("mean_db", "std_db"), levels.statistics(), strict=True):
        if not np.allclose(store.values(name), values, rtol=0, atol=STATISTICS_DB, equal_nan=True):
            verdict.problems.append(f"{name} does not match the windows of the ok tracks of the train split")


def _check_sources(root: Directory, facts: dict[str, npt.NDArray[Any]], verdict: Verdict) -> list[int]:
    """Compare the files' digests; return the numbers of tracks with an unchanged file and valid windows."""

    def digest(file: tuple[str, str]) -> tuple[str, str]:
        """Return the digest of a file, or why there is none."""
        try:
            return digest_like(root, *file), ""
        except FileNotFoundError:
            return "", f"is missing below {root}"
        except (OSError, ValueError) as error:
            return "", f"below {root} cannot be read: {getattr(error, 'strerror', None) or error}"

    unchanged = []
    n_threads = max(root.io_threads, os.cpu_count() or 1)  # hashing releases the interpreter lock
    files = zip(facts["source"], facts["source_blake3"], strict=True)
    for number, (found, why) in enumerate(in_order_once(digest, files, n_threads)):
        name, source = facts["track"][number], facts["source"][number]
        verdict.n_sources += bool(found)
        if found == facts["source_blake3"][number]:
            unchanged += [number] if found and facts["n_windows"][number] else []
        elif found:
            verdict.problems.append(f"{name}: its file {source} is not the one that the store was made from")
        else:
            verdict.problems.append(f"{name}: its file {source} {why}")
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
