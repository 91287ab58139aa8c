"""Make a store from tracks of other stores: keep whole shards unchanged, and repack the others from their chunks."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from melzarr.pipeline.builder.feedback import Progress
from melzarr.pipeline.builder.plan import Plan, as_json
from melzarr.pipeline.builder.publish import publish
from melzarr.pipeline.builder.receipt_table import ReceiptTable
from melzarr.pipeline.builder.run_build import Summary, summarise
from melzarr.pipeline.derive.repack import jobs_of, make_repacked
from melzarr.pipeline.derive.track_selection import TrackSelection, plan_of
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.staging import PLAN
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.workspace import DERIVED, Workspace
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.digests import Hash
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.zarr_store.layout import SCHEMA_VERSION
from melzarr.pipeline.zarr_store.reader import Store, is_store, open_store, reading
from melzarr.pipeline.zarr_store.shard import shard_name

ROOM = 1 << 29  # bytes that the shards in progress may take together; one shard is always allowed


def derive(
    parts: Sequence[TrackSelection],
    target: str | Path | Directory | Workspace,
    about: Mapping[str, Any],
    *,
    spec: FeatureSpec | None = None,
    tracks_per_shard: int | None = None,
    replace: bool = False,
    in_place: bool = False,
    explain: Callable[[Store, Path, Mapping[str, str]], None] | None = None,
    said: str = "",
    progress: Progress = lambda _: None,
) -> Summary:
    """Make a store from tracks of other stores, or resume an interrupted run.

    If a selection's store has a shard with the same tracks, that shard is kept unchanged: linked, copied or left in
    place. Every other shard is packed from unchanged chunks, after their checksums are verified. The bytes therefore
    depend only on the tracks, their order and `about`, and equal those of a build of the same tracks.

    Parameters
    ----------
    parts : sequence of TrackSelection
        The tracks, in this order.
    target : str, Path, Directory or Workspace
        Where to write the store.
    about : mapping of str to value
        Attributes of its group, as in another store; spec and UUID are filled in here.
    spec : FeatureSpec, optional
        Spec of the store, by default that of the selections. Conversions from power to dB and from float32 to float16
        use the stored values.
    tracks_per_shard : int > 0, optional
        By default that of the first selection.
    replace : bool
        Whether to replace an existing store, once the new one is complete.
    in_place : bool
        Whether the replaced store is that of the first selection.
    explain : callable, optional
        Called with the complete store before it is published, with the folder of all its files except the shards, and
        with the SHA-256 of shards by name. Further files that it writes into this folder are published with the store.
    said : str
        Anything else that the files written by `explain` depend on.
    progress : callable
        Called with each shard's receipt.

    Returns
    -------
    Summary
        What was done.

    Raises
    ------
    CallError, SpecError, CatalogError
        If there are no tracks, two specs are incompatible, an id occurs twice, or a group is in two splits. Nothing
        is written in that case.
    StoreError
        If a selection's store is damaged. The message names the track or the shard, and nothing is published.
    BuildError
        If the target exists and `replace` is False, or it is being built.
    """
    start = time.perf_counter()
    parts = [part for part in parts if part.numbers.size]
    stores = [part.store for part in parts]
    with reading(stores):
        plan = plan_of(parts, about, spec, tracks_per_shard)
    facts = {name: value for name, value in about.items() if name != "uuid"}
    facts |= {"spec": plan.spec.to_dict(), "schema_version": SCHEMA_VERSION}
    workspace, note = open_workspace(target), _note(plan, parts, said, replace)
    if _has_made(workspace, note, replace):
        workspace.cleanup_after_crash(open_store(workspace.target).receipts())
        return _summary_of(open_store(workspace.target), time.perf_counter() - start)
    refuse_place(workspace, (store.directory for store in stores[int(in_place) :]), replace=replace)
    with workspace.locked(), reading(stores):
        workspace.refuse_occupied(replace)
        for store in stores:
            store.refuse_replaced()
        workspace.root.remove([PLAN])  # stops the parts of a staged build that still run
        _begin(workspace, note)
        with ReceiptTable(
            len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, workspace.root.folder
        ) as receipt_table:
            algorithms: list[Hash] = [blake3, hashlib.sha256] if explain else [blake3]
            checksums = dict[str, str]()
            for receipt in in_order(
                lambda job: make_repacked(job, plan, workspace, algorithms), jobs_of(plan, parts), _threads(plan, parts)
            ):
                progress(receipt)
                receipt_table.add(receipt)
                if receipt.sha256:
                    checksums[shard_name(receipt.index)] = receipt.sha256
            explained = (lambda new, folder: explain(new, folder, checksums)) if explain else None
            publish(plan, facts, workspace, receipt_table, replace=replace, explain=explained)
            return summarise(plan, workspace.target, receipt_table, time.perf_counter() - start)


def is_made(
    parts: Sequence[TrackSelection], target: str | Path | Directory | Workspace, about: Mapping[str, Any], *,
    spec: FeatureSpec | None = None, replace: bool = False, said: str = "",
) -> bool:  # fmt: skip
    """Whether `derive` with the same parameters has published the store but was killed before it returned."""
    plan = plan_of(parts, about, spec, None)
    return _has_made(open_workspace(target), _note(plan, parts, said, replace), replace)


def _has_made(workspace: Workspace, note: bytes, replace: bool) -> bool:
    """Whether a run with the same note has published its store; with `replace`, an existing store proves nothing."""
    if workspace.has_made(note):
        return True
    if replace or not workspace.occupied() or not workspace.notes(note) or not is_store(workspace.target):
        return False
    return workspace.is_left_of(open_store(workspace.target).receipts())


def _summary_of(store: Store, wall: float) -> Summary:
    """Return the summary of a store that was already there: nothing was done."""
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
    """Return the note of a run: what is made and from which selections, as JSON."""
    facts = {
        "parts": [
            [part.store.attributes["uuid"], hashlib.sha256(part.numbers.astype("<i8").tobytes()).hexdigest()]
            for part in parts
        ],
        "spec": plan.spec.to_dict(),
        "versions": plan.versions,
        "tracks_per_shard": plan.tracks_per_shard,
        "said": said,
        "replace": replace,
    }
    return as_json(facts).encode()


def _begin(workspace: Workspace, note: bytes) -> None:
    """Write the note, and remove the work of an earlier run with another note."""
    if not workspace.notes(note):
        workspace.forget()
        workspace.root.write(DERIVED, note)


def _threads(plan: Plan, parts: Sequence[TrackSelection]) -> int:
    """Return how many threads keep the processor busy while some of them wait for the disk, within `ROOM`."""
    wanted = max(2 * (os.cpu_count() or 1), *(part.store.directory.io_threads for part in parts))
    return max(1, min(wanted, ROOM // plan.shard_bytes))
