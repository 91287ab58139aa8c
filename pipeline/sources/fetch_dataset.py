"""Fetch the audio files of a dataset recipe: download and verify them, copy them, or synthesise them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import json
import lzma
import multiprocessing
import re
import shutil
import signal
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dask.system import CPU_COUNT
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from melzarr.pipeline.errors import CallError, FetchError
from melzarr.pipeline.main_guard import require_main_guard
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.catalog import EXTENSIONS
from melzarr.pipeline.sources.dataset_recipe import Archive, Recipe, Synthesis
from melzarr.pipeline.sources.http_download import BLOCK, download, mismatch
from melzarr.pipeline.storage.atomic import sha256_of

MARKER = ".made.json"  # records what the audio folder was made from; hidden, so that no catalog lists it
MAX_RATIO = 20  # unpacked bytes per byte of the archive; PCM and compressed audio stay below 3
DEPTH = 3  # largest number of folders between a copy's path and its label folders

bar = functools.partial(tqdm, disable=None)  # on stderr, and only if that is a terminal


@dataclass(frozen=True, slots=True)
class Fetched:
    """Result of `fetch`.

    Parameters
    ----------
    audio : Path
        Folder that holds the audio, as ``label/file``.
    n_tracks : int
        Number of tracks in it.
    made : bool
        Whether anything was done; false if all audio was there already.
    note : str
        A remark for the user, such as how the tracks differ from the recipe; may be empty.
    """

    audio: Path
    n_tracks: int
    made: bool
    note: str = ""


def fetch(
    recipe: Recipe, *, copy_from: Path | None = None, tracks_per_label: int | None = None, workers: int | None = None
) -> Fetched:
    """Download, copy or synthesise the audio of a dataset, unless it is there already.

    Downloaded or copied audio appears in one step or not at all; each synthesised track is whole or absent.

    Parameters
    ----------
    recipe : Recipe
        The dataset.
    copy_from : Path, optional
        A copy to use instead of a download: the archive, or a folder that contains one folder of audio files per
        label, at most `DEPTH` levels further down.
    tracks_per_label : int > 0, optional
        For synthesised datasets: number of tracks per label; by default the recipe's.
    workers : int >= 0, optional
        For synthesised datasets: number of processes; by default one per core, and 0 means this process.

    Returns
    -------
    Fetched
        Folder of the audio, number of tracks, and remarks.

    Raises
    ------
    FetchError
        If that fails; the message gives what was tried and the remedy.
    CallError
        If an option does not fit the recipe.
    """
    if isinstance(recipe.source, Synthesis):
        if copy_from is not None:
            raise CallError(f"--from {copy_from}: {recipe.name} is synthesised, so no copy is needed; leave --from out")
        n_tracks = recipe.tracks_per_label if tracks_per_label is None else tracks_per_label
        if not 0 < n_tracks <= 100_000:
            raise CallError(f"{n_tracks} tracks per label cannot be made; choose 1 to 100000")
        return _synthesise(recipe, recipe.source, n_tracks, CPU_COUNT if workers is None else workers)
    if tracks_per_label is not None:
        raise CallError(
            f"{recipe.name} is always fetched whole, so its number of tracks per label cannot be chosen; leave it out"
        )
    return _bring(recipe, recipe.source, copy_from)


# Synthesised audio


def _synthesise(recipe: Recipe, source: Synthesis, n_tracks: int, workers: int) -> Fetched:
    """Make missing tracks; remove surplus tracks and tracks that were made with other parameters."""
    wanted = {
        recipe.audio / label / f"{label}.{number:05d}.wav": (label, number)
        for label in recipe.labels
        for number in range(n_tracks)
    }
    parameters = {"seed": source.seed, "sample_rate": source.sample_rate, "seconds": source.seconds}
    made = {**parameters, "version": demo_music.VERSION}
    made_with, present = _marker(recipe.audio), _synthesised(recipe)
    if present and not made_with:
        raise FetchError(
            f"{recipe.audio} contains files such as {min(present).name} but not {MARKER}, so melzarr did not make "
            f"them and does not change them; move them away and run again"
        )
    kept = present & wanted.keys() if made_with == made else set()
    missing = [path for path in wanted if path not in kept]
    if present == kept and not missing:
        return Fetched(recipe.audio, len(wanted), made=False)
    with _writing(recipe.folder), _alone(recipe):
        for path in present - kept:
            path.unlink(missing_ok=True)
        for label in recipe.labels:
            (recipe.audio / label).mkdir(parents=True, exist_ok=True)
        _mark(recipe.audio, made)
        _write_tracks([(path, *wanted[path]) for path in missing], parameters, workers)
        unlike = ""
        if (
            source.sha256
            and n_tracks == recipe.tracks_per_label
            and (sha256 := _digest(recipe.audio, wanted)) != source.sha256
        ):
            unlike = (
                f"; their bytes differ from those of the recipe (sha256 {sha256}, not {source.sha256}), so digests "
                f"and figures differ from those of other users"
            )
    removed = f", removed {len(present - kept)}" if present - kept else ""
    return Fetched(recipe.audio, len(wanted), made=True, note=f"made {len(missing)} tracks{removed}{unlike}")


def _digest(audio: Path, tracks: Iterable[Path]) -> str:
    """Return the digest of the output of ``sha256sum */*.wav`` in an audio folder with only these tracks."""
    paths = sorted(tracks)
    with ThreadPoolExecutor(CPU_COUNT) as pool:
        lines = (
            f"{sha256}  {path.relative_to(audio).as_posix()}\n"
            for path, sha256 in zip(paths, pool.map(sha256_of, paths), strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _synthesised(recipe: Recipe) -> set[Path]:
    """Return files named as synthesised tracks, or as unfinished ones: `write_track` leaves no others incomplete."""
    return {
        path
        for label in recipe.labels
        for path in (recipe.audio / label).glob("*")
        if re.fullmatch(rf"{re.escape(label)}\.\d{{5}}\.wav(\.part)?", path.name)
    }


def _write_tracks(jobs: list[tuple[Path, str, int]], parameters: dict[str, Any], workers: int) -> None:
    """Write tracks in parallel; each is whole or absent, so that the next run continues where this one stops."""
    write = functools.partial(demo_music.write_track, **parameters)
    progress = functools.partial(bar, total=len(jobs), desc="synthesising", unit="track")
    if workers == 0 or not jobs:
        with threadpool_limits(1):
            for job in progress(jobs):
                write(*job)
        return
    require_main_guard()
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    ) as pool:
        try:
            for future in progress(as_completed([pool.submit(write, *job) for job in jobs])):
                future.result()
        except BrokenProcessPool as error:
            raise FetchError(
                "a process that made tracks was killed; run again with fewer workers to continue"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Limit a worker to one thread, and leave Ctrl-C to the main process, which lets workers finish their tracks."""
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# Downloaded or copied audio


def _bring(recipe: Recipe, source: Archive, copy_from: Path | None) -> Fetched:
    """Download and unpack the archive, or use a copy, unless the audio is there already."""
    if there := _there(recipe):
        return there
    with _writing(recipe.folder), _alone(recipe):
        if copy_from is None:
            archive = download(source, recipe.folder)
            _unpack(archive, recipe)
            archive.unlink()
        elif copy_from.is_dir():
            _copy(copy_from, recipe)
        elif not copy_from.is_file():
            raise FetchError(f"--from {copy_from}: there is no such file or folder; give the archive or a folder")
        elif wrong := mismatch(copy_from, source):
            raise FetchError(
                f"--from {copy_from}: {wrong}; give the archive that the recipe names, or unpack this one yourself and "
                f"give its folder"
            )
        else:
            _unpack(copy_from, recipe)
    return dataclasses.replace(_there(recipe) or Fetched(recipe.audio, 0, made=True), made=True)


def _there(recipe: Recipe) -> Fetched | None:
    """Return what the audio folder contains, or None if it is missing or empty."""
    if not recipe.audio.is_dir() or not any(recipe.audio.iterdir()):
        return None
    counts = {label: len(_audio_files(recipe.audio / label)) for label in recipe.labels}
    n_tracks, expected = sum(counts.values()), recipe.tracks_per_label * len(counts)
    if n_tracks not in {expected, _marker(recipe.audio).get("n_tracks")}:
        raise FetchError(
            f"{recipe.audio} contains {n_tracks} tracks, but {expected} are expected; move it away and run again, and "
            f"give it with --from PATH if it is the copy to use"
        )
    unlike = [f"{label} {count}" for label, count in counts.items() if count != recipe.tracks_per_label]
    note = f"{n_tracks} tracks, but the recipe has {expected} ({', '.join(unlike)})" if unlike else ""
    return Fetched(recipe.audio, n_tracks, made=False, note=note)


def _audio_files(folder: Path) -> list[Path]:
    """Return the files of a folder with an audio extension, sorted, without hidden ones; empty if it is missing."""
    return sorted(path for path in folder.glob("*") if _is_audio(path.name) and path.is_file())


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in EXTENSIONS


def _copy(path: Path, recipe: Recipe) -> None:
    """Copy the audio files of the label folders at or below a path."""
    directory = next(
        (folder for folder in _folders(path) if all(_audio_files(folder / label) for label in recipe.labels)), None
    )
    if directory is None:
        raise FetchError(
            f"--from {path}: neither it nor a folder up to {DEPTH} levels below contains all of the folders "
            f"{', '.join(recipe.labels)} with audio files in them; give the folder that does, or the archive"
        )
    files = [(label, file) for label in recipe.labels for file in _audio_files(directory / label)]
    with _whole(recipe) as part:
        for label, file in bar(files, desc="copying", unit="track"):
            shutil.copyfile(file, part / label / file.name)


def _folders(path: Path) -> Iterator[Path]:
    """Yield a folder and those up to `DEPTH` levels below it, upper ones first; skip hidden and unreadable ones."""
    level = [path]
    for _ in range(DEPTH + 1):
        yield from level
        below: list[Path] = []
        for folder in level:
            with contextlib.suppress(PermissionError):
                below += sorted(
                    child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
                )
        level = below


def _unpack(archive: Path, recipe: Recipe) -> None:
    """Unpack the audio files of the label folders of an archive, at any depth.

    Only the contents of regular files are extracted. Each is written to a path that is made here from a label of the
    recipe and a plain file name. No member can leave its folder, be a link or a device, or set a mode.
    """
    room = MAX_RATIO * archive.stat().st_size
    total = recipe.tracks_per_label * len(recipe.labels)
    try:
        with (
            tarfile.open(archive) as members,
            _whole(recipe) as part,
            bar(total=total, desc="unpacking", unit="track") as n,
        ):
            for member, name in _tracks(members, recipe):
                if (room := room - member.size - tarfile.BLOCKSIZE) < 0:
                    raise FetchError(f"{archive} unpacks to over {MAX_RATIO} times its size; it cannot be trusted")
                content = members.extractfile(member)
                if content is None:  # for the type checker: a regular file has content
                    continue
                with content, (part / name).open("wb") as file:
                    shutil.copyfileobj(content, file, BLOCK)
                n.update()
    except (tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise FetchError(f"{archive} cannot be unpacked: {error}; is it the archive that the recipe means?") from error


def _tracks(members: tarfile.TarFile, recipe: Recipe) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield the members that are audio files in a label's folder, each with its path as label/file."""
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise FetchError(f"the archive has a member {member.name!r} that points outside its folder; do not use it")
        if member.isreg() and path.parent.name in recipe.labels and _is_audio(path.name):
            yield member, f"{path.parent.name}/{path.name}"


@contextlib.contextmanager
def _whole(recipe: Recipe) -> Iterator[Path]:
    """Yield a folder to fill, with one per label in it; it becomes the audio folder in one step, or is removed."""
    part = recipe.audio.with_name(f"{recipe.audio.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
    try:
        for label in recipe.labels:
            (part / label).mkdir(parents=True)
        yield part
        if not (n_tracks := sum(len(_audio_files(part / label)) for label in recipe.labels)):
            raise FetchError(f"no audio file was found as label/file with the labels {', '.join(recipe.labels)}")
        _mark(part, {"n_tracks": n_tracks})
        part.rename(recipe.audio)
    finally:
        shutil.rmtree(part, ignore_errors=True)


# Markers, locks and errors


def _marker(audio: Path) -> dict[str, Any]:
    """Read what an audio folder was made from; empty if that is not recorded."""
    try:
        marker = json.loads((audio / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _mark(audio: Path, made_with: dict[str, Any]) -> None:
    """Record what an audio folder was made from, in one step."""
    part = audio / f"{MARKER}.part"
    part.write_text(json.dumps(made_with), encoding="utf-8")
    part.replace(audio / MARKER)


@contextlib.contextmanager
def _alone(recipe: Recipe) -> Iterator[None]:
    """Raise a FetchError if another process is fetching the dataset; else lock it."""
    try:
        with FileLock(recipe.folder / ".fetch.lock", timeout=0):
            yield
    except Timeout as error:
        raise FetchError(f"{recipe.folder} is being fetched by another process; wait until it ends") from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Re-raise errors of the file system with a readable message."""
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{error.filename or folder}: {error.strerror or error}; make room, or make {folder} writable, and run "
            f"again: what was finished is kept"
        ) from error
