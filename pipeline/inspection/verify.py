"""Verify a store: every checksum, every status against its data, and a sample recomputed with librosa."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from melzarr.pipeline.features.decibels import stored_levels
from melzarr.pipeline.inspection.consistency import contradictions
from melzarr.pipeline.inspection.librosa_reference import MAX_DB, MAX_RELATIVE, distances, librosa_windows
from melzarr.pipeline.shard_receipt import STATUSES, counts
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory, source_sha256
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.zarr_store.companion_files import differences
from melzarr.pipeline.zarr_store.reader import Store, access_to
from melzarr.pipeline.zarr_store.shard import shard_name

STATISTICS_DB = 1e-3  # tolerance of mean and deviation, which are summed in another order here


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
    verdict = Verdict()
    try:
        facts = {name: store.values(name) for name in ("track", "status", "error", "n_windows", "split", "source")}
        facts |= {name: store.values(name) for name in ("source_sha256", "start", "end")}
        levels, digests = _check_shards(store, facts, verdict, progress)
        if store.content_uuid(digests) != store.attributes["uuid"]:
            verdict.problems.append("the store's UUID does not match its files: a file was changed, added or removed")
        differing, verdict.n_files = differences(store.directory, digests)
        verdict.problems += [*differing, *contradictions(store)]
        _check_statistics(store, levels, verdict)
    except (StorageError, PermissionError):  # an error of the server or of permissions, not of the store
        raise
    except (OSError, ValueError, KeyError, TypeError, StoreError) as error:
        verdict.problems.append(f"the store's metadata or coordinates cannot be read: {error}")
        return verdict
    if root is not None:
        audio = open_directory(root)
        unchanged = _check_sources(audio, facts, verdict)
        _check_sample(store, audio, facts, verdict, _drawn(unchanged, n_samples, seed))
    return verdict


def _check_shards(
    store: Store, facts: dict[str, npt.NDArray[Any]], verdict: Verdict, progress: Advance
) -> tuple[_Levels, dict[str, str]]:
    """Check each track, then the bytes of each shard; return the levels of the training tracks, and the digests."""
    digests: dict[str, str] = {}
    levels, step, expected = _Levels.zero(store.spec.n_mels), store.tracks_per_shard, store.values("receipts/sha256")
    metadata = store.directory.read("mel/zarr.json")
    for index, shard in enumerate(_shards(store, len(expected))):
        name, members = shard_name(index), range(index * step, min((index + 1) * step, store.n_tracks))
        names = ", ".join(facts["track"][members.start : members.stop])
        progress(len(members))
        if shard is None:
            verdict.problems.append(f"the shard {name} is missing, with the tracks {names}")
            continue
        mel = _mel_of(metadata, name, shard)
        decoded = [_check_track(store, mel, facts, number, levels, verdict) for number in members]
        digests[name] = hashlib.sha256(shard).hexdigest()
        if all(decoded) and digests[name] != expected[index]:
            verdict.problems.append(f"the shard {name} is not the one that was written, with the tracks {names}")
    return levels, digests


def _shards(store: Store, n_shards: int) -> Iterator[bytes | None]:
    """Yield the bytes of each shard, or None if it is missing; the next shard is read ahead."""

    def read(index: int) -> bytes | None:
        try:
            return store.directory.read(shard_name(index))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(read, 0)
        for index in range(n_shards):
            shard = coming.result()
            if index + 1 < n_shards:
                coming = ahead.submit(read, index + 1)
            yield shard


def _mel_of(metadata: bytes, name: str, shard: bytes) -> zarr.Array[Any]:
    """Return the array `mel` with one of its shards, to decode it with zarr itself, not with the code that wrote it."""
    as_buffer = default_buffer_prototype().buffer.from_bytes
    store = MemoryStore({"mel/zarr.json": as_buffer(metadata), name: as_buffer(shard)}, read_only=True)
    return zarr.open_array(store, path="mel", mode="r", zarr_format=3)


def _check_track(
    store: Store,
    stored: zarr.Array[Any],
    facts: dict[str, npt.NDArray[Any]],
    number: int,
    levels: _Levels,
    verdict: Verdict,
) -> bool:
    """Check one track, add its levels to the statistics, and return whether it could be decoded."""
    name, status = facts["track"][number], facts["status"][number]
    verdict.n_tracks += 1
    try:
        mel = np.asarray(stored[number])
    except Exception as error:  # noqa: BLE001  (any error of a codec on damaged bytes is a problem of this track)
        verdict.problems.append(f"{name}: its chunk cannot be decoded ({type(error).__name__}: {error})")
        return False
    n_valid = int(facts["n_windows"][number])
    if problem := status_problem(mel, status, n_valid, facts["error"][number]):
        verdict.problems.append(f"{name}: {problem}")
    if counts(facts["split"][number], status):
        levels.add(mel[:n_valid], store.spec)
    return True


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
    """Running count, mean and squared deviation of levels, in dB, of each band (Chan et al. 1979, parallel update)."""

    count: int
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]

    @classmethod
    def zero(cls, n_mels: int) -> _Levels:
        return cls(0, np.zeros(n_mels), np.zeros(n_mels))

    def add(self, mel: npt.NDArray[Any], spec: FeatureSpec) -> None:
        """Add valid windows."""
        levels = stored_levels(mel, spec).reshape(-1, spec.n_mels).astype(np.float64)
        if not len(levels):
            return
        mean, total = levels.mean(0), self.count + len(levels)
        shift = mean - self.mean
        self.deviation += ((levels - mean) ** 2).sum(0) + shift**2 * self.count * len(levels) / total
        self.mean += shift * len(levels) / total
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
    with ThreadPoolExecutor(root.io_threads) as pool:  # hashing releases the GIL
        found_digests = pool.map(functools.partial(source_sha256, root), facts["source"])
        for number, (name, found) in enumerate(zip(facts["track"], found_digests, strict=True)):
            expected, source = facts["source_sha256"][number], facts["source"][number]
            verdict.n_sources += bool(found)
            if found == expected:
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


def _check_sample(
    store: Store, root: Directory, facts: dict[str, npt.NDArray[Any]], verdict: Verdict, numbers: list[int]
) -> None:
    """Recompute some tracks with librosa, and compare them with the store."""
    spec, relative, decibel = store.spec, [], []
    for number in numbers:
        name, n_valid = facts["track"][number], facts["n_windows"][number]
        try:
            here = np.asarray(store.mel[number], np.float64)[:n_valid]
            with root.local(facts["source"][number]) as path:
                there = librosa_windows(path, spec, n_valid, facts["start"][number], facts["end"][number])
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001  (any error of librosa or a codec is a problem of this track)
            verdict.problems.append(f"{name}: it cannot be computed again ({type(error).__name__}: {error})")
            continue
        apart, apart_db = distances(here, there, spec)
        relative.append(apart)
        decibel.append(apart_db)
        if apart > MAX_RELATIVE or apart_db > MAX_DB[spec.dtype]:
            verdict.problems.append(f"{name}: {apart:.1e} relative and {apart_db:.1e} dB from librosa")
    if relative:
        verdict.n_sampled, verdict.max_relative, verdict.max_db = len(relative), max(relative), max(decibel)
