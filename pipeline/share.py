"""A store → a dataset that explains itself: the store or a part of it, with card, tables, report and checksums."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.archive import ZipTree
from pipeline.build import Progress, Summary
from pipeline.card import About, card, citation, columns, description, tracks_csv
from pipeline.charts import require_matplotlib
from pipeline.chunk import SHARDS
from pipeline.companions import AUDIO, CARD, CHECKSUMS, CROISSANT, PICTURES, TRACKS, checksum_lines, read_checksums
from pipeline.croissant import croissant
from pipeline.derive import derive
from pipeline.describe import describe
from pipeline.errors import CallError
from pipeline.files import files_below, sha256_of, write_whole
from pipeline.findings import find
from pipeline.in_zip import digest_file
from pipeline.mel import stored_levels
from pipeline.parts import Part
from pipeline.picture import draw
from pipeline.places import refuse_place
from pipeline.report import write_report
from pipeline.spec import FeatureSpec
from pipeline.store import Store
from pipeline.tree import Tree
from pipeline.trees import open_tree
from pipeline.workspaces import open_workspace

# Hugging Face keeps what is named here apart from the history, as it wants it of binary files.
ATTRIBUTES: Final = ("*/c/**", "mel/c/**", "*.png", f"{AUDIO}/**")
BLOCK = 1 << 12  # tracks that wait for a thread at a time
NAMED = 5  # known names that an error lists

Step = Callable[
    [str, int], Callable[[int], object]
]  # begins a step of so many tracks; gives what is called as they are done


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What of a store is shared, and how.

    Parameters
    ----------
    labels, splits, tracks : sequence of str
        Which tracks: those of any of the labels, of any of the splits, and any of the ids; all where nothing is said.
    scale, dtype : str, optional
        In place of the store's.
    sharded : bool
        Whether some tracks lie in one file. Where not, no server need give parts of files.
    audio : Tree, optional
        Below which the audio files lie, where they are to be shared too.
    for_hub : bool
        Whether it is to be uploaded to Hugging Face.
    published : str
        Date of publication, year first; nothing where it has none.
    title, licence, origin : str, optional
        In place of what the store says of itself.
    """

    labels: Sequence[str] = ()
    splits: Sequence[str] = ()
    tracks: Sequence[str] = ()
    scale: str | None = None
    dtype: str | None = None
    sharded: bool = True
    audio: Tree | None = None
    for_hub: bool = False
    published: str = ""
    title: str | None = None
    licence: str | None = None
    origin: str | None = None

    def about(self, store: Store) -> dict[str, Any]:
        """Give the attributes of what is shared, but for what follows from its tracks."""
        about = {name: value for name, value in store.attributes.items() if name != "uuid"}
        given = {name: value for name in ("title", "licence") if (value := getattr(self, name)) is not None}
        recipe = {} if self.origin is None else {"recipe": {**about["recipe"], "origin": self.origin}}
        return {**about, **given, **recipe, "spec": self.spec(store).to_dict()}

    def spec(self, store: Store) -> FeatureSpec:
        """Give the spec of what is shared."""
        given = {name: value for name in ("scale", "dtype") if (value := getattr(self, name))}
        return FeatureSpec.from_dict({**store.spec.to_dict(), **given})

    def select(self, store: Store) -> npt.NDArray[np.intp]:
        """Numbers of the tracks that are shared, ascending.

        Raises
        ------
        CallError
            For a name that the store does not know, or where no track is left.
        """
        chosen = np.ones(store.n_tracks, bool)
        for column, names in (("label", self.labels), ("split", self.splits), ("track", self.tracks)):
            if names:
                values = store.column(column)
                known = np.unique(values).tolist()
                if unknown := sorted(set(names) - set(known)):
                    listed = ", ".join(known[:NAMED]) + (" …" if len(known) > NAMED else "")
                    raise CallError(f"{store.tree} has no {column} {unknown[0]!r}; it has {listed}")
                chosen &= np.isin(values, list(names))
        if not chosen.any():
            raise CallError(f"no track of {store.tree} is of these labels, splits and ids at once; ask for others")
        return np.flatnonzero(chosen)


