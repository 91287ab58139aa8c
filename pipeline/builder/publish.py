"""Write coordinates, statistics and attributes from the receipts, and publish the store in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from melzarr.pipeline.builder.plan import Plan
from melzarr.pipeline.builder.receipt_table import ReceiptTable
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.features.mel_filterbank import band_centres
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import Tracks
from melzarr.pipeline.storage.atomic import files_below, sync
from melzarr.pipeline.zarr_store.layout import (
    SCHEMA_VERSION,
    Column,
    Variable,
    coordinate,
    receipt_variables,
    statistics,
    write_description,
)
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.shard import SHARDS

# For a store of a user's own files, without a recipe.
DEFAULT_TITLE, DEFAULT_LICENCE = "mel-spectrogram windows", "not stated"

Explain = Callable[[Store, Path], None]


def publish(
    plan: Plan,
    about: Mapping[str, Any],
    workspace: Workspace,
    receipt_table: ReceiptTable,
    *,
    replace: bool = False,
    explain: Explain | None = None,
) -> None:
    """Write the metadata of a store whose shards are written, and publish it under its name.

    Parameters
    ----------
    plan : Plan
        What was computed.
    about : mapping of str to value
        Attributes of the store's group.
    workspace : Workspace
        Holds the shards.
    receipt_table : ReceiptTable
        Contents of the receipts.
    replace : bool
        Whether an existing store is replaced.
    explain : callable, optional
        Called before publication with the complete store, and with the folder of everything except its shards. Files
        that it writes to this folder are published with the store.

    Raises
    ------
    BuildError
        If a shard is missing; nothing is published then.
    """
    digests, sizes = (receipt_table.shards[name].tolist() for name in ("blake3", "n_bytes"))
    missing = workspace.missing(digests, sizes)
    if missing:
        tracks = [track.id for index in missing[:6] for track in plan.shard(index).tracks]
        raise BuildError(
            f"{len(missing)} of {plan.n_shards} shards are missing, with the tracks {', '.join(tracks[:5])}"
            f"{' …' if len(tracks) > 5 else ''}; run the same command again to make them"
        )
    with workspace.publishing(digests, sizes, replace=replace, check=open_store) as folder:
        write_description(
            folder,
            spec=plan.spec,
            tracks_per_shard=plan.tracks_per_shard,
            coordinates=coordinates(plan, receipt_table),
            receipts=receipt_variables({**receipt_table.shards, **receipt_table.sums}),
            digests=digests,
            attributes=about,
        )
        if explain:
            explain(open_store(workspace.preview(folder, digests)), folder)
            _sync_described(folder)


def _sync_described(folder: Path) -> None:
    """Sync files that were added to the folder to disk; the store's own files are synced already."""
    for name, _ in files_below(folder, without=SHARDS):
        for place in (folder / name, (folder / name).parent):
            sync(place)


def coordinates(plan: Plan, receipt_table: ReceiptTable) -> list[Variable]:
    """Return all coordinates of a store, from its plan and the receipts."""
    spec, tracks = plan.spec, Tracks.of(plan.tracks)
    mean_db, std_db = statistics(
        int(receipt_table.shards["count"].sum()), receipt_table.sums["level"], receipt_table.sums["square"]
    )
    columns: dict[str, Column] = {
        "track": tracks.column("id"),
        "window": spec.window_starts(),
        "frame": spec.frame_centres(),
        "band": band_centres(spec),
        **{name: tracks.column(name) for name in ("label", "split", "group", "source")},
        **receipt_table.tracks,
        "mean_db": mean_db,
        "std_db": std_db,
    }
    return [coordinate(name, values) for name, values in columns.items()]


def attributes(plan: Plan, catalog: Catalog) -> dict[str, Any]:
    """Return the attributes of a store's group, except its UUID."""
    recipe = catalog.recipe
    return {
        "schema_version": SCHEMA_VERSION,
        "title": recipe.title if recipe else DEFAULT_TITLE,
        "licence": recipe.licence if recipe else DEFAULT_LICENCE,
        "spec": plan.spec.to_dict(),
        "split": dict(catalog.rule),
        "recipe": dict(recipe.data) if recipe else {},
        "versions": plan.versions,
    }
