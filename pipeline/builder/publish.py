"""Receipts → coordinates, statistics and attributes, and the one step in which a store appears."""

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

# Of a store that was made of somebody's own files, of which nobody has said more.
DEFAULT_TITLE, DEFAULT_LICENCE = "mel-spectrogram windows", "not stated"

Explain = Callable[[Store, Path], None]


def publish(
    plan: Plan,
    about: Mapping[str, Any],
    workspace: Workspace,
    ledger: ReceiptTable,
    *,
    replace: bool = False,
    explain: Explain | None = None,
) -> None:
    """Describe the shards that were made and let the store appear under its name.

    Parameters
    ----------
    plan : Plan
        What was computed.
    about : mapping of str to value
        Attributes of the store's group.
    workspace : Workspace
        Where the shards lie.
    ledger : ReceiptTable
        What the receipts say.
    replace : bool
        Whether a store that is there is replaced.
    explain : callable, optional
        Called with the whole store before it appears, and with the folder of all of it but its shards, into which it
        may write further files: they appear with the store.

    Raises
    ------
    BuildError
        Where a shard is missing; nothing is published then.
    """
    digests, sizes = (ledger.shards[name].tolist() for name in ("sha256", "n_bytes"))
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
            sharded=plan.sharded,
            coordinates=coordinates(plan, ledger),
            receipts=receipt_variables({**ledger.shards, **ledger.sums}),
            digests=digests,
            attributes=about,
        )
        if explain:
            explain(open_store(workspace.preview(folder, digests)), folder)
            _sync_described(folder)


def _sync_described(folder: Path) -> None:
    """Make sure of what was written beside the store's own files, which are on the disk already."""
    for name, _ in files_below(folder, without=SHARDS):
        for place in (folder / name, (folder / name).parent):
            sync(place)


def coordinates(plan: Plan, ledger: ReceiptTable) -> list[Variable]:
    """Make all coordinates of a store from its plan and what the receipts say."""
    spec, tracks = plan.spec, Tracks.of(plan.tracks)
    mean_db, std_db = statistics(int(ledger.shards["count"].sum()), ledger.sums["level"], ledger.sums["square"])
    columns: dict[str, Column] = {
        "track": tracks.column("id"),
        "window": spec.window_starts(),
        "frame": spec.frame_centres(),
        "band": band_centres(spec),
        **{name: tracks.column(name) for name in ("label", "split", "group", "source")},
        **ledger.tracks,
        "mean_db": mean_db,
        "std_db": std_db,
    }
    return [coordinate(name, values) for name, values in columns.items()]


def attributes(plan: Plan, catalog: Catalog) -> dict[str, Any]:
    """Make the attributes of a store's group, but for its UUID."""
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
