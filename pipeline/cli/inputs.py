"""Turn arguments into a source, its catalog and its plan. Heavy modules are imported only when needed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melzarr.pipeline.cli.options import SPEC_HELP
from melzarr.pipeline.errors import CallError
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory

if TYPE_CHECKING:
    from melzarr.pipeline.builder.plan import Plan
    from melzarr.pipeline.sources.catalog import Catalog
    from melzarr.pipeline.sources.dataset_recipe import Recipe

# Keywords of `read_catalog` that are options, and their defaults.
LISTING = {
    "path_column": "path",
    "label_column": "label",
    "group_column": "group",
    "audio_root": None,
    "follow_links": False,
}
MANIFEST_OPTIONS = {
    "path_column": ("--path-column", "a column"),
    "label_column": ("--label-column", "a column"),
    "group_column": ("--group", "a column"),
    "audio_root": ("--audio-root", "the folder of the files"),
}


def resolve(source: str, datasets: Path) -> Directory | Recipe:
    """Return the directory at a path or address, or the recipe of that name if there is no such path."""
    from melzarr.pipeline.sources.dataset_recipe import find_recipe

    directory = open_directory(source)
    path = directory.folder
    if path and len(path.parts) == 1 and not path.suffix and not path.exists():
        return find_recipe(source, datasets)
    return directory


def audio_root(source: str, datasets: Path, option: str = "--source") -> Directory:
    """Return the directory that contains the audio files of a source."""
    from melzarr.pipeline.sources.dataset_recipe import Recipe
    from melzarr.pipeline.sources.manifest import is_manifest

    where = resolve(source, datasets)
    if isinstance(where, Recipe):
        root = open_directory(where.audio)
        found = root.exists()
    elif is_manifest(where):
        root = where.sibling("")
        found = root.size(where.name) is not None
    else:
        root = where
        found = root.exists()
    if not found:
        raise CallError(f"{option} {source}: there is nothing at {root}; give the path of the audio")
    return root


def read_source(
    source: str, datasets: Path, shares: dict[str, Any], *, named_split: str | None = None, **listing: Any
) -> Catalog:
    """List the tracks of a source, split according to the options; `listing` has what is not as in `LISTING`."""
    from melzarr.pipeline.sources.catalog import read_catalog
    from melzarr.pipeline.sources.dataset_recipe import Recipe
    from melzarr.pipeline.sources.manifest import is_manifest
    from melzarr.pipeline.sources.split import HashSplit

    where, listing = resolve(source, datasets), {**LISTING, **listing}
    default = where.split if isinstance(where, Recipe) else HashSplit()
    given = {name: value for name, value in shares.items() if value is not None}
    if given and named_split:
        raise CallError(
            f"--split {named_split} already assigns each track to a split; leave out --{' and --'.join(given)}"
        )
    of_a_manifest = not isinstance(where, Recipe) and is_manifest(where)
    for name, (option, what) in MANIFEST_OPTIONS.items():
        if not of_a_manifest and listing[name] != LISTING[name]:
            raise CallError(
                f"{option} {listing[name]} names {what} of a manifest, but {source} is not a manifest; leave it out"
            )
    if of_a_manifest and listing["follow_links"]:
        raise CallError(f"--follow-links is for a folder of label/file, but {source} is a manifest; leave it out")
    split = dataclasses.replace(default, **given)
    return read_catalog(where, split, named_split=named_split, **listing)


def listing_words(options: dict[str, Any]) -> list[object]:
    """Return the options of `LISTING` that were given, as words of a command."""
    named = [
        (option, options[name]) for name, (option, _) in MANIFEST_OPTIONS.items() if options[name] != LISTING[name]
    ]
    return [*itertools.chain.from_iterable(named), *(["--follow-links"] if options["follow_links"] else [])]


def prepare(source: str, options: dict[str, Any]) -> tuple[Catalog, Plan]:
    """Return the catalog and the plan for a source and the options of `source_options`."""
    from melzarr.pipeline.builder.plan import make_plan
    from melzarr.pipeline.features.mel_filterbank import filterbank
    from melzarr.pipeline.versions import versions

    catalog = read_source(
        source,
        options["datasets"],
        {name: options[name] for name in ("valid", "test", "seed")},
        **{name: options[name] for name in LISTING},
        named_split=options["named_split"],
    )
    if options["preset"]:
        base = FeatureSpec.preset(options["preset"])
    else:
        base = catalog.recipe.spec if catalog.recipe else FeatureSpec()
    given = {name: options[name] for name in SPEC_HELP if options[name] is not None}
    spec = FeatureSpec.from_dict({**base.to_dict(), **given})
    filterbank(spec)  # raises if a band has no FFT bin, before any worker starts
    return catalog, make_plan(spec, catalog.tracks, versions(), options["tracks_per_shard"])
