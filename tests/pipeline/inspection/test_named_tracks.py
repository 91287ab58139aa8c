"""Tracks that are named have the columns of the store; the others are counted."""

from __future__ import annotations

import numpy as np

from melzarr.pipeline.inspection.named_tracks import LISTED, TrackNames
from melzarr.pipeline.zarr_store.reader import Store


def test_a_named_track_has_the_columns_of_the_store(faulty: Store) -> None:
    last = faulty.n_tracks - 1
    names = TrackNames(faulty, {0, last})
    for number in (0, last):
        named = names.noted(number, 0.5)
        for column in ("track", "label", "split", "status", "source", "error"):
            assert getattr(named, column) == faulty.values(column)[number]
        assert named.value == 0.5
    assert names.noted(0, error="lost").error == "lost"


def test_only_the_first_tracks_of_a_long_list_are_named(faulty: Store) -> None:
    names, values = TrackNames(faulty, {3}), np.arange(faulty.n_tracks) / 2
    listing = names.listing(np.full(LISTED + 7, 3), values)
    assert [row.value for row in listing.rows] == [1.5] * LISTED
    assert (listing.n, listing.n_more) == (LISTED + 7, 7)
