"""Check that redundant contents of a store agree, even if its UUID was recomputed after a change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from melzarr.pipeline.derive.track_selection import TrackSelection, tracks_of
from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.features.mel_filterbank import band_centres
from melzarr.pipeline.shard_receipt import counts
from melzarr.pipeline.sources.catalog import refuse_separated_groups
from melzarr.pipeline.zarr_store.companion_files import CHECKSUMS, TRACKS
from melzarr.pipeline.zarr_store.layout import statistics
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.tracks_table import tracks_csv

SUMS_RELATIVE = 1e-9  # tolerance of statistics to the receipts' sums; summing again changes them by some 1e-13


def contradictions(store: Store) -> list[str]:
    """List the contradictions within a store.

    Parameters
    ----------
    store : Store
        The store.

    Returns
    -------
    list of str
        One sentence per contradiction: coordinates that differ from the spec, counts and statistics that differ from
        the receipts, an id that occurs twice, a group in two splits, a table of tracks that differs from the store.
    """
    return [*_of_the_spec(store), *_of_the_receipts(store), *_of_the_tracks(store), *_of_the_table(store)]


def _of_the_spec(store: Store) -> Iterator[str]:
    spec = store.spec
    expected = {"window": spec.window_starts(), "frame": spec.frame_centres(), "band": band_centres(spec)}
    for name, values in expected.items():
        if not np.array_equal(store.values(name), values):
            yield f"{name} is not what the spec says"


def _of_the_receipts(store: Store) -> Iterator[str]:
    count, level, square = (store.values(f"receipts/{name}") for name in ("count", "level", "square"))
    splits, statuses = store.values("split"), store.values("status")
    counted = np.fromiter(map(counts, splits, statuses), bool, store.n_tracks)
    frames = np.where(counted, store.values("n_windows"), 0) * store.spec.n_frames
    of_shards = np.add.reduceat(frames, np.arange(0, store.n_tracks, store.tracks_per_shard))
    if not np.array_equal(of_shards, count):
        yield "receipts/count is not the number of frames in the ok tracks of the train split"
    for name, values in zip(("mean_db", "std_db"), statistics(int(count.sum()), level, square), strict=True):
        if not np.allclose(store.values(name), values, rtol=SUMS_RELATIVE, atol=SUMS_RELATIVE, equal_nan=True):
            yield f"{name} does not match the sums in the receipts"


def _of_the_tracks(store: Store) -> Iterator[str]:
    tracks = tracks_of([TrackSelection.whole(store)])
    ids = np.sort(tracks.column("id"))
    for place in np.flatnonzero(ids[1:] == ids[:-1])[:1]:
        yield f"the id {str(ids[place])!r} occurs twice"
    try:
        refuse_separated_groups(tracks)
    except CatalogError as error:
        yield str(error).partition(";")[0]


def _of_the_table(store: Store) -> Iterator[str]:
    """Compare the table of tracks in a share with its store."""
    directory = store.directory
    if directory.size(CHECKSUMS) is None or directory.size(TRACKS) is None:
        return
    with directory.open(TRACKS) as file:
        same = all(file.read(len(block)) == block for block in tracks_csv(store)) and not file.read(1)
    if not same:
        yield f"{TRACKS} does not match the tracks of the store"
