"""A finished store: its windows, its tracks, and what can be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from melzarr.progress import feedback

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import xarray as xr

    from melzarr.pipeline.derive.joined_store import JoinedStore
    from melzarr.pipeline.inspection.verify import Verdict
    from melzarr.pipeline.spec import FeatureSpec
    from melzarr.pipeline.zarr_store.readable_store import ReadableStore
    from melzarr.pipeline.zarr_store.reader import Store as OpenedStore


class _Readable:
    """What one store and several that are read as one have in common."""

    def __init__(self, opened: ReadableStore) -> None:
        self.opened = opened

    def __repr__(self) -> str:
        """Return its address, its shape and its features."""
        shape = " × ".join(map(str, (len(self), *self.spec.shape)))
        return f"<melzarr.{type(self).__name__} {self.address}: mel {shape} {self.spec.dtype}, {self.spec.scale}>"

    def __len__(self) -> int:
        """Return the number of tracks."""
        return self.opened.n_tracks

    @property
    def address(self) -> str:
        """Path of the store, or its address in an object store."""
        return self.opened.address

    @property
    def spec(self) -> FeatureSpec:
        """Features of each track."""
        return self.opened.spec

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the Zarr group: spec, split, recipe, licence, versions, UUID."""
        return self.opened.attributes

    @property
    def mel(self) -> xr.DataArray:
        """Windows as a lazy array (track, window, frame, band) with its coordinates."""
        return self.to_xarray()["mel"]

    @property
    def tracks(self) -> pd.DataFrame:
        """Table of the tracks: label, split, group, status, error, source and the others, by track id."""
        dataset = self.to_xarray()
        columns = [name for name, variable in dataset.coords.items() if variable.dims == ("track",) and name != "track"]
        return dataset[columns].reset_coords().to_dataframe()[columns]

    def to_xarray(self, **options: Any) -> xr.Dataset:
        """Return everything as an xarray dataset."""
        raise NotImplementedError


