"""A store in one zip archive: built, opened, verified and read as one in a folder, and by plain zarr and unzip."""

from __future__ import annotations

import hashlib
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from nginx import Nginx, program
from zarr.storage import ZipStore

from melzarr.cli import main
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import BuildError, CallError, StoreError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.storage.atomic import files_below
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.storage.zip import ZipDirectory, pack_folder
from melzarr.pipeline.zarr_store.companion_files import checksum_lines
from melzarr.pipeline.zarr_store.reader import Store, open_store
from tests.conftest import Planner


@pytest.fixture(scope="module")
def zipped(music: Path, plan_of: Planner, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the music in an archive."""
    catalog, plan = plan_of(music)
    target = tmp_path_factory.mktemp("zip") / "music.zarr.zip"
    build(plan, catalog, target, InProcess())
    return open_store(target)


def test_a_store_is_built_into_an_archive_with_the_same_files(zipped: Store, finished: Store) -> None:
    assert zipped.attributes == finished.attributes
    assert sorted(zipped.directory.files()) == sorted(finished.directory.files())
    assert all(zipped.directory.read(name) == finished.directory.read(name) for name, _ in finished.directory.files())
    assert not list(Path(str(zipped.directory)).parent.glob("*.building"))


def test_it_is_sound(zipped: Store, music: Path) -> None:
    verdict = verify(zipped, music, n_samples=3)
    assert not verdict.problems
    assert (verdict.n_tracks, verdict.n_sources, verdict.n_sampled) == (12, 12, 3)
    assert zipped.n_bytes == sum(size for _, size in zipped.directory.files())


def test_plain_xarray_and_the_reader_see_the_same_windows(zipped: Store, finished: Store) -> None:
    dataset = xr.open_zarr(ZipStore(str(zipped.directory), mode="r"), chunks=None)
    read, found = zipped.reader(), np.empty(zipped.spec.shape, np.float32)
    for number in range(zipped.n_tracks):
        read(number, found)
        np.testing.assert_array_equal(found, finished.mel[number])
        np.testing.assert_array_equal(found, dataset.mel[number].values)


def test_any_unzip_finds_plain_files_without_times(zipped: Store, tmp_path: Path, finished: Store) -> None:
    with zipfile.ZipFile(str(zipped.directory)) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
        assert {(info.compress_type, info.date_time) for info in infos} == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))}
        assert infos[0].filename == "zarr.json"
        archive.extractall(tmp_path)
    assert not verify(open_store(tmp_path)).problems
    assert open_store(tmp_path).attributes["uuid"] == finished.attributes["uuid"]


def test_the_same_files_give_the_same_bytes(finished: Store, tmp_path: Path) -> None:
    names = [name for name, _ in finished.directory.files()]
    archives = []
    for seed in range(2):
        folder = LocalDirectory(tmp_path / str(seed))
        for name in random.Random(seed).sample(names, len(names)):
            folder.write(name, finished.directory.read(name))
        archives.append(tmp_path / f"{seed}.zip")
        assert pack_folder(folder.path, archives[-1]) == hashlib.sha256(archives[-1].read_bytes()).hexdigest()
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_parts_of_files_are_those_of_a_folder(zipped: Store, finished: Store) -> None:
    for name, size in finished.directory.files():
        assert zipped.directory.size(name) == size
        assert zipped.directory.digest(name) == finished.directory.digest(name)
        assert zipped.directory.read_end(name, 20) == finished.directory.read_end(name, 20)
        assert zipped.directory.read_end(name, size + 5) == finished.directory.read_end(name, size + 5)
        for start, n_bytes in ((0, 7), (size // 2, 9), (size - 3, 9), (size + 1, 4)):
            assert zipped.directory.read_range(name, start, n_bytes) == finished.directory.read_range(
                name, start, n_bytes
            )
    below = zipped.directory.child("mel")
    assert sorted(below.files()) == sorted(finished.directory.child("mel").files())
    assert sorted(below.files(without="c")) == sorted(finished.directory.child("mel").files(without="c"))
    assert (below.exists(), zipped.directory.child("nothing").exists()) == (True, False)


def test_siblings_of_a_folder_are_those_in_its_archive(zipped: Store) -> None:
    archive = zipped.directory
    assert str(archive.sibling("other")) == str(Path(str(archive)).with_name("other"))
    key = archive.child("receipts").child("key")
    assert key.sibling("blake3") == archive.child("receipts/blake3")
    assert key.sibling("") == archive.child("receipts")
    assert archive.child("mel").sibling("receipts") == archive.child("receipts")
    assert archive.child("mel").sibling("") == archive


def test_what_is_not_there_is_said(tmp_path: Path, zipped: Store) -> None:
    directory = open_directory(tmp_path / "none.zarr.zip")
    assert isinstance(directory, ZipDirectory)
    assert not directory.exists()
    with pytest.raises(StoreError, match="there is no store at"):
        open_store(directory)
    with pytest.raises(FileNotFoundError):
        zipped.directory.read("nothing")
    assert zipped.directory.size("nothing") is None


def test_an_archive_that_was_cut_off_is_said_to_be_so(tmp_path: Path, zipped: Store) -> None:
    path = tmp_path / "cut.zarr.zip"
    path.write_bytes(Path(str(zipped.directory)).read_bytes()[:100_000])
    with pytest.raises(StoreError, match="copy or download it again"):
        open_store(path)


def test_a_compressed_archive_is_refused_with_the_remedy(tmp_path: Path, finished: Store) -> None:
    path = tmp_path / "deflated.zarr.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, _ in finished.directory.files():
            archive.writestr(name, finished.directory.read(name))
    with pytest.raises(StoreError, match="unzip it, and use the folder"):
        open_store(path)


def zipped_folder(path: Path, *stores: Store, compression: int = zipfile.ZIP_STORED) -> Path:
    """Make an archive of the folders of stores, as ``zip -r`` and file managers do."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("__MACOSX/._0.zarr", b"attributes")
        for number, store in enumerate(stores):
            archive.mkdir(f"{number}.zarr")
            for name, _ in store.directory.files():
                archive.writestr(f"{number}.zarr/{name}", store.directory.read(name))
    return path


def test_an_archive_of_the_folder_of_a_store_is_that_store(
    finished: Store, music: Path, tmp_path: Path, plan_of: Planner
) -> None:
    path = zipped_folder(tmp_path / "s.zarr.zip", finished)
    store = open_store(path)
    assert not verify(store, music).problems
    assert sorted(store.directory.files()) == sorted(finished.directory.files())
    assert store.n_bytes == finished.n_bytes
    catalog, plan = plan_of(music, n_mels=64)
    with pytest.raises(BuildError, match="already exists"):
        build(plan, catalog, path, InProcess())
    build(plan, catalog, path, InProcess(), replace=True)
    assert "zarr.json" in zipfile.ZipFile(path).namelist()


def test_an_archive_of_several_stores_is_refused(finished: Store, tmp_path: Path) -> None:
    path = zipped_folder(tmp_path / "s.zarr.zip", finished, finished)
    with pytest.raises(StoreError, match=r"in several folders, such as 0\.zarr/ and 1\.zarr/; unzip it"):
        open_store(path)


def test_a_compressed_archive_of_a_folder_is_refused_with_the_command_for_another(
    finished: Store, tmp_path: Path
) -> None:
    path = zipped_folder(tmp_path / "s.zarr.zip", finished, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(StoreError, match=r"zarr\.json is compressed .*: zip -0 -r NAME\.zarr\.zip FOLDER"):
        open_store(path)


@pytest.mark.skipif(program() is None, reason="nginx is not installed")
def test_an_archive_behind_a_web_server_is_read_by_ranges(
    finished: Store, zipped: Store, music: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "www"
    folder.mkdir()
    zipped_folder(folder / "folder.zarr.zip", finished)
    zipped_folder(folder / "several.zarr.zip", finished, finished)
    shutil.copy(str(zipped.directory), folder / "plain.zarr.zip")
    (folder / "cut.zarr.zip").write_bytes((folder / "plain.zarr.zip").read_bytes()[:100_000])
    server = Nginx(folder, tmp_path / "nginx")
    try:
        for name in ("folder", "plain"):
            store = open_store(f"{server.url}/{name}.zarr.zip")
            assert not verify(store, music).problems
            assert sorted(store.directory.files()) == sorted(finished.directory.files())
            read, found = store.reader(), np.empty(store.spec.shape, np.float32)
            read(7, found)
            np.testing.assert_array_equal(found, finished.mel[7])
        for name, sentence in (
            ("several", "in several folders"), ("cut", "copy or download it again"), ("none", "there is no store at"),
        ):  # fmt: skip
            with pytest.raises(StoreError, match=sentence):
                open_store(f"{server.url}/{name}.zarr.zip")
        with pytest.raises(CallError, match="an archive, which cannot be changed"):
            store.directory.write("a", b"b")
        requests = [line for line in server.log.read_text().splitlines() if "GET /plain.zarr.zip HTTP" in line]
        assert all('" 206 ' in line for line in requests)
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["README.md", "zarr.json", "mel/c/0/0/0/0"])
@pytest.mark.parametrize("size", [1 << 62, 1 << 40])
@pytest.mark.timeout(60)
def test_an_archive_that_lies_about_a_size_is_refused(tmp_path: Path, finished: Store, name: str, size: int) -> None:
    folder, path = LocalDirectory(tmp_path / "folder"), tmp_path / "lies.zarr.zip"
    for file, _ in finished.directory.files():
        folder.write(file, finished.directory.read(file))
    folder.write("README.md", b"hello")
    folder.write(
        "SHA256SUMS", checksum_lines({file: folder.digest(file, hashlib.sha256) for file, _ in folder.files()})
    )
    pack_folder(folder.path, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.getinfo(name).file_size = archive.getinfo(name).compress_size = size
        archive._didModify = True  # so that its directory is written again
    done = CliRunner().invoke(main, ["verify", str(path)])
    assert done.exit_code == 1
    assert "is not where it should be" in done.output


def test_a_damaged_byte_is_found(tmp_path: Path, zipped: Store) -> None:
    data = bytearray(Path(str(zipped.directory)).read_bytes())
    start = data.index(zipped.directory.read("mel/c/1/0/0/0"))
    data[start + 1000] ^= 1
    path = tmp_path / "bad.zarr.zip"
    path.write_bytes(data)
    problems = verify(open_store(path)).problems
    assert any("cannot be decoded" in line for line in problems)
    assert any("UUID" in line for line in problems)


def test_an_archive_is_not_changed_but_replaced_as_a_whole(
    music: Path, plan_of: Planner, tmp_path: Path, zipped: Store
) -> None:
    target = tmp_path / "music.zarr.zip"
    target.write_bytes(b"somebody else's")
    catalog, plan = plan_of(music)
    for replace in (False, True):
        with pytest.raises(BuildError, match="exists and is not a melzarr store"):
            build(plan, catalog, target, InProcess(), replace=replace)
    assert target.read_bytes() == b"somebody else's"
    target.unlink()
    catalog, plan = plan_of(music, n_mels=64)
    build(plan, catalog, target, InProcess())
    catalog, plan = plan_of(music)
    with pytest.raises(BuildError, match="already exists"):
        build(plan, catalog, target, InProcess())
    left = tmp_path / f".music.zarr.zip.sha256.{'0' * 16}.part"  # by a kill while the digest was written
    left.touch()
    build(plan, catalog, target, InProcess(), replace=True)
    assert not left.exists()
    assert target.read_bytes() == Path(str(zipped.directory)).read_bytes()
    with pytest.raises(CallError, match="an archive, which cannot be changed"):
        open_directory(target).write("a", b"b")


def test_files_in_folders_are_packed_whatever_their_names(tmp_path: Path) -> None:
    folder = LocalDirectory(tmp_path / "folder")
    names = ["b/zarr.json", "zarr.json", "a b", "naïve/♪", "b/c/0"]
    for name in names:
        folder.write(name, name.encode())
    pack_folder(folder.path, tmp_path / "a.zarr.zip")
    found = ZipDirectory(tmp_path / "a.zarr.zip")
    assert [name for name, _ in found.files()] == ["zarr.json", "b/zarr.json", "a b", "naïve/♪", "b/c/0"]
    assert all(found.read(name) == name.encode() for name in names)
    assert sorted(names) == sorted(name for name, _ in files_below(folder.path))
