"""Share a store, or some of its tracks, as a documented dataset with card, tables, report and checksums."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.builder.feedback import Progress
from melzarr.pipeline.builder.run_build import Summary
from melzarr.pipeline.derive.derive_store import derive, is_made
from melzarr.pipeline.derive.track_selection import TrackSelection, tracks_of
from melzarr.pipeline.errors import CallError
from melzarr.pipeline.features.decibels import stored_levels
from melzarr.pipeline.inspection.near_duplicates import Step
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.zip_workspace import digest_file
from melzarr.pipeline.report import charts
from melzarr.pipeline.report.charts import Charts
from melzarr.pipeline.report.mel_figure import require_matplotlib
from melzarr.pipeline.share.documents import explain
from melzarr.pipeline.share.parquet_tables import require_pyarrow
from melzarr.pipeline.share.share_options import ShareOptions
from melzarr.pipeline.share.store_look import StoreLook
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.storage.zip import ZipDirectory
from melzarr.pipeline.zarr_store.companion_files import read_checksums
from melzarr.pipeline.zarr_store.reader import Store

BLOCK = 1 << 12  # tracks that are queued for the threads at a time


def share(
    store: Store,
    target: str | Path | Directory,
    options: ShareOptions,
    *,
    replace: bool = False,
    progress: Progress = lambda _: None,
    step: Step = lambda _, __: lambda _: None,
    draw: Charts = charts,
) -> Summary:
    """Share a store, or continue an interrupted share.

    Parameters
    ----------
    store : Store
        The store to share; it is not changed.
    target : str, Path or Directory
        A folder, a ``.zarr.zip``, or an address in an object store.
    options : ShareOptions
        Which tracks are shared, and how.
    replace : bool
        Whether an existing store at `target` is replaced, once the new one is complete.
    progress : callable
        Called with the receipt of each shard copied.
    step : callable
        Called with the name and the number of tracks of each further step; returns a callback for its progress.
    draw : Charts
        Functions that draw the pictures.

    Returns
    -------
    Summary
        Summary of the copy.

    Raises
    ------
    CallError
        If the selection is empty, or the features of the store cannot be converted.
    BuildError
        If `target` already exists.
    StoreError
        If a track of the store is damaged.
    """
    where, numbers, spec = open_directory(target), options.select(store), options.spec(store)
    about, said, parts = options.about(store), repr(options), [TrackSelection(store, numbers)]
    _require_form(where, options)
    require_matplotlib()  # checked first, because a copy can take hours
    _require_audio(store, numbers, options.audio)
    is_new = not is_made(parts, where, about, spec=spec, replace=replace, said=said)
    if is_new:
        audio = Catalog(options.audio, tracks_of(parts)) if options.audio else None
        refuse_place(open_workspace(where), [store.directory], replace=replace, catalog=audio)  # before the comparison
        if derived := _derived(store, numbers, about):
            if spec != store.spec:
                derived["max_error_db"] = largest_error(store, numbers, spec, step("compare", len(numbers)))
            about["derived"] = derived
    is_whole = len(numbers) == store.n_tracks and spec == store.spec
    with StoreLook(store) if is_new and is_whole else nullcontext() as look:
        return derive(
            parts,
            where,
            about,
            spec=spec,
            replace=replace,
            explain=lambda new, folder, checksums: explain(new, folder, checksums, where, options, step, draw, look),
            said=said,
            progress=progress,
        )


def archive_sha256(where: Directory) -> str:
    """Return an archive's SHA-256, in hexadecimal, from the file beside it; empty if `where` is not an archive."""
    return read_checksums(digest_file(where.path).read_bytes())[where.name] if isinstance(where, ZipDirectory) else ""


def _require_form(where: Directory, options: ShareOptions) -> None:
    """Raise if a share for Hugging Face cannot be written, or windows are asked for in tables that there are not."""
    if options.arrays and not options.for_hub:
        raise CallError("arrays are part of a share for Hugging Face only; add --for hugging-face")
    if options.for_hub:
        require_pyarrow()
        if isinstance(where, ZipDirectory):
            raise CallError(f"{where} is one file, and Hugging Face reads a folder of files; give the path of a folder")


def _require_audio(store: Store, numbers: npt.NDArray[np.intp], root: Directory | None) -> None:
    """Raise CallError if an audio file is missing below `root` or is outside it, before anything is copied."""
    if root is None:
        return
    sources, digests = (store.column(name)[numbers].tolist() for name in ("source", "source_blake3"))
    for source, digest in zip(sources, digests, strict=True):
        if source.startswith("/") or ".." in source.split("/"):
            raise CallError(f"the source {source!r} points outside its folder; share the store without its audio")
        if digest and root.size(source) is None:
            raise CallError(f"{source} is not below {root}; give the source of the audio that the store was made from")


def _derived(store: Store, numbers: npt.NDArray[np.intp], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return from which store a share is derived, and how, with that store's own origin; empty if it is a full copy."""
    was = store.attributes
    if len(numbers) == store.n_tracks and {**about, "uuid": was["uuid"]} == was:
        return {}
    found: dict[str, Any] = {"from": was["uuid"], "tracks": len(numbers), "of_tracks": store.n_tracks}
    if about["spec"] != was["spec"]:
        found |= {"scale": store.spec.scale, "dtype": store.spec.dtype}
    return {**found, "before": was["derived"]} if "derived" in was else found


def largest_error(
    store: Store,
    numbers: npt.NDArray[np.intp],
    spec: FeatureSpec,
    progress: Callable[[int], object] = lambda _: None,
) -> float:
    """Return the largest difference in level between tracks of a store and their converted form, in dB.

    Parameters
    ----------
    store : Store
        The store.
    numbers : np.ndarray [shape=(n_tracks,)]
        Indices of the tracks.
    spec : FeatureSpec
        Spec of the converted form.
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
    with ThreadPoolExecutor(max(store.directory.io_threads, os.cpu_count() or 1)) as pool:
        return math.ceil(1000 * max(max(pool.map(error, block)) for block in blocks)) / 1000
