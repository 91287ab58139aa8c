"""A store that grows: the bytes of a build of all, the old one until the last step, and never half of either."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from processes import command, digests, start

from melzarr.cli import main
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.derive.append import addition, growing
from melzarr.pipeline.derive.append import append as append_tracks
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing import local_workspace
from melzarr.pipeline.publishing.local_workspace import LocalWorkspace
from melzarr.pipeline.publishing.object_workspace import ObjectWorkspace
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.workspace import PUBLISHED, REMOVING, Workspace
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.sources.split import HashSplit
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.storage.zip import pack_folder
from melzarr.pipeline.zarr_store.reader import Store, open_store
from tests.conftest import rechunk

SMALL = ("--workers", "0", "--n-windows", "60", "--tracks-per-shard", "5")


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def append(store: object, source: object, *arguments: object) -> Result:
    done = melzarr("append", store, source, "--workers", "0", *arguments)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def young(own_music: Path, tmp_path: Path, plan_of) -> Path:
    """A store of the first seven tracks of the music; the others are new."""
    return of_some(own_music, tmp_path / "s.zarr", plan_of, range(7))


def of_some(music: Path, target: Path, plan_of, numbers: object, **spec: object) -> Path:
    catalog, plan = plan_of(music, **spec)
    few = dataclasses.replace(catalog, tracks=tuple(catalog.tracks[number] for number in numbers))
    build(dataclasses.replace(plan, tracks=few.tracks), few, target, InProcess())
    return target


def left(folder: Path) -> list[str]:
    """Stores and workspaces in a folder."""
    return sorted(path.name for path in folder.iterdir() if ".zarr" in path.name and path.suffix != ".json")


def test_what_a_folder_has_grown_by_makes_the_store_that_a_build_of_all_makes(
    young: Path, own_music: Path, finished: Store
) -> None:
    before = (young / "mel/c/0/0/0/0").stat()
    lines = append(young, own_music).stdout.splitlines()
    assert lines[:2] == ["5 new tracks, 7 already there", "1 worker"]
    assert "  5 tracks are in shards that were kept unchanged, 7 were packed again from their chunks" in lines
    assert lines[-1] == f"next: melzarr verify {young}"
    assert digests(young) == digests(finished.directory.path)
    assert (young / "mel/c/0/0/0/0").stat().st_ino == before.st_ino
    assert left(young.parent) == ["s.zarr"]
    assert melzarr("features", own_music, young, *SMALL).stdout.startswith(f"{young} is finished and up to date")


def test_files_that_systems_leave_in_a_store_do_not_hinder_it_and_are_not_carried_on(
    young: Path, own_music: Path, finished: Store, tmp_path: Path, plan_of
) -> None:
    rest = of_some(own_music, tmp_path / "rest.zarr", plan_of, range(7, 12))
    for name in ("mel/.DS_Store", "mel/c/._0", "mel/c/0/Thumbs.db", "receipts/key/desktop.ini", "@eaDir/zarr.json@x"):
        open_directory(young).write(name, b"")
        open_directory(rest).write(name, b"")
    assert not verify(open_store(young)).problems
    pack_folder(young, tmp_path / "young.zarr.zip")
    assert not verify(open_store(tmp_path / "young.zarr.zip")).problems
    for store in (young, tmp_path / "young.zarr.zip"):
        assert melzarr("merge", store, rest, tmp_path / "both.zarr", "--force").exit_code == 0
        assert digests(tmp_path / "both.zarr").keys() == digests(finished.directory.path).keys()
        append(store, own_music)
        assert open_store(store).attributes["uuid"] == finished.attributes["uuid"]
        assert {name for name, _ in open_store(store).directory.files()} == digests(finished.directory.path).keys()


def test_new_tracks_come_last_whatever_their_names_and_the_old_ones_stay_as_they_were(
    own_music: Path, tmp_path: Path, plan_of, finished: Store
) -> None:
    target = of_some(own_music, tmp_path / "s.zarr", plan_of, range(3, 12))
    before = xr.open_zarr(target).drop_vars(["mean_db", "std_db"]).load()
    append(target, own_music)
    after, everything = xr.open_zarr(target), xr.open_zarr(finished.directory.path)
    xr.testing.assert_identical(
        after.isel(track=slice(9)).drop_vars(["mean_db", "std_db"]).drop_attrs(), before.drop_attrs()
    )
    assert after.track.values.tolist() == [*everything.track.values[3:], *everything.track.values[:3]]
    for name in ("mel", "split", "status", "source_blake3", "n_windows"):
        np.testing.assert_array_equal(after[name].values[-3:], everything[name].values[:3])
    np.testing.assert_allclose(after.mean_db, everything.mean_db, rtol=1e-12)
    np.testing.assert_allclose(after.std_db, everything.std_db, rtol=1e-9)
    sound = melzarr("verify", target, "--source", own_music, "--sample", "3")
    assert sound.stdout.splitlines()[-1] == "sound"
    assert "is finished and up to date" in melzarr("features", own_music, target, *SMALL).stdout
    (own_music / "bells/bells.00003.wav").unlink()
    assert "tracks gone: bells/bells.00003" in melzarr("features", own_music, target, *SMALL).stderr


def test_where_nothing_is_new_it_says_so_and_leaves_the_store(own_store: Store, music: Path) -> None:
    before = own_store.directory.path.stat().st_mtime_ns
    done = append(own_store.directory, music)
    assert done.stdout == f"nothing to add: {own_store.directory} already has all tracks of {music}\n"
    assert json.loads(append(own_store.directory, music, "--json").stdout) == {
        "store": str(own_store.directory), "new": 0, "there": 12,
    }  # fmt: skip
    assert own_store.directory.path.stat().st_mtime_ns == before


def test_it_tells_a_script_what_it_did(young: Path, own_music: Path) -> None:
    done = append(young, own_music, "--json")
    facts = json.loads(done.stdout)
    assert (facts["new"], facts["there"], facts["kept"], facts["packed"], facts["versions"]) == (5, 7, 5, 7, [])
    assert facts["tracks"] == {"ok": 9, "failed": 1, "short": 1, "silent": 1}


def test_a_file_that_has_changed_is_refused(young: Path, own_music: Path) -> None:
    before = digests(young)
    shutil.copy(own_music / "bells/bells.00003.wav", own_music / "bells/bells.00000.wav")
    refused = melzarr("append", young, own_music, "--workers", "0")
    assert refused.exit_code == 1
    assert "tracks whose files have changed: bells/bells.00000; append only adds new" in refused.stderr
    assert f"or build {young} again from all tracks with: melzarr features --force" in refused.stderr
    assert digests(young) == before
    assert left(young.parent) == ["s.zarr"]


def manifest(folder: Path, name: str, *rows: str) -> Path:
    (folder / name).write_text("\n".join(["path,label,group,split", *rows]))
    return folder / name


def test_a_track_that_is_there_keeps_its_label_and_split_and_that_is_said(young: Path, own_music: Path) -> None:
    source = manifest(own_music, "m.csv", "bells/bells.00000.wav,gongs,,valid", "drums/drums.00003.wav,drums,,valid")
    label = open_store(young).values("label")[0]
    line = append(young, source).stdout.splitlines()[0]
    assert line == (
        f"tracks kept unchanged, although {source} gives another label, path, group, split or excerpt: "
        f"bells/bells.00000"
    )
    store = open_store(young)
    assert (store.values("label")[0], store.values("label")[-1]) == (label, "drums")
    assert (store.n_tracks, store.values("split")[-1]) == (8, "valid")


def test_new_tracks_are_split_as_a_manifest_says_and_else_by_the_stores_rule(own_music: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.zarr"
    first, rest = tmp_path / "first", own_music / "drums"
    shutil.copytree(own_music / "bells", first / "bells")
    options = ("--seed", "7", "--valid", "0.3", "--test", "0.3")
    assert melzarr("features", first, target, *SMALL, *options).exit_code == 0
    append(target, own_music)
    store = open_store(target)
    rule = HashSplit(seed=7, valid=0.3, test=0.3)
    assert store.values("split").tolist() == [rule.part(str(name)) for name in store.values("track")]
    assert store.attributes["split"] == {"method": "hash", "valid": 0.3, "test": 0.3, "seed": 7}
    assert "is finished and up to date" in melzarr("features", own_music, target, *SMALL, *options).stdout
    shutil.copy(rest / "drums.00000.wav", own_music / "new.wav")
    append(target, manifest(own_music, "m.csv", "new.wav,drums,,test"))
    store = open_store(target)
    assert store.attributes["split"]["of"][1] == {"method": "manifest"}
    assert store.values("split")[-1] == "test"
    shutil.copy(rest / "drums.00001.wav", rest / "newer.wav")
    refused = melzarr("append", target, own_music)
    assert refused.exit_code == 2
    assert "label" in refused.stderr  # new.wav lies in the folder itself
    (own_music / "new.wav").unlink()
    refused = melzarr("append", target, own_music)
    assert (refused.exit_code, left(tmp_path)) == (2, ["s.zarr"])
    assert "were split by 'merged', which does not apply to new tracks; give them as a manifest with" in refused.stderr


def test_a_group_is_in_one_split_also_with_tracks_that_come_later(own_music: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.zarr"
    rows = [f"bells/bells.0000{number}.wav,bells,album {number % 2}" for number in range(5)]

    def listed(name: str, rows: list[str], head: str = "path,label,album") -> Path:
        (own_music / name).write_text("\n".join([head, *rows]))
        return own_music / name

    assert melzarr("features", listed("a.csv", rows[:3]), target, *SMALL, "--group", "album").exit_code == 0
    append(target, listed("b.csv", rows), "--group", "album")
    store = open_store(target)
    assert store.n_tracks == 5
    assert store.values("group").tolist() == ["album 0", "album 1", "album 0", "album 1", "album 0"]
    assert store.values("split").tolist() == [HashSplit().part(str(name)) for name in store.values("group")]
    other = next(part for part in ("valid", "test") if part != store.values("split")[0])
    late = listed("c.csv", [f"drums/drums.00000.wav,drums,album 0,{other}"], "path,label,album,split")
    refused = melzarr("append", target, late, "--group", "album")
    assert refused.exit_code == 2
    assert "are in one group, 'album 0'; put them into one split" in refused.stderr
    assert left(tmp_path) == ["s.zarr"]


def test_other_versions_are_said_and_kept_in_mind(young: Path, own_music: Path) -> None:
    store = open_store(young)
    versions = store.attributes["versions"]
    about = {**store.attributes, "licence": "free", "versions": {**versions, "numpy": "1.0"}}
    derive([TrackSelection.whole(store)], young, about, replace=True, in_place=True)
    done = append(young, own_music)
    assert f"computed by different versions: numpy 1.0, {versions['numpy']}" in done.stdout
    after = open_store(young)
    assert after.attributes["versions"] == {**versions, "numpy": f"1.0, {versions['numpy']}"}
    assert after.attributes["licence"] == "free"
    assert verify(after).problems == []
    refused = melzarr("features", own_music, young, *SMALL)
    assert f"versions: numpy was 1.0, {versions['numpy']}, is {versions['numpy']}" in refused.stderr


@pytest.mark.parametrize("spec", [{"n_mels": 64}, {"scale": "db", "dtype": "float16"}])
def test_new_tracks_become_what_the_stores_are(
    spec: dict[str, object], own_music: Path, tmp_path: Path, plan_of
) -> None:
    target = of_some(own_music, tmp_path / "s.zarr", plan_of, range(5), **spec)
    append(target, own_music)
    assert digests(target) == digests(of_some(own_music, tmp_path / "all.zarr", plan_of, range(12), **spec))


def test_a_store_of_another_layout_gets_shards_of_as_many_tracks(young: Path, own_music: Path, finished: Store) -> None:
    rechunk(open_store(young), (2, 30, 5, 128))
    append(young, own_music)
    store = open_store(young)
    assert (store.mel.shards, store.n_tracks) == ((2, *finished.spec.shape), 12)
    np.testing.assert_array_equal(store.mel[...], finished.mel[...])
    assert verify(store).problems == []


def test_an_archive_grows(young: Path, own_music: Path, finished: Store) -> None:
    archive = young.with_name("s.zarr.zip")
    pack_folder(young, archive)
    append(archive, own_music)
    assert open_store(f"{archive}").attributes["uuid"] == finished.attributes["uuid"]
    assert verify(open_store(f"{archive}")).problems == []
    assert left(young.parent) == ["s.zarr", "s.zarr.zip", "s.zarr.zip.sha256"]


def test_too_many_failures_leave_the_store_as_it_was(young: Path, own_music: Path, finished: Store) -> None:
    before = digests(young)
    refused = melzarr("append", young, own_music, "--workers", "0", "--max-failed", "0")
    assert refused.exit_code == 1
    assert "have failed, more than the 0 that are allowed" in refused.stderr
    assert digests(young) == before
    append(young, own_music)
    assert digests(young) == digests(finished.directory.path)


def test_what_is_in_the_place_of_the_new_tracks_is_left_alone(young: Path, own_music: Path) -> None:
    aside = young.with_name("s.zarr.appended")
    aside.mkdir()
    (aside / "thesis.txt").write_text("years of work")
    refused = melzarr("append", young, own_music, "--workers", "0")
    assert f"{aside} exists and is not a melzarr store; move it" in refused.stderr
    assert (aside / "thesis.txt").exists()


def test_a_store_that_was_replaced_meanwhile_is_not_written_over(
    young: Path, own_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan_of
) -> None:
    """As by another append that ran at the same time."""
    other = of_some(own_music, tmp_path / "other.zarr", plan_of, [*range(7), 8])
    original = Workspace.refuse_occupied

    def meanwhile(self: Workspace, replace: bool) -> None:
        if self.target.name == "s.zarr":
            shutil.rmtree(young)
            shutil.copytree(other, young)
        original(self, replace)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "refuse_occupied", meanwhile)
        refused = melzarr("append", young, own_music, "--workers", "0")
    assert (refused.exit_code, "was replaced or removed while it was read" in refused.stderr) == (1, True)
    assert digests(young) == digests(other)
    append(young, own_music)
    assert verify(open_store(young), own_music).problems == []
    assert left(tmp_path) == ["other.zarr", "s.zarr"]


# Killed at any moment.


class KilledError(BaseException):
    """What ends a process in the middle of something, as a kill does, but for what is cleaned up on the way."""


def killing(when: Callable[..., bool], original: Callable[..., object], after: bool = False) -> Callable[..., object]:
    def kill(*arguments: object, **options: object) -> object:
        if not when(*arguments):
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        raise KilledError

    return kill


def writes(name: str) -> Callable[..., bool]:
    return lambda path, *_: Path(path).as_posix().endswith(name)


MOMENTS = {
    "new tracks are computed": (
        "melzarr.pipeline.storage.local.write_whole",
        writes("s.zarr.appended.building/receipts/0000000.json"),
    ),
    "shards are packed": (
        "melzarr.pipeline.storage.local.write_whole",
        writes("s.zarr.building/receipts/0000001.json"),
    ),
    "all is written": ("melzarr.pipeline.publishing.local_workspace._exchange", lambda *_: True),
    "it has appeared": ("melzarr.pipeline.storage.local.write_whole", writes(f"s.zarr.building/{PUBLISHED}")),
    "the new tracks go": (
        "melzarr.pipeline.storage.local.write_whole",
        writes(f"s.zarr.appended.building/{REMOVING}"),
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_is_the_old_store_or_the_new_one_and_goes_on(
    moment: str, young: Path, own_music: Path, finished: Store
) -> None:
    old, new = digests(young), digests(finished.directory.path)
    name, when = MOMENTS[moment]
    originals = {
        "melzarr.pipeline.storage.local.write_whole": write_whole,
        "melzarr.pipeline.publishing.local_workspace._exchange": local_workspace._exchange,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name, killing(when, originals[name]))
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(young), str(own_music), "--workers", "0"], standalone_mode=False)
    has_appeared = moment in {"it has appeared", "the new tracks go"}
    assert digests(young) == (new if has_appeared else old)
    said = append(young, own_music).stdout
    assert ("nothing to add" in said) == has_appeared
    assert digests(young) == new
    assert left(young.parent) == ["s.zarr"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_killed_while_the_new_tracks_are_removed_they_are_removed_by_the_next_run(
    where: str, young: Path, own_music: Path, finished: Store
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LocalWorkspace, "_remove_target",
            killing(lambda *_: True, LocalWorkspace._remove_target, after=where == "after"),
        )  # fmt: skip
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(young), str(own_music), "--workers", "0"], standalone_mode=False)
    assert left(young.parent)[1:] != []
    append(young, own_music)
    assert left(young.parent) == ["s.zarr"]
    assert digests(young) == digests(finished.directory.path)


def test_killed_between_two_renames_where_no_exchange_is_the_old_store_comes_back(
    young: Path, own_music: Path, finished: Store
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melzarr.pipeline.publishing.local_workspace._renamed_by_exchange", lambda *_: False)
        original = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if self.name == "store" and Path(target) == young:
                raise KilledError
            return original(self, target)

        patch.setattr(Path, "rename", rename)
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(young), str(own_music), "--workers", "0"], standalone_mode=False)
    assert not young.exists()
    append(young, own_music)
    assert digests(young) == digests(finished.directory.path)
    assert left(young.parent) == ["s.zarr"]


def test_a_source_that_has_grown_since_a_kill_is_appended_as_it_is_now(
    young: Path, own_music: Path, tmp_path: Path, plan_of
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "melzarr.pipeline.publishing.local_workspace._exchange", killing(lambda *_: True, local_workspace._exchange)
        )
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(young), str(own_music), "--workers", "0"], standalone_mode=False)
    demo_music.write_track(own_music / "drums/z.wav", "drums", 3, seed=2, sample_rate=22050, seconds=3)
    append(young, own_music)
    assert digests(young) == digests(of_some(own_music, tmp_path / "all.zarr", plan_of, range(13)))


# In an object store.


@pytest.fixture
def remote(young: Path, bucket: ObjectStoreDirectory) -> ObjectStoreDirectory:
    for path in young.rglob("*"):
        if path.is_file():
            bucket.write(f"s.zarr/{path.relative_to(young).as_posix()}", path.read_bytes())
    return bucket.child("s.zarr")


def remote_digests(directory: ObjectStoreDirectory) -> dict[str, str]:
    return {name: directory.digest(name, hashlib.sha256) for name, _ in directory.files()}


def remote_left(bucket: ObjectStoreDirectory) -> set[str]:
    return {name.partition("/")[0] for name, _ in bucket.files()} - {".keep"}


def test_in_a_bucket_full_shards_stay_where_they_are(
    remote: ObjectStoreDirectory,
    bucket: ObjectStoreDirectory,
    own_music: Path,
    finished: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved, original = [], ObjectStoreDirectory.move

    def move(self: ObjectStoreDirectory, name: str, new_name: str, to: ObjectStoreDirectory | None = None) -> None:
        if to == remote:
            moved.append(new_name)
        original(self, name, new_name, to)

    monkeypatch.setattr(ObjectStoreDirectory, "move", move)
    first = bucket.version_of("s.zarr/mel/c/0/0/0/0")
    append(remote, own_music)
    assert remote_digests(remote) == digests(finished.directory.path)
    assert bucket.version_of("s.zarr/mel/c/0/0/0/0") == first
    assert remote_left(bucket) == {"s.zarr"}


@pytest.mark.parametrize("n_writes", [0, 1, 20])
def test_in_a_bucket_one_that_was_cut_off_in_the_last_step_is_brought_to_its_end(
    n_writes: int, remote: ObjectStoreDirectory, bucket: ObjectStoreDirectory, own_music: Path, finished: Store
) -> None:
    """Between the old store and the new one there is none, since shards have the same names in both."""
    remaining, write, move = [n_writes], ObjectStoreDirectory.write, ObjectStoreDirectory.move

    def counted(self: ObjectStoreDirectory, name: str, *parts: bytes) -> None:
        if self == remote:
            remaining[0] -= 1
            if remaining[0] < 0:
                raise KilledError
        write(self, name, *parts)

    def moved(self: ObjectStoreDirectory, name: str, new_name: str, to: ObjectStoreDirectory | None = None) -> None:
        if to == remote and n_writes == 0:
            raise KilledError
        move(self, name, new_name, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStoreDirectory, "write", counted)
        patch.setattr(ObjectStoreDirectory, "move", moved)
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(remote), str(own_music), "--workers", "0"], standalone_mode=False)
    assert remote.size("zarr.json") is None
    assert "nothing to add" in append(remote, own_music).stdout
    assert remote_digests(remote) == digests(finished.directory.path)
    assert remote_left(bucket) == {"s.zarr"}


def test_in_a_bucket_one_that_was_cut_off_while_the_new_tracks_were_removed_removes_them(
    remote: ObjectStoreDirectory, bucket: ObjectStoreDirectory, own_music: Path, finished: Store
) -> None:
    def half(self: ObjectWorkspace) -> None:
        self.target.remove(["zarr.json", "mel/zarr.json"])
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectWorkspace, "_remove_target", half)
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(remote), str(own_music), "--workers", "0"], standalone_mode=False)
    append(remote, own_music)
    assert remote_left(bucket) == {"s.zarr"}
    assert remote_digests(remote) == digests(finished.directory.path)


def test_what_was_not_all_there_is_not_brought_to_an_end(remote: ObjectStoreDirectory, own_music: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStoreDirectory, "move", killing(lambda *names: remote in names, ObjectStoreDirectory.move))
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(remote), str(own_music), "--workers", "0"], standalone_mode=False)
    root = open_workspace(remote).root
    root.remove([f"shards/{name}" for name, _ in root.child("shards").files()])
    refused = melzarr("append", remote, own_music, "--workers", "0")
    assert (refused.exit_code, "there is no store at" in refused.stderr) == (1, True)


def test_on_the_web_nothing_grows(own_music: Path) -> None:
    pytest.importorskip("obstore")
    refused = melzarr("append", "https://127.0.0.1:1/s.zarr", own_music)
    assert (refused.exit_code, "can be read but not written" in refused.stderr) == (2, True)


def test_help_names_the_commands_in_the_order_of_the_work() -> None:
    text = melzarr("--help").stdout
    places = [text.index(f"\n  {name} ") for name in ("features", "inspect", "verify", "append", "merge", "train")]
    assert places == sorted(places)
    for name in ("append", "merge"):
        assert f"melzarr {name} " in melzarr(name, "--help").stdout


def test_a_folder_that_is_none_is_refused_before_anything(young: Path, tmp_path: Path) -> None:
    assert melzarr("append", young, tmp_path / "none").exit_code == 2
    assert melzarr("append", tmp_path / "none.zarr", young).exit_code == 1
    assert left(tmp_path) == ["s.zarr"]


def test_what_is_added_is_what_the_catalog_has(young: Path, own_music: Path) -> None:
    catalog = read_catalog(own_music)
    added = addition(open_workspace(young), open_store(young), catalog)
    assert list(added.catalog.tracks) == list(catalog.tracks)[7:]
    assert (added.n_there, added.differing, added.plan.tracks_per_shard) == (7, (), 5)


def test_while_a_store_grows_nobody_else_changes_it(young: Path, own_music: Path) -> None:
    before = digests(young)
    with growing(open_directory(young)):
        for words in (("append", young, own_music), ("features", own_music, young, "--force", *SMALL)):
            refused = melzarr(*words, "--workers", 0)
            assert refused.exit_code == 1, refused.output
            assert f"{young} is being built by process {os.getpid()}" in refused.stderr
    assert digests(young) == before
    assert left(young.parent) == ["s.zarr"]


def test_of_two_appends_at_once_one_does_all_and_the_other_says_why_it_did_nothing(
    young: Path, own_music: Path, finished: Store
) -> None:
    both = [start(command("append", young, own_music, "--workers", 0)) for _ in range(2)]
    told = {process.wait(timeout=120): process.communicate()[1] for process in both}
    if set(told) == {0, 1}:  # else they came one after the other, and the second found nothing new
        assert "is being built by process" in told[1]
    assert 0 in told
    assert digests(young) == digests(finished.directory.path)
    assert left(young.parent) == ["s.zarr"]


def test_a_store_that_was_replaced_before_it_was_held_is_not_mixed_with_another(
    young: Path, own_music: Path, plan_of
) -> None:
    @contextmanager
    def connect(_: int) -> Iterator[InProcess]:
        yield InProcess()
        shutil.rmtree(young)
        of_some(own_music, young.with_name("t.zarr"), plan_of, range(6))
        young.with_name("t.zarr").rename(young)

    with pytest.raises(BuildError, match="was replaced or removed while it was read; run the same command again"):
        append_tracks(open_directory(young), "music", lambda _: read_catalog(own_music), connect)
    assert open_store(young).n_tracks == 6


def test_a_share_is_refused_with_the_remedy(young: Path, own_music: Path) -> None:
    before = (young / "zarr.json").read_bytes()
    (young / "SHA256SUMS").write_bytes(b"")
    refused = melzarr("append", young, own_music)
    assert (refused.exit_code, "is a share" in refused.stderr) == (1, True)
    assert (young / "zarr.json").read_bytes() == before