def share(
    store: Store,
    target: str | Path | Tree,
    wish: Wish,
    *,
    replace: bool = False,
    progress: Progress = lambda _: None,
    step: Step = lambda _, __: lambda _: None,
) -> Summary:
    """Share a store, or go on with what was interrupted.

    Parameters
    ----------
    store : Store
        The store; it is not changed.
    target : str, Path or Tree
        A folder, a ``.zarr.zip``, or an address in an object store.
    wish : Wish
        What of it, and how.
    replace : bool
        Whether what is there is replaced, once the new one is complete.
    progress : callable
        Called with the receipt of each shard that was copied.
    step : callable
        Called with the name and the number of tracks of each further step.

    Returns
    -------
    Summary
        What was copied.

    Raises
    ------
    CallError
        For a selection that is empty, or features that the store's cannot become.
    BuildError
        Where something is there already.
    StoreError
        Where a track of the store is damaged.
    """
    where, numbers, spec = open_tree(target), wish.select(store), wish.spec(store)
    require_matplotlib()  # here, for a copy can take hours
    _require_audio(store, numbers, wish.audio)
    refuse_place(open_workspace(where), [store.tree], replace=replace)
    about = wish.about(store)
    if derived := _derived(store, numbers, about):
        if spec != store.spec:
            derived["max_error_db"] = largest_error(store, numbers, spec, step("compare", len(numbers)))
        about["derived"] = derived

    def explain(new: Store, folder: Path) -> None:
        _explain(new, folder, where, wish, step)

    return derive(
        [Part(store, numbers)], where, about,
        spec=spec, sharded=wish.sharded, replace=replace, explain=explain, progress=progress,
    )  # fmt: skip


def archive_sha256(where: Tree) -> str:
    """SHA-256 of an archive as the file beside it says, in hexadecimal; nothing for what is none."""
    return read_checksums(digest_file(where.path).read_bytes())[where.name] if isinstance(where, ZipTree) else ""


def _require_audio(store: Store, numbers: npt.NDArray[np.intp], root: Tree | None) -> None:
    """Refuse a place in which the audio is not, before anything is copied."""
    if root is None:
        return
    sources, digests = (store.column(name)[numbers].tolist() for name in ("source", "source_sha256"))
    for source, digest in zip(sources, digests, strict=True):
        if source.startswith("/") or ".." in source.split("/"):
            raise CallError(f"the source {source!r} leads out of its folder; share the store without its audio")
        if digest and root.size(source) is None:
            raise CallError(f"{source} is not below {root}; say where the audio is that the store was made from")


def _derived(store: Store, numbers: npt.NDArray[np.intp], about: Mapping[str, Any]) -> dict[str, Any]:
    """Say of what store this is a part or another form, and of what that was; nothing where it is all as it is."""
    was = store.attributes
    if len(numbers) == store.n_tracks and {**about, "uuid": was["uuid"]} == was:
        return {}
    found: dict[str, Any] = {"from": was["uuid"], "tracks": len(numbers), "of_tracks": store.n_tracks}
    if about["spec"] != was["spec"]:
        found |= {"scale": store.spec.scale, "dtype": store.spec.dtype}
    return {**found, "before": was["derived"]} if "derived" in was else found


def _derived_lines(derived: Any) -> Iterator[str]:
    """Say the same in sentences; of what a stranger has written, what is understood."""
    while isinstance(derived, dict):
        form = f", there as {derived['scale']} in {derived['dtype']}" if "dtype" in derived else ""
        tracks, of_tracks, name = (derived.get(key) for key in ("tracks", "of_tracks", "from"))
        yield f"{tracks} of the {of_tracks} tracks of the store {name}{form}."
        if "max_error_db" in derived:
            yield f"Its levels differ from those by at most {derived['max_error_db']} dB."
        derived = derived.get("before")


