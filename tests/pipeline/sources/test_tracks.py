"""Tracks in columns are the tracks that were given, in memory that is bounded."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.sources.tracks import FIELDS, Track, Tracks, joined, seconds_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # no half surrogates: nothing UTF-8 can hold
TRACKS = st.lists(
    st.builds(Track, id=TEXTS, label=TEXTS, source=TEXTS, group=TEXTS, split=TEXTS, start=TEXTS, end=TEXTS), max_size=8
)


@given(TRACKS)
def test_they_are_the_tracks_that_were_given(given_tracks: list[Track]) -> None:
    tracks = Tracks.of(iter(given_tracks))
    assert list(tracks) == given_tracks
    assert tracks == given_tracks
    assert tracks == tuple(given_tracks)
    assert tracks == Tracks.of(given_tracks)
    assert len(tracks) == len(given_tracks)
    assert [tracks[number] for number in range(len(tracks))] == given_tracks
    assert [tracks[-1 - number] for number in range(len(tracks))] == given_tracks[::-1]
    assert all((track in tracks) for track in given_tracks)


@given(TRACKS, st.slices(8))
def test_a_slice_is_a_tuple_of_tracks(given_tracks: list[Track], which: slice) -> None:
    assert Tracks.of(given_tracks)[which] == tuple(given_tracks[which])


@given(TRACKS, st.sampled_from(FIELDS))
def test_they_are_sorted_as_python_sorts_text_and_ties_stay_in_order(given_tracks: list[Track], field: str) -> None:
    assert list(Tracks.of(given_tracks, by=field)) == sorted(given_tracks, key=lambda track: getattr(track, field))


@given(TRACKS)
def test_rows_are_the_fields_that_are_named(given_tracks: list[Track]) -> None:
    assert list(Tracks.of(given_tracks).rows("split", "id")) == [(track.split, track.id) for track in given_tracks]


@given(TRACKS, st.data())
def test_some_of_them_are_taken_and_joined(given_tracks: list[Track], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(given_tracks) - 1)) if given_tracks else st.just([]))
    tracks = Tracks.of(given_tracks).take(np.array(numbers, np.intp))
    assert list(tracks) == [given_tracks[number] for number in numbers]
    both = {name: joined([tracks.column(name), Tracks.of(given_tracks).column(name)]) for name in FIELDS}
    assert list(Tracks(both)) == [*tracks, *given_tracks]


@given(st.floats(0, 1e9))
def test_a_time_has_one_text(seconds: float) -> None:
    assert float(seconds_text(seconds) or 0) == seconds
    assert seconds_text(float(seconds_text(seconds) or 0)) == seconds_text(seconds)


def test_a_time_is_as_a_person_writes_it() -> None:
    assert [seconds_text(seconds) for seconds in (12.5, 30.0, 0.0, -0.0, float("nan"))] == ["12.5", "30", "", "", ""]


def test_one_column_may_be_another() -> None:
    tracks = Tracks.of(numbered(3))
    other = tracks.with_column("split", ["train", "test", "unused"])
    assert [track.split for track in other] == ["train", "test", "unused"]
    assert [track.split for track in tracks] == [""] * 3
    assert tracks != other
    assert tracks != "three tracks"


def test_a_number_beyond_the_last_is_an_error() -> None:
    with pytest.raises(IndexError):
        Tracks.of(numbered(3))[3]


def test_many_are_said_by_their_first() -> None:
    names = ", ".join(track.id for track in numbered(3))
    assert repr(Tracks.of(numbered(3))) == f"Tracks(3: {names})"
    assert repr(Tracks.of(numbered(4))) == f"Tracks(4: {names} …)"


def numbered(n: int) -> Iterator[Track]:
    for number in range(n):
        name = f"genre/artist/{number:08d}"
        yield Track(name, "genre", f"{name}.mp3", name, "")


def test_a_catalog_takes_a_bounded_number_of_bytes_a_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, block = 1 << 13, 1 << 9
    monkeypatch.setattr("melzarr.pipeline.sources.tracks.BLOCK", block)
    rows = (f"{track.source},{track.label}\n" for track in numbered(n))
    (tmp_path / "tracks.csv").write_text("path,label\n" + "".join(rows), encoding="utf-8")
    read_catalog(tmp_path / "tracks.csv")  # what is loaded at the first call
    gc.collect()
    tracemalloc.start()
    try:
        catalog = read_catalog(tmp_path / "tracks.csv")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    first = catalog.tracks[0]
    assert {track.split for track in catalog.tracks} == {"train", "valid", "test"}
    # Four columns, since the groups are the ids, of 16 bytes a cell; a text is kept with its length, and the place for
    # texts grows ahead of them.
    assert held / n <= 4 * 16 + 2 * (len(first.id) + len(first.source) + 2 * 8)
    # On the way one block as objects, the order, and one column in its blocks, whole, and sorted.
    objects = sys.getsizeof(first) + sum(sys.getsizeof(getattr(first, name)) + 8 for name in FIELDS)
    assert peak <= held + block * 2 * objects + n * (8 + 2 * (16 + 2 * (len(first.source) + 8)))
