"""Dataset recipes: what a dataset is, where its audio comes from, how it is split. They are data, never code."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from melzarr.pipeline.errors import RecipeError
from melzarr.pipeline.sources.split import SPLITS, HashSplit
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.ignored_files import is_ignored

RECIPE_FILE = "recipe.toml"
MAX_TRACKS = 100_000  # per label, because track numbers have five digits
AUDIO_FOLDER = "audio"


@dataclass(frozen=True, slots=True)
class Archive:
    """Audio that is downloaded as one archive.

    Parameters
    ----------
    urls : tuple of str
        Addresses of the archive, tried in this order.
    n_bytes : int
        Size of the archive.
    sha256 : str
        Digest of the archive, in hexadecimal.
    """

    urls: tuple[str, ...]
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Synthesis:
    """Audio that melzarr synthesises.

    Parameters
    ----------
    seed : int
        Seed of all randomness.
    sample_rate : int, in Hz
        Sample rate of the files.
    seconds : float, in s
        Length of each file.
    sha256 : str
        Digest of the output of ``sha256sum */*.wav`` for all files; empty if the recipe does not give it.
    """

    seed: int
    sample_rate: int
    seconds: float
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A dataset, as described by its recipe.

    Parameters
    ----------
    folder : Path
        Folder of the dataset; the audio goes into its subfolder ``audio``.
    name, title, licence, origin : str
        Name and title of the dataset, its terms of use, and who made it.
    labels : tuple of str
        Classes of the dataset, sorted.
    tracks_per_label : int
        Number of tracks of each class.
    source : Archive or Synthesis
        Where the audio comes from.
    spec : FeatureSpec
        Features to compute; fields that the recipe does not set have their defaults.
    split : HashSplit
        Split to use if no other is named.
    splits : mapping of str to mapping of str to str
        Named splits: for each, "train", "valid" or "test" by track id; all other tracks are unused.
    data : mapping of str to value
        The recipe as it was read, for a store to keep. It may also hold ``faults``, which are the known errors of the
        dataset, and ``published``, the date of publication.
    """

    folder: Path
    name: str
    title: str
    licence: str
    origin: str
    labels: tuple[str, ...]
    tracks_per_label: int
    source: Archive | Synthesis
    spec: FeatureSpec = field(default_factory=FeatureSpec)
    split: HashSplit = field(default_factory=HashSplit)
    splits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def audio(self) -> Path:
        """Folder that holds the audio, as ``label/file``."""
        return self.folder / AUDIO_FOLDER


def find_recipe(name: str, datasets: Path) -> Recipe:
    """Find and read the recipe of a dataset.

    Parameters
    ----------
    name : str
        Name of the dataset.
    datasets : Path
        Folder with one folder per dataset. A recipe in it takes precedence over a recipe of the same name that comes
        with melzarr. The audio is stored below this folder in either case.

    Raises
    ------
    RecipeError
        If there is no recipe of that name, or it is invalid.
    """
    known = {**_recipes(_own_datasets()), **_recipes(datasets)}
    if name not in known:
        raise RecipeError(
            f"no recipe called {name!r} in {datasets} or among those that come with melzarr; use one of "
            f"{', '.join(sorted(known))}, or give the folder of your recipes with --datasets DIR"
        )
    return read_recipe(known[name], datasets / name)


def _recipes(datasets: Path) -> dict[str, Path]:
    """Return the recipe files of a folder with one folder per dataset, by dataset name."""
    return {path.parent.name: path for path in datasets.glob(f"*/{RECIPE_FILE}")}


def _own_datasets() -> Path:
    """Return the folder of the recipes that come with melzarr: in the package, or beside it in a checkout."""
    package = Path(str(files("melzarr")))
    inside = package / "datasets"
    return inside if inside.is_dir() else package.parent / "datasets"


