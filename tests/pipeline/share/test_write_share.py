"""A shared store explains itself, is whole, and opens with nothing but xarray and zarr."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plain_charts
import pytest
import xarray as xr
import yaml
from click.testing import CliRunner
from nginx import Nginx, program
from zarr.storage import ZipStore

from melzarr.cli import main
from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import BuildError, CallError, MelzarrError, SpecError
from melzarr.pipeline.features.decibels import level_db
from melzarr.pipeline.inspection.describe import describe
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.share.dataset_card import About, card, escape
from melzarr.pipeline.share.parquet_tables import Table, Tables, features_of
from melzarr.pipeline.share.share_options import ShareOptions
from melzarr.pipeline.share.write_share import share as share_and_draw
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.companion_files import CHECKSUMS, NAMES
from melzarr.pipeline.zarr_store.reader import Store, open_store
from tests.conftest import SPEC

if TYPE_CHECKING:
    from melzarr.pipeline.storage.object_store import ObjectStoreDirectory

DATE = "2026-11-23"
share = functools.partial(share_and_draw, draw=plain_charts)


@pytest.fixture(scope="module")
def shared_folder(finished: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the music, shared as a folder; not to be changed."""
    target = tmp_path_factory.mktemp("share") / "music"
    share(finished, target, ShareOptions(published=DATE))
    return target


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Nginx]:
    """A web server that gives what the test has in its folder ``web``."""
    if not program():
        pytest.skip("nginx is not here: apt-get install nginx-light")
    (tmp_path / "web").mkdir()
    tmp_path.chmod(0o755)
    server = Nginx(tmp_path / "web", tmp_path / "nginx")
    yield server
    server.stop()


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name, _ in LocalDirectory(folder).files()}


def test_it_is_the_store_as_it_was_and_what_explains_it(finished: Store, shared_folder: Path) -> None:
    found, store = files(shared_folder), files(finished.directory.path)
    assert {name: data for name, data in found.items() if name in store} == store
    assert {name.partition("/")[0] for name in found.keys() - store.keys()} == NAMES - {"audio", "data"}
    assert open_store(shared_folder).attributes["uuid"] == finished.attributes["uuid"]


def test_plain_xarray_opens_it_without_a_warning(finished: Store, shared_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(shared_folder, chunks=None)
    np.testing.assert_array_equal(dataset.mel.values, finished.mel[:])


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="GNU's sha256sum is not here")
def test_sha256sum_proves_it_whole(shared_folder: Path, tmp_path: Path) -> None:
    check = ["sha256sum", "--check", "--strict", CHECKSUMS]
    said = subprocess.run(check, cwd=shared_folder, check=True, capture_output=True, text=True).stdout
    assert said.count(": OK") == len(files(shared_folder)) - 1
    copy = Path(shutil.copytree(shared_folder, tmp_path / "copy"))
    (copy / "mel/c/1/0/0/0").write_bytes(b"")
    assert subprocess.run(check, cwd=copy, check=False, capture_output=True).returncode == 1


def test_verify_proves_it_whole_with_all_that_explains_it(shared_folder: Path, tmp_path: Path) -> None:
    verdict = verify(open_store(shared_folder))
    assert not verdict.problems
    assert verdict.n_files == len(files(shared_folder)) - 1
    copy = Path(shutil.copytree(shared_folder, tmp_path / "copy"))
    with (copy / "README.md").open("a") as card:
        card.write("It is all mine.\n")
    assert verify(open_store(copy)).problems == [f"README.md is not the file that {CHECKSUMS} lists"]


def test_it_is_the_same_each_time_and_an_archive_holds_the_same(
    finished: Store, shared_folder: Path, tmp_path: Path
) -> None:
    share(finished, tmp_path / "again/music", ShareOptions(published=DATE))
    assert files(tmp_path / "again/music") == files(shared_folder)
    archives = [tmp_path / name / "music.zarr.zip" for name in ("one", "two")]
    for path in archives:
        path.parent.mkdir()
        share(finished, path, ShareOptions(published=DATE))
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        inside = {name: archive.read(name) for name in archive.namelist()}
    differing = {name for name in inside if inside[name] != files(shared_folder).get(name)}
    assert differing == {"README.md", "croissant.json", CHECKSUMS}  # which say how it is opened, and follow from that
    assert not verify(open_store(archives[0])).problems
    np.testing.assert_array_equal(xr.open_zarr(ZipStore(archives[0], mode="r")).mel.values, finished.mel[:])
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    assert archives[0].with_name("music.zarr.zip.sha256").read_text() == f"{digest}  music.zarr.zip\n"


