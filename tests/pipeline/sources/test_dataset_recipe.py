"""A recipe says what a dataset is: it is read and checked, never run."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.errors import CatalogError, RecipeError, SpecError
from melzarr.pipeline.sources.dataset_recipe import (
    Archive,
    Synthesis,
    expand_ranges,
    find_recipe,
    is_date,
    read_recipe,
)
from melzarr.pipeline.sources.split import HashSplit
from melzarr.pipeline.spec import FeatureSpec

ROOT = Path(__file__).parents[3]
DATASETS = ROOT / "datasets"
REFERENCE = ROOT.parent / "shared" / "reference" / "gtzan"
TINY = """
name = "tiny"
title = "Tiny"
licence = "CC0-1.0"
origin = "synthesised"
labels = ["drums", "bells"]
tracks_per_label = 2

[source]
kind = "synthesis"
seed = 1
sample_rate = 8000
seconds = 0.5
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read_with_defaults_for_what_it_leaves_out(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, TINY))
    assert recipe.source == Synthesis(seed=1, sample_rate=8000, seconds=0.5)
    assert recipe.labels == ("bells", "drums")
    assert recipe.audio == tmp_path / "audio"
    assert (recipe.spec, recipe.split, recipe.splits) == (FeatureSpec(), HashSplit(), {})


def test_a_recipe_may_ask_for_other_features_and_another_split(tmp_path: Path) -> None:
    more = (
        "[spec]\nn_mels = 64\n[split]\ntest = 0.3\n[splits.mine]\norigin = 'me'\n[splits.mine.train]\nbells = '0-1'\n"
    )
    recipe = read_recipe(write(tmp_path, TINY + more))
    assert recipe.spec == FeatureSpec(n_mels=64)
    assert recipe.split == HashSplit(test=0.3)
    assert recipe.splits == {"mine": {"bells/bells.00000": "train", "bells/bells.00001": "train"}}


