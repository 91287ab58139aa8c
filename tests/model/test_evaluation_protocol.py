"""How a store is divided for an experiment: every window where it belongs, and words that say what a figure means."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import zarr

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.model import evaluation_protocol as room
from melzarr.model.evaluation_protocol import every_third, level_statistics, make_protocol, protocol_names
from melzarr.model.selection import Selection, select
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import CatalogError, StoreError
from melzarr.pipeline.zarr_store.reader import Store, open_store

SPLITS = ("train", "valid", "test")


def ids(store: Store, selection: Selection) -> list[str]:
    return [str(track) for track in store.values("track")[selection.tracks]]


def ok_tracks(store: Store) -> list[int]:
    return np.flatnonzero(zarr.open_group(store.directory.path, mode="r")["status"][...] == "ok").tolist()


# By track -------------------------------------------------------------------------------------------------------------


def test_by_track_the_parts_are_those_of_the_stores_own_split(tiny: Store) -> None:
    protocol = make_protocol(tiny, "track")
    split = zarr.open_group(tiny.directory.path, mode="r")["split"][...]
    for part in SPLITS:
        expected = [number for number in ok_tracks(tiny) if split[number] == part]
        assert protocol.part(part).tracks.tolist() == expected
        assert protocol.part(part).windows.all()
        assert protocol.part(part).windows.shape == (len(expected), 24)
    assert protocol.words == "split by track: nothing of a test track was trained on"


def test_by_track_the_words_name_groups_where_tracks_have_some(own_music: Path, tmp_path: Path, plan_of) -> None:
    rows = [f"{path.relative_to(own_music)},{path.parent.name},{path.name[-5]}"
            for path in sorted(own_music.rglob("*.wav"))]  # fmt: skip
    (own_music / "tracks.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    catalog, plan = plan_of(own_music / "tracks.csv", n_windows=2)
    build(plan, catalog, tmp_path / "grouped.zarr", InProcess())
    words = make_protocol(open_store(tmp_path / "grouped.zarr"), "track").words
    assert words == "split by group: nothing of a test group was trained on"


# By window ------------------------------------------------------------------------------------------------------------


def test_by_window_each_window_of_every_ok_track_is_in_exactly_one_part(tiny: Store) -> None:
    protocol = make_protocol(tiny, "window", seed=5)
    for part in SPLITS:
        assert protocol.part(part).tracks.tolist() == ok_tracks(tiny)
    counted = np.sum([protocol.part(part).windows for part in SPLITS], axis=0)
    np.testing.assert_array_equal(counted, np.ones((len(ok_tracks(tiny)), 24)))


def test_by_window_the_parts_have_their_shares(finished: Store) -> None:
    protocol = make_protocol(finished, "window")
    n = sum(protocol.part(part).n_windows for part in SPLITS)
    assert n == 60 * len(ok_tracks(finished))
    for part, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
        deviation = np.sqrt(share * (1 - share) / n)  # of a share that is drawn window by window
        assert protocol.part(part).n_windows / n == pytest.approx(share, abs=4 * deviation)


def test_by_window_the_parts_are_those_of_the_seed(tiny: Store) -> None:
    first, again, other = (make_protocol(tiny, "window", seed).part("test").windows for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_by_window_the_words_say_that_it_leaks(tiny: Store) -> None:
    words = {name: make_protocol(tiny, name).words for name in protocol_names(tiny)}
    assert [name for name, said in words.items() if "leaks" in said] == ["window"]


def test_by_window_a_part_that_gets_no_window_is_missing(tiny: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SHARES", (1.0, 0.0, 0.0))
    protocol = make_protocol(tiny, "window")
    assert protocol.part("train").windows.all()
    for part in ("valid", "test"):
        with pytest.raises(StoreError, match=f"protocol 'window': .*'{part}'"):
            protocol.part(part)


# By a split that the recipe names -------------------------------------------------------------------------------------


def test_a_named_split_has_the_ok_tracks_that_the_recipe_lists(tiny: Store) -> None:
    protocol = make_protocol(tiny, "other")
    assert ids(tiny, protocol.part("train")) == [
        "bells/bells.00004", "bells/bells.00005", "drums/drums.00003", "drums/drums.00005",
    ]  # fmt: skip
    assert ids(tiny, protocol.part("valid")) == ["bells/bells.00000", "drums/drums.00000"]
    assert ids(tiny, protocol.part("test")) == ["bells/bells.00002", "drums/drums.00001"]
    assert all(protocol.part(part).windows.all() for part in SPLITS)
    assert "split other of the dataset's recipe" in protocol.words


def test_the_split_that_a_store_was_made_with_gives_the_same_parts_by_its_name(tiny: Store) -> None:
    for part in SPLITS:
        own, named = (make_protocol(tiny, name).part(part).tracks.tolist() for name in ("track", "even"))
        assert own == named


def test_the_names_are_track_the_recipes_own_and_window(tiny: Store, finished: Store) -> None:
    assert protocol_names(tiny) == ["track", "even", "other", "half", "window"]
    assert protocol_names(finished) == ["track", "window"]


def test_an_unknown_name_is_answered_with_those_that_are_known(tiny: Store) -> None:
    with pytest.raises(CatalogError, match=r"tiny\.zarr has no protocol 'fault-filtered'; use one of track, even, oth"):
        make_protocol(tiny, "fault-filtered")


def test_a_part_without_an_ok_track_is_a_sentence(tiny: Store) -> None:
    protocol = make_protocol(tiny, "half")
    assert len(ids(tiny, protocol.part("valid"))) == 2
    with pytest.raises(
        StoreError, match="protocol 'half': no ok track is in the split 'test', only in train, valid; g"
    ):
        protocol.part("test")


# A quick look, and levels ---------------------------------------------------------------------------------------------


def test_a_quick_look_is_every_third_window_of_those_selected(tiny: Store) -> None:
    selection = make_protocol(tiny, "window", seed=1).part("train")
    expected = selection.windows & (np.arange(24) % 3 == 0)
    np.testing.assert_array_equal(every_third(selection).windows, expected)
    assert selection.n_windows > expected.sum() > 0


def test_a_quick_look_at_a_part_that_has_windows_is_never_empty(tiny: Store) -> None:
    selection = select(tiny, "valid")
    others = selection.windows & (np.arange(24) % 3 != 0)
    assert every_third(replace(selection, windows=others)).n_windows > 0


def brute_force(store: Store, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of librosa's levels of the selected windows, each in double precision at once."""
    mel = zarr.open_array(store.directory.path / "mel", mode="r")[...].astype(np.float64)
    levels = librosa.power_to_db(mel[selection.tracks][selection.windows], ref=1.0, top_db=None).reshape(-1, 128)
    return levels.mean(axis=0), levels.std(axis=0)


