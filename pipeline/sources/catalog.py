"""List the tracks of a class-per-folder tree, a manifest, or a dataset recipe, sorted by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.audio_names import EXTENSIONS, without_extension
from melzarr.pipeline.sources.dataset_recipe import Recipe
from melzarr.pipeline.sources.folder import folder_tracks
from melzarr.pipeline.sources.manifest import is_manifest, manifest_tracks
from melzarr.pipeline.sources.manifest_rows import SUFFIXES
from melzarr.pipeline.sources.remarks import LeftOut, file_remarks, label_remarks
from melzarr.pipeline.sources.split import SPLITS, UNUSED, HashSplit
from melzarr.pipeline.sources.tracks import Track, Tracks, as_column
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory

_KINDS = ", ".join(sorted(SUFFIXES))


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
        Files without a known audio extension.
    findings : tuple of str
        Sentences about links to folders, labels, and paths that are not taken as written, which a scan counts as
        problems.
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
    findings: tuple[str, ...] = ()
    rule: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    is_folder: bool = False

    @property
    def remarks(self) -> list[str]:
        """Sentences about what was left out, and the findings."""
        return [*file_remarks(self.left_out), *self.findings]


def read_catalog(
    source: str | Path | Directory | Recipe,
    split: HashSplit | None = None,
    *,
    named_split: str | None = None,
    path_column: str = "path",
    label_column: str = "label",
    group_column: str = "group",
    audio_root: str | Path | Directory | None = None,
    follow_links: bool = False,
) -> Catalog:
    """List the tracks of a source.

    Parameters
    ----------
    source : str, Path, Directory or Recipe
        A folder of ``label/file``, a manifest (.csv, .tsv, .txt, .jsonl or .parquet), or a recipe whose audio has been
        fetched.
    split : HashSplit, optional
        Split to use if neither the manifest nor `named_split` gives one; by default the recipe's, or ``HashSplit()``.
    named_split : str, optional
        Name of a split in the recipe, such as "fault-filtered".
    path_column, label_column, group_column : str
        Columns of a manifest with the path, label and group of each track.
    audio_root : str, Path or Directory, optional
        Base directory of the paths of a manifest; by default the manifest's.
    follow_links : bool
        Whether links to folders in a folder are followed.

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
    left_out, remarks = LeftOut(), list[str]()
    root, is_folder = directory, False
    if is_manifest(directory) and directory.sibling("").size(directory.name) is not None:
        root = open_directory(directory.sibling("") if audio_root is None else audio_root)
        if root.folder and not root.folder.is_dir():
            raise CatalogError(f"{root}, the --audio-root, is not a folder; give the folder of the audio files")
        columns = {"path": path_column, "label": label_column, "id": "id", "group": group_column}
        columns |= {name: name for name in ("split", "start", "end")}
        listed = manifest_tracks(directory, root, columns, remarks)
    elif directory.folder.is_dir() if directory.folder else directory.exists():
        listed, is_folder = folder_tracks(directory, left_out, follow_links=follow_links), True
    else:
        remedy = f"run: melzarr fetch {recipe.name}" if recipe else f"give a folder of label/file, or a {_KINDS} file"
        raise CatalogError(f"{directory} is neither a folder nor a manifest; {remedy}")
    tracks = _grouped(Tracks.of(listed, by="id"))
    if not tracks:
        raise CatalogError(
            "; ".join(
                [
                    f"{directory} contains no audio file ({len(left_out.files)} other files)",
                    *left_out.link_remarks(),
                    f"known extensions: {', '.join(sorted(EXTENSIONS))}",
                ]
            )
        )
    _refuse_duplicates(tracks)
    split_tracks, how = _split(tracks, rule, recipe, named_split)
    findings = (*left_out.link_remarks(), *remarks, *label_remarks(tracks))
    return Catalog(root, split_tracks, tuple(sorted(left_out.files)), findings, how, recipe, is_folder)


def _grouped(tracks: Tracks) -> Tracks:
    """Return the tracks with a group each: by default their id, or their file if there are excerpts of files."""
    group, names = tracks.column("group"), tracks.column("id")
    is_none = group == ""
    if (tracks.column("start") != "").any() or (tracks.column("end") != "").any():
        names = as_column([without_extension(source) or source for (source,) in tracks.rows("source")])
    return tracks.with_column("group", names if is_none.all() else np.where(is_none, names, group))


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
