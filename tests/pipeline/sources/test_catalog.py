"""A folder, a manifest or a recipe becomes a list of tracks, the same everywhere, or a sentence that says why not."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.audio_names import EXTENSIONS
from melzarr.pipeline.sources.catalog import Catalog, read_catalog
from melzarr.pipeline.sources.dataset_recipe import find_recipe
from melzarr.pipeline.sources.split import SPLITS, HashSplit
from melzarr.pipeline.sources.tracks import Track

DATASETS = Path(__file__).parents[3] / "datasets"


def directory(root: Path, *names: str) -> Path:
    """Make empty files: a catalog goes by names alone."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def ids(catalog: Catalog) -> list[str]:
    return [track.id for track in catalog.tracks]


# A tree of label/file -------------------------------------------------------------------------------------------------


def test_a_tree_gives_label_and_id_by_folder_and_name(tmp_path: Path) -> None:
    catalog = read_catalog(directory(tmp_path, "jazz/b.flac", "blues/a.wav"), HashSplit(valid=0, test=0))
    assert catalog.root.path == tmp_path
    assert catalog.tracks == (
        Track(id="blues/a", label="blues", source="blues/a.wav", group="blues/a", split="train"),
        Track(id="jazz/b", label="jazz", source="jazz/b.flac", group="jazz/b", split="train"),
    )
    assert catalog.left_out == ()


def test_folders_below_a_label_are_part_of_the_id(tmp_path: Path) -> None:
    catalog = read_catalog(directory(tmp_path, "jazz/duke/1930/mood.mp3", "jazz/mood.mp3"))
    assert [(track.id, track.label) for track in catalog.tracks] == [
        ("jazz/duke/1930/mood", "jazz"),
        ("jazz/mood", "jazz"),
    ]


def test_hidden_and_system_files_are_skipped_and_other_files_listed(tmp_path: Path) -> None:
    hidden = ["jazz/._a.wav", "jazz/.DS_Store", ".git/b.wav", "jazz/.cache/c.wav", ".made.json", "jazz/Thumbs.db",
              "Desktop.ini", "__MACOSX/jazz/a.wav", "jazz/@eaDir/a.mp3"]  # fmt: skip
    other = ["readme.txt", "jazz/cover.jpg", "jazz/noextension"]
    catalog = read_catalog(directory(tmp_path, "jazz/a.wav", *hidden, *other))
    assert ids(catalog) == ["jazz/a"]
    assert catalog.left_out == tuple(sorted(other))


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_every_known_extension_is_a_track_in_either_case(tmp_path: Path, extension: str) -> None:
    catalog = read_catalog(directory(tmp_path, f"jazz/a{extension}", f"jazz/b{extension.upper()}"))
    assert ids(catalog) == ["jazz/a", "jazz/b"]


def test_only_the_last_extension_goes(tmp_path: Path) -> None:
    assert ids(read_catalog(directory(tmp_path, "jazz/jazz.00001.au", "jazz/v1.2.wav"))) == [
        "jazz/jazz.00001",
        "jazz/v1.2",
    ]


def test_the_order_is_by_id_whatever_the_file_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{label}/{number}.wav" for label in ("b", "a", "c.d", "c") for number in (10, 9, 1)]
    directory(tmp_path, *names, "z.txt", "a.txt", "b/m.txt")
    first = read_catalog(tmp_path)
    assert ids(first) == sorted(name.removesuffix(".wav") for name in names)
    walk = os.walk
    shuffle = random.Random(0).shuffle

    def shuffled(top: Any, **options: Any) -> Any:
        for folder, folders, files in walk(top, **options):
            shuffle(folders)
            shuffle(files)
            yield folder, folders, files

    monkeypatch.setattr(os, "walk", shuffled)
    for _ in range(5):
        assert read_catalog(tmp_path) == first


def test_two_files_of_one_id_are_refused(tmp_path: Path) -> None:
    directory(tmp_path, "jazz/a.wav", "jazz/a.mp3", "jazz/b.wav")
    with pytest.raises(CatalogError, match=r"'jazz/a' is the id of two files, .*'jazz/a\.(wav|mp3)'.*column id"):
        read_catalog(tmp_path)


def test_a_file_without_a_folder_has_no_label(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"'loose.wav' is directly in .* no label; put each file into a folder"):
        read_catalog(directory(tmp_path, "jazz/a.wav", "loose.wav"))


