"""The command line: parse, guard, delegate. Heavy imports wait until a command is called."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click
import tqdm

from pipeline.errors import BuildError, StorageError, StoreError
from pipeline.options import (
    AS_JSON,
    CLUSTER,
    DASHBOARD,
    DATASETS,
    DEFAULT_DATASETS,
    FORCE,
    MAX_FAILED,
    MEMORY,
    SOURCE,
    STORE,
    WALLTIME,
    WORKERS,
    WORKERS_ANYWHERE,
    InOrder,
    Staged,
    source_options,
)
from pipeline.source import audio_root, prepare
from pipeline.text import printable
from pipeline.tree import DiskTree, Tree

if TYPE_CHECKING:
    from pipeline.build import Progress, Summary
    from pipeline.catalog import Catalog
    from pipeline.plan import Plan
    from pipeline.receipt import Receipt


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="melzarr")
def main() -> None:
    """Turn a folder of music into a verified Zarr store of mel-spectrogram windows, and learn its genres.

    \b
    SOURCE is one of
      a folder     of LABEL/FILE
      a manifest   .csv or .parquet with the columns path and label, and if you like id, group, split
      a dataset    by the name of its recipe, such as demo, once it has been fetched

    \b
    To begin:
      melzarr fetch demo
      melzarr features demo demo.zarr
      melzarr verify demo.zarr --source demo --sample 20
      melzarr train demo.zarr
    """


@contextmanager
def progress_bar(total: int, what: str, unit: str = "track") -> Iterator[tqdm.tqdm[Any]]:
    """Show done, rate and time left on stderr; a line every ten seconds where that is no terminal."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm.tqdm(total=total, desc=what, unit=unit, mininterval=interval, delay=0.5, leave=False, position=0) as bar:
        yield bar


@contextmanager
def build_progress(n_tracks: int, what: str = "features") -> Iterator[Progress]:
    """Show how a build goes, from its receipts."""
    n_failed = 0

    def advance(receipt: Receipt) -> None:
        nonlocal n_failed
        n_failed += receipt.n_failed
        bar.set_postfix(failed=n_failed, refresh=False)
        bar.update(len(receipt.tracks))

    with progress_bar(n_tracks, what) as bar:
        yield advance


