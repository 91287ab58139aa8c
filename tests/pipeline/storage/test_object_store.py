"""Object stores, on a real S3 server: what is read, built and verified there is what it is on a disk."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import obstore
import pytest
import soundfile
from click.testing import CliRunner
from processes import digests
from seaweed import Seaweed

from melzarr.cli import main
from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import Summary, build
from melzarr.pipeline.builder.up_to_date import changes
from melzarr.pipeline.builder.worker import ShardJob, make_shard
from melzarr.pipeline.clusters.task_runner import InProcess, OnDask, connect
from melzarr.pipeline.errors import BuildError, CallError, CatalogError, StorageError, StoreError
from melzarr.pipeline.inspection.scan import scan
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing.object_workspace import ObjectWorkspace
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage import lock
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.reader import Store, open_store

SPEC = FeatureSpec(n_windows=60)  # of `finished`


def uploaded(folder: Path, directory: ObjectStoreDirectory) -> ObjectStoreDirectory:
    """Copy all files of a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            directory.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return directory


@pytest.fixture
def remote_music(music: Path, bucket: ObjectStoreDirectory) -> ObjectStoreDirectory:
    return uploaded(music, bucket.child("music"))


def remote_digests(directory: ObjectStoreDirectory) -> dict[str, str]:
    return {name: hashlib.sha256(directory.read(name)).hexdigest() for name, _ in directory.files()}


def run(root: object, target: object, runner: InProcess | None = None, *, replace: bool = False, **spec) -> Summary:
    catalog = read_catalog(root)
    plan = make_plan(FeatureSpec.from_dict({**SPEC.to_dict(), **spec}), catalog.tracks, versions(), 5)
    return build(plan, catalog, target, runner or InProcess(), replace=replace)


class StopsAfter(InProcess):
    """A runner that stops after some shards, as if it were killed."""

    def __init__(self, n_shards: int) -> None:
        self.left = n_shards

    def run(self, function, jobs, rescue=None) -> Iterator[Receipt]:
        for job in jobs:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield function(job)


def test_the_receipts_of_an_older_plan_are_adopted(bucket: ObjectStoreDirectory) -> None:
    older, newer = (ObjectWorkspace(bucket.child("s.zarr"), digit * 64) for digit in "ab")
    for index in range(40):
        older.root.write(older.receipt(index), b"older")
    newer.root.write(newer.receipt(3), b"newer")
    newer.adopt_receipts()
    names = sorted(name for name, _ in newer.root.files())
    assert names == [newer.receipt(index) for index in range(40)]
    assert [newer.root.read(name) for name in names[2:5]] == [b"older", b"newer", b"older"]


def test_a_store_that_is_built_from_bucket_to_bucket_has_the_bytes_of_one_on_a_disk(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, finished: Store
) -> None:
    target = bucket.child("s.zarr")
    assert run(remote_music, target).n_reused == 0
    assert remote_digests(target) == digests(finished.directory.path)
    assert not bucket.child("s.zarr.building").exists()
    assert changes_of(remote_music, target) == []


def changes_of(root: ObjectStoreDirectory, target: ObjectStoreDirectory) -> list[str]:
    catalog = read_catalog(root)
    return changes(open_store(target), make_plan(SPEC, catalog.tracks, versions(), 5), catalog)


def test_it_is_verified_against_librosa_and_read_like_any_other(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, finished: Store
) -> None:
    run(remote_music, bucket.child("s.zarr"))
    store = open_store(f"{bucket}/s.zarr")
    verdict = verify(store, remote_music, n_samples=12)
    assert verdict.problems == []
    assert (verdict.n_tracks, verdict.n_sources, verdict.n_sampled) == (12, 12, 11)
    assert store.n_bytes == finished.n_bytes
    read, expected = store.reader(), finished.mel[...]
    found = np.empty_like(expected)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: read(number, found[number]), range(12)))
    np.testing.assert_array_equal(found, expected)


