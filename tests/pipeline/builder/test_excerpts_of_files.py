"""Several tracks of one file: a store of excerpts is built, resumed, appended to, merged, shared and verified."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import melzarr
from melzarr.pipeline.builder.job_array import finish, make_part, read_plan, write_plan
from melzarr.pipeline.builder.plan import Plan, make_plan
from melzarr.pipeline.builder.run_build import Summary, build
from melzarr.pipeline.builder.up_to_date import changes
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import BuildError, CatalogError, SpecError
from melzarr.pipeline.features.extract import featurise
from melzarr.pipeline.inspection.quality import find
from melzarr.pipeline.inspection.scan import scan
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.sources.catalog import Catalog, read_catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.reader import open_store

pytestmark = pytest.mark.filterwarnings("ignore:(label|all tracks):UserWarning")  # too few for each split and label
SPEC = FeatureSpec(n_windows=24)  # 1.02 s
KEYWORDS: dict[str, Any] = {"workers": 0, "progress": False, "n_windows": 24, "tracks_per_shard": 2}
ROWS = ["a.wav,x,0,", "a.wav,x,2.5,4", "a.wav,x,5.50,", "b.flac,y,,", "c.wav,y,1,", "c.wav,y,3,"]
IDS = ["a@0", "a@2.5", "a@5.5", "b", "c@1", "c@3"]


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A folder of three files of 8 s, all noise."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for number, name in enumerate(("a.wav", "b.flac", "c.wav")):
        sound = 0.2 * np.random.default_rng(number).standard_normal(8 * 22050)
        soundfile.write(folder / name, np.clip(sound, -1, 1), 22050)
    return folder


def manifest(songs: Path, rows: list[str] = ROWS, header: str = "path,label,start,end") -> Path:
    path = songs / "tracks.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def planned(source: Path, **spec: Any) -> tuple[Catalog, Plan]:
    catalog = read_catalog(source)
    return catalog, make_plan(FeatureSpec(n_windows=24, **spec), catalog.tracks, versions(), 2)


def built(source: Path, target: Path, *, replace: bool = False) -> Summary:
    catalog, plan = planned(source)
    return build(plan, catalog, target, InProcess(), replace=replace)


def test_each_row_is_a_track_and_those_of_a_file_are_a_group(songs: Path) -> None:
    tracks = read_catalog(manifest(songs)).tracks
    assert [track.id for track in tracks] == IDS
    assert [(track.start, track.end) for track in tracks] == [
        ("", ""), ("2.5", "4"), ("5.5", ""), ("", ""), ("1", ""), ("3", "")]  # fmt: skip
    assert [track.group for track in tracks] == ["a", "a", "a", "b", "c", "c"]
    assert len({track.split for track in tracks if track.group == "a"}) == 1


def test_ids_and_groups_that_are_given_are_kept(songs: Path) -> None:
    rows = ["a.wav,x,one,,", "a.wav,x,two,3,", "b.flac,y,three,1,album", "c.wav,y,four,,album"]
    tracks = read_catalog(manifest(songs, rows, "path,label,id,start,group")).tracks
    assert {track.id: track.group for track in tracks} == {"one": "a", "two": "a", "three": "album", "four": "album"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a.wav,x,1:30,", "row 1: start '1:30' is not a number of seconds from 0 on; write one, such as 30"),
        ("a.wav,x,2019-05-03,", "such as 30, or rename the column start if it is no place in the file"),
        ("a.wav,x,-1,", "row 1: start '-1' is not a number of seconds"),
        ("a.wav,x,inf,", "row 1: start 'inf' is not a number"),
        ("a.wav,x,nan,", "row 1: start 'nan' is not a number"),
        ("a.wav,x,,soon", "row 1: end 'soon' is not a number"),
        ("a.wav,x,5,5", "row 1: end '5' is not after start '5'; give a later one, or none, or rename the columns"),
        ("a.wav,x,,0", "row 1: end '0' is not after start '0'"),
    ],
)
def test_a_row_that_is_no_excerpt_is_refused(songs: Path, row: str, sentence: str) -> None:
    with pytest.raises(CatalogError) as error:
        read_catalog(manifest(songs, [row]))
    assert sentence in str(error.value)


def test_the_same_excerpt_twice_is_refused(songs: Path) -> None:
    with pytest.raises(CatalogError, match=r"'a@2\.5' is the id of two"):
        read_catalog(manifest(songs, ["a.wav,x,2.5,", "a.wav,x,2.50,4"]))


def test_a_start_of_the_spec_and_one_of_the_manifest_are_refused_together(songs: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="start=middle is for tracks without a start of their own"):
        planned(manifest(songs), start="middle")
    with pytest.raises(SpecError, match=r"start=2.0 is for tracks"):
        melzarr.build(manifest(songs), tmp_path / "s.zarr", start=2, **KEYWORDS)
    planned(manifest(songs, ["a.wav,x,,5"]), start="middle")


def test_a_store_has_the_windows_of_each_excerpt(songs: Path, tmp_path: Path) -> None:
    store = melzarr.build(manifest(songs), tmp_path / "s.zarr", **KEYWORDS)
    opened = store.opened
    assert opened.values("track").tolist() == IDS
    assert opened.values("start").tolist() == [0, 2.5, 5.5, 0, 1, 3]
    np.testing.assert_array_equal(opened.values("end"), [math.nan, 4, *[math.nan] * 4])
    assert set(opened.values("status")) == {"ok"}
    for number, start in ((1, 2.5), (3, 0), (5, 3)):
        windows, _ = featurise(songs / opened.values("source")[number], FeatureSpec(n_windows=24, start=start))
        np.testing.assert_array_equal(opened.mel[number], windows)
    verdict = store.verify(source=songs, sample=6, progress=False)
    assert (verdict.problems, verdict.n_sampled) == ([], 6)
    assert store.tracks["start"].tolist() == [0, 2.5, 5.5, 0, 1, 3]
    melzarr.build(manifest(songs), tmp_path / "s.zarr", **KEYWORDS)  # it is up to date
    with pytest.raises(BuildError, match=r"now with another label, path, group, split or excerpt: a@2\.5"):
        melzarr.build(manifest(songs, [ROWS[0], "a.wav,x,2.5,", *ROWS[2:]]), tmp_path / "s.zarr", **KEYWORDS)
    assert find(opened).pairs.n == 0


def test_a_file_is_hashed_once_for_its_excerpts(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, read, target = LocalDirectory.digest, list[str](), tmp_path / "s.zarr"

    def digest(folder: LocalDirectory, name: str, *algorithm: Any) -> str:
        if folder.path == songs:
            read.append(name)
        return whole(folder, name, *algorithm)

    monkeypatch.setattr(LocalDirectory, "digest", digest)
    files = ["a.wav", "b.flac", "c.wav"]
    catalog, plan = planned(manifest(songs))
    build(plan, catalog, target, InProcess())
    assert read == files
    assert changes(open_store(target), plan, catalog) == []
    assert sorted(read[3:]) == files
    assert verify(open_store(target), songs).n_sources == 6
    assert sorted(read[6:]) == files
    soundfile.write(songs / "a.wav", np.linspace(-1, 1, 8 * 22050), 22050)
    built(manifest(songs), target, replace=True)
    assert open_store(target).values("source_blake3")[:3].tolist() == [whole(LocalDirectory(songs), "a.wav")] * 3


def test_a_start_that_changes_costs_its_own_shard(songs: Path, tmp_path: Path) -> None:
    header = "id,path,label,start"
    rows = [f"{n},{name},x,{start}" for n, (name, start) in enumerate([("a.wav", 1), ("a.wav", 2), ("c.wav", 3)])]
    built(manifest(songs, rows, header), tmp_path / "s.zarr")
    summary = built(manifest(songs, [*rows[:2], "2,c.wav,x,4"], header), tmp_path / "s.zarr", replace=True)
    assert summary.n_reused == 2
    assert open_store(tmp_path / "s.zarr").values("start").tolist() == [1, 2, 4]


def test_an_append_and_a_merge_are_what_a_build_of_all_is(songs: Path, tmp_path: Path) -> None:
    header, splits = "path,label,start,end,split", ("train", "train", "train", "valid", "test", "test")
    rows = [f"{row},{split}" for row, split in zip(ROWS, splits, strict=True)]
    whole = melzarr.build(manifest(songs, rows, header), tmp_path / "whole.zarr", **KEYWORDS)
    melzarr.build(manifest(songs, rows[:3], header), tmp_path / "grown.zarr", **KEYWORDS)
    options = {"workers": 0, "progress": False}
    grown = melzarr.append(tmp_path / "grown.zarr", manifest(songs, rows, header), **options)
    melzarr.build(manifest(songs, rows[3:], header), tmp_path / "rest.zarr", **KEYWORDS)
    melzarr.build(manifest(songs, rows[:3], header), tmp_path / "first.zarr", **KEYWORDS)
    parts = [tmp_path / "first.zarr", tmp_path / "rest.zarr"]
    merged = melzarr.merge(parts, tmp_path / "merged.zarr", progress=False)
    uuid = whole.opened.attributes["uuid"]
    assert grown.opened.attributes["uuid"] == merged.opened.attributes["uuid"] == uuid
    assert melzarr.merge(parts, tmp_path / "merged.zarr", progress=False).verify(progress=False).problems == []
    again = melzarr.append(tmp_path / "grown.zarr", manifest(songs, rows, header), **options)
    assert again.opened.attributes["uuid"] == uuid
    share = whole.share(tmp_path / "share", progress=False)
    assert share.opened.values("start").tolist() == [0, 2.5, 5.5, 0, 1, 3]
    assert share.verify(progress=False).problems == []


def test_the_middle_of_each_file_of_a_folder(songs: Path, tmp_path: Path) -> None:
    (songs / "x").mkdir()
    for name in ("a.wav", "b.flac", "c.wav"):
        (songs / name).rename(songs / "x" / name)
    store = melzarr.build(songs, tmp_path / "s.zarr", start="middle", **KEYWORDS)
    start = (8 - SPEC.seconds) / 2
    assert store.opened.values("start").tolist() == [start] * 3
    assert store.opened.spec.start == "middle"
    windows, _ = featurise(songs / "x/b.flac", FeatureSpec(n_windows=24, start=start))
    np.testing.assert_array_equal(store.opened.mel[1], windows)
    assert store.verify(source=songs, sample=3, progress=False).problems == []
    melzarr.build(songs, tmp_path / "s.zarr", start="middle", **KEYWORDS)  # it is up to date
    with pytest.raises(BuildError, match=r"spec: start was middle, is 0\.0"):
        melzarr.build(songs, tmp_path / "s.zarr", **KEYWORDS)
    melzarr.build(songs, tmp_path / "other.zarr", **KEYWORDS)
    with pytest.raises(SpecError, match="differ in start="):
        melzarr.merge([tmp_path / "s.zarr", tmp_path / "other.zarr"], tmp_path / "c.zarr", progress=False)


def test_a_plan_of_a_job_array_has_the_excerpts(songs: Path, tmp_path: Path) -> None:
    catalog, plan = planned(manifest(songs))
    write_plan(plan, catalog, tmp_path / "s.zarr")
    written = read_plan(tmp_path / "s.zarr")
    assert written.plan.tracks == catalog.tracks
    make_part(written, tmp_path / "s.zarr", 1, 1, InProcess())
    finish(written, tmp_path / "s.zarr")
    assert open_store(tmp_path / "s.zarr").values("start").tolist() == [0, 2.5, 5.5, 0, 1, 3]


def test_a_scan_says_which_excerpts_are_too_short(songs: Path) -> None:
    rows = ["a.wav,x,6.9,", "a.wav,y,7.5,", "a.wav,x,2,2.5", "a.wav,x,90,"]
    catalog, plan = planned(manifest(songs, rows))
    found = [line for line in scan(catalog, plan, 1).problems if line.startswith("a.wav")]
    assert found == [
        "a.wav: 0.50 s from 2.00 s on, shorter than the spec's 1.02 s",
        "a.wav: 0.50 s from 7.50 s on, shorter than the spec's 1.02 s",
        "a.wav: 0.00 s from 90.00 s on, shorter than the spec's 1.02 s",
    ]


def test_identical_files_are_copies_where_the_same_part_is_taken(songs: Path, tmp_path: Path) -> None:
    (songs / "d.wav").write_bytes((songs / "a.wav").read_bytes())
    built(manifest(songs, ["a.wav,x,1,", "a.wav,x,3,", "d.wav,x,3,", "d.wav,y,5,"]), tmp_path / "s.zarr")
    pairs = find(open_store(tmp_path / "s.zarr")).pairs.rows
    assert [(pair.first.track, pair.second.track, pair.likeness) for pair in pairs] == [("d@3", "a@3", math.inf)]
