"""A store of tracks of other stores: whole shards are kept as they are, the others packed anew from their chunks."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from melzarr.pipeline.builder.plan import Plan, as_json
from melzarr.pipeline.builder.publish import Explain, publish
from melzarr.pipeline.builder.receipt_table import ReceiptTable
from melzarr.pipeline.builder.run_build import Progress, Summary, summarise
from melzarr.pipeline.derive.repack import jobs_of, make_repacked
from melzarr.pipeline.derive.track_selection import TrackSelection, plan_of
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.workspace import DERIVED, PLAN, Workspace
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.zarr_store.reader import Store, is_store, open_store, reading

ROOM = 1 << 29  # bytes that the shards in work may take together; one is always worked on


def derive(
    parts: Sequence[TrackSelection],
    target: str | Path | Directory | Workspace,
    about: Mapping[str, Any],
    *,
    spec: FeatureSpec | None = None,
    tracks_per_shard: int | None = None,
    sharded: bool = True,
    replace: bool = False,
    in_place: bool = False,
    explain: Explain | None = None,
    said: str = "",
    progress: Progress = lambda _: None,
) -> Summary:
    """Make a store of tracks of other stores, or go on where that was interrupted.

    A shard of whose tracks a part has a shard of its own is kept as it is: linked, copied or found where it is. Every
    other is packed from chunks as they are, once their checksums were held against them. So the bytes depend on the
    tracks, their order and `about` alone, and are those of a build of the same.

    Parameters
    ----------
    parts : sequence of TrackSelection
        The tracks, in this order.
    target : str, Path, Directory or Workspace
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
    said : str
        What else the files depend on that `explain` writes.
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
    workspace, note = open_workspace(target), _note(plan, parts, said, replace)
    if _has_made(workspace, note, replace):
        workspace.cleanup_after_crash(open_store(workspace.target).receipts())
        return _summary_of(open_store(workspace.target), time.perf_counter() - start)
    refuse_place(workspace, (store.directory for store in stores[int(in_place) :]), replace=replace)
    with workspace.locked(), reading(stores):
        workspace.refuse_occupied(replace)
        for store in stores:
            store.refuse_replaced()
        workspace.root.remove([PLAN])  # parts of a build that still run come to an end
        _begin(workspace, note)
        with ReceiptTable(len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, workspace.root.folder) as ledger:
            for receipt in in_order(
                lambda job: make_repacked(job, plan, workspace), jobs_of(plan, parts), _threads(plan, parts)
            ):
                progress(receipt)
                ledger.add(receipt)
            publish(plan, facts, workspace, ledger, replace=replace, explain=explain)
            return summarise(plan, workspace.target, ledger, time.perf_counter() - start)


def is_made(
    parts: Sequence[TrackSelection], target: str | Path | Directory | Workspace, about: Mapping[str, Any], *,
    spec: FeatureSpec | None = None, sharded: bool = True, replace: bool = False, said: str = "",
) -> bool:  # fmt: skip
    """Whether `derive` has made the very same, and was ended before it could say so; parameters as there."""
    plan = plan_of(parts, about, spec, None, sharded)
    return _has_made(open_workspace(target), _note(plan, parts, said, replace), replace)


def _has_made(workspace: Workspace, note: bytes, replace: bool) -> bool:
    """Whether a run of the same note has let its store appear; with `replace`, the store may be the one before."""
    if workspace.has_made(note):
        return True
    if replace or not workspace.occupied() or not workspace.notes(note) or not is_store(workspace.target):
        return False
    return workspace.is_left_of(open_store(workspace.target).receipts())


def _summary_of(store: Store, wall: float) -> Summary:
    """Say of a store that is there what was done: nothing."""
    return Summary(
        target=store.directory,
        shape=store.mel.shape,
        statuses=Counter(store.values("status").tolist()),
        troubled=(),
        n_reused=store.n_tracks,
        outdated=(),
        seconds={"wall": wall},
    )


def _note(plan: Plan, parts: Sequence[TrackSelection], said: str, replace: bool) -> bytes:
    """Write down what is being made, and of what."""
    facts = {
        "parts": [
            [part.store.attributes["uuid"], hashlib.sha256(part.numbers.astype("<i8").tobytes()).hexdigest()]
            for part in parts
        ],
        "spec": plan.spec.to_dict(),
        "versions": plan.versions,
        "tracks_per_shard": plan.tracks_per_shard,
        "sharded": plan.sharded,
        "said": said,
        "replace": replace,
    }
    return as_json(facts).encode()


def _begin(workspace: Workspace, note: bytes) -> None:
    """Note what is being made; forget the work of an earlier run that was to make something else."""
    if not workspace.notes(note):
        workspace.forget()
        workspace.root.write(DERIVED, note)


def _threads(plan: Plan, parts: Sequence[TrackSelection]) -> int:
    """So many that reading and packing keep up with each other, and no more than there is room for."""
    wanted = max(os.cpu_count() or 1, *(part.store.directory.io_threads for part in parts))
    return max(1, min(wanted, ROOM // plan.shard_bytes))