def read_recipe(path: Path, folder: Path | None = None) -> Recipe:
    """Read and validate a recipe file.

    Parameters
    ----------
    path : Path
        The recipe file.
    folder : Path, optional
        Folder of the dataset; by default the folder of the file.

    Raises
    ------
    RecipeError
        If the file is not TOML, lacks a field or has an invalid value.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is not a readable recipe: {error}; fix its TOML") from error
    try:
        json.dumps(data)  # raises if it is not JSON: a store keeps it in its attributes
        labels = data["labels"]
        _refuse_no_sentences(data.get("faults", []))
        if not is_date(data.get("published", "2001-01-01")):
            raise ValueError(f"published={data['published']!r} is not a date; give one as text, such as '2026-11-23'")
        return Recipe(
            folder=folder or path.parent,
            name=data["name"],
            title=data["title"],
            licence=data["licence"],
            origin=data["origin"],
            labels=_labels(labels),
            tracks_per_label=_positive(data["tracks_per_label"]),
            source=_source(data["source"]),
            spec=FeatureSpec.from_dict(data.get("spec", {})),
            split=HashSplit(**data.get("split", {})),
            splits={name: named_split(table) for name, table in data.get("splits", {}).items()},
            data=data,
        )
    except KeyError as error:
        raise RecipeError(f"{path} lacks the field {error}; see the recipes that come with melzarr") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{path} has a field of the wrong type: {error}") from error


def _labels(names: Any) -> tuple[str, ...]:
    """Return the labels sorted; each must be a valid name of a folder that is not ignored, because it becomes one."""
    if not isinstance(names, list) or not names:
        raise ValueError(f"labels={names!r} is not a list of names")
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or is_ignored(name) or not name:
            raise ValueError(f"label {name!r} is not a plain folder name")
    if len(set(names)) < len(names):
        raise ValueError(f"labels={names!r} contains a name twice")
    return tuple(sorted(names))


def _refuse_no_sentences(faults: Any) -> None:
    if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
        raise ValueError(f"faults={faults!r:.80} is not a list of sentences")


def is_date(text: Any) -> bool:
    """Return whether a value is a date as text, such as 2026-11-23."""
    try:
        return isinstance(text, str) and date.fromisoformat(text).isoformat() == text  # not 20261123 or 2026-W48-1
    except ValueError:
        return False


def _positive(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_TRACKS:
        raise ValueError(f"tracks_per_label={value!r} is not a whole number from 1 to {MAX_TRACKS}")
    return value


def _source(table: dict[str, Any]) -> Archive | Synthesis:
    kind = table["kind"]
    if kind == "archive":
        if not isinstance(table["urls"], list) or not table["urls"]:
            raise ValueError(f"source.urls={table['urls']!r} is not a list of addresses")
        return Archive(tuple(table["urls"]), int(table["bytes"]), table["sha256"].lower())
    if kind == "synthesis":
        sha256 = str(table.get("sha256", "")).lower()
        if not re.fullmatch("(?:[0-9a-f]{64})?", sha256):
            raise ValueError(f"source.sha256={sha256!r:.80} is not a digest of 64 hexadecimal digits")
        made = Synthesis(int(table["seed"]), int(table["sample_rate"]), float(table["seconds"]), sha256)
        if not (4000 <= made.sample_rate <= 192_000 and 0.1 <= made.seconds <= 3600):
            raise ValueError(
                f"{made.seconds} s at {made.sample_rate} Hz are not a valid track; use 0.1 s to an hour at 4000 Hz or "
                f"more"
            )
        return made
    raise ValueError(f"source.kind={kind!r} is unknown; use 'archive' or 'synthesis'")


def named_split(table: dict[str, Any]) -> dict[str, str]:
    """Return the split of each track id, from ranges of track numbers such as ``blues = "0-11,50-60"``."""
    parts: dict[str, str] = {}
    for part in SPLITS:
        for label, ranges in table.get(part, {}).items():
            for number in expand_ranges(ranges):
                name = f"{label}/{label}.{number:05d}"
                if parts.setdefault(name, part) != part:
                    raise ValueError(f"track {name} is in {parts[name]} and in {part}")
    return parts


def expand_ranges(ranges: str) -> list[int]:
    """List the numbers of ranges, both ends included.

    Raises
    ------
    ValueError
        If the text is not a list of such ranges.

    Examples
    --------
    >>> expand_ranges("0-2,7")
    [0, 1, 2, 7]
    """
    numbers: list[int] = []
    for item in ranges.split(","):
        first, _, last = item.partition("-")
        found = range(int(first), int(last or first) + 1)
        if not found:
            raise ValueError(f"the range {item!r} runs backwards")
        if found[-1] >= MAX_TRACKS:
            raise ValueError(f"the range {item!r} goes beyond the {MAX_TRACKS} tracks that a label may have")
        numbers.extend(found)
    return numbers
