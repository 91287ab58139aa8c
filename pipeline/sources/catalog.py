"""List the tracks of a class-per-folder tree, a CSV or Parquet manifest, or a dataset recipe, sorted by id."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.dataset_recipe import Recipe
from melzarr.pipeline.sources.split import SPLITS, UNUSED, HashSplit
from melzarr.pipeline.sources.tracks import Track, Tracks
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.untrusted_text import as_was

# Formats that libsndfile reads, and other common ones, which become failed tracks with a remedy in their message.
READABLE = frozenset(
    {".wav", ".wave", ".au", ".snd", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".caf"}
)
UNREADABLE = frozenset({".m4a", ".mp4", ".aac", ".wma", ".ape", ".wv", ".mpc", ".mka", ".webm", ".ac3", ".dsf"})
EXTENSIONS = READABLE | UNREADABLE


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tracks of one source, sorted by id.

    Parameters
    ----------
    root : Directory
        Directory that contains the files.
    tracks : sequence of Track
        Sorted by id.
    left_out : tuple of str
        Files without a known audio extension, and links to folders.
    rule : mapping of str to value
        How the tracks were split: the method and its parameters.
    recipe : Recipe, optional
        The recipe of the dataset.
    is_folder : bool
        Whether the tracks are all audio files of a folder; false if a manifest names them.
    """

    root: Directory
    tracks: Sequence[Track]
    left_out: tuple[str, ...] = ()
    rule: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    is_folder: bool = False


def read_catalog(
    source: str | Path | Directory | Recipe,
    split: HashSplit | None = None,
    *,
    named_split: str | None = None,
    group_column: str = "group",
) -> Catalog:
    """List the tracks of a source.

    Parameters
    ----------
    source : str, Path, Directory or Recipe
        A folder of ``label/file``, a manifest (.csv or .parquet), or a recipe whose audio has been fetched.
    split : HashSplit, optional
        Split to use if neither the manifest nor `named_split` gives one; by default the recipe's, or ``HashSplit()``.
    named_split : str, optional
        Name of a split in the recipe, such as "fault-filtered".
    group_column : str
        Column of a manifest with the group of each track.

    Returns
    -------
    Catalog
        Sorted by id, the same on every file system.

    Raises
    ------
    CatalogError
        If the source is missing or empty, ids are duplicated, or tracks have no label.
    """
    recipe = source if isinstance(source, Recipe) else None
    directory = open_directory(source.audio if isinstance(source, Recipe) else source)
    rule = split or (recipe.split if recipe else HashSplit())
    left_out: list[str] = []
    root, is_folder = directory.sibling(""), False
    if is_manifest(directory) and root.size(directory.name) is not None:
        listed = _manifest(root, directory.name, group_column)
    elif directory.folder.is_dir() if directory.folder else directory.exists():
        listed, root, is_folder = _listed(directory, left_out), directory, True
    else:
        remedy = f"run: melzarr fetch {recipe.name}" if recipe else "give a folder of label/file, or a .csv or .parquet"
        raise CatalogError(f"{directory} is neither a folder nor a manifest; {remedy}")
    tracks = Tracks.of(listed, by="id")
    if not tracks:
        raise CatalogError(
            f"{directory} contains no audio file ({len(left_out)} other files); known extensions: "
            f"{', '.join(sorted(EXTENSIONS))}"
        )
    _refuse_duplicates(tracks)
    split_tracks, how = _split(tracks, rule, recipe, named_split)
    return Catalog(root, split_tracks, tuple(sorted(left_out)), how, recipe, is_folder)


def is_manifest(directory: Directory) -> bool:
    """Return whether a directory has the name of a manifest (.csv or .parquet)."""
    return PurePosixPath(directory.name).suffix.lower() in {".csv", ".parquet"}


def _listed(root: Directory, left_out: list[str]) -> Iterator[Track]:
    """Yield the tracks of a class-per-folder tree; append all other files to `left_out`."""
    if root.folder:
        left_out += _linked_folders(root.folder)
    for source in _visible_files(root.folder) if root.folder else _visible_objects(root):
        _refuse_undecodable(source)
        label, slash, _ = source.partition("/")
        if _without_extension(source) is None:
            left_out.append(source)
        elif not slash:
            raise CatalogError(
                f"{source!r} is directly in {root}, so it has no label; put each file into a folder named after its "
                f"label, or give a manifest with the columns path and label"
            )
        else:
            yield _track(source, label)