def test_on_the_web_it_is_read_and_verified_where_nothing_can_be_listed(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, s3: Seaweed, finished: Store
) -> None:
    run(remote_music, bucket.child("s.zarr"))
    rows = ["path,label", *(f"{name},{name.partition('/')[0]}" for name, _ in remote_music.files())]
    remote_music.write("tracks.csv", "\n".join(rows).encode())
    web = open_directory(f"{bucket}/s.zarr".replace("s3:/", s3.web))
    store = open_store(web)
    verdict = verify(store, f"{remote_music}".replace("s3:/", s3.web), n_samples=3)
    assert (verdict.problems, verdict.n_tracks, verdict.n_sampled) == ([], 12, 3)
    assert store.n_bytes == finished.n_bytes
    catalog = read_catalog(f"{remote_music}/tracks.csv".replace("s3:/", s3.web))
    assert len(catalog.tracks) == 12
    with pytest.raises(CallError, match=r"can be read but not written; use a folder, or an address at s3://"):
        open_workspace(web)
    with pytest.raises(StorageError, match="a folder on a web server cannot be listed; give a manifest"):
        list(web.files())


def test_damage_is_found_and_named(remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory) -> None:
    target = bucket.child("s.zarr")
    run(remote_music, target)
    whole = target.read("mel/c/1/0/0/0")
    target.write("mel/c/1/0/0/0", whole[:100], bytes([whole[100] ^ 1]), whole[101:])
    target.remove(["mel/c/2/0/0/0"])
    problems = verify(open_store(target)).problems
    assert any("bells/bells.00005: its chunk cannot be decoded" in line for line in problems)
    assert any("mel/c/2/0/0/0 is missing, with the tracks drums/drums.00004" in line for line in problems)
    with pytest.raises(ValueError, match="checksum"):
        open_store(target).reader()(5, np.empty((60, 5, 128), np.float32))
    with pytest.raises(FileNotFoundError):
        open_store(target).reader()(10, np.empty((60, 5, 128), np.float32))
    target.remove(["label/c/0"])
    with pytest.raises(StoreError, match="label/c/0 is missing"):
        open_store(target).values("label")


def test_a_build_that_was_stopped_goes_on(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, finished: Store
) -> None:
    target = bucket.child("s.zarr")
    with pytest.raises(KeyboardInterrupt):
        run(remote_music, target, StopsAfter(2))
    with pytest.raises(StoreError, match="there is no store"):
        open_store(target)
    assert run(remote_music, target).n_reused == 10
    assert remote_digests(target) == digests(finished.directory.path)