class Store(_Readable):
    """A finished store, opened to be read. `melzarr.open` and `melzarr.build` return it.

    Parameters
    ----------
    opened : melzarr.pipeline.zarr_store.reader.Store
        The store as the pipeline reads it.
    """

    opened: OpenedStore

    def to_xarray(self, **options: Any) -> xr.Dataset:
        """Return the store as an xarray dataset; nothing is read before it is used.

        Parameters
        ----------
        **options
            Options of `xarray.open_zarr`. By default ``chunks=None``, that is numpy arrays rather than Dask's.
        """
        import xarray as xr

        dataset: xr.Dataset = xr.open_zarr(self.opened.group.store, **{"chunks": None, **options})
        return dataset

    def verify(
        self,
        source: str | Path | None = None,
        *,
        sample: int = 0,
        seed: int = 0,
        datasets: str | Path = "datasets",
        progress: bool | None = None,
    ) -> Verdict:
        """Check every checksum, every status against its data, the statistics, and the audio files.

        Parameters
        ----------
        source : str or Path, optional
            The source that the store was made from; its files are compared with their digests.
        sample : int
            Tracks to compute again with librosa; needs `source`.
        seed : int
            Seed that draws them.
        datasets : str or Path
            Folder of the datasets, if `source` is the name of one.
        progress : bool, optional
            Whether progress is shown; by default in a terminal and in a notebook.

        Returns
        -------
        Verdict
            Its ``problems`` is a list of sentences; empty if the store is sound.
        """
        from melzarr.pipeline.cli.inputs import audio_root
        from melzarr.pipeline.errors import CallError
        from melzarr.pipeline.inspection.verify import verify

        if sample and source is None:
            raise CallError("sample computes from the audio files; give source too")
        root = None if source is None else audio_root(str(source), Path(datasets), "source")
        return verify(self.opened, root, n_samples=sample, seed=seed, feedback=feedback(progress))

    def report(
        self, folder: str | Path | None = None, *, run: str | Path | None = None, progress: bool | None = None
    ) -> Path:
        """Write a page about the store, and its pictures.

        Parameters
        ----------
        folder : str or Path, optional
            Folder of the page; by default ``NAME-report`` in the current folder.
        run : str or Path, optional
            Folder of a training; the page then shows its curves, its confusion and its worst mistakes.
        progress : bool, optional
            Whether progress is shown; by default in a terminal and in a notebook.

        Returns
        -------
        Path
            The page.
        """
        from melzarr.pipeline.report.page import report

        place, training = (None if path is None else Path(path) for path in (folder, run))
        return report(self.opened, place, training, feedback(progress))[0][0]

    def share(
        self,
        to: str | Path,
        *,
        labels: Sequence[str] = (),
        splits: Sequence[str] = (),
        tracks: Sequence[str] = (),
        scale: str | None = None,
        dtype: str | None = None,
        audio: str | Path | None = None,
        hugging_face: bool = False,
        arrays: bool = False,
        title: str | None = None,
        licence: str | None = None,
        origin: str | None = None,
        author: str = "",
        published: str | None = None,
        force: bool = False,
        datasets: str | Path = "datasets",
        progress: bool | None = None,
    ) -> Store:
        """Write the store, or some of its tracks, as a dataset for others: with card, table, report and checksums.

        Parameters
        ----------
        to : str or Path
            A folder, an archive ``NAME.zarr.zip``, or an address in an object store.
        labels, splits, tracks : sequence of str
            Tracks to share, by label, by split and by id; all if nothing is given.
        scale, dtype : str, optional
            Scale and type of the windows; by default those of the store.
        audio : str or Path, optional
            The source that the store was made from, if its audio is shared too.
        hugging_face : bool
            Whether the folder is to be uploaded to Hugging Face; it then has tables that the library `datasets` reads.
        arrays : bool
            Whether these tables contain the windows too, as levels in dB and float16.
        title, licence, origin, author, published : str, optional
            Metadata of the dataset; by default those of its recipe. The date is such as 2026-11-23.
        force : bool
            Whether a store at `to` is replaced.
        datasets : str or Path
            Folder of the datasets, if `audio` is the name of one.
        progress : bool, optional
            Whether progress is shown; by default in a terminal and in a notebook.

        Returns
        -------
        Store
            The share.
        """
        from melzarr.pipeline.cli.inputs import audio_root
        from melzarr.pipeline.share.share_options import ShareOptions
        from melzarr.pipeline.share.write_share import share
        from melzarr.pipeline.storage.open_storage import open_directory
        from melzarr.pipeline.zarr_store.reader import open_store

        options = ShareOptions(
            labels=labels,
            splits=splits,
            tracks=tracks,
            scale=scale,
            dtype=dtype,
            audio=None if audio is None else audio_root(str(audio), Path(datasets), "audio"),
            for_hub=hugging_face,
            arrays=arrays,
            title=title,
            licence=licence,
            origin=origin,
            author=author,
            published=published,
        )
        where, shown = open_directory(to), feedback(progress)
        n_tracks = len(options.select(self.opened))
        with shown.steps() as step, shown.building(n_tracks, "copy") as advance:
            share(self.opened, where, options, replace=force, progress=advance, step=step)
        return Store(open_store(where))


class JoinedStores(_Readable):
    """Several stores of one spec, read as one: `melzarr.open` of a list returns it. Nothing is copied.

    Their tracks come one after the other. The statistics are those of the train tracks of all stores.

    Parameters
    ----------
    opened : melzarr.pipeline.derive.joined_store.JoinedStore
        The stores as the pipeline reads them.
    """

    opened: JoinedStore

    @property
    def stores(self) -> list[Store]:
        """The stores, in the order of their tracks."""
        return [Store(store) for store in self.opened.stores]

    def to_xarray(self, **options: Any) -> xr.Dataset:
        """Return the stores as one xarray dataset of Dask arrays; no windows are read before they are used.

        Parameters
        ----------
        **options
            Options of `xarray.open_zarr`. By default ``chunks={}``, that is Dask arrays with one chunk per track.
        """
        import xarray as xr

        datasets = [store.to_xarray(**{"chunks": {}, **options}) for store in self.stores]
        joined: xr.Dataset = xr.concat(
            datasets, "track", data_vars="minimal", coords="minimal", compat="override", join="override"
        )
        statistics = {name: ("band", self.opened.values(name), joined[name].attrs) for name in ("mean_db", "std_db")}
        return joined.assign_coords(statistics).assign_attrs(self.attributes)
