"""A store of tracks of other stores: whole shards are kept as they are, the others packed anew from their chunks."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.build import Progress, Summary, summarise
from pipeline.ledger import Ledger
from pipeline.parts import Part, plan_of
from pipeline.places import refuse_place
from pipeline.plan import Plan, as_json
from pipeline.publish import Explain, publish
from pipeline.repack import jobs_of, make_repacked
from pipeline.spec import FeatureSpec
from pipeline.store import reading
from pipeline.threads import in_order
from pipeline.tree import Tree
from pipeline.workspace import PLAN, Workspace
from pipeline.workspaces import open_workspace

DERIVED = "derived.json"  # file of the workspace: what is being made there, and of what
ROOM = 1 << 29  # bytes that the shards in work may take together; one is always worked on


def derive(
    parts: Sequence[Part],
    target: str | Path | Tree | Workspace,
    about: Mapping[str, Any],
    *,
    spec: FeatureSpec | None = None,
    tracks_per_shard: int | None = None,
    sharded: bool = True,
    replace: bool = False,
    in_place: bool = False,
    explain: Explain | None = None,
    progress: Progress = lambda _: None,
) -> Summary:
    """Make a store of tracks of other stores, or go on where that was interrupted.

    A shard of whose tracks a part has a shard of its own is kept as it is: linked, copied or found where it is. Every
    other is packed from chunks as they are, once their checksums were held against them. So the bytes depend on the
    tracks, their order and `about` alone, and are those of a build of the same.

    Parameters
    ----------
    parts : sequence of Part
        The tracks, in this order.
    target : str, Path, Tree or Workspace
        Where the store will be.
    about : mapping of str to value
        Attributes of its group, as another store has them; spec and UUID are put in here.
    spec : FeatureSpec, optional
        What its tracks are, by default what they are in the parts; levels in place of power, and float16 in place of
        float32, are made of what is there.
    tracks_per_shard : int > 0, optional
        By default as the first part has it.
    sharded : bool
        False for each track in a file of its own.
    replace : bool
        Whether a store that is there is replaced, once the new one is complete.
    in_place : bool
        Whether the store that is replaced is the first of the parts.
    explain : callable, optional
        Called with the whole store before it appears, and with the folder of all of it but its shards, into which it
        may write further files: they appear with the store.
    progress : callable
        Called with each shard's receipt.

    Returns
    -------
    Summary
        What was done.

    Raises
    ------
    CallError, SpecError, CatalogError
        Where there are no tracks, two specs do not go together, an id comes twice, or a group is in two splits;
        nothing was done then.
    StoreError
        Where a part is damaged; the track or the shard is named, and nothing appears.
    BuildError
        Where the target is there and is not to be replaced, or is being built.
    """
    start = time.perf_counter()
    parts = [part for part in parts if part.numbers.size]
    stores = [part.store for part in parts]
    with reading(stores):
        plan = plan_of(parts, about, spec, tracks_per_shard, sharded)
    facts = {**{name: value for name, value in about.items() if name != "uuid"}, "spec": plan.spec.to_dict()}
    workspace = open_workspace(target)
    refuse_place(workspace, (store.tree for store in stores[int(in_place) :]), replace=replace)
    with workspace.locked(), reading(stores):
        workspace.refuse_occupied(replace)
        for store in stores:
            store.refuse_replaced()
        workspace.root.remove([PLAN])  # parts of a build that still run come to an end
        _begin(workspace, plan, parts)
        with Ledger(len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, workspace.root.folder) as ledger:
            for receipt in in_order(
                lambda job: make_repacked(job, plan, workspace), jobs_of(plan, parts), _threads(plan, parts)
            ):
                progress(receipt)
                ledger.add(receipt)
            publish(plan, facts, workspace, ledger, replace=replace, explain=explain)
            return summarise(plan, workspace.target, ledger, time.perf_counter() - start)


def _begin(workspace: Workspace, plan: Plan, parts: Sequence[Part]) -> None:
    """Note what is being made, and of what; forget the work of an earlier run that was to make something else."""
    facts = {
        "parts": [
            [part.store.attributes["uuid"], hashlib.sha256(part.numbers.astype("<i8").tobytes()).hexdigest()]
            for part in parts
        ],
        "spec": plan.spec.to_dict(),
        "versions": plan.versions,
        "tracks_per_shard": plan.tracks_per_shard,
        "sharded": plan.sharded,
    }
    note = as_json(facts).encode()
    try:
        same = workspace.root.read(DERIVED) == note
    except FileNotFoundError:
        same = False
    if not same:
        workspace.forget()
        workspace.root.write(DERIVED, note)


def _threads(plan: Plan, parts: Sequence[Part]) -> int:
    """So many that reading and packing keep up with each other, and no more than there is room for."""
    wanted = max(os.cpu_count() or 1, *(part.store.tree.readers for part in parts))
    return max(1, min(wanted, ROOM // plan.shard_bytes))
