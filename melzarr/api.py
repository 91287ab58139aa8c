"""The functions of `import melzarr`: they build, open, join and train from stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from melzarr.progress import feedback
from melzarr.store import JoinedStores, Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from distributed import Client

    from melzarr.pipeline.builder.plan import Plan
    from melzarr.pipeline.clusters.task_runner import Runner
    from melzarr.pipeline.inspection.scan import Scan
    from melzarr.pipeline.shard_receipt import TrackReceipt
    from melzarr.pipeline.sources.catalog import Catalog
    from melzarr.pipeline.spec import FeatureSpec
    from melzarr.pipeline.storage.directory import Directory

# What can be opened: one store, or several that are read as one.
AnyStore: TypeAlias = "str | Path | Store | JoinedStores | Sequence[str | Path | Store]"


@overload
def open(store: str | Path | Store) -> Store: ...  # type: ignore[overload-overlap]  # noqa: A001  (as zarr.open)


@overload
def open(store: JoinedStores | Sequence[str | Path | Store]) -> JoinedStores: ...  # noqa: A001


def open(store: AnyStore) -> Store | JoinedStores:  # noqa: A001
    """Open a finished store, or several stores of one spec as one.

    Parameters
    ----------
    store : str, Path or Store, or a sequence of these
        Path of a store or of an archive ``NAME.zarr.zip``, or an address such as ``s3://bucket/music.zarr``. Stores of
        a sequence are read as one without a copy: their tracks come one after the other.

    Returns
    -------
    Store or JoinedStores
        The store or stores, opened to be read.

    Raises
    ------
    StoreError
        If there is no store, or one that this version does not read.
    SpecError, CatalogError
        If stores of a sequence differ in their spec, or a track or group is in two of them and does not fit together.
    """
    from melzarr.pipeline.zarr_store.reader import open_store

    if isinstance(store, Store | JoinedStores):
        return store
    if isinstance(store, str | Path):
        return Store(open_store(store))
    from melzarr.pipeline.derive.joined_store import JoinedStore

    return JoinedStores(JoinedStore(tuple(open(each).opened for each in store)))


def build(
    source: str | Path,
    store: str | Path,
    *,
    cluster: str | Client = "local",
    workers: int | None = None,
    memory: int | None = None,
    walltime: float | None = None,
    dashboard: bool = False,
    force: bool = False,
    max_failed: float | None = None,
    path_column: str = "path",
    label_column: str = "label",
    group: str = "group",
    audio_root: str | Path | None = None,
    follow_links: bool = False,
    split: str | None = None,
    valid: float | None = None,
    test: float | None = None,
    seed: int | None = None,
    tracks_per_shard: int | None = None,
    datasets: str | Path = "datasets",
    preset: str | None = None,
    progress: bool | None = None,
    **spec: Any,
) -> Store:
    """Compute the mel windows of a source into a store.

    A build that was stopped goes on. If the store is finished and nothing has changed, it is opened.

    Parameters
    ----------
    source : str or Path
        A folder of ``label/file``, a manifest (.csv, .tsv, .txt, .jsonl or .parquet), or the name of a dataset that was
        fetched. What is remarkable about it, such as files that are left out, is a warning.
    store : str or Path
        Path or address of the store; ``NAME.zarr.zip`` is built as an archive.
    cluster : str or distributed.Client
        "local", "slurm", "pbs", "sge", "lsf", "kubernetes", the address of a Dask scheduler, or a client of one.
    workers : int, optional
        Number of workers, or the most of them on a batch system; 0 computes in this process. By default one per core,
        as memory allows.
    memory : int, optional
        Bytes of each job or pod.
    walltime : float, in s, optional
        Time of each job of a batch system.
    dashboard : bool
        Whether Dask's dashboard is started, which all users of this machine can open.
    force : bool
        Whether a finished store of other features or files is replaced. Shards that still fit are kept.
    max_failed : float in [0, 1], optional
        Share of tracks that may fail; by default 5 %, or ten tracks if that is more.
    path_column, label_column : str
        Columns of the manifest with the paths and the labels.
    group : str
        Column of the manifest whose equal values are kept in one split.
    audio_root : str or Path, optional
        Folder or address to which the paths of the manifest are relative; by default the manifest's folder.
    follow_links : bool
        Whether links to folders in a folder of ``label/file`` are followed.
    split : str, optional
        A split that the dataset's recipe names, in place of one by hash.
    valid, test : float, optional
        Shares of the splits valid and test; by default 0.15 each, or those of the recipe.
    seed : int, optional
        Seed of the split by hash.
    tracks_per_shard : int, optional
        Tracks of each shard; by default 16, or fewer if a shard would be larger than 256 MiB.
    datasets : str or Path
        Folder of the datasets, with one folder per dataset.
    preset : str, optional
        Name of a spec that others use, in place of the recipe's: "article", "musicnn", "panns" or "whisper".
    progress : bool, optional
        Whether progress is shown; by default in a terminal and in a notebook.
    **spec
        Fields of `FeatureSpec`, such as ``n_mels=64``, which change the preset; by default, and if None, those of the
        preset, of the recipe, or of the 2017 article.

    Returns
    -------
    Store
        The finished store.

    Raises
    ------
    CallError, SpecError
        If the arguments do not fit each other.
    BuildError
        If something else is at the store's place, too many tracks fail, or the workers are lost. What was finished is
        kept, and the same call goes on.
    """
    from melzarr.pipeline.worker_processes import will_start_workers, worker_start_method

    options = {
        "path_column": path_column, "label_column": label_column, "group_column": group, "audio_root": audio_root,
        "follow_links": follow_links, "named_split": split, "valid": valid, "test": test, "seed": seed,
        "preset": preset,
    }  # fmt: skip
    connect = partial(_runner, cluster, workers, {"memory": memory, "walltime": walltime, "dashboard": dashboard})
    place = _directory(store)
    needed = will_start_workers(cluster, workers, place.folder, replace=force)
    with worker_start_method(needed=needed):  # at once: it imports while this does
        from melzarr.pipeline.builder.build_store import build_store

        catalog, plan = _prepared(source, datasets, tracks_per_shard, spec, options)
        build_store(plan, catalog, place, connect, replace=force, max_failed=max_failed, feedback=feedback(progress))
    return open(store)


def _directory(store: str | Path | Store) -> Directory:
    """Return the directory of a store, which need not exist."""
    from melzarr.pipeline.storage.open_storage import open_directory

    return store.opened.directory if isinstance(store, Store) else open_directory(store)


def _prepared(
    source: str | Path,
    datasets: str | Path,
    tracks_per_shard: int | None,
    spec: dict[str, Any],
    options: dict[str, Any],
) -> tuple[Catalog, Plan]:
    """Return catalog and plan of a source."""
    from melzarr.pipeline.cli.inputs import prepare
    from melzarr.pipeline.cli.options import SPEC_HELP
    from melzarr.pipeline.errors import SpecError

    if unknown := sorted(set(spec) - set(SPEC_HELP)):
        raise SpecError(f"{unknown[0]} is not a field of a spec; use {', '.join(sorted(SPEC_HELP))}")
    given = {**dict.fromkeys(SPEC_HELP), **spec}
    everything = {**given, **options, "datasets": Path(datasets), "tracks_per_shard": tracks_per_shard}
    return prepare(str(source), everything)


@contextmanager
def _runner(
    cluster: str | Client, workers: int | None, resources: dict[str, Any], worker_bytes: int
) -> Iterator[Runner]:
    """Yield what runs the shards: on a cluster that is started here, or on that of a client, which is left as it is."""
    from melzarr.pipeline.clusters.task_runner import OnDask, connect

    if isinstance(cluster, str):
        with connect(cluster, workers, worker_bytes, **resources) as runner:
            yield runner
    else:
        from melzarr.pipeline.clusters.worker_versions import require_same_versions

        require_same_versions(cluster)
        yield OnDask(cluster)


def scan(
    source: str | Path,
    *,
    workers: int | None = None,
    path_column: str = "path",
    label_column: str = "label",
    group: str = "group",
    audio_root: str | Path | None = None,
    follow_links: bool = False,
    split: str | None = None,
    tracks_per_shard: int | None = None,
    datasets: str | Path = "datasets",
    preset: str | None = None,
    progress: bool | None = None,
    **spec: Any,
) -> Scan:
    """Read the header of each file of a source, and estimate what a build would cost.

    Parameters
    ----------
    source : str or Path
        As for `build`.
    workers : int, optional
        Workers to count on; by default one per core here, as memory allows.
    path_column, label_column, group, audio_root, follow_links, split
        As for `build`.
    tracks_per_shard, datasets, preset, progress, **spec
        As for `build`.

    Returns
    -------
    Scan
        Tracks by label, codec, rate and channels; durations; problems as sentences; the cost.
    """
    from melzarr.pipeline.clusters.local_cluster import local_workers
    from melzarr.pipeline.inspection.scan import scan as scan_catalog

    options = {
        "path_column": path_column, "label_column": label_column, "group_column": group, "audio_root": audio_root,
        "follow_links": follow_links, "named_split": split, "valid": None, "test": None, "seed": None,
        "preset": preset,
    }  # fmt: skip
    catalog, plan = _prepared(source, datasets, tracks_per_shard, spec, options)
    return scan_catalog(catalog, plan, workers or local_workers(None, plan.worker_bytes), feedback(progress))


def append(
    store: str | Path | Store,
    source: str | Path,
    *,
    cluster: str | Client = "local",
    workers: int | None = None,
    memory: int | None = None,
    walltime: float | None = None,
    max_failed: float | None = None,
    path_column: str = "path",
    label_column: str = "label",
    group: str = "group",
    audio_root: str | Path | None = None,
    follow_links: bool = False,
    datasets: str | Path = "datasets",
    progress: bool | None = None,
) -> Store:
    """Add the tracks of a source that a store lacks.

    Parameters
    ----------
    store : str, Path or Store
        The store, which is replaced in one step.
    source : str or Path
        As for `build`; tracks of files that the store has are passed over.
    cluster, workers, memory, walltime, max_failed, datasets, progress
        As for `build`.
    path_column, label_column, group, audio_root, follow_links
        As for `build`.

    Returns
    -------
    Store
        The store with the new tracks.
    """
    from melzarr.pipeline.cli.inputs import read_source
    from melzarr.pipeline.derive.append import append as append_tracks

    listing: dict[str, Any] = {
        "path_column": path_column, "label_column": label_column, "group_column": group, "audio_root": audio_root,
        "follow_links": follow_links,
    }  # fmt: skip
    added, _ = append_tracks(
        _directory(store),
        str(source),
        partial(read_source, str(source), Path(datasets), **listing),
        partial(_runner, cluster, workers, {"memory": memory, "walltime": walltime}),
        max_failed=max_failed,
        feedback=feedback(progress),
    )
    return open(str(added.workspace.target))


def merge(
    stores: Sequence[str | Path | Store], out: str | Path, *, force: bool = False, progress: bool | None = None
) -> Store:
    """Join stores of one spec into one; nothing is computed again.

    If the store is there and nothing has changed, it is opened.

    Parameters
    ----------
    stores : sequence of str, Path or Store
        Two stores or more; their tracks come in this order.
    out : str or Path
        Path or address of the new store.
    force : bool
        Whether a store at `out` is replaced.
    progress : bool, optional
        Whether progress is shown; by default in a terminal and in a notebook.

    Returns
    -------
    Store
        The new store.
    """
    from melzarr.pipeline.derive.merge import merge as merge_stores
    from melzarr.pipeline.errors import CallError

    if len(stores) < 2:
        raise CallError("give two or more stores")
    merge_stores([_directory(store) for store in stores], _directory(out), replace=force, feedback=feedback(progress))
    return open(out)


def extract(path: str | Path, spec: FeatureSpec | None = None) -> tuple[npt.NDArray[np.floating], TrackReceipt]:
    """Compute the windows of one audio file, as a store holds them.

    Parameters
    ----------
    path : str or Path
        The file.
    spec : FeatureSpec, optional
        Its features; by default those of the 2017 article.

    Returns
    -------
    windows : np.ndarray [shape=(n_valid_windows, n_frames, n_mels), dtype=spec.dtype]
        The valid windows, in the spec's scale; none if the file cannot be used.
    receipt : TrackReceipt
        Its status, and a sentence if the status is not "ok".
    """
    from melzarr.pipeline.features.extract import featurise, one_thread
    from melzarr.pipeline.spec import FeatureSpec

    with one_thread():
        return featurise(Path(path), spec or FeatureSpec())
