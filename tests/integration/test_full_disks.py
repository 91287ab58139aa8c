"""Disks that are full, read-only, forbidden or limited: a sentence that names path and remedy, and nothing is lost.

Each build is a process of its own on a file system of its own, for which Linux, root and util-linux are needed.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from processes import digests

from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.zarr_store.reader import Store

pytestmark = pytest.mark.slow

PAGE = os.sysconf("SC_PAGE_SIZE")
SMALL = ("--n-windows", "60", "--tracks-per-shard", "5")


class Disk:
    """A file system in memory that grows and shrinks, and can be read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, *options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(self.path)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def change(self, *options: str) -> None:
        self.mount("remount", *options)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("a file system of its own needs Linux, root and util-linux")
    made = Disk(tmp_path / "disk")
    made.path.mkdir()
    try:
        made.mount("size=64m")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.decode()}")
    yield made
    command = ["umount", "--lazy", str(made.path)]
    subprocess.run(command, check=True, timeout=60)


def features(
    music: Path, target: Path, *arguments: str, before: tuple[str, ...] = (), limit: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """Build in a process of its own, that may write no file larger than a limit."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*before, str(Path(sys.executable).with_name("melzarr")), "features", str(music), str(target)]
    return subprocess.run(
        [*command, *SMALL, "--workers", "0", *arguments],
        capture_output=True, text=True, timeout=240, check=False, preexec_fn=limited,
    )  # fmt: skip


def pages(*paths: Path) -> int:
    """Bytes that files take in memory."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in paths)


def refused(done: subprocess.CompletedProcess[str], target: Path, *said: str) -> bool:
    """Whether a build ended with a sentence that says some things, and without a store."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert str(target) in sentence
    assert all(words in sentence for words in said), sentence
    return not target.exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_disk_that_is_full_in_the_middle_of_a_shard(workers: str, disk: Disk, music: Path, finished: Store) -> None:
    target = disk.path / "s.zarr"
    shards = sorted((finished.directory.path / "mel/c").glob("*/0/0/0"))
    disk.change(f"size={pages(shards[0]) + 8 * PAGE}")
    done = features(music, target, "--workers", workers)
    assert refused(done, target, "No space left", "free some space there and run the same command again")
    assert not list(open_workspace(target).root.path.rglob("*.part"))
    disk.change("size=64m")
    done = features(music, target)
    assert "tracks from an earlier run were checked and kept" in done.stdout
    assert digests(target) == digests(finished.directory.path)


def test_a_disk_that_is_full_when_all_shards_are_made(disk: Disk, music: Path, finished: Store) -> None:
    target = disk.path / "s.zarr"
    disk.change(f"size={pages(*(finished.directory.path / 'mel/c').glob('*/0/0/0')) + 24 * PAGE}")
    assert refused(features(music, target), target, "No space left", "free some space there")
    disk.change("size=64m")
    assert "12 tracks from an earlier run" in features(music, target).stdout
    assert digests(target) == digests(finished.directory.path)


def test_a_disk_that_becomes_read_only(disk: Disk, music: Path, finished: Store) -> None:
    target = disk.path / "s.zarr"
    disk.change("ro")
    assert refused(features(music, target), target, "is not writable; allow it, or choose another path")
    disk.change("rw")
    assert features(music, target).returncode == 0
    assert digests(target) == digests(finished.directory.path)


def test_a_folder_that_may_not_be_written(disk: Disk, music: Path) -> None:
    target = disk.path / "mine/s.zarr"
    target.parent.mkdir(mode=0o500)
    mortal = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")  # what bounds the others
    assert refused(features(music, target, before=mortal), target, "is not writable; allow it, or choose another path")
    target.parent.chmod(0o700)
    assert features(music, target, before=mortal).returncode == 0


def test_a_limit_that_is_reached_inside_a_shard(tmp_path: Path, music: Path, finished: Store) -> None:
    target = tmp_path / "s.zarr"
    largest = max(path.stat().st_size for path in (finished.directory.path / "mel/c").glob("*/0/0/0"))
    assert refused(features(music, target, limit=largest - 1), target, "File too large", "run the same command again")
    assert not list(open_workspace(target).root.path.rglob("*.part"))
    assert features(music, target).returncode == 0
    assert digests(target) == digests(finished.directory.path)


def test_a_quota_that_is_reached_inside_a_shard(
    tmp_path: Path, music: Path, finished: Store, plan_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, plan = plan_of(music)
    calls = itertools.count()

    def spent(_: int) -> None:  # no quota can be had without the system's configuration
        if next(calls) == 3:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("melzarr.pipeline.storage.atomic.os.fsync", spent)
    with pytest.raises(OSError, match=r"quota exceeded.*s\.zarr\.building"):
        build(plan, catalog, tmp_path / "s.zarr", InProcess())
    monkeypatch.undo()
    assert build(plan, catalog, tmp_path / "s.zarr", InProcess()).n_reused == 5
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)


def test_who_reads_a_store_while_it_is_replaced_reads_the_old_one_or_an_error(
    own_music: Path, tmp_path: Path, plan_of
) -> None:
    catalog, plan = plan_of(own_music)
    target = tmp_path / "s.zarr"
    build(plan, catalog, target, InProcess())
    before = xr.open_zarr(target)["mel"].values
    reader, plain = xr.open_zarr(target)["mel"], zarr.open_group(target, mode="r")["mel"]
    shutil.copy(own_music / "bells/bells.00000.wav", own_music / "bells/bells.00001.wav")
    build(plan, catalog, target, InProcess(), replace=True)
    after = xr.open_zarr(target)["mel"].values
    for track in range(12):
        for found in (reader[track].values, plain[track]):
            assert any((found == whole[track]).all() or np.isnan(found).all() for whole in (before, after))
