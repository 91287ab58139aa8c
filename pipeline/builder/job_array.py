"""Build a store in stages, for schedulers without Dask: write a plan, compute independent parts, publish."""

from __future__ import annotations

import csv
import io
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from melzarr.pipeline.builder.build_timings import write_built
from melzarr.pipeline.builder.feedback import Progress
from melzarr.pipeline.builder.plan import Plan, Shard, make_plan
from melzarr.pipeline.builder.publish import attributes, publish
from melzarr.pipeline.builder.receipt_table import ReceiptTable
from melzarr.pipeline.builder.resume import seeded
from melzarr.pipeline.builder.run_build import Summary, compute, require_few_failed, shard_jobs, summarise
from melzarr.pipeline.clusters.task_runner import Runner
from melzarr.pipeline.errors import BuildError, StorageError, StoreError
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.staging import PLAN
from melzarr.pipeline.publishing.target_guard import refuse_place
from melzarr.pipeline.publishing.workspace import Workspace
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import FIELDS, Track, Tracks
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.zarr_store.reader import open_store

TRACKS = "tracks.csv"
BLOCK = 1 << 14  # tracks that are formatted as text at a time
NAMED = 20  # missing shards that an error names

# Fields of a plan file and their types; the tracks are in a separate file.
FACTS = {
    "spec": dict, "versions": dict, "tracks_per_shard": int, "root": str, "about": dict, "replace": bool,
    "tracks_blake3": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WrittenPlan:
    """A plan as written by the first stage.

    Parameters
    ----------
    plan : Plan
        What to compute.
    root : Directory
        Directory of the audio files.
    about : dict of str to value
        Attributes of the new store.
    replace : bool
        Whether an existing store is replaced.
    id : str
        BLAKE3 of the plan file, which contains the BLAKE3 of the file of tracks.
    """

    plan: Plan
    root: Directory
    about: dict[str, Any]
    replace: bool
    id: str

    def part(self, number: int, n_parts: int) -> Iterator[Shard]:
        """Iterate over part `number`, from 1: every `n_parts`-th shard, as neighbours are alike in kind and length."""
        return (self.plan.shard(index) for index in range(number - 1, self.plan.n_shards, n_parts))


def write_plan(plan: Plan, catalog: Catalog, target: str | Path | Directory, *, replace: bool = False) -> None:
    """Write the plan of a build to its workspace, for the parts to read.

    Parameters
    ----------
    plan : Plan
        What to compute.
    catalog : Catalog
        The plan's tracks.
    target : str, Path or Directory
        Location of the new store.
    replace : bool
        Whether an existing store is replaced.

    Raises
    ------
    CallError
        If a store at the target would destroy something else.
    BuildError
        If another build holds the store, or something else is at the target.
    """
    workspace = open_workspace(target)
    refuse_place(workspace, replace=replace, catalog=catalog)
    facts = {
        "spec": plan.spec.to_dict(),
        "versions": plan.versions,
        "tracks_per_shard": plan.tracks_per_shard,
        "root": str(catalog.root.with_retries()),
        "about": attributes(plan, catalog),
        "replace": replace,
    }
    with workspace.locked():
        workspace.root.write(TRACKS, *_as_csv(plan))
        facts["tracks_blake3"] = workspace.root.digest(TRACKS)  # a kill between the two writes leaves no valid plan
        written = json.dumps(facts, indent=2).encode()
        workspace.root.write(PLAN, written)  # from here on, parts of another plan stop with an error
        workspace.plan_id = _id(written)
        workspace.adopt_receipts()


def _id(written: bytes) -> str:
    """Return the id of a plan, which is the BLAKE3 of its file."""
    return blake3(written).hexdigest()


def _as_csv(plan: Plan) -> Iterator[bytes]:
    """Yield the tracks as CSV, `BLOCK` tracks at a time."""
    rows = itertools.chain([FIELDS], Tracks.of(plan.tracks).rows(*FIELDS))
    while block := list(itertools.islice(rows, BLOCK)):
        text = io.StringIO(newline="")
        csv.writer(text).writerows(block)
        yield text.getvalue().encode()


def read_plan(target: str | Path | Directory) -> WrittenPlan:
    """Read the plan of a build, as written by `write_plan`.

    Raises
    ------
    BuildError
        If there is no plan, or it is damaged.
    """
    workspace = open_workspace(target)
    workspace.refuse_foreign()
    try:
        written = workspace.root.read(PLAN)
        facts = json.loads(written)
        if any(not isinstance(facts.get(name), kind) for name, kind in FACTS.items()):
            raise TypeError("it is not a plan")
        if workspace.root.digest(TRACKS) != facts["tracks_blake3"]:
            raise ValueError(f"{TRACKS} is not the file that was written with it")
        with workspace.root.local(TRACKS) as path, path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if tuple(next(rows, ())) != FIELDS:
                raise TypeError("it has no table of tracks")
            tracks = Tracks.of(Track(*row) for row in rows)
        spec = FeatureSpec.from_dict(facts["spec"])
        plan = make_plan(spec, tracks, facts["versions"], facts["tracks_per_shard"])
    except FileNotFoundError as error:
        raise BuildError(
            f"there is no plan of {workspace.target}; write one with: melzarr job-array init SOURCE {workspace.target}"
        ) from error
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise BuildError(
            f"the plan of {workspace.target} cannot be read ({error}); write it again with: melzarr job-array init "
            f"SOURCE {workspace.target}"
        ) from error
    return WrittenPlan(plan, open_directory(facts["root"]), facts["about"], facts["replace"], _id(written))


def make_part(
    written: WrittenPlan,
    target: str | Path | Directory,
    number: int,
    n_parts: int,
    runner: Runner,
    *,
    max_failed: float | None = None,
    progress: Progress = lambda _: None,
) -> Summary:
    """Compute the shards of one part; existing shards are checked and kept.

    Parameters
    ----------
    written : WrittenPlan
        The plan.
    target : str, Path or Directory
        Location of the new store.
    number, n_parts : int
        Number of the part, counted from 1, and number of all parts.
    runner : Runner
        Runs the jobs.
    max_failed, progress
        As for `build`.

    Returns
    -------
    Summary
        What was done, for the tracks of this part.
    """
    start = time.perf_counter()
    plan, workspace = written.plan, open_workspace(target, written.id)
    jobs = shard_jobs(plan, written.root, workspace, written.part(number, n_parts), runner)
    if written.replace:
        jobs = seeded(jobs, workspace)
    with ReceiptTable(len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, None) as receipt_table:
        compute(plan, jobs, runner, receipt_table, max_failed=max_failed, progress=progress)
        return summarise(plan, workspace.target, receipt_table, time.perf_counter() - start)


def finish(
    written: WrittenPlan,
    target: str | Path | Directory,
    *,
    max_failed: float | None = None,
    progress: Progress = lambda _: None,
) -> Summary:
    """Publish the store if all shards exist.

    Parameters
    ----------
    written : WrittenPlan
        The plan.
    target : str, Path or Directory
        Location of the new store.
    max_failed, progress
        As for `build`.

    Raises
    ------
    BuildError
        If shards are missing or of another plan, which the error names, or too many tracks have failed; nothing is
        published then.
    """
    start = time.perf_counter()
    plan, workspace = written.plan, open_workspace(target, written.id)
    with workspace.locked():
        folder = workspace.root.folder
        with ReceiptTable(len(plan.tracks), plan.tracks_per_shard, plan.spec.n_mels, folder) as receipt_table:
            with ThreadPoolExecutor(workspace.root.io_threads) as pool:
                for index, receipt in enumerate(pool.map(workspace.read_receipt, range(plan.n_shards))):
                    if receipt and receipt.key == plan.key(plan.shard(index)):
                        receipt_table.add(receipt)
                        progress(receipt)
            if _is_published(workspace, receipt_table):  # by a run that was killed before it could report it
                workspace.discard()
            else:
                workspace.refuse_occupied(written.replace)
                if missing := workspace.missing(
                    *(receipt_table.shards[name].tolist() for name in ("blake3", "n_bytes"))
                ):
                    raise BuildError(_lacking(plan, missing))
                require_few_failed(plan, receipt_table, max_failed)
                publish(plan, written.about, workspace, receipt_table, replace=written.replace)
            summary = summarise(plan, workspace.target, receipt_table, time.perf_counter() - start)
    return replace(summary, remark=write_built(open_store(workspace.target), summary, None))


def _is_published(workspace: Workspace, receipt_table: ReceiptTable) -> bool:
    """Return whether the existing store is the one of these receipts."""
    if not workspace.occupied():
        return False
    try:
        store = open_store(workspace.target)
        return all(
            store.values(f"receipts/{name}").tolist() == receipt_table.shards[name].tolist()
            for name in ("key", "blake3")
        )
    except StorageError:
        raise
    except StoreError:
        return False


def _lacking(plan: Plan, missing: list[int]) -> str:
    named = ", ".join(map(str, missing[:NAMED])) + (" …" if len(missing) > NAMED else "")
    first = plan.shard(missing[0]).tracks[0].id
    return (
        f"{len(missing)} of {plan.n_shards} shards are missing, the first with the track {first}: {named}. Shard k is "
        f"in part k % N + 1 of N; run those parts again, or all parts: shards that are there are kept"
    )