def test_its_pictures_are_drawn_and_the_same_each_time(finished: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        share_and_draw(finished, tmp_path / name / "music", ShareOptions())
    drawn = files(tmp_path / "one/music")
    assert drawn == files(tmp_path / "two/music")
    assert {"report/examples.png", "report/scale.png", "report/mel-01-bells.png", "report/spectrum-01-bells.svg"} < set(
        drawn
    )
    assert len(drawn["report/examples.png"]) > 10_000
    assert not verify(open_store(tmp_path / "one/music")).problems


def test_a_share_of_a_share_is_the_same(shared_folder: Path, tmp_path: Path) -> None:
    share(open_store(shared_folder), tmp_path / "music", ShareOptions(published=DATE))
    assert files(tmp_path / "music") == files(shared_folder)


def test_nothing_of_this_machine_is_in_it(finished: Store, shared_folder: Path, music: Path) -> None:
    names = {str(finished.directory.path.parent), str(music.parent), str(shared_folder.parent), str(Path.home())} - {
        "/"
    }
    names |= {name for name in (socket.gethostname(), os.environ.get("USER", "")) if len(name) > 5}
    for file, data in files(shared_folder).items():
        assert not [name for name in names if name.encode() in data], file


@pytest.mark.parametrize("name", ["music", "music.zarr.zip"])
def test_the_lines_of_its_card_open_it(
    finished: Store, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(finished, tmp_path / name, ShareOptions())
    text = (open_directory(tmp_path / name)).read("README.md").decode()
    code = re.search("```python\n(.*?)```", text, re.DOTALL)
    assert code
    assert len(code[1].splitlines()) in {4, 5}
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code[1], names)  # noqa: S102  (our own)
    assert names["windows"].shape == (60, 5, 128)
    assert (names["train"].split == "train").all()


def test_its_card_says_what_there_is_and_what_is_wrong(finished: Store, shared_folder: Path) -> None:
    text = (shared_folder / "README.md").read_text()
    for said in (
        "12 tracks of 2 labels", "| all | 12 |", "22050 Hz", str(finished.attributes["uuid"]), "not stated",
        "| drums/drums.00004.wav | failed |", "| drums/drums.00002.wav | silent |", "1 track failed", "year = {2026}",
    ):  # fmt: skip
        assert said in text, said
    assert f"n_fft={SPEC.n_fft}" in text
    assert (shared_folder / re.search(r"!\[.*?\]\((.*?)\)", text)[1]).is_file()  # type: ignore[index]


def test_its_card_says_how_the_windows_were_made(finished: Store) -> None:
    about = About(
        name="s.zarr", is_zip=False, published="", author="", faults=(), derived=(), tables=None, has_audio=False,
        picture="",
    )  # fmt: skip

    def said(**fields: Any) -> str:
        store = dataclasses.replace(finished, spec=dataclasses.replace(finished.spec, **fields))
        return " ".join(card(store, describe(store), about).split())

    assert "Hann window, n_fft=2048" in said()
    assert "128 mel bands on Slaney's scale with Slaney's area norm, from 0 Hz to half the sample rate." in said()
    other = said(window_function="blackman", fmin=50, fmax=8000, mel_scale="htk", norm="none")
    assert "Blackman window, n_fft=2048" in other
    assert "128 mel bands on HTK's scale without a norm, from 50 Hz to 8000 Hz." in other


def test_tracks_csv_says_what_the_coordinates_say(finished: Store, shared_folder: Path) -> None:
    with (shared_folder / "tracks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("track", "label", "split", "status", "error", "source_blake3"):
        assert [row[name] for row in rows] == finished.values(name).tolist()
    for name in ("duration", "peak", "clipped", "n_windows"):
        np.testing.assert_array_equal([float(row[name] or "nan") for row in rows], finished.values(name))


def mlcroissant(*arguments: str, cwd: Path) -> str:
    program = Path(sys.executable).with_name("mlcroissant")
    if not program.is_file():
        pytest.skip("mlcroissant is not here")
    done = subprocess.run([str(program), *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("published", [DATE, ""])
def test_its_description_for_crawlers_is_valid(
    finished: Store, shared_folder: Path, tmp_path: Path, published: str
) -> None:
    folder = shared_folder
    if not published:
        folder = tmp_path / "music"
        share(finished, folder, ShareOptions(for_hub=True))
    said = mlcroissant("validate", "--jsonld", "croissant.json", cwd=folder)
    found = [line for line in said.splitlines() if "warning" in line.lower() or line.strip().startswith("-")]
    if published:
        assert not found
    else:
        assert [line for line in found if "Property" in line] == [line for line in found if "datePublished" in line]


@pytest.mark.slow
def test_its_record_set_can_be_read(finished: Store, shared_folder: Path) -> None:
    said = mlcroissant("load", "--jsonld", "croissant.json", "--record_set", "tracks", "--num_records", "-1",
                       cwd=shared_folder)  # fmt: skip
    assert all(f"'tracks/track': b'{name}'" in said for name in finished.values("track"))
    described = json.loads((shared_folder / "croissant.json").read_text())
    assert [record["name"] for record in described["recordSet"]] == ["tracks"]
    for file in described["distribution"]:
        if file["@type"] == "cr:FileObject":
            assert hashlib.sha256((shared_folder / file["contentUrl"]).read_bytes()).hexdigest() == file["sha256"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ShareOptions(labels=["drums"]), lambda d: d.label == "drums"),
        (ShareOptions(splits=["valid"]), lambda d: d.split == "valid"),
        (ShareOptions(tracks=["bells/bells.00003", "drums/drums.00002"]),
         lambda d: d.track.isin(["bells/bells.00003", "drums/drums.00002"])),
        (ShareOptions(title="Bells & drums", licence="CC-BY-4.0", origin="Somebody"), lambda d: d.label != ""),
        (ShareOptions(labels=["bells"], splits=["train"]), lambda d: (d.label == "bells") & (d.split == "train")),
    ],
)  # fmt: skip
def test_a_part_of_it_is_its_tracks_and_their_statistics(
    finished: Store, tmp_path: Path, options: ShareOptions, expected: Any
) -> None:
    share(finished, tmp_path / "part", options)
    original, part = xr.open_zarr(finished.directory.path), xr.open_zarr(tmp_path / "part")
    chosen = original.sel(track=expected(original))
    np.testing.assert_array_equal(part.mel.values, chosen.mel.values)
    for name in ("track", "label", "split", "status", "error", "duration", "peak"):
        np.testing.assert_array_equal(part[name].values, chosen[name].values)
    train = part.mel.values[((part.split == "train") & (part.status == "ok")).values]
    if train.size:
        levels = level_db(train, SPEC).astype(np.float64)
        np.testing.assert_allclose(part.mean_db, levels.mean(axis=(0, 1, 2)), atol=1e-3)
        np.testing.assert_allclose(part.std_db, levels.std(axis=(0, 1, 2)), atol=1e-3)
    assert not verify(open_store(tmp_path / "part")).problems
    assert part.attrs["derived"]["from"] == finished.attributes["uuid"]
    assert f"{part.sizes['track']} of the 12 tracks" in (tmp_path / "part/README.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ShareOptions(labels=["drums", "bell"]), "has no label 'bell'; it has bells, drums"),
        (ShareOptions(splits=["unused"]), "has no split 'unused'"),
        (ShareOptions(tracks=["bells/bells.00000"], labels=["drums"]), "no track of .* has these labels"),
    ],
)
def test_a_part_that_is_none_is_refused(finished: Store, tmp_path: Path, options: ShareOptions, said: str) -> None:
    with pytest.raises(CallError, match=said):
        share(finished, tmp_path / "part", options)
    assert not list(tmp_path.iterdir())


def test_a_smaller_copy_states_its_error(finished: Store, tmp_path: Path) -> None:
    share(finished, tmp_path / "small", ShareOptions(scale="db", dtype="float16"))
    small = open_store(tmp_path / "small")
    assert (small.spec.scale, small.spec.dtype, small.mel.attrs["units"]) == ("db", "float16", "dB")
    expected, found = level_db(finished.mel[:], SPEC), small.mel[:].astype(np.float32)
    error = float(np.nanmax(np.abs(expected - found)))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert 0.005 < error <= 2**-5  # half a step of float16 between 64 and 128, where the lowest levels are
    assert f"at most {error:.3f} dB" in (tmp_path / "small/README.md").read_text()
    assert small.values("receipts/n_bytes").sum() < 0.5 * finished.values("receipts/n_bytes").sum()
    assert not verify(small).problems
    with pytest.raises((CallError, SpecError)):
        share(finished, tmp_path / "bad", ShareOptions(dtype="float16"))


def test_behind_a_server_that_gives_parts_of_files_it_opens_by_its_address(
    finished: Store, tmp_path: Path, web: Nginx
) -> None:
    share(finished, tmp_path / "web/music", ShareOptions())
    dataset = xr.open_zarr(f"{web.url}/music", chunks=None)
    np.testing.assert_array_equal(dataset.mel[7].values, finished.mel[7])
    np.testing.assert_array_equal(dataset.mel.values, finished.mel[:])
    lines = web.log.read_text().splitlines()
    assert any('" 206 ' in line and "/mel/c/" in line for line in lines)
    verdict = verify(open_store(f"{web.url}/music"))
    assert not verdict.problems
    assert verdict.n_files > 40


def test_audio_is_in_it_only_where_it_is_asked_for(finished: Store, own_music: Path, tmp_path: Path) -> None:
    share(finished, tmp_path / "with", ShareOptions(audio=open_directory(own_music)))
    sources = [name for name, digest in zip(finished.values("source"), finished.values("source_blake3"), strict=True)
               if digest]  # fmt: skip
    assert sorted(name for name, _ in LocalDirectory(tmp_path / "with/audio").files()) == sorted(sources)
    assert not verify(open_store(tmp_path / "with"), tmp_path / "with/audio", n_samples=2).problems
    (own_music / "bells/bells.00000.wav").write_bytes(b"other")
    with pytest.raises(CallError, match="is not the file that the store was made from"):
        share(finished, tmp_path / "changed", ShareOptions(audio=open_directory(own_music)))
    assert not (tmp_path / "changed").exists()


def test_what_is_there_is_replaced_only_by_force(finished: Store, shared_folder: Path, tmp_path: Path) -> None:
    share(finished, tmp_path / "music", ShareOptions(labels=["bells"]))
    with pytest.raises(BuildError, match=r"already exists.*--force"):
        share(finished, tmp_path / "music", ShareOptions(published=DATE))
    share(finished, tmp_path / "music", ShareOptions(published=DATE), replace=True)
    assert files(tmp_path / "music") == files(shared_folder)
    (tmp_path / "music/.git").mkdir()
    (tmp_path / "music/.git/HEAD").write_text("ref: refs/heads/main")
    with pytest.raises(
        BuildError, match=r"contains \.git/HEAD, which is not part of the store and would be removed with it"
    ):
        share(finished, tmp_path / "music", ShareOptions(published=DATE), replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["music"]


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_no_store_is_never_replaced(
    finished: Store, tmp_path: Path, bucket: ObjectStoreDirectory, replace: bool
) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music/diary.txt").write_text("dear diary")
    (tmp_path / "music.zarr.zip").write_text("dear diary")
    bucket.write("music/diary.txt", b"dear diary")
    for place in (tmp_path / "music", tmp_path / "music.zarr.zip", bucket.child("music")):
        with pytest.raises(BuildError, match="is not a melzarr store"):
            share(finished, place, ShareOptions(), replace=replace)
    assert (tmp_path / "music/diary.txt").read_text() == (tmp_path / "music.zarr.zip").read_text() == "dear diary"
    assert bucket.read("music/diary.txt") == b"dear diary"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["music", "music.zarr.zip"]


@pytest.mark.parametrize(
    ("place", "said"),
    [("own.zarr", "is .*, which must be kept"), ("own.zarr/share", "is inside the store"),
     (".", "contains .*, which must be kept"), ("share.zip", "end it in .zarr.zip"),
     ("link", "is .*, which must be kept")],
)  # fmt: skip
@pytest.mark.parametrize("replace", [False, True])
def test_a_place_in_which_the_store_would_be_lost_is_refused(
    own_store: Store, tmp_path: Path, place: str, said: str, replace: bool
) -> None:
    before = files(own_store.directory.path)
    (tmp_path / "link").symlink_to(own_store.directory.path)
    with pytest.raises(CallError, match=said):
        share(own_store, tmp_path / place, ShareOptions(labels=["bells"]), replace=replace)
    assert files(own_store.directory.path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "own.zarr"]


def test_of_what_it_was_made_is_said_through_all_copies(finished: Store, tmp_path: Path) -> None:
    share(finished, tmp_path / "small", ShareOptions(scale="db", dtype="float16"))
    share(open_store(tmp_path / "small"), tmp_path / "smaller", ShareOptions(labels=["bells"], title="Bells"))
    share(open_store(tmp_path / "smaller"), tmp_path / "copy", ShareOptions())
    for name, lines in (("smaller", 2), ("copy", 2)):
        text = (tmp_path / name / "README.md").read_text()
        assert text.count("tracks of the store") == lines
        assert text.count("by at most 0.0") == 1
        assert finished.attributes["uuid"] in text


def test_audio_that_is_not_there_is_said_before_anything_is_copied(
    finished: Store, music: Path, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match="is not below"):
        share(finished, tmp_path / "out", ShareOptions(audio=open_directory(music / "bells")))
    assert not list(tmp_path.iterdir())


def test_names_with_line_breaks_mathematics_and_other_letters_are_names(music: Path, tmp_path: Path) -> None:
    (tmp_path / "music/a\rb$^$曲").mkdir(parents=True)
    shutil.copy(music / "bells/bells.00000.wav", tmp_path / "music/a\rb$^$曲/c\nd.wav")
    catalog = read_catalog(tmp_path / "music")
    build(make_plan(SPEC, catalog.tracks, versions(), 5), catalog, tmp_path / "s.zarr", InProcess())
    share(open_store(tmp_path / "s.zarr"), tmp_path / "out", ShareOptions())
    with (tmp_path / "out/tracks.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["source"] == "a\rb$^$曲/c\nd.wav"


def test_many_labels_take_no_longer_than_their_number() -> None:
    from melzarr.pipeline.share.dataset_card import _counts, markdown_table

    rows = [{"label": f"artist {n}", "split": "train", "status": "ok", "tracks": n + 1} for n in range(50_000)]
    head, table = _counts(rows)
    assert head == ["label", "tracks", "train", "ok"]
    assert len(list(markdown_table(head, table))) == 104
    assert table[-2:] == [["and 49900 labels with fewer tracks", *[sum(range(49_901))] * 3],
                          ["all", *[sum(range(50_001))] * 3]]  # fmt: skip
    assert table[0][0] == "artist 49900"


@pytest.mark.parametrize(
    "text", ["# x", "1. x", "2) x", "- x", "+ x", "---", "===", "    code", "a\n\n# b", "> x", "http://evil.example/x",
             "www.evil.example", "@someone", "![x](y)", "<img src=x onerror=y>", "| a | b |", "`x`", "~~x~~"],
)  # fmt: skip
def test_what_strangers_have_written_begins_nothing_in_markdown(text: str) -> None:
    from markdown_it import MarkdownIt

    found = MarkdownIt("gfm-like", {"linkify": False}).parse(escape(text))
    assert [token.type for token in found] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in found[1].children or ()} <= {"text", "text_special"}
    assert " ".join(text.split()) == "".join(child.content for child in found[1].children or ())


def test_a_copy_that_failed_at_its_end_goes_on_with_what_it_has(
    finished: Store, shared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("melzarr.pipeline.share.documents.write_report", fail)
        with pytest.raises(OSError, match="No space"):
            share(finished, tmp_path / "music", ShareOptions(published=DATE))
    assert not (tmp_path / "music").exists()
    assert share(finished, tmp_path / "music", ShareOptions(published=DATE)).n_reused == 12
    assert files(tmp_path / "music") == files(shared_folder)


def test_in_an_object_store_it_has_the_same_bytes(
    finished: Store, shared_folder: Path, bucket: ObjectStoreDirectory
) -> None:
    target = bucket.child("music")
    share(finished, target, ShareOptions(published=DATE))
    assert {name: target.read(name) for name, _ in target.files()} == files(shared_folder)
    assert not verify(open_store(target)).problems
    with pytest.raises(BuildError, match="--force"):
        share(finished, target, ShareOptions(published=DATE))


def test_for_hugging_face_its_card_begins_with_what_is_read_there(finished: Store, tmp_path: Path) -> None:
    share(finished, tmp_path / "hub", ShareOptions(for_hub=True))
    _, head, text = (tmp_path / "hub/README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["license"] == "other"
    assert facts["license_name"] == "not stated"
    assert facts["size_categories"] == ["n<1K"]
    files_of = [{"split": split, "path": f"data/{split}-*"} for split in ("train", "valid")]
    assert facts["configs"] == [{"config_name": "default", "data_files": files_of}]
    assert facts["dataset_info"]["features"][1] == {
        "name": "label", "dtype": {"class_label": {"names": {"0": "bells", "1": "drums"}}}
    }  # fmt: skip
    counts = {row["name"]: row["num_examples"] for row in facts["dataset_info"]["splits"]}
    assert counts == dict(zip(*np.unique(finished.values("split").astype(str), return_counts=True), strict=True))
    assert facts["dataset_info"]["download_size"] == sum(f.stat().st_size for f in (tmp_path / "hub/data").iterdir())
    assert text.lstrip().startswith("# ")
    assert "data/** filter=lfs" in (tmp_path / "hub/.gitattributes").read_text()
    assert "mel/c/** filter=lfs" in (tmp_path / "hub/.gitattributes").read_text()
    assert not verify(open_store(tmp_path / "hub")).problems


def test_the_head_of_its_card_is_sound_whatever_the_labels_are(finished: Store, tmp_path: Path) -> None:
    labels = ["no", "1e3", "a: 'b'", '"#"', "{x}", "曲 \\ \u2028", "---"]
    share(finished, tmp_path / "hub", ShareOptions(for_hub=True))
    tables = Tables((Table("train", 7, 1, 1),), features_of(labels, SPEC, arrays=True))
    about = About(
        name="hub", is_zip=False, published="", author="", faults=(), derived=(), tables=tables, has_audio=False,
        picture="",
    )  # fmt: skip
    _, head, _ = card(finished, describe(finished), about).split("---\n", 2)
    label, array = (yaml.safe_load(head)["dataset_info"]["features"][n] for n in (1, -1))
    assert list(label["dtype"]["class_label"]["names"].values()) == labels
    assert array == {"name": "mel_db", "dtype": {"array3_d": {"shape": [60, 5, 128], "dtype": "float16"}}}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("music", ShareOptions(arrays=True), "add --for hugging-face"),
        ("music.zarr.zip", ShareOptions(for_hub=True), "is one file, and Hugging Face reads a folder"),
    ],
)
def test_tables_that_nobody_could_read_are_refused(
    finished: Store, tmp_path: Path, name: str, options: ShareOptions, said: str
) -> None:
    with pytest.raises(CallError, match=said):
        share(finished, tmp_path / name, options)
    assert not list(tmp_path.iterdir())


def test_tables_without_pyarrow_are_a_sentence(
    finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MelzarrError, match=r"needs pyarrow, which is not installed; pip install 'melzarr\[parquet\]'"):
        share(finished, tmp_path / "hub", ShareOptions(for_hub=True))


def test_what_strangers_have_written_is_text_in_the_card(music: Path, tmp_path: Path) -> None:
    label = "<script>alert(1)</script> | [a](javascript:b) `c`"
    (tmp_path / "tracks.csv").write_text("")
    with (tmp_path / "tracks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        shutil.copytree(music, tmp_path / "music")
        rows.writerows([f"music/bells/bells.0000{n}.wav", label if n else "x\u202ey"] for n in range(4))
    catalog = read_catalog(tmp_path / "tracks.csv")
    build(make_plan(SPEC, catalog.tracks, versions(), 5), catalog, tmp_path / "s.zarr", InProcess())
    share(open_store(tmp_path / "s.zarr"), tmp_path / "out", ShareOptions())
    text = (tmp_path / "out/README.md").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\[a\\](javascript:b) \\`c\\`" in text
    assert "\u202e" not in text
    assert not verify(open_store(tmp_path / "out")).problems


def test_the_command_ends_with_what_was_made_and_what_is_next(finished: Store, tmp_path: Path) -> None:
    command = ["share", str(finished.directory), str(tmp_path / "music.zarr.zip"), "--label", "bells"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert re.search(r"shared .* as .*music\.zarr\.zip: 6 tracks", done.stdout)
    assert f"next: melzarr verify {tmp_path}/music.zarr.zip" in done.stdout
    done = CliRunner().invoke(main, [*command, "--force", "--json"])
    assert json.loads(done.stdout)["tracks"] == 6
    done = CliRunner().invoke(main, [*command, "--published", "soon"])
    assert (done.exit_code, "is not a date" in done.stderr) == (2, True)


def test_tracks_csv_is_one_that_a_spreadsheet_reads(shared_folder: Path) -> None:
    text = (shared_folder / "tracks.csv").read_text()
    assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
    assert "nan" not in text


@pytest.mark.parametrize("derived", [{"dtype": 1}, {"max_error_db": None, "before": 5}, {"before": {}}, [1], None])
def test_what_a_stranger_says_it_was_made_of_breaks_nothing(derived: Any) -> None:
    from melzarr.pipeline.share.documents import _derived_lines

    assert all(isinstance(line, str) for line in _derived_lines(derived))