@pytest.mark.parametrize("field", ["name", "title", "licence", "origin", "labels", "tracks_per_label", "kind", "seed"])
def test_a_field_that_is_lacking_is_named(tmp_path: Path, field: str) -> None:
    lines = [line for line in TINY.splitlines() if not line.startswith(f"{field} =")]
    with pytest.raises(RecipeError, match=f"recipe.toml lacks the field '{field}'"):
        read_recipe(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    ("found", "instead", "said"),
    [
        ("tracks_per_label = 2", 'tracks_per_label = "some"', "'some' is not a whole number from 1"),
        ("tracks_per_label = 2", "tracks_per_label = 0", "tracks_per_label=0 is not a whole number from 1"),
        ("tracks_per_label = 2", "tracks_per_label = -2", "tracks_per_label=-2 is no"),
        ("tracks_per_label = 2", "tracks_per_label = 2.0", r"tracks_per_label=2\.0 is no"),
        ("tracks_per_label = 2", "tracks_per_label = true", "tracks_per_label=True is no"),
        ('["drums", "bells"]', '"drums"', "labels='drums' is not a list of names"),
        ('["drums", "bells"]', "[]", r"labels=\[\] is not a list of names"),
        ('["drums", "bells"]', "{ drums = 1 }", "is not a list of names"),
        ("[source]", "splits = 3\n[source]", "wrong type"),
        ('kind = "synthesis"', 'kind = "torrent"', "'torrent' is unknown; use 'archive' or 'synthesis'"),
        ("seconds = 0.5", "seconds = 0.5\n[split]\nshare = 1", "share"),
        ("seconds = 0.5", "seconds = 0.5\n[splits.mine.train]\nbells = '3-x'", "invalid literal"),
        ("seconds = 0.5", "seconds = 0.5\n[splits.mine.train]\nbells = '0-999999999999'", "goes beyond the 100000"),
        ("tracks_per_label = 2", "tracks_per_label = 1000000000", "from 1 to 100000"),
        ("tracks_per_label = 2", "tracks_per_label = 2\nfaults = 'many'", "faults='many' is not a list of sentences"),
        ("tracks_per_label = 2", "tracks_per_label = 2\nfaults = [1]", r"faults=\[1\] is not a list of sentences"),
        ("tracks_per_label = 2", "tracks_per_label = 2\npublished = 2026-11-23", "date is not JSON serializable"),
        ("tracks_per_label = 2", "tracks_per_label = 2\npublished = 'soon'", "is not a date"),
        ("seconds = 0.5", "seconds = 0.5\nsha256 = '12ab'", "sha256='12ab' is not a digest"),
        ("seconds = 0.5", "seconds = 1e12", "use 0.1 s to an hour"),
        ("seconds = 0.5", "seconds = nan", "use 0.1 s to an hour"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(tmp_path: Path, found: str, instead: str, said: str) -> None:
    with pytest.raises(RecipeError, match=rf"recipe.toml.*{said}"):
        read_recipe(write(tmp_path, TINY.replace(found, instead)))


@pytest.mark.parametrize("label", ['"a/b"', '"/a"', '".."', '"."', '""', '".hidden"', '"../a"', '"a/"', "3"])
def test_a_label_is_a_plain_folder_name(tmp_path: Path, label: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml.*label .* is not a plain folder name"):
        read_recipe(write(tmp_path, TINY.replace('"bells"', label)))


@pytest.mark.parametrize(
    ("value", "is_one"),
    [("2026-11-23", True), ("2024-02-29", True), ("2026-02-29", False), ("2026-02-31", False), ("2026-13-01", False),
     ("0000-01-01", False), ("20261123", False), ("2026-W48-1", False), ("2026-1-2", False), ("soon", False),
     ("", False), (20261123, False), (None, False)],
)  # fmt: skip
def test_a_date_is_one_of_the_calendar_written_in_full(value: object, is_one: bool) -> None:
    assert is_date(value) is is_one


def test_a_label_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="drums"):
        read_recipe(write(tmp_path, TINY.replace('"bells"', '"drums"')))


def test_a_range_that_runs_backwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml.*the range '7-3' runs backwards"):
        read_recipe(write(tmp_path, TINY + "[splits.mine.train]\nbells = '0,7-3'"))


def test_a_track_in_two_parts_is_refused(tmp_path: Path) -> None:
    both = "[splits.mine.train]\nbells = '0-5'\n[splits.mine.test]\nbells = '5-9'"
    with pytest.raises(RecipeError, match=r"track bells/bells\.00005 is in train and in test"):
        read_recipe(write(tmp_path, TINY + both))


def test_a_track_may_be_in_two_splits_and_twice_in_one_part(tmp_path: Path) -> None:
    text = "[splits.one.train]\nbells = '0-1,1'\n[splits.two.test]\nbells = '1'"
    assert read_recipe(write(tmp_path, TINY + text)).splits == {
        "one": {"bells/bells.00000": "train", "bells/bells.00001": "train"},
        "two": {"bells/bells.00001": "test"},
    }


ARCHIVE = """
[source]
kind = "archive"
urls = ["http://localhost/a.tar.gz"]
bytes = 10
sha256 = "{digest}"
"""


def test_a_digest_is_compared_in_lower_case(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, TINY.partition("[source]")[0] + ARCHIVE.format(digest="AB" * 32)))
    assert recipe.source == Archive(("http://localhost/a.tar.gz",), 10, "ab" * 32)


@pytest.mark.parametrize("urls", ["[]", '"http://localhost/a.tar.gz"'])
def test_addresses_are_a_list_of_one_or_more(tmp_path: Path, urls: str) -> None:
    text = ARCHIVE.format(digest="ab" * 32).replace('["http://localhost/a.tar.gz"]', urls)
    with pytest.raises(RecipeError, match="urls"):
        read_recipe(write(tmp_path, TINY.partition("[source]")[0] + text))


def test_features_and_splits_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="n_mel: no such field"):
        read_recipe(write(tmp_path, TINY + "[spec]\nn_mel = 64"))
    with pytest.raises(CatalogError, match="leave nothing to train on"):
        read_recipe(write(tmp_path, TINY + "[split]\nvalid = 0.5\ntest = 0.5"))


@pytest.mark.parametrize(
    "content", [b"name = ", b"\xff", b"a = " + b"[" * 100_000, None], ids=["cut", "no text", "deep", "none"]
)
def test_what_is_no_toml_is_no_recipe(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.toml"
    if content:
        path.write_bytes(content)
    gc.collect()  # what other tests left might else be finalised in the depth of a recursion, and fail there
    with pytest.raises(RecipeError, match=r"recipe\.toml is not a readable recipe"):
        read_recipe(path)


def test_recipes_are_found_by_name(tmp_path: Path) -> None:
    write(tmp_path / "tiny", TINY)
    assert find_recipe("tiny", tmp_path).folder == tmp_path / "tiny"


def test_melzarrs_own_are_found_anywhere_and_their_audio_goes_below_the_folder_of_datasets(tmp_path: Path) -> None:
    assert find_recipe("demo", tmp_path).audio == tmp_path / "demo/audio"
    write(tmp_path / "demo", TINY)  # one of the same name comes first
    assert find_recipe("demo", tmp_path).title == find_recipe("demo", tmp_path).data["title"] != "melzarr demo"


def test_a_name_that_is_unknown_is_answered_with_those_that_are_not(tmp_path: Path) -> None:
    write(tmp_path / "mine", TINY)
    with pytest.raises(RecipeError, match=r"no recipe called 'gtzam' in .*; use one of demo, gtzan, mine.*--datasets"):
        find_recipe("gtzam", tmp_path)


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 50)), min_size=1))
def test_ranges_are_what_counting_gives(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    counted = []
    for first, more in ranges:
        number = first
        while number <= first + more:
            counted.append(number)
            number += 1
    assert expand_ranges(text) == counted


@pytest.mark.parametrize("text", ["", "a", "1-b", "1,,2", "-3", "1-2-3"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        expand_ranges(text)


@pytest.mark.parametrize("text", ["1-0", "0-3,9-8"])
def test_a_backward_range_is_no_empty_one(text: str) -> None:
    with pytest.raises(ValueError, match="runs backwards"):
        expand_ranges(text)


def test_gtzan_is_the_archive_that_was_published() -> None:
    recipe = find_recipe("gtzan", DATASETS)
    assert isinstance(recipe.source, Archive)
    assert recipe.source.n_bytes == 1_225_571_541
    assert recipe.source.sha256 == "24347e0223d2ba798e0a558c4c172d9d4a19c00bb7963fe055d183dadb4ef2c6"
    assert (len(recipe.labels), recipe.tracks_per_label) == (10, 100)


def test_the_fault_filtered_split_has_443_197_and_290_tracks() -> None:
    recipe = find_recipe("gtzan", DATASETS)
    parts = recipe.splits["fault-filtered"]
    assert Counter(parts.values()) == {"train": 443, "valid": 197, "test": 290}
    assert {track.split("/")[0] for track in parts} == set(recipe.labels)


@pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the published lists are not beside this copy (../shared/reference/gtzan)"
)
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_the_fault_filtered_split_is_the_published_one(part: str) -> None:
    published = (REFERENCE / f"{part}_filtered.txt").read_text(encoding="utf-8").split()
    parts = find_recipe("gtzan", DATASETS).splits["fault-filtered"]
    assert sorted(track for track, its in parts.items() if its == part) == sorted(
        name.removesuffix(".wav") for name in published
    )


def test_what_a_store_could_not_keep_is_refused_before_a_build(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "datasets/demo/recipe.toml").read_text(encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(f"recorded = 2017-01-01\n{text}", encoding="utf-8")
    with pytest.raises(RecipeError, match="date is not JSON serializable"):
        read_recipe(tmp_path / "recipe.toml")