# Levels are of single precision: those of up to 100 dB are rounded by 4e-6 dB, and log10 errs by some of that.
CLOSE = {"rtol": 0, "atol": 3e-5}


@pytest.mark.parametrize("name", ["track", "window", "other"])
def test_level_statistics_are_those_of_the_windows_that_are_trained_on(tiny: Store, name: str) -> None:
    selection = make_protocol(tiny, name, seed=2).part("train")
    mean_db, std_db = level_statistics(tiny, selection)
    expected_mean, expected_std = brute_force(tiny, selection)
    np.testing.assert_allclose(mean_db, expected_mean, **CLOSE)
    np.testing.assert_allclose(std_db, expected_std, **CLOSE)


def test_level_statistics_by_track_are_the_stores_own_where_all_of_its_train_tracks_are_ok(tiny: Store) -> None:
    mean_db, std_db = level_statistics(tiny, make_protocol(tiny, "track").part("train"))
    # Sums of the same numbers in double precision; only their order may differ.
    np.testing.assert_allclose(mean_db, tiny.values("mean_db"), rtol=1e-10)
    np.testing.assert_allclose(std_db, tiny.values("std_db"), rtol=1e-8)


def test_level_statistics_of_a_store_of_decibels_are_those_of_what_it_holds(
    music: Path, tmp_path: Path, plan_of
) -> None:
    catalog, plan = plan_of(music, scale="db", dtype="float16", n_windows=5)
    build(plan, catalog, tmp_path / "db.zarr", InProcess())
    store = open_store(tmp_path / "db.zarr")
    selection = select(store, "all", np.full(store.n_tracks, "all"))
    held = (
        zarr.open_array(store.directory.path / "mel", mode="r")[...][selection.tracks]
        .astype(np.float64)
        .reshape(-1, 128)
    )
    mean_db, std_db = level_statistics(store, selection)
    np.testing.assert_allclose(mean_db, held.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(std_db, held.std(axis=0), rtol=1e-8)


@pytest.mark.parametrize("ranges", ["9-1", "x", [1, 2], {"a": 1}, 7, None])
def test_a_split_of_a_strangers_recipe_that_is_none_is_a_sentence(renamed, ranges: object) -> None:
    directory = renamed("odd").directory

    def with_recipe(recipe: object) -> Store:
        described = json.loads(directory.read("zarr.json"))
        described["attributes"]["recipe"] = recipe
        directory.write("zarr.json", json.dumps(described).encode())
        return open_store(directory)

    for split in ({"train": {"bells": ranges}}, {"train": ranges}):
        with pytest.raises(CatalogError, match=r"the split 'odd' of its recipe cannot be read"):
            make_protocol(with_recipe({"splits": {"odd": split}}), "odd")
    assert protocol_names(with_recipe({"splits": [ranges]})) == ["track", "window"]
