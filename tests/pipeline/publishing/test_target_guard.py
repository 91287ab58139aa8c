"""Where something may be written: nowhere that a source, a store or anybody's notes would be lost or damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import plain_charts
import pytest
from click.testing import CliRunner, Result
from processes import digests

from melzarr.cli import main
from melzarr.pipeline.builder.job_array import write_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import refuse_inside, refuse_place
from melzarr.pipeline.share.share_options import ShareOptions
from melzarr.pipeline.share.write_share import share
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.zarr_store.layout import is_file_of_a_store
from melzarr.pipeline.zarr_store.reader import Store, open_store

SMALL = ("--n-windows", "60", "--tracks-per-shard", "5", "--workers", "0")


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """Why a command was refused."""
    done = melzarr(*arguments)
    assert done.exit_code in {1, 2}, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.stderr


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def with_audio(finished: Store, music: Path, tmp_path: Path) -> Path:
    """A share that holds its audio."""
    share(finished, tmp_path / "shared", ShareOptions(audio=open_directory(music)), draw=plain_charts)
    return tmp_path / "shared"


# Sources --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("features",), ("job-array", "init")])
def test_a_source_in_the_store_that_is_replaced_stays(with_audio: Path, command: tuple[str, ...]) -> None:
    before = digests(with_audio)
    words = (*command, with_audio / "audio", with_audio, "--force", *SMALL[: 4 if len(command) > 1 else None])
    assert (
        f"the source {with_audio}/audio is inside {with_audio}, and would be removed with it; choose another"
        in refused(*words)
    )
    assert digests(with_audio) == before
    assert verify(open_store(with_audio)).problems == []


def test_the_audio_of_a_share_that_is_replaced_stays(finished: Store, with_audio: Path) -> None:
    before = digests(with_audio)
    said = refused("share", finished.directory, with_audio, "--audio", with_audio / "audio", "--force")
    assert f"the source {with_audio}/audio is inside {with_audio}" in said
    assert digests(with_audio) == before


def test_tracks_that_are_links_into_the_store_stay(with_audio: Path, tmp_path: Path) -> None:
    links = tmp_path / "links/bells"
    links.mkdir(parents=True)
    for path in (with_audio / "audio/bells").iterdir():
        (links / path.name).symlink_to(path)
    before = digests(with_audio)
    assert f"tracks of {links.parent} are links into {with_audio}" in refused(
        "features", links.parent, with_audio, "--force", *SMALL
    )
    assert digests(with_audio) == before


def test_a_store_is_not_put_into_a_folder_of_labels(own_music: Path) -> None:
    said = refused("features", own_music, own_music / "bells.zarr", *SMALL)
    assert f"{own_music}/bells.zarr is inside the source {own_music}, in which each folder is a label; choose" in said
    assert names(own_music) == ["bells", "drums"]


def test_a_store_may_lie_beside_a_manifest_but_not_around_its_tracks(with_audio: Path, tmp_path: Path) -> None:
    manifest, track = tmp_path / "tracks.csv", f"{with_audio.name}/audio/bells/bells.00000.wav"
    manifest.write_text(f"path,label\n{track},bells\n")
    before = digests(with_audio)
    said = refused("features", manifest, with_audio, "--force", *SMALL)
    assert f"the track {track} is inside {with_audio}, and would be removed with it; choose another path" in said
    assert digests(with_audio) == before
    assert melzarr("features", manifest, tmp_path / "music.zarr", *SMALL).exit_code == 0
    assert open_store(tmp_path / "music.zarr").n_tracks == 1


def test_the_library_refuses_what_the_commands_refuse(with_audio: Path, plan_of) -> None:
    catalog, plan = plan_of(with_audio / "audio")
    with pytest.raises(CallError, match="would be removed with it"):
        build(plan, catalog, with_audio, InProcess(), replace=True)
    with pytest.raises(CallError, match="would be removed with it"):
        write_plan(plan, catalog, with_audio, replace=True)


# What else lies in the folder of a store ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [".git/HEAD", ".notes", "notes.txt", "README.md", "mel/notes.txt", "mine/zarr.json", "mel/c/x"]
)
@pytest.mark.parametrize("command", ["features", "init", "share", "append", "merge"])
def test_what_somebody_keeps_in_a_store_stays(
    own_store: Store, finished: Store, own_music: Path, command: str, name: str
) -> None:
    target = own_store.directory.path
    (target / name).parent.mkdir(exist_ok=True, parents=True)
    (target / name).write_text("years of work")
    before = digests(target)
    shutil.copy(own_music / "bells/bells.00000.wav", own_music / "bells/new.wav")
    words = {
        "features": ("features", own_music, target, "--force", *SMALL),
        "init": ("job-array", "init", own_music, target, "--force", *SMALL[:4]),
        "share": ("share", finished.directory, target, "--force"),
        "append": ("append", target, own_music, "--workers", 0),
        "merge": ("merge", finished.directory, finished.directory, target, "--force"),
    }[command]
    said = refused(*words)
    assert (
        f"{target} contains {name}, which is not part of the store and would be removed with it; move it, or make the"
        in said
    )
    assert digests(target) == before
    assert not target.with_name("own.zarr.building").exists()


def test_what_a_store_and_a_share_hold_is_their_own(own_store: Store, with_audio: Path) -> None:
    of_systems = {".DS_Store", "thumbs.db", "mel/._zarr.json", "mel/c/0/desktop.ini", "mel/@eaDir/c/SYNO@.attr"}
    for name in of_systems:
        own_store.directory.write(name, b"")
    for place in (own_store.directory, open_directory(with_audio)):
        refuse_place(open_workspace(place), replace=True)
    names = [name for name, _ in own_store.directory.files()]
    assert {name for name in names if not is_file_of_a_store(name)} == of_systems


# Within a store -------------------------------------------------------------------------------------------------------


def test_nothing_is_written_into_a_store(own_store: Store, finished: Store, own_music: Path, tmp_path: Path) -> None:
    store = own_store.directory.path
    link = tmp_path / "link"
    link.symlink_to(store)
    for place in (store, link):
        for words in (
            ("features", own_music, place / "inner.zarr", *SMALL),
            ("job-array", "init", own_music, place / "deep/inner.zarr", *SMALL[:4]),
            ("share", finished.directory, place / "share"),
            ("share", finished.directory, place / "share.zarr.zip"),
            ("merge", finished.directory, finished.directory, place / "both.zarr"),
            ("report", store, "--to", place),
            ("report", finished.directory, "--to", place / "report"),
            ("inspect", finished.directory, "--picture", place / "x.png"),
            ("train", finished.directory, "--protocol", "window", "--run", place / "run"),
        ):
            assert "choose a path outside it" in refused(*words), words
    assert verify(own_store).problems == []
    assert names(tmp_path) == ["link", "music", "own.zarr"]


def test_a_folder_named_as_an_array_is_no_store(tmp_path: Path) -> None:
    for name in ("mel", "receipts"):
        (tmp_path / name).mkdir()
    refuse_inside(LocalDirectory(tmp_path / "x.zarr"))


# Places that cannot be written to -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "is_too_long"), [("s" * 236 + ".zarr", True), ("s" * 235 + ".zarr", False)])
def test_a_name_too_long_is_noticed_at_once(tmp_path: Path, name: str, is_too_long: bool) -> None:
    workspace = open_workspace(tmp_path / name)
    if is_too_long:
        with pytest.raises(CallError, match=r"is too long: .* 256 bytes, but .* allows 255; choose a shorter name"):
            refuse_place(workspace, replace=False)
    else:
        refuse_place(workspace, replace=False)
        with workspace.locked():
            workspace.root.write("shards/x")
            workspace.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_archive_of_a_name_too_long_is_noticed_at_once(finished: Store, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="is too long"):
        share(finished, tmp_path / f"{'s' * 230}.zarr.zip", ShareOptions(), draw=plain_charts)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a file system of its own needs Linux, root and util-linux")
    (tmp_path / "disk.zarr").mkdir()
    try:
        mount("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path / "disk.zarr")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.decode()}")
    yield tmp_path / "disk.zarr"
    mount("umount", "--lazy", tmp_path / "disk.zarr")


def mount(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)


def test_a_store_that_is_a_disk_of_its_own_is_not_replaced(disk: Path, finished: Store, music: Path) -> None:
    shutil.copytree(finished.directory.path, disk, dirs_exist_ok=True)
    link = disk.with_name("link.zarr")
    link.symlink_to(disk)
    for place in (disk, link):
        words = ("features", music, place, "--n-mels", 64, "--force", *SMALL)
        assert f"{disk} is a mount point, which cannot be replaced; choose a folder on it" in refused(*words)
    assert verify(open_store(disk)).problems == []


def test_a_folder_that_may_not_be_written_to_is_noticed_at_once(disk: Path, music: Path) -> None:
    mount("mount", "-o", "remount,ro", disk)
    said = refused("features", music, disk / "deep/s.zarr", *SMALL)
    assert f"{disk} is not writable; allow it, or choose another path" in said


def test_a_catalog_of_a_folder_says_so(own_music: Path) -> None:
    (own_music / "tracks.csv").write_text("path,label\nbells/bells.00000.wav,bells\n")
    assert read_catalog(own_music).is_folder
    assert not read_catalog(own_music / "tracks.csv").is_folder


def test_a_target_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CallError, match="is not the name of a store"):
        refuse_place(open_workspace("."), replace=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BuildError, match="exists and is not a melzarr store"):
        refuse_place(open_workspace(tmp_path / "file"), replace=True)
