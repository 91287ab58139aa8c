"""Receipts → coordinates, statistics and attributes, and the one step in which a store appears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.catalog import Catalog
from pipeline.errors import BuildError
from pipeline.layout import SCHEMA_VERSION, Variable, coordinate, statistics, write_description
from pipeline.mel import band_centres
from pipeline.plan import Plan
from pipeline.receipt import Receipt
from pipeline.workspace import Workspace


def publish(plan: Plan, catalog: Catalog, workspace: Workspace, receipts: Sequence[Receipt]) -> None:
    """Describe the shards that were made and let the store appear under its name.

    Parameters
    ----------
    plan : Plan
        What was computed.
    catalog : Catalog
        Labels, groups and splits of the plan's tracks.
    workspace : Workspace
        Where the shards lie.
    receipts : sequence of Receipt
        One a shard, in order.

    Raises
    ------
    BuildError
        Where a shard is missing; nothing is published then.
    """
    given = [receipt.index for receipt in receipts]
    missing = sorted({*workspace.missing(receipts), *(set(range(plan.n_shards)) - set(given))})
    if missing:
        tracks = [track.id for index in missing for track in plan.shard(index).tracks]
        raise BuildError(
            f"{len(missing)} of {plan.n_shards} shards are missing, with the tracks {', '.join(tracks[:5])}"
            f"{' …' if len(tracks) > 5 else ''}; run the same command again to make them"
        )
    workspace.sweep(plan.n_shards)
    write_description(
        workspace.store,
        spec=plan.spec,
        tracks_per_shard=plan.tracks_per_shard,
        coordinates=coordinates(plan, receipts),
        receipts=receipts,
        attributes=attributes(plan, catalog),
    )
    workspace.publish()


def coordinates(plan: Plan, receipts: Sequence[Receipt]) -> list[Variable]:
    """Make all coordinates of a store from its plan and its receipts."""
    spec = plan.spec
    entries = [entry for receipt in receipts for entry in receipt.tracks]
    mean_db, std_db = statistics([receipt.sums for receipt in receipts], spec.n_mels)

    def text(values: list[str]) -> np.ndarray[Any, Any]:
        return np.array(values, dtype=object)

    return [
        coordinate("track", text([track.id for track in plan.tracks])),
        coordinate("window", spec.window_starts()),
        coordinate("frame", spec.frame_centres()),
        coordinate("band", band_centres(spec)),
        *(
            coordinate(name, text([getattr(t, name) for t in plan.tracks]))
            for name in ("label", "split", "group", "source")
        ),
        *(coordinate(name, text([getattr(e, name) for e in entries])) for name in ("status", "error", "source_sha256")),
        coordinate("n_windows", np.array([entry.n_windows for entry in entries], np.int32)),
        *(
            coordinate(name, np.array([getattr(entry, name) for entry in entries], np.float64))
            for name in ("source_rate", "source_channels", "duration")
        ),
        coordinate("mean_db", mean_db),
        coordinate("std_db", std_db),
    ]


def attributes(plan: Plan, catalog: Catalog) -> dict[str, Any]:
    """Make the attributes of a store's group, but for its UUID."""
    recipe = catalog.recipe
    return {
        "schema_version": SCHEMA_VERSION,
        "title": recipe.title if recipe else "mel-spectrogram windows",
        "licence": recipe.licence if recipe else "not stated",
        "spec": plan.spec.to_dict(),
        "split": dict(catalog.rule),
        "recipe": dict(recipe.data) if recipe else {},
        "versions": plan.versions,
    }
