"""A file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from melzarr.pipeline.storage.atomic import files_below, remove_parts, tree_bytes, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_the_folders_that_it_needs(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "file", b"bytes")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"bytes"
    assert names(tmp_path / "a" / "b") == ["file"]


@pytest.mark.parametrize("after", [b"", b"new", b"longer than before"])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, after: bytes) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")
    write_whole(path, after)
    assert path.read_bytes() == after
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    (tmp_path / "other").mkdir()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["file", "other"]


def test_what_is_no_bytes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_whole(tmp_path / "file", "text")  # type: ignore[arg-type]
    assert names(tmp_path) == []


def test_a_folder_of_that_name_stays(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "file", b"bytes")
    assert names(tmp_path) == ["file"]


def test_while_many_write_and_one_reads_the_content_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 200_000 for number in range(8)]
    write_whole(path, contents[0])
    done = threading.Event()
    seen: set[bytes] = set()

    def write(content: bytes) -> None:
        for _ in range(5):
            write_whole(path, content)

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert seen | {path.read_bytes()} <= set(contents)
    assert seen
    assert names(tmp_path) == ["file"]


def test_parts_that_a_kill_has_left_go_and_nothing_else(tmp_path: Path) -> None:
    path, part = tmp_path / "a[b]*.json", "0a" * 8
    left = tmp_path / f".a[b]*.json.{part}.part"
    others = [tmp_path / name for name in (f".ab.json.{part}.part", ".a[b]*.json.part", f"a[b]*.json.{part}.part")]
    for file in (path, left, *others):
        file.write_text("{")
    (tmp_path / f".a[b]*.json.{'ff' * 8}.part").mkdir()
    remove_parts(path)
    assert not left.exists()
    assert all(file.exists() for file in (path, *others))
    assert len(list(tmp_path.iterdir())) == 5
    remove_parts(tmp_path / "nowhere/a.json")
    remove_parts(path / "a.json")  # below a file


def test_the_bytes_of_a_tree_are_those_of_all_its_files(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b/c", 200), ("b/d/.hidden", 3000), ("b/empty", 0)):
        write_whole(tmp_path / name, bytes(size))
    assert tree_bytes(tmp_path) == 3210
    assert tree_bytes(tmp_path / "nothing") == 0


def test_the_files_below_a_folder_are_those_that_rglob_finds(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/.hidden", "mel/c/0/0", "mel/zarr.json"):
        write_whole(tmp_path / name, b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    found = dict(files_below(tmp_path))
    assert found.keys() == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {entry.stat().st_size for entry in found.values()} == {1}
    assert dict(files_below(tmp_path, without="mel/c")).keys() == found.keys() - {"mel/c/0/0"}
    assert list(files_below(tmp_path / "nothing")) == []