def largest_error(
    store: Store,
    numbers: npt.NDArray[np.intp],
    spec: FeatureSpec,
    progress: Callable[[int], object] = lambda _: None,
) -> float:
    """Largest difference of levels between tracks of a store and what they become, in dB.

    Parameters
    ----------
    store : Store
        The store.
    numbers : np.ndarray [shape=(n_tracks,)]
        Numbers of the tracks.
    spec : FeatureSpec
        What they become.
    progress : callable
        Called with the number of tracks done since the last call.

    Returns
    -------
    float
        Rounded up to thousandths.
    """
    read = store.reader()

    def error(number: int) -> float:
        was = np.empty(store.spec.shape, store.spec.dtype)
        read(number, was)
        levels = stored_levels(was, store.spec).astype(np.float32)
        became = levels.astype(spec.dtype).astype(np.float32) if spec.scale == "db" else levels
        progress(1)
        return float(np.nanmax(np.abs(levels - became), initial=0.0))

    blocks = (numbers[start : start + BLOCK].tolist() for start in range(0, len(numbers), BLOCK))
    with ThreadPoolExecutor(max(store.tree.readers, os.cpu_count() or 1)) as pool:
        return math.ceil(1000 * max(max(pool.map(error, block)) for block in blocks)) / 1000


def _explain(store: Store, folder: Path, where: Tree, wish: Wish, step: Step) -> None:
    """Write all that explains a store into the folder of its metadata, and last the checksums of everything."""
    findings = find(store, step("look", store.n_tracks))
    plain_name = where.name.lstrip(".").partition(".")[0] or "dataset"
    facts = {**describe(store), "name": plain_name}
    picture = f"{PICTURES}/examples.png" if (store.column("status") == "ok").any() else ""
    if picture:
        (folder / PICTURES).mkdir(exist_ok=True)
        draw(store, folder / picture)
    recipe_faults = store.attributes["recipe"].get("faults", [])
    said = recipe_faults if isinstance(recipe_faults, list) else []
    about = About(
        name=where.name,
        is_zip=isinstance(where, ZipTree),
        faults=[*findings.faults(), *map(str, said)],
        derived=list(_derived_lines(store.attributes.get("derived"))),
        for_hub=wish.for_hub,
        has_audio=wish.audio is not None,
        published=wish.published,
        picture=picture,
    )
    write_report(store, findings, folder, pictures=PICTURES, name=plain_name)
    write_whole(folder / TRACKS, *tracks_csv(store))
    write_whole(folder / CARD, card(store, facts, about).encode())
    if wish.for_hub:
        lines = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in ATTRIBUTES)
        write_whole(folder / ".gitattributes", lines.encode())
    if wish.audio:
        _copy_audio(store, wish.audio, folder / AUDIO, step("audio", store.n_tracks))
    digests = {file: sha256_of(folder / file) for file, _ in files_below(folder, without=SHARDS)}
    described = {file: digest for file, digest in digests.items() if "/" not in file}
    facts |= {"description": description(facts), "citation": citation(facts, wish.published)}
    write_whole(folder / CROISSANT, croissant({**facts, "published": wish.published}, described, columns()))
    digests[CROISSANT] = sha256_of(folder / CROISSANT)
    shards = store.values("receipts/sha256").tolist()
    digests |= {f"{SHARDS}/{index}/0/0/0": digest for index, digest in enumerate(shards)}
    write_whole(folder / CHECKSUMS, checksum_lines(digests))


def _copy_audio(store: Store, root: Tree, folder: Path, progress: Callable[[int], object]) -> None:
    """Copy the audio files, each of which must still be the one that the store was made from."""
    for source, digest in zip(store.values("source"), store.values("source_sha256"), strict=True):
        progress(1)
        if not digest:  # what could not be read then is no part of the dataset
            continue
        with root.local(source) as path:
            if not path.is_file() or sha256_of(path) != digest:
                raise CallError(f"{source} below {root} is not the file that the store was made from; share it without")
            (folder / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / source)
