"""Fetch the audio files of a dataset recipe: download and verify them, copy them, or synthesise them."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from melzarr.pipeline.dask_imports import CPU_COUNT
from melzarr.pipeline.errors import CallError, FetchError
from melzarr.pipeline.sources.audio_names import EXTENSIONS
from melzarr.pipeline.sources.dataset_folder import Fetched, alone, bar, read_marker, write_marker, writing
from melzarr.pipeline.sources.dataset_recipe import Archive, Recipe, Synthesis
from melzarr.pipeline.sources.http_download import BLOCK, download, mismatch
from melzarr.pipeline.sources.synthesise_dataset import synthesise_tracks
from melzarr.pipeline.storage.ignored_files import is_ignored

MAX_RATIO = 20  # unpacked bytes per byte of the archive; PCM and compressed audio stay below 3
DEPTH = 3  # largest number of folders between a copy's path and its label folders


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
        return synthesise_tracks(recipe, recipe.source, n_tracks, CPU_COUNT if workers is None else workers)
    if tracks_per_label is not None:
        raise CallError(
            f"{recipe.name} is always fetched whole, so its number of tracks per label cannot be chosen; leave it out"
        )
    return _bring(recipe, recipe.source, copy_from)


# Downloaded or copied audio


def _bring(recipe: Recipe, source: Archive, copy_from: Path | None) -> Fetched:
    """Download and unpack the archive, or use a copy, unless the audio is there already."""
    if there := _there(recipe):
        return there
    with writing(recipe.folder), alone(recipe):
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
    if n_tracks not in {expected, read_marker(recipe.audio).get("n_tracks")}:
        raise FetchError(
            f"{recipe.audio} contains {n_tracks} tracks, but {expected} are expected; move it away and run again, and "
            f"give it with --from PATH if it is the copy to use"
        )
    unlike = [f"{label} {count}" for label, count in counts.items() if count != recipe.tracks_per_label]
    note = f"{n_tracks} tracks, but the recipe has {expected} ({', '.join(unlike)})" if unlike else ""
    return Fetched(recipe.audio, n_tracks, made=False, note=note)


def _audio_files(folder: Path) -> list[Path]:
    """Return the files of a folder with an audio extension, sorted, without ignored ones; empty if it is missing."""
    return sorted(path for path in folder.glob("*") if _is_audio(path.name) and path.is_file())


def _is_audio(name: str) -> bool:
    return not is_ignored(name) and PurePosixPath(name).suffix.lower() in EXTENSIONS


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
    """Yield a folder and those up to `DEPTH` levels below it, upper ones first; skip ignored and unreadable ones."""
    level = [path]
    for _ in range(DEPTH + 1):
        yield from level
        below: list[Path] = []
        for folder in level:
            with contextlib.suppress(PermissionError):
                below += sorted(child for child in folder.iterdir() if child.is_dir() and not is_ignored(child.name))
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
    """Yield a new folder with one folder per label; it becomes the audio folder, or is removed on failure."""
    part = recipe.audio.with_name(f"{recipe.audio.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
    try:
        for label in recipe.labels:
            (part / label).mkdir(parents=True)
        yield part
        if not (n_tracks := sum(len(_audio_files(part / label)) for label in recipe.labels)):
            raise FetchError(f"no audio file was found as label/file with the labels {', '.join(recipe.labels)}")
        write_marker(part, {"n_tracks": n_tracks})
        part.rename(recipe.audio)
    finally:
        shutil.rmtree(part, ignore_errors=True)