def as_text(facts: Any) -> str:
    """Write JSON as every reader takes it: what is not a number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(facts), indent=2)


def next_step(*words: object, datasets: Path | None = None) -> None:
    """Print a command that can be run as it stands."""
    elsewhere = ["--datasets", str(datasets)] if datasets not in {None, DEFAULT_DATASETS} else []
    click.echo(f"next: {shlex.join(['melzarr', *map(str, words), *elsewhere])}")


def show(lines: Iterable[str]) -> None:
    """Print lines, with what would steer a terminal written out: stores and files by others name themselves."""
    for line in lines:
        click.echo(printable(line))


# Commands, in the order of the work.


@main.command()
@click.argument("name")
@click.option("--from", "copy_from", type=click.Path(path_type=Path, exists=True), help="A copy that you have.")
@click.option("--tracks-per-label", type=click.IntRange(1), help="Make fewer tracks, for a quick look.")
@WORKERS
@DATASETS
def fetch(name: str, copy_from: Path | None, tracks_per_label: int | None, workers: int | None, datasets: Path) -> None:
    """Bring or make the audio of dataset NAME.

    The audio goes to DATASETS/NAME/audio: downloaded and checked, taken from a copy that you have (--from: the
    archive, or a folder anywhere above its label folders), or synthesised. What is there already is not brought again.

    \b
      melzarr fetch demo --tracks-per-label 10
      melzarr fetch gtzan --from ~/Downloads/genres.tar.gz
    """
    from pipeline.fetch import fetch as fetch_recipe
    from pipeline.recipe import find_recipe

    recipe = find_recipe(name, datasets)
    fetched = fetch_recipe(recipe, copy_from=copy_from, tracks_per_label=tracks_per_label, workers=workers)
    remarks = [*([] if fetched.made else ["they were there already"]), *([fetched.note] if fetched.note else [])]
    click.echo(
        f"{fetched.n_tracks} tracks of {name} are in {fetched.audio}{': ' if remarks else ''}{'; '.join(remarks)}"
    )
    next_step("features", name, f"{name}.zarr", datasets=datasets)


@main.command()
@SOURCE
@click.option(
    "--workers", type=click.IntRange(1), help="Workers to count on.  [default: one a core here, as memory allows]"
)
@AS_JSON
@source_options
def scan(source: str, workers: int | None, as_json: bool, **options: Any) -> None:
    """Look at SOURCE before a build: what is there, what is wrong with it, what a build would cost."""
    from pipeline.local import local_workers
    from pipeline.scan import as_dict
    from pipeline.scan import scan as scan_catalog
    from pipeline.screen import scan_lines

    catalog, plan = prepare(source, options)
    n_workers = workers or local_workers(None, plan.worker_bytes)
    with progress_bar(len(catalog.tracks), "scan") as bar:
        found = scan_catalog(catalog, plan, n_workers, bar.update)
    if as_json:
        click.echo(as_text(as_dict(found)))
        return
    show(scan_lines(found))
    next_step("features", source, f"{PurePosixPath(source).stem}.zarr", datasets=options["datasets"])


@main.command(cls=Staged)
@SOURCE
@STORE
@CLUSTER
@WORKERS_ANYWHERE
@DASHBOARD
@MEMORY
@WALLTIME
@FORCE
@MAX_FAILED
@source_options
def features(
    source: str,
    store: Tree,
    cluster: str,
    workers: int | None,
    dashboard: bool,
    memory: int | None,
    walltime: float | None,
    force: bool,
    max_failed: float | None,
    **options: Any,
) -> None:
    """Compute the mel windows of SOURCE into STORE.

    A build that was stopped goes on where it was; a store appears under its name only once it is complete. A file
    that cannot be used is named, counted and left as NaN.

    \b
      melzarr features demo demo.zarr
      melzarr features ~/Music/genres music.zarr --n-mels 64
      melzarr features tracks.csv music.zarr --group album --cluster tcp://10.0.0.1:8786
      melzarr features tracks.csv music.zarr --cluster slurm --workers 100 --walltime 01:00:00

    For a scheduler that knows nothing of Dask, the same in stages, each of which has a --help of its own:

    \b
      melzarr features init SOURCE STORE   write down what is to be computed
      melzarr features part I/N STORE      make one part of N, each anywhere, at any time
      melzarr features finish STORE        let the store appear, where all parts are there
    """
    from pipeline.catalog import missing_parts
    from pipeline.cluster import connect
    from pipeline.places import refuse_place
    from pipeline.workspaces import open_workspace

    catalog, plan = prepare(source, options)
    workspace = open_workspace(store)
    if workspace.occupied() and is_up_to_date(store, catalog, plan, force):
        workspace.tidy(_receipts(store))
        click.echo(f"{store} is finished and up to date: same files, spec and versions")
        next_step("inspect", store)
        return
    refuse_place(workspace, replace=force, catalog=catalog)  # before workers are started
    show(missing_parts(catalog))
    earlier = workspace.n_receipts()
    click.echo(f"{len(plan.tracks)} tracks, {count(plan.n_shards, 'shard')} of {plan.tracks_per_shard}")
    if earlier:
        click.echo(f"going on: {count(earlier, 'shard')} of an earlier run; each is checked before it is kept")
    resources: dict[str, Any] = {"memory": memory, "walltime": walltime, "say": beside_bar, "dashboard": dashboard}
    with connect(cluster, workers, plan.worker_bytes, **resources) as runner:
        from pipeline.build import build  # while the workers start
        from pipeline.screen import summary_lines
        from pipeline.store import open_store

        click.echo(f"{count(runner.n_workers, 'worker')}{runner.dashboard and f'; dashboard at {runner.dashboard}'}")
        n_workers = runner.n_workers
        with build_progress(len(plan.tracks)) as progress:
            summary = build(plan, catalog, store, runner, replace=force, max_failed=max_failed, progress=progress)
    show(summary_lines(summary, open_store(store).n_bytes))
    note_how_fast(store, summary, n_workers)
    next_step("verify", store, "--source", source, "--sample", 20, datasets=options["datasets"])


def beside_bar(line: str) -> None:
    """Print a line that a progress bar does not run into."""
    tqdm.tqdm.write(printable(line), file=sys.stderr)


def note_how_fast(store: Tree, summary: Summary, n_workers: int | None) -> None:
    """Write beside a finished store how it was built; where that cannot be, say so, for the store is finished."""
    from pipeline.built import write_built
    from pipeline.store import open_store

    if problem := write_built(open_store(store), summary, n_workers):
        click.echo(problem, err=True)


def count(n: int, what: str) -> str:
    """Say how many there are, such as "2 shards"."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _receipts(store: Tree) -> Iterable[Receipt]:
    """Receipts of a finished store."""
    from pipeline.store import open_store

    return open_store(store).receipts()