@pytest.mark.parametrize("names", [(), ("jazz/readme.txt", "jazz/._a.wav")])
def test_a_folder_without_audio_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    others = sum(name.endswith(".txt") for name in names)
    with pytest.raises(
        CatalogError, match=rf"contains no audio file \({others} other files\); known extensions: .*\.wav"
    ):
        read_catalog(directory(tmp_path, *names))


@pytest.mark.parametrize("name", ["nothing", "nothing.csv", "song.wav"])
def test_what_is_no_folder_and_no_manifest_is_refused(tmp_path: Path, name: str) -> None:
    directory(tmp_path, "song.wav")
    with pytest.raises(CatalogError, match=rf"{name} is neither a folder nor a manifest; give a folder of label/file"):
        read_catalog(tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="this file system decides which names there may be")
@pytest.mark.parametrize("name", [b"jazz/caf\xe9.wav", b"caf\xe9/a.wav"])
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, name: bytes) -> None:
    directory(tmp_path, os.fsdecode(name))
    with pytest.raises(CatalogError, match=r"caf\\udce9.* is not UTF-8, so it cannot be stored; rename the file"):
        read_catalog(tmp_path)


def test_names_in_any_script_will_do(tmp_path: Path) -> None:
    assert ids(read_catalog(directory(tmp_path, "日本/曲 1.wav", "café/é.wav"))) == ["café/é", "日本/曲 1"]


def test_a_folder_that_cannot_be_listed_does_not_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory(tmp_path, "blues/a.wav", "jazz/a.wav")
    scandir = os.scandir

    def locked(path: Any) -> Any:
        if Path(path).name == "jazz":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(CatalogError, match="jazz"):
        read_catalog(tmp_path)