@pytest.mark.parametrize("what", ["shard", "audio"])
def test_what_is_kept_was_checked(what: str, remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory) -> None:
    target = bucket.child("s.zarr")
    with pytest.raises(KeyboardInterrupt):
        run(remote_music, target, StopsAfter(2))
    if what == "shard":
        (name,) = (
            f"shards/{name}" for name, _ in open_workspace(target).root.child("shards").files() if "0001." in name
        )
        data = open_workspace(target).root.read(name)
        open_workspace(target).root.write(name, data[:-1], b"!")
    else:
        remote_music.write("bells/bells.00005.wav", remote_music.read("bells/bells.00003.wav"))
    summary = run(remote_music, target)
    assert summary.n_reused == 5
    assert len(summary.outdated) == 1
    run(remote_music, bucket.child("fresh.zarr"))
    assert remote_digests(target) == remote_digests(bucket.child("fresh.zarr"))


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("n_writes", [0, 5, 30])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_opens_whole_or_not_at_all_wherever_publishing_is_cut_off(
    n_writes: int, replaced: bool, remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, finished: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    target = bucket.child("s.zarr")
    if replaced:
        run(remote_music, target, n_mels=64)
    left = [n_writes]

    def write(self: ObjectStoreDirectory, name: str, *parts: bytes) -> None:
        if self == target:
            left[0] -= 1
            if left[0] < 0:
                raise CutOffError
        original(self, name, *parts)

    original = ObjectStoreDirectory.write
    monkeypatch.setattr(ObjectStoreDirectory, "write", write)
    with pytest.raises(CutOffError):
        run(remote_music, target, replace=replaced)
    monkeypatch.setattr(ObjectStoreDirectory, "write", original)
    with pytest.raises(StoreError, match="there is no store"):
        open_store(target)
    assert not open_workspace(target).occupied()
    assert run(remote_music, target, replace=replaced).n_reused == 12
    assert remote_digests(target) == digests(finished.directory.path)


def test_a_store_that_is_there_stays_until_the_new_one_is_computed(
    own_music: Path, bucket: ObjectStoreDirectory, finished: Store
) -> None:
    target = bucket.child("s.zarr")
    run(own_music, target)
    soundfile.write(own_music / "drums/drums.00004.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 22050)
    with pytest.raises(BuildError, match="already exists"):
        run(own_music, target)
    with pytest.raises(KeyboardInterrupt):
        run(own_music, target, StopsAfter(2), replace=True)
    assert remote_digests(target) == digests(finished.directory.path)
    summary = run(own_music, target, replace=True)
    assert (summary.n_reused, summary.statuses["failed"]) == (10, 0)
    assert verify(open_store(target), own_music).problems == []


class Meanwhile(InProcess):
    """A runner after whose last job something happens."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self.happens = happens

    def run(self, function, jobs, rescue=None) -> Iterator[Receipt]:
        yield from map(function, jobs)
        self.happens()


def test_what_has_come_while_a_build_ran_is_left_alone(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory
) -> None:
    target = bucket.child("s.zarr")
    with pytest.raises(BuildError, match="was created by another process in the meantime"):
        run(remote_music, target, Meanwhile(lambda: target.write("thesis.txt", b"years of work")))
    assert [name for name, _ in target.files()] == ["thesis.txt"]
    target.remove(["thesis.txt"])
    assert run(remote_music, target).n_reused == 12


def test_a_store_that_appears_in_the_last_moment_is_not_written_over(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = bucket.child("s.zarr")
    original = ObjectWorkspace._copy

    def overtaken(self: ObjectWorkspace, *arguments: object, **options: object) -> None:
        original(self, *arguments, **options)
        target.write("zarr.json", b"{}")

    monkeypatch.setattr(ObjectWorkspace, "_copy", overtaken)
    with pytest.raises(BuildError, match="was created by another process in the meantime"):
        run(remote_music, target)
    assert target.read("zarr.json") == b"{}"


def test_who_has_lost_the_lock_while_publishing_harms_nothing(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that sleeps in the middle of it, while another build of the same store takes over."""
    target, original = bucket.child("s.zarr"), ObjectStoreDirectory.move
    monkeypatch.setattr(lock, "BEAT", 3600)
    monkeypatch.setattr(lock, "SILENCE", 1)

    def asleep(self: ObjectStoreDirectory, name: str, new_name: str, to: ObjectStoreDirectory | None = None) -> None:
        monkeypatch.setattr(ObjectStoreDirectory, "move", original)
        run(remote_music, target)
        original(self, name, new_name, to)

    monkeypatch.setattr(ObjectStoreDirectory, "move", asleep)
    with pytest.raises((BuildError, FileNotFoundError)):
        run(remote_music, target)
    assert remote_digests(target) == digests(finished.directory.path)
    assert verify(open_store(target)).problems == []


def test_a_shard_that_did_not_come_into_the_store_keeps_it_from_appearing(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStoreDirectory, "move", gone)
        with pytest.raises(BuildError, match="3 of 3 shards did not arrive in"):
            run(remote_music, bucket.child("s.zarr"))
    assert run(remote_music, bucket.child("s.zarr")).n_reused == 12


def test_a_store_is_replaced_in_an_order_in_which_a_kill_loses_nothing(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = bucket.child("s.zarr")
    run(remote_music, target)
    target.write("mel/c/3/0/0/0", b"a shard of a longer store")
    seen = []

    def recorded(name: str) -> Callable[..., object]:
        original = getattr(ObjectStoreDirectory, name)

        def call(self: ObjectStoreDirectory, names: object, *arguments: object) -> object:
            some = [names] if isinstance(names, str) else list(names)
            seen.extend((name, f"{self.name}/{one}") for one in some)
            return original(self, names if isinstance(names, str) else some, *arguments)

        return call

    for name in ("write", "remove", "move", "exchange"):
        monkeypatch.setattr(ObjectStoreDirectory, name, recorded(name))
    run(remote_music, target, replace=True, n_mels=64)
    moves = [number for number, (what, _) in enumerate(seen) if what == "move"]
    assert len(moves) == 3
    written = [number for number, (what, name) in enumerate(seen) if what == "write" and name.startswith("s.zarr/")]
    steps = [
        ("write", "s.zarr.building/described.json"),
        ("write", "s.zarr.building/publishing"),
        ("remove", "s.zarr/zarr.json"),
        seen[min(moves)], seen[max(moves)],
        ("remove", "s.zarr/mel/c/3/0/0/0"),
        seen[min(written)], seen[max(written)],
        ("exchange", "s.zarr/zarr.json"),
        ("write", "s.zarr.building/published"),
        ("remove", "s.zarr.building/described.json"),
        ("remove", "s.zarr.building/published"),
    ]  # fmt: skip
    places = [len(seen) - 1 - seen[::-1].index(step) for step in steps]
    assert places == sorted(places)
    assert seen.count(("remove", "s.zarr/zarr.json")) == 1


def test_the_shards_of_a_store_that_is_replaced_are_offered_side_by_side(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(remote_music, bucket.child("s.zarr"))
    all_three, original = threading.Barrier(3), ObjectWorkspace.reuse_published_shard

    def together(self: ObjectWorkspace, receipt: Receipt) -> None:
        all_three.wait(timeout=60)
        original(self, receipt)

    monkeypatch.setattr(ObjectWorkspace, "reuse_published_shard", together)
    assert run(remote_music, bucket.child("s.zarr"), replace=True).n_reused == 12


def test_an_upload_that_fails_leaves_the_other_shards_and_is_done_by_the_next_build(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, original = bucket.child("s.zarr"), ObjectStoreDirectory.write

    def write(self: ObjectStoreDirectory, name: str, *parts: bytes) -> None:
        if name.startswith("shards/0000001."):
            raise StorageError("the server does not answer")
        original(self, name, *parts)

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="inproc://", dashboard_address=None
    ) as cluster, distributed.Client(cluster, set_as_default=False) as client:  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStoreDirectory, "write", write)
            with pytest.raises(StorageError, match="does not answer"):
                run(remote_music, target, OnDask(client))
        assert open_workspace(target).read_receipt(1) is None
        kept = open_workspace(target).n_receipts()
        summary = run(remote_music, target, OnDask(client))
    assert kept >= 1
    assert summary.n_reused in {5, 7, 10}  # of shards of 5, 5 and 2 tracks, whatever was finished when the build ended
    assert remote_digests(target) == digests(finished.directory.path)


def ends_its_first_worker(job: ShardJob) -> Receipt:
    """Make a shard; the first process that uploads one ends before the shard is safe."""

    def write(self: ObjectStoreDirectory, name: str, *parts: bytes) -> None:
        if name.startswith("shards/"):
            with suppress(FileExistsError):
                self.exchange("ended", b"", None)
                os._exit(1)
        original(self, name, *parts)

    original, ObjectStoreDirectory.write = ObjectStoreDirectory.write, write
    try:
        return make_shard(job)
    finally:
        ObjectStoreDirectory.write = original


@pytest.mark.slow
def test_a_worker_that_ends_while_it_uploads_is_replaced(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melzarr.pipeline.builder.run_build.make_shard", ends_its_first_worker)
    with connect("local", 1, 1 << 28) as runner:
        run(remote_music, bucket.child("s.zarr"), runner)
    assert remote_digests(bucket.child("s.zarr")) == digests(finished.directory.path)


def test_missing_files_are_removed_without_an_error_whatever_a_service_says(
    bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        bucket.write(f"a/{number}", b"")
    original = obstore.delete

    def delete(client: object, names: str | list[str]) -> None:
        if not isinstance(names, str) or names == "a/missing":
            raise FileNotFoundError
        original(client, names)

    monkeypatch.setattr(obstore, "delete", delete)
    bucket.remove(["a/missing", *(f"a/{number}" for number in range(40))])
    assert [name for name, _ in bucket.files()] == [".keep"]


def test_what_lies_there_already_and_is_no_store_is_left_alone(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory
) -> None:
    bucket.write("mine/thesis.txt", b"years of work")
    assert open_workspace(bucket.child("mine")).occupied()
    with pytest.raises(BuildError, match="exists and is not a melzarr store"):
        run(remote_music, bucket.child("mine"))
    assert bucket.read("mine/thesis.txt") == b"years of work"


def test_a_tree_and_a_manifest_give_the_tracks_that_they_give_on_a_disk(
    music: Path, remote_music: ObjectStoreDirectory
) -> None:
    remote_music.write("bells/.hidden.wav", b"")
    remote_music.write(".trash/old.wav", b"")
    remote_music.write("bells/notes.txt", b"a note")
    remote_music.write("folder", b"")  # as some programs mark a folder
    assert read_catalog(remote_music).tracks == read_catalog(music).tracks
    assert read_catalog(remote_music).left_out == ("bells/notes.txt",)
    absolute = f"path,label\nbells/bells.00000.wav,a\n{remote_music}/drums/drums.00000.wav,b\n"
    remote_music.write("tracks.csv", absolute.encode())
    assert [track.source for track in read_catalog(remote_music.child("tracks.csv")).tracks] == [
        "bells/bells.00000.wav",
        "drums/drums.00000.wav",
    ]
    for outside in ("s3://other/a.wav", "/etc/a.wav", "../a.wav"):
        remote_music.write("tracks.csv", f"path,label\n{outside},a\n".encode())
        with pytest.raises(CatalogError, match=r"tracks\.csv, row 1: .* is outside the manifest's folder"):
            read_catalog(remote_music.child("tracks.csv"))
    with pytest.raises(CatalogError, match=r"nothing is neither a folder nor a manifest"):
        read_catalog(remote_music.child("nothing"))


def test_a_manifest_here_names_files_there(tmp_path: Path, remote_music: ObjectStoreDirectory) -> None:
    remote_music.write("bells/cafe\u0301.wav", b"")
    rows = [" bells/bells.00000.wav", f"{remote_music}/drums/drums.00000.wav", "bells/caf\u00e9.wav", "~/a.wav"]
    (tmp_path / "tracks.csv").write_text("\n".join(["path,label", *(f"{row},a" for row in rows)]))
    catalog = read_catalog(tmp_path / "tracks.csv", audio_root=str(remote_music))
    assert catalog.root == remote_music
    assert [track.source for track in catalog.tracks] == [
        "bells/bells.00000.wav",
        "bells/cafe\u0301.wav",
        "drums/drums.00000.wav",
        "~/a.wav",
    ]


def test_a_scan_finds_what_it_finds_on_a_disk(music: Path, remote_music: ObjectStoreDirectory) -> None:
    found = []
    for root in (music, remote_music):
        catalog = read_catalog(root)
        scanned = scan(catalog, make_plan(SPEC, catalog.tracks, versions(), 5), 1)
        found.append((scanned.codecs, scanned.rates, scanned.durations, scanned.problems, scanned.labels))
    assert found[0] == found[1]


def test_a_file_that_is_not_there_is_a_failed_track(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory
) -> None:
    rows = "path,label\nbells/bells.00000.wav,bells\nbells/gone.wav,bells\n"
    remote_music.write("tracks.csv", rows.encode())
    summary = run(remote_music.child("tracks.csv"), bucket.child("s.zarr"))
    assert summary.statuses == {"ok": 1, "failed": 1}
    ((source, status, sentence),) = summary.troubled
    assert (source, status) == ("bells/gone.wav", "failed")
    assert "cannot be read: No such file" in sentence


def test_a_name_that_no_object_can_have_or_no_disk_is_one_failed_track(
    remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory
) -> None:
    long = f"bells/{'a' * 230}.flac.wav"
    remote_music.write(long, remote_music.read("bells/bells.00000.wav"))
    rows = f'path,label\n"bells/a\tb.wav",bells\n{long},bells\nbells/bells.00002.wav,bells\n'
    remote_music.write("tracks.csv", rows.encode())
    assert run(remote_music.child("tracks.csv"), bucket.child("s.zarr")).statuses == {"ok": 2, "failed": 1}


@pytest.mark.parametrize("name", ["a b.zarr", "50%.zarr", "ünï.zarr", "a+b&c=d.zarr"])
def test_a_store_has_the_name_that_it_was_given(
    name: str, remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory
) -> None:
    run(remote_music, f"{bucket}/{name}/")
    assert verify(open_store(f"{bucket}/{name}")).problems == []
    assert bucket.size(f"{name}/zarr.json")


def test_a_whole_bucket_is_no_place_for_a_store(remote_music: ObjectStoreDirectory) -> None:
    with pytest.raises(
        CallError, match=r"s3://zarr is a whole bucket; give a place in it, such as s3://zarr/music.zarr"
    ):
        run(remote_music, "s3://zarr")


def test_of_nothing_nothing_is_read(bucket: ObjectStoreDirectory) -> None:
    bucket.write("empty", b"")
    assert (bucket.read_range("empty", 0, 0), bucket.read_end("empty", 10)) == (b"", (b"", 0))


@pytest.mark.parametrize("what", ["verify", "sample", "features"])
def test_where_the_server_is_at_fault_nothing_else_is_blamed(
    what: str, remote_music: ObjectStoreDirectory, bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(remote_music, bucket.child("s.zarr"))
    store = open_store(bucket.child("s.zarr"))

    def away(*_: object) -> None:
        raise StorageError("the server does not answer")

    monkeypatch.setattr(ObjectStoreDirectory, "local" if what == "sample" else "digest", away)
    if what == "features":
        done = CliRunner().invoke(main, ["features", str(remote_music), str(store.directory), "--n-windows", "60"])
        assert done.exit_code == 1
        assert "the server does not answer" in done.stderr
        assert "--force" not in done.stderr
    else:
        with pytest.raises(StorageError):
            verify(store, remote_music, n_samples=2)


def test_files_are_brought_in_their_order_and_go_again(bucket: ObjectStoreDirectory) -> None:
    for number in range(10):
        bucket.write(f"a/{number}.wav", bytes([number]))
    before = None
    for number, path in enumerate(bucket.local_files([f"a/{number}.wav" for number in range(10)])):
        assert (path.name, path.read_bytes()) == (f"{number}.wav", bytes([number]))
        assert before is None or not before.exists()
        before = path
    with bucket.local("a/3.wav") as path:
        assert path.read_bytes() == b"\x03"
    assert not path.exists()
    with bucket.local("a/none.wav") as path:
        assert not path.exists()


def test_a_file_of_several_excerpts_is_fetched_once(
    bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, fetch = [], ObjectStoreDirectory._fetch
    for name in "ab":
        bucket.write(name, name.encode())
    monkeypatch.setattr(
        ObjectStoreDirectory, "_fetch", lambda self, name, folder: fetched.append(name) or fetch(self, name, folder)
    )
    read = [path.read_bytes() for path in bucket.local_files(iter("aaabba"))]
    assert b"".join(read) == b"aaabba"
    assert sorted(fetched) == ["a", "a", "b"]


def test_a_list_whose_response_breaks_off_goes_on(
    bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{number}" for folder in "ab" for number in range(4)]
    for name in names:
        bucket.write(name, b"1")
    full_list, asked = obstore.list, []

    def broken(client: Any, *, offset: str | None, chunk_size: int) -> Iterator[Any]:
        asked.append(offset)
        for n_done, some in enumerate(full_list(client, offset=offset, chunk_size=min(chunk_size, 2))):
            if n_done == 1:
                raise obstore.exceptions.GenericError("Error getting list response body: it broke off")
            yield some

    before = [name for name, _ in bucket.files()]
    monkeypatch.setattr(obstore, "list", broken)
    found = [name for name, _ in bucket.files()]
    assert (found, len(asked)) == (before, -(-len(before) // 2))
    assert set(names) <= set(found)
    for name in "cdef":
        bucket.write(name, b"1")
    with pytest.raises(StorageError, match="the request failed"):
        list(bucket.files())  # it breaks off once too often


def test_a_file_is_exchanged_only_where_it_is_as_it_was(bucket: ObjectStoreDirectory) -> None:
    first = bucket.exchange("a", b"1", None)
    with pytest.raises(FileExistsError):
        bucket.exchange("a", b"2", None)
    second = bucket.exchange("a", b"2", first)
    with pytest.raises(FileExistsError):
        bucket.exchange("a", b"3", first)
    assert bucket.version_of("a") == (b"2", second)
    bucket.remove(["a", "never"])
    with pytest.raises(FileExistsError):
        bucket.exchange("a", b"3", second)


def test_an_address_is_all_that_is_pickled(bucket: ObjectStoreDirectory, s3: Seaweed) -> None:
    bucket.write("a", b"1")
    data = pickle.dumps(bucket.with_retries())
    assert not any(value.encode() in data for value in s3.environment().values() if value != "us-east-1")
    assert pickle.loads(data).read("a") == b"1"  # noqa: S301  (from here)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/a", "an address that begins with s3://, gs://"),
        ("s3://", "names no bucket; give s3://BUCKET/NAME"),
        ("s3://[x/y", "is not an address"),
        ("s3://bucket/a%20b.zarr", "write the names in it unescaped"),
        ("s3://bucket/a//b.zarr", "write the names in it unescaped"),
        ("s3://bucket/a/../b.zarr", "write the names in it unescaped"),
        ("s3://key:secret@bucket/a", "s3://bucket/a: give the address without password"),
        ("https://host/a?X-Amz-Signature=abc", "https://host/a: give the address without password, query"),
    ],
)
def test_an_address_that_is_none_or_says_too_much_is_refused(address: str, said: str) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(CallError, match=said) as refused:
        open_directory(address)
    assert "secret" not in str(refused.value)
    assert "abc" not in str(refused.value)


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    assert open_directory("C:/music").folder == Path("C:/music")
    assert open_directory(f"{tmp_path}/a:b").folder == tmp_path / "a:b"
    assert shutil.disk_usage(open_directory(tmp_path).folder).total