def _visible_files(root: Path) -> Iterator[str]:
    """Yield the files below a folder; skip hidden ones, such as macOS's ``._`` twins, and follow no folder links."""
    for folder, names, files in os.walk(root, onerror=_refuse_unlisted):
        names[:] = [name for name in names if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        yield from (f"{prefix}{name}" for name in files if not name.startswith("."))


def _visible_objects(root: Directory) -> Iterator[str]:
    """Yield the names of files below a prefix; skip hidden ones, files in hidden folders, and folder placeholders."""
    for name, size in root.files():
        if (size or _without_extension(name)) and not any(part.startswith(".") for part in name.split("/")):
            yield name


def _linked_folders(root: Path) -> Iterator[str]:
    """Yield links to folders, which are not followed: they may leave the tree or form a cycle."""
    for folder, names, _ in os.walk(root):
        prefix = Path(folder)
        links = (name for name in names if not name.startswith(".") and (prefix / name).is_symlink())
        yield from (f"{(prefix / name).relative_to(root).as_posix()}/ (a link to a folder)" for name in links)


def _refuse_unlisted(error: OSError) -> None:
    raise CatalogError(f"the folder {error.filename} cannot be listed: {error.strerror}; make it readable") from error


def _manifest(root: Directory, name: str, group_column: str) -> Iterator[Track]:
    """Yield the tracks of a manifest; its paths are relative to its folder."""
    where = str(root.child(name))
    with root.local(name) as path:
        rows = _csv_rows(path, where) if path.suffix.lower() == ".csv" else _parquet_rows(path, where)
        for number, row in enumerate(rows, start=1):
            if number == 1:
                _refuse_lacking_columns(where, row, group_column)
            yield _manifest_track(root, f"{where}, row {number}", row, group_column)


def _refuse_lacking_columns(path: str, row: Mapping[str, str], group_column: str) -> None:
    for column in ("path", "label", *([group_column] if group_column != "group" else [])):
        if column not in row:
            raise CatalogError(f"{path} has no column {column!r}, only {', '.join(row)}; add it")


def _csv_rows(path: Path, where: str) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            columns = next(rows, [])
            for row in filter(None, rows):
                yield dict(itertools.zip_longest(columns, map(as_was, row[: len(columns)]), fillvalue=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CatalogError(f"{where} is not a CSV in UTF-8: {error}; save it as one") from error


def _parquet_rows(path: Path, where: str) -> Iterator[dict[str, str]]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  (an optional dependency: heavy and rarely needed)
    except ImportError as error:
        raise CatalogError(
            f"{where} needs pyarrow, which is not installed; pip install 'melzarr[parquet]', or give a CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for row in itertools.chain.from_iterable(batch.to_pylist() for batch in file.iter_batches()):
                yield {column: "" if value is None else str(value) for column, value in row.items()}
    except ArrowException as error:
        raise CatalogError(f"{where} is not a Parquet file: {error}; write it again, or give a CSV") from error


def _manifest_track(root: Directory, where: str, row: Mapping[str, str], group_column: str) -> Track:
    path, label, part = row["path"], row["label"], row.get("split", "")
    for column in ("path", "label", "id", group_column, "split"):
        if "\0" in row.get(column, ""):  # no file name has it, and at the end of a text it would be lost
            raise CatalogError(f"{where}: {column} {row[column]!r} contains a NUL character; remove it")
    if not path.strip() or not label.strip():
        raise CatalogError(f"{where}: path {path!r}, label {label!r}; every row needs both")
    source = os.path.normpath(path.removeprefix(f"{root}/")).replace(os.sep, "/")
    if source.startswith("/") and root.folder:
        source = os.path.relpath(source, root.folder.absolute()).replace(os.sep, "/")
    if "://" in path.removeprefix(f"{root}/") or source.startswith(("/", "../")) or source == "..":
        raise CatalogError(f"{where}: {path!r} is outside the manifest's folder; put the manifest above all its files")
    if part and part not in SPLITS and part != UNUSED:
        raise CatalogError(f"{where}: split {part!r} is unknown; use {', '.join(SPLITS)} or {UNUSED}")
    return _track(source, label, row.get("id", ""), row.get(group_column, ""), part)


def _track(source: str, label: str, name: str = "", group: str = "", part: str = "") -> Track:
    """Make a track; its id defaults to its path without a known extension, its group to its id."""
    if not name:
        name = _without_extension(source) or source
    return Track(name, label, source, group or name, part)


def _without_extension(source: str) -> str | None:
    """Return a path without its extension, if that is known; not by pathlib, which keeps every name in memory."""
    stem, _, extension = source.rpartition(".")
    return stem if stem and not stem.endswith("/") and f".{extension.lower()}" in EXTENSIONS else None


def _refuse_undecodable(source: str) -> None:
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise CatalogError(f"the file name {source!r} is not UTF-8, so it cannot be stored; rename the file") from error


def _refuse_duplicates(tracks: Tracks) -> None:
    """Raise a CatalogError if two tracks have the same id; they are adjacent, because the tracks are sorted."""
    ids = tracks.column("id")
    for number in np.flatnonzero(ids[1:] == ids[:-1])[:1].tolist():
        first, second = tracks[number], tracks[number + 1]
        raise CatalogError(
            f"{first.id!r} is the id of two files, {first.source!r} and {second.source!r}; remove "
            f"one, or give a manifest with a column id"
        )


def _split(
    tracks: Tracks, rule: HashSplit, recipe: Recipe | None, named_split: str | None
) -> tuple[Tracks, dict[str, Any]]:
    """Return the tracks with their splits, and how they were split."""
    how: dict[str, Any]
    if named_split:
        known = recipe.splits if recipe else {}
        if named_split not in known:
            raise CatalogError(
                f"no split called {named_split!r}; {recipe.name if recipe else 'a source without a recipe'} has "
                f"{', '.join(known) or 'none'}"
            )
        given = known[named_split]
        parts, how = [given.get(name, UNUSED) for (name,) in tracks.rows("id")], {"method": named_split}
    elif (tracks.column("split") != "").any():
        refuse_separated_groups(tracks)
        parts, how = [part or UNUSED for (part,) in tracks.rows("split")], {"method": "manifest"}
    else:
        parts = [rule.part(group) for (group,) in tracks.rows("group")]
        how = {"method": "hash", "valid": rule.valid, "test": rule.test, "seed": rule.seed}
    return tracks.with_column("split", parts), how


def missing_splits(catalog: Catalog) -> list[str]:
    """Return a message for each label without a track in a split that other labels have."""
    labels: dict[str, set[str]] = {}
    for label, part in Tracks.of(catalog.tracks).rows("label", "split"):
        labels.setdefault(label, set()).add(part)
    used = [part for part in SPLITS if any(part in parts for parts in labels.values())]
    return [
        f"label {label} has no {part} track: give more tracks, another --seed, or splits in a manifest"
        for label in sorted(labels)
        for part in used
        if part not in labels[label]
    ]


def refuse_separated_groups(tracks: Tracks) -> None:
    """Raise a CatalogError if a group has tracks in two splits; unused tracks are ignored.

    Parameters
    ----------
    tracks : Tracks
        Tracks with their splits, in any order.

    Raises
    ------
    CatalogError
        If a group is separated; the message names two of its tracks.
    """
    group, split = tracks.column("group"), tracks.column("split")
    used = np.flatnonzero((split != "") & (split != UNUSED))
    order = used[np.argsort(group[used], kind="stable")]  # tracks of a group are adjacent, in their original order
    group, split = group[order], split[order]
    apart = order[1:][(group[1:] == group[:-1]) & (split[1:] != split[:-1])]
    if apart.size:
        track = tracks[int(apart.min())]
        other = tracks[int(order[group == track.group][0])]
        raise CatalogError(
            f"{other.id!r} ({other.split}) and {track.id!r} ({track.split}) are in one group, {track.group!r}; put "
            f"them into one split"
        )