# A manifest -----------------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest in the format that its name says."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=["tracks.csv", "tracks.parquet"])
def manifest(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / str(request.param)


def test_a_manifest_needs_only_path_and_label(manifest: Path) -> None:
    write(manifest, [{"path": "z/b.wav", "label": "jazz"}, {"path": "a.b", "label": "blues"}])
    catalog = read_catalog(manifest, HashSplit(valid=0, test=0))
    assert catalog.root.path == manifest.parent
    assert catalog.tracks == (
        Track(id="a.b", label="blues", source="a.b", group="a.b", split="train"),
        Track(id="z/b", label="jazz", source="z/b.wav", group="z/b", split="train"),
    )


def test_a_manifest_may_give_id_group_and_split(manifest: Path) -> None:
    rows = [
        {"path": "1.wav", "label": "jazz", "id": "one", "group": "duke", "split": "test", "year": 1930},
        {"path": "2.wav", "label": "jazz", "id": None, "group": None, "split": None, "year": None},
    ]
    catalog = read_catalog(write(manifest, rows))
    assert catalog.tracks == (
        Track(id="2", label="jazz", source="2.wav", group="2", split="unused"),
        Track(id="one", label="jazz", source="1.wav", group="duke", split="test"),
    )
    assert catalog.rule == {"method": "manifest"}


def test_any_column_may_name_the_groups(manifest: Path) -> None:
    rows = [{"path": f"{n}.wav", "label": "jazz", "album": n % 3} for n in range(9)]
    catalog = read_catalog(write(manifest, rows), group_column="album")
    assert {track.id: track.group for track in catalog.tracks} == {str(n): str(n % 3) for n in range(9)}
    with pytest.raises(CatalogError, match="has no column 'artist', only path, label, album; add it"):
        read_catalog(manifest, group_column="artist")


def test_groups_stay_together_where_the_hash_splits(manifest: Path) -> None:
    rows = [{"path": f"{n}.wav", "label": f"l{n % 2}", "group": f"g{n // 4}"} for n in range(200)]
    parts: dict[str, set[str]] = {}
    for track in read_catalog(write(manifest, rows), HashSplit(valid=0.3, test=0.3)).tracks:
        parts.setdefault(track.group, set()).add(track.split)
    assert {len(its) for its in parts.values()} == {1}
    assert set.union(*parts.values()) == set(SPLITS)


@pytest.mark.parametrize("column", ["path", "label"])
def test_a_column_that_is_lacking_is_named(manifest: Path, column: str) -> None:
    row = {"path": "a.wav", "label": "jazz", "year": "1930"}
    del row[column]
    with pytest.raises(CatalogError, match=rf"tracks\.\w+ has no column '{column}', only .*year; add it"):
        read_catalog(write(manifest, [row]))


@pytest.mark.parametrize("column", ["path", "label"])
def test_a_row_without_path_or_label_is_named_by_its_number(manifest: Path, column: str) -> None:
    row = {"path": "a.wav", "label": "jazz"}
    with pytest.raises(CatalogError, match=r"tracks\.\w+, row 2: .*; every row needs both"):
        read_catalog(write(manifest, [row, row | {column: None}]))


def test_an_unknown_split_is_named_by_its_row(manifest: Path) -> None:
    rows = [{"path": f"{part}.wav", "label": "jazz", "split": part} for part in (*SPLITS, "unused", "dev")]
    with pytest.raises(CatalogError, match="row 5: split 'dev' is unknown; use train, valid, test or unused"):
        read_catalog(write(manifest, rows))


@pytest.mark.parametrize("path", ["../a.wav", "sub/../../a.wav", "/nowhere/a.wav"])
def test_a_path_outside_the_folder_of_the_manifest_is_refused(manifest: Path, path: str) -> None:
    with pytest.raises(CatalogError, match=r"row 1: '.*a\.wav' is outside the manifest's folder; put the manifest"):
        read_catalog(write(manifest, [{"path": path, "label": "jazz"}]))


def test_paths_inside_come_out_relative_and_plain(manifest: Path) -> None:
    paths = [str(manifest.parent / "sub" / "a.wav"), "./sub//b.wav", "other/../sub/c.wav"]
    catalog = read_catalog(write(manifest, [{"path": path, "label": "jazz"} for path in paths]))
    assert [track.source for track in catalog.tracks] == ["sub/a.wav", "sub/b.wav", "sub/c.wav"]


def test_an_absolute_path_is_inside_also_where_the_manifest_is_named_from_here(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(manifest, [{"path": str(manifest.parent / "a.wav"), "label": "jazz"}])
    monkeypatch.chdir(manifest.parent)
    assert [track.source for track in read_catalog(Path(manifest.name)).tracks] == ["a.wav"]


def test_one_file_twice_is_refused_unless_ids_tell_the_rows_apart(manifest: Path) -> None:
    row = {"path": "a.wav", "label": "jazz"}
    with pytest.raises(CatalogError, match=r"'a' is the id of two files, 'a\.wav' and 'a\.wav'"):
        read_catalog(write(manifest, [row, row]))
    assert ids(read_catalog(write(manifest, [row | {"id": "1"}, row | {"id": "2"}]))) == ["1", "2"]


def test_a_group_in_two_parts_is_refused(manifest: Path) -> None:
    rows = [{"path": f"{part}.wav", "label": "jazz", "group": "duke", "split": part} for part in ("test", "train")]
    with pytest.raises(CatalogError, match=r"'test' \(test\) and 'train' \(train\) are in one group, 'duke'; put them"):
        read_catalog(write(manifest, rows))


def test_an_unused_track_separates_no_group(manifest: Path) -> None:
    rows = [
        {"path": f"{part}.wav", "label": "jazz", "group": "duke", "split": part} for part in ("unused", "train", "")
    ]
    parts = {track.id: track.split for track in read_catalog(write(manifest, rows[:2])).tracks}
    assert parts == {"unused": "unused", "train": "train"}


def test_csv_and_parquet_give_the_same(tmp_path: Path) -> None:
    rows = [
        {"path": f"{n}.wav", "label": f"l{n % 3}", "group": f"g{n // 2}" if n % 2 else None, "year": 1990 + n}
        for n in range(20)
    ]
    csv, table = (read_catalog(write(tmp_path / f"tracks.{kind}", rows)) for kind in ("csv", "parquet"))
    assert csv == table


def test_a_csv_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tracks.CSV"
    path.write_bytes('path,label\r\n"a, b.wav","jazz ""hot"""\r\ncafé.wav,blues\r\n'.encode("utf-8-sig"))
    catalog = read_catalog(path)
    assert [(track.id, track.label) for track in catalog.tracks] == [("a, b", 'jazz "hot"'), ("café", "blues")]


def test_a_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tracks.csv"
    path.write_bytes("path,label\ncafé.wav,blues\n".encode("latin-1"))
    with pytest.raises(CatalogError, match=r"tracks\.csv is not a CSV in UTF-8 or UTF-16: .*; save it as one"):
        read_catalog(path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tracks.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(CatalogError, match=r"tracks\.parquet is not a Parquet file: .*; write it again, or give a CSV"):
        read_catalog(path)


def test_a_manifest_without_rows_holds_no_audio(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("path,label\n", encoding="utf-8")
    with pytest.raises(CatalogError, match=r"tracks\.csv contains no audio file"):
        read_catalog(tmp_path / "tracks.csv")


def test_parquet_without_pyarrow_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "tracks.parquet", [{"path": "a.wav", "label": "jazz"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CatalogError, match=r"needs pyarrow, which is not installed; pip install 'melzarr\[parquet\]'"):
        read_catalog(path)


# A recipe -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gtzan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """GTZAN's names with nothing in the files."""
    recipe = dataclasses.replace(find_recipe("gtzan", DATASETS), folder=tmp_path_factory.mktemp("gtzan"))
    directory(recipe.audio, *(f"{label}/{label}.{n:05d}.au" for label in recipe.labels for n in range(100)))
    return recipe


def test_a_recipe_whose_audio_is_not_there_says_how_to_fetch_it(tmp_path: Path) -> None:
    recipe = dataclasses.replace(find_recipe("gtzan", DATASETS), folder=tmp_path)
    with pytest.raises(CatalogError, match="run: melzarr fetch gtzan"):
        read_catalog(recipe)


def test_a_recipe_lists_its_audio_and_splits_as_it_says(gtzan: Any) -> None:
    recipe = dataclasses.replace(gtzan, split=HashSplit(valid=0.2, test=0.1, seed=3))
    catalog = read_catalog(recipe)
    assert (catalog.root.path, catalog.recipe, len(catalog.tracks)) == (recipe.audio, recipe, 1000)
    assert catalog.rule == {"method": "hash", "valid": 0.2, "test": 0.1, "seed": 3}
    assert all(track.split == recipe.split.part(track.id) for track in catalog.tracks)


def test_a_split_that_is_given_goes_before_that_of_the_recipe(gtzan: Any) -> None:
    assert {track.split for track in read_catalog(gtzan, HashSplit(valid=0, test=0)).tracks} == {"train"}


def test_the_fault_filtered_split_leaves_70_tracks_unused(gtzan: Any) -> None:
    catalog = read_catalog(gtzan, named_split="fault-filtered")
    assert Counter(track.split for track in catalog.tracks) == {"train": 443, "valid": 197, "test": 290, "unused": 70}
    parts = {track.id: track.split for track in catalog.tracks}
    # The first and the last track of some ranges in the published lists.
    expected = {"blues.00029": "train", "blues.00011": "valid", "rock.00090": "test", "hiphop.00001": "unused"}
    assert {name: parts[f"{name.split('.')[0]}/{name}"] for name in expected} == expected
    assert catalog.rule == {"method": "fault-filtered"}


def test_a_split_that_nobody_named_is_refused(gtzan: Any, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no split called 'artist-filtered'; gtzan has fault-filtered"):
        read_catalog(gtzan, named_split="artist-filtered")
    with pytest.raises(CatalogError, match="a source without a recipe has none"):
        read_catalog(directory(tmp_path, "jazz/a.wav"), named_split="fault-filtered")


def test_links_to_folders_are_not_followed_and_are_listed(tmp_path: Path) -> None:
    directory(tmp_path / "music", "blues/a.wav")
    directory(tmp_path / "elsewhere", "b.wav")
    (tmp_path / "music/jazz").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music/blues/round").symlink_to(tmp_path / "music")
    (tmp_path / "music/.git").mkdir()
    (tmp_path / "music/.git/hooks").symlink_to(tmp_path / "elsewhere")
    catalog = read_catalog(tmp_path / "music")
    assert [track.id for track in catalog.tracks] == ["blues/a"]
    assert catalog.findings == (
        "links to folders left out: 2 (blues/round/, jazz/); follow them with --follow-links",
        "all tracks have one label, 'blues'; to train a network, give tracks of others too",
    )


@pytest.mark.parametrize("column", ["path", "label", "id", "group", "split"])
def test_a_nul_character_in_a_manifest_is_refused(tmp_path: Path, column: str) -> None:
    manifest = tmp_path / "tracks.csv"
    facts = {"path": "a/x.wav", "label": "rock", "id": "x", "group": "g", "split": "train"}
    facts[column] += "\0"
    manifest.write_text(f"{','.join(facts)}\n{','.join(facts.values())}\n")
    with pytest.raises(CatalogError, match=f"row 1: {column} '.*\\\\x00' contains a NUL character; remove it"):
        read_catalog(manifest)