def is_up_to_date(store: Tree, catalog: Catalog, plan: Plan, force: bool) -> bool:
    """Whether a finished store is what would be built; refuse to replace one that is not, unless forced."""
    from pipeline.changes import changes
    from pipeline.store import is_store, open_store

    if not is_store(store):
        raise BuildError(f"{store} exists and is no store of melzarr's; name another place, or remove it yourself")
    try:
        with progress_bar(len(catalog.tracks), "compare") as bar:
            found = changes(open_store(store), plan, catalog, bar.update)
    except StorageError:
        raise
    except StoreError as error:
        found = [str(error)]
    if force:
        show(f"  {line}" for line in found)
        return False
    if found:
        raise BuildError(
            f"{store} is finished, but not what would be built now:\n  " + "\n  ".join(found) + "\n"
            "name another store, or replace it with --force: the shards that still fit are kept, and the old store "
            "stays until the new one is complete"
        )
    return True


@main.command()
@STORE
@AS_JSON
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw one track of each label, as .png or .svg.")
def inspect(store: Tree, as_json: bool, picture: Path | None) -> None:
    """Say what STORE holds: shape, size, spec, labels × splits × status, statistics, provenance."""
    from pipeline.describe import describe
    from pipeline.places import refuse_inside
    from pipeline.screen import store_lines
    from pipeline.store import open_store

    if picture:
        refuse_inside(DiskTree(picture))
    opened = open_store(store)
    facts = describe(opened)
    click.echo(as_text(facts)) if as_json else show(store_lines(facts))
    if picture:
        from pipeline.picture import draw

        draw(opened, picture)
        click.echo(f"picture: {picture}", err=as_json)


@main.command()
@STORE
@click.option("--source", help="What the store was made from; its files are compared, and needed for --sample.")
@click.option("--sample", type=click.IntRange(0), default=0, help="Tracks to compute again with librosa.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the sample.")
@AS_JSON
@DATASETS
@click.pass_context
def verify(
    ctx: click.Context, store: Tree, source: str | None, sample: int, seed: int, as_json: bool, datasets: Path
) -> None:
    """Check STORE: every checksum, every status against its data, and some tracks again with librosa.

    The exit code is 1 if anything is off, and the track is named.
    """
    from pipeline.screen import verdict_lines
    from pipeline.store import open_store
    from pipeline.verify import verify as verify_store

    if sample and not source:
        raise click.UsageError("--sample computes from the audio files; say where they are with --source")
    opened = open_store(store)
    root = None if source is None else audio_root(source, datasets)
    with progress_bar(opened.n_tracks, "verify") as bar:
        verdict = verify_store(opened, root, n_samples=sample, seed=seed, progress=bar.update)
    click.echo(as_text(dataclasses.asdict(verdict))) if as_json else show(verdict_lines(verdict))
    ctx.exit(1 if verdict.problems else 0)
