"""A build: the same bytes wherever it runs, whole or absent, resumed where it was stopped."""

import dataclasses
import filecmp
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import distributed
import numpy as np
import pytest
import soundfile

from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import Summary, build
from melzarr.pipeline.builder.up_to_date import changes
from melzarr.pipeline.builder.worker import ShardJob, make_shard
from melzarr.pipeline.clusters.task_runner import InProcess, OnDask, connect
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing.local_workspace import LocalWorkspace
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.shard import shard_name


def same_bytes(first: Path, second: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names = [sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) for root in (first, second)]
    return names[0] == names[1] and not any(filecmp.cmpfiles(first, second, names[0], shallow=False)[1:])


def run(root: Path, target: Path, plan_of, runner=None, replace: bool = False, **spec: object) -> Summary:
    catalog, plan = plan_of(root, **spec)
    return build(plan, catalog, target, runner or InProcess(), replace=replace)


def test_a_build_says_what_became_of_each_track(music: Path, tmp_path: Path, plan_of) -> None:
    summary = run(music, tmp_path / "s.zarr", plan_of)
    assert summary.shape == (12, 60, 5, 128)
    assert summary.statuses == {"ok": 9, "short": 1, "silent": 1, "failed": 1}
    assert {source for source, _, _ in summary.troubled} == {
        "bells/bells.00001.wav",
        "drums/drums.00002.wav",
        "drums/drums.00004.wav",
    }
    assert summary.seconds.keys() >= {"wall", "decode", "mel", "write"}
    assert not open_workspace(tmp_path / "s.zarr").root.path.exists()


def test_the_bytes_do_not_depend_on_the_number_of_workers(
    one_worker: OnDask, music: Path, tmp_path: Path, plan_of, finished: Store
) -> None:
    run(music, tmp_path / "one.zarr", plan_of, one_worker)
    assert same_bytes(tmp_path / "one.zarr", finished.directory.path)
    with connect("local", 2, 1 << 28) as runner:
        assert (one_worker.n_workers, runner.n_workers) == (1, 2)
        run(music, tmp_path / "s.zarr", plan_of, runner)
    assert same_bytes(tmp_path / "s.zarr", finished.directory.path)


def test_the_bytes_do_not_depend_on_where_the_audio_lies(own_music: Path, tmp_path: Path, plan_of, finished) -> None:
    run(own_music, tmp_path / "s.zarr", plan_of)
    assert same_bytes(tmp_path / "s.zarr", finished.directory.path)


def test_an_existing_scheduler_with_threaded_workers_gives_the_same_bytes(
    music: Path, tmp_path: Path, plan_of, finished: Store
) -> None:
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=3,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=":0",
        ) as cluster,
        connect(cluster.scheduler_address, None, 1 << 28) as runner,
    ):
        run(music, tmp_path / "s.zarr", plan_of, runner)
    assert same_bytes(tmp_path / "s.zarr", finished.directory.path)


class Haunted(InProcess):
    """A runner after whose last job one worker of an earlier build, given up since, comes to its end."""

    def __init__(self, late: Callable[[ShardJob], object]) -> None:
        self.late = late

    def run(self, function, jobs, rescue=None):
        jobs = list(jobs)
        yield from map(function, jobs)
        self.late(jobs[0])


def test_a_late_worker_of_an_earlier_build_harms_nothing(own_music: Path, tmp_path: Path, plan_of) -> None:
    target, path = tmp_path / "s.zarr", own_music / "bells/bells.00000.wav"
    now, before = path.read_bytes(), np.random.default_rng(0).uniform(-0.5, 0.5, 80_000)
    written = []

    def late(job: ShardJob) -> None:
        soundfile.write(path, before, 22050)  # what the earlier build had read, before the file was changed
        workspace = open_workspace(target)
        receipt = workspace.read_receipt(job.shard.index)
        workspace.root.remove([workspace.receipt(job.shard.index)])  # it looked before there was one
        written.extend([make_shard(job).blake3, receipt.blake3])
        path.write_bytes(now)

    run(own_music, target, plan_of, Haunted(late))
    assert written[0] != written[1]
    run(own_music, tmp_path / "alone.zarr", plan_of)
    assert same_bytes(target, tmp_path / "alone.zarr")


def test_a_worker_that_comes_after_the_end_leaves_nothing(own_music: Path, tmp_path: Path, plan_of) -> None:
    target, jobs = tmp_path / "s.zarr", []
    run(own_music, target, plan_of, Haunted(jobs.append))
    with pytest.raises(BuildError, match="is over"):
        make_shard(jobs[0])
    assert [path.name for path in tmp_path.iterdir() if "zarr" in path.name] == ["s.zarr"]


def shard_file(target: Path, index: int) -> Path:
    """File of a shard in work."""
    (path,) = (open_workspace(target).root.path / "shards").glob(f"{index:07d}.*")
    return path


class StopsAfter(InProcess):
    """A runner that stops after some shards, as if it were killed."""

    def __init__(self, n_shards: int) -> None:
        self.left = n_shards

    def run(self, function, jobs, rescue=None):
        for job in jobs:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield function(job)


def interrupted(root: Path, target: Path, plan_of, n_shards: int = 2, replace: bool = False) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(root, target, plan_of, StopsAfter(n_shards), replace)


def test_a_resumed_build_makes_only_what_is_missing(music: Path, tmp_path: Path, plan_of, finished: Store) -> None:
    target = tmp_path / "s.zarr"
    interrupted(music, target, plan_of)
    summary = run(music, target, plan_of)
    assert summary.n_reused == 10
    assert not summary.outdated
    assert same_bytes(target, finished.directory.path)


def test_a_shard_whose_bytes_were_damaged_is_made_again(music: Path, tmp_path: Path, plan_of, finished: Store) -> None:
    target = tmp_path / "s.zarr"
    interrupted(music, target, plan_of)
    shard = shard_file(target, 1)
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    summary = run(music, target, plan_of)
    assert summary.n_reused == 5
    assert summary.outdated == ("its bytes are not those that were written",)
    assert same_bytes(target, finished.directory.path)


def test_a_shard_whose_audio_has_changed_is_made_again(own_music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    interrupted(own_music, target, plan_of)
    soundfile.write(own_music / "bells/bells.00000.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 22050)
    summary = run(own_music, target, plan_of)
    assert summary.n_reused == 5
    assert summary.outdated == ("bells/bells.00000.wav has changed",)
    run(own_music, tmp_path / "fresh.zarr", plan_of)
    assert same_bytes(target, tmp_path / "fresh.zarr")


def test_a_changed_spec_or_version_is_said_and_all_is_made_again(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    interrupted(music, target, plan_of)
    summary = run(music, target, plan_of, n_mels=64)
    assert summary.n_reused == 0
    assert set(summary.outdated) == {"the spec, the versions or the tracks have changed"}
    run(music, tmp_path / "fresh.zarr", plan_of, n_mels=64)
    assert same_bytes(target, tmp_path / "fresh.zarr")


def test_leftovers_of_another_plan_do_not_get_into_the_store(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    interrupted(music, target, plan_of)
    catalog = read_catalog(music)
    few = dataclasses.replace(catalog, tracks=catalog.tracks[:5])
    plan = make_plan(plan_of(music)[1].spec, few.tracks, plan_of(music)[1].versions, 5)
    build(plan, few, target, InProcess())
    assert not verify(open_store(target)).problems
    assert sorted(path.name for path in (target / "mel/c").iterdir()) == ["0"]


def test_a_worker_with_other_versions_is_refused(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    other = dataclasses.replace(plan, versions={**plan.versions, "numpy": "1.0"})
    with pytest.raises(BuildError, match=r"numpy .* here, 1\.0 in the plan"):
        build(other, catalog, tmp_path / "s.zarr", InProcess())
    assert not (tmp_path / "s.zarr").exists()


def test_a_second_build_on_the_same_store_is_refused_while_the_first_lives(
    music: Path, tmp_path: Path, plan_of
) -> None:
    target = tmp_path / "s.zarr"
    with open_workspace(target).locked(), pytest.raises(BuildError, match=f"being built by process {os.getpid()}"):
        run(music, target, plan_of)
    run(music, target, plan_of)


class Loses(InProcess):
    """A runner that loses one result."""

    def run(self, function, jobs, rescue=None):
        return (function(job) for job in list(jobs)[1:])


def test_nothing_is_published_while_a_shard_is_missing(music: Path, tmp_path: Path, plan_of) -> None:
    with pytest.raises(BuildError, match=r"1 of 3 shards are missing, with the tracks bells/bells\.00000"):
        run(music, tmp_path / "s.zarr", plan_of, Loses())
    assert not (tmp_path / "s.zarr").exists()


class Removes(InProcess):
    """A runner after which a shard is gone from the disk."""

    def __init__(self, target: Path, index: int) -> None:
        self.target, self.index = target, index

    def run(self, function, jobs, rescue=None):
        for job in jobs:
            yield function(job)
        shard_file(self.target, self.index).unlink()


def test_nothing_is_published_while_a_shards_file_is_gone(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    with pytest.raises(BuildError, match="1 of 3 shards are missing"):
        run(music, target, plan_of, Removes(target, 2))
    assert not target.exists()


def test_a_store_that_is_there_stays_until_the_new_one_is_complete(
    own_music: Path, tmp_path: Path, plan_of, finished: Store
) -> None:
    target = tmp_path / "s.zarr"
    run(own_music, target, plan_of)
    soundfile.write(own_music / "drums/drums.00004.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 22050)
    interrupted(own_music, target, plan_of, n_shards=1, replace=True)
    assert same_bytes(target, finished.directory.path)
    summary = run(own_music, target, plan_of, replace=True)
    assert summary.statuses["failed"] == 0
    assert summary.n_reused == 10  # the shards that still fit
    run(own_music, tmp_path / "fresh.zarr", plan_of)
    assert same_bytes(target, tmp_path / "fresh.zarr")


def test_a_store_that_another_build_has_just_finished_is_not_replaced(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    run(music, target, plan_of)
    with pytest.raises(BuildError, match="already exists; choose another path, or replace it with --force"):
        run(music, target, plan_of, n_mels=64)
    assert open_store(target).spec.n_mels == 128


def killed_before_the_rest_was_removed(root: Path, target: Path, plan_of, **spec: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalWorkspace, "discard", lambda _: None)
        run(root, target, plan_of, replace=target.exists(), **spec)


def test_what_a_kill_after_the_last_step_leaves_does_no_harm(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    run(music, target, plan_of, n_mels=64)
    killed_before_the_rest_was_removed(music, target, plan_of)
    assert open_workspace(target).root.path.exists()
    assert run(music, target, plan_of, replace=True).n_reused == 12
    assert not open_workspace(target).root.path.exists()
    killed_before_the_rest_was_removed(music, target, plan_of)
    open_workspace(target).cleanup_after_crash()
    assert not open_workspace(target).root.path.exists()


def test_the_work_of_a_build_that_can_go_on_is_not_tidied_away(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    killed_before_the_rest_was_removed(music, target, plan_of)
    interrupted(music, target, plan_of, replace=True)
    open_workspace(target).cleanup_after_crash()
    assert open_workspace(target).n_receipts() == 3  # of the finished store, offered to the build
    assert run(music, target, plan_of, replace=True).n_reused == 12


def test_what_a_kill_before_it_could_say_so_leaves_goes_with_the_next_run(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"

    def killed(path: Path, *parts: bytes) -> None:
        if path.name == "published":
            raise KeyboardInterrupt
        write_whole(path, *parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melzarr.pipeline.storage.local.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            run(music, target, plan_of)
    assert open_workspace(target).n_receipts() == 3
    open_workspace(target).cleanup_after_crash(open_store(target).receipts())
    assert not open_workspace(target).root.exists()


def test_what_appears_while_a_build_runs_is_not_replaced(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    with pytest.raises(BuildError, match="was created by another process in the meantime"):
        run(music, target, plan_of, Haunted(lambda _: target.mkdir()))
    target.rmdir()
    assert run(music, target, plan_of).n_reused == 12


def test_without_an_exchange_of_folders_a_store_is_replaced_all_the_same(
    music: Path, tmp_path: Path, plan_of, finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melzarr.pipeline.publishing.local_workspace._renamed_by_exchange", lambda _, __: False)
    target = tmp_path / "s.zarr"
    run(music, target, plan_of, n_mels=64)
    for _ in range(2):  # the second time what the first has put aside is still there
        killed_before_the_rest_was_removed(music, target, plan_of)
    assert same_bytes(target, finished.directory.path)


def test_a_store_behind_a_link_is_replaced_where_it_is(music: Path, tmp_path: Path, plan_of) -> None:
    run(music, tmp_path / "s.zarr", plan_of, n_mels=64)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "s.zarr")
    run(music, tmp_path / "link.zarr", plan_of, replace=True)
    assert (tmp_path / "link.zarr").is_symlink()
    assert open_store(tmp_path / "s.zarr").spec.n_mels == 128


class Looks(InProcess):
    """A runner that looks at the workspace before each job is done."""

    def __init__(self, look) -> None:
        self.look, self.seen = look, []

    def run(self, function, jobs, rescue=None):
        for job in jobs:
            self.seen.append(self.look())
            yield function(job)


def test_a_finished_stores_shards_are_offered_as_their_jobs_go_out(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    plan, target = make_plan(plan.spec, plan.tracks, plan.versions, 1), tmp_path / "s.zarr"
    build(plan, catalog, target, InProcess())
    runner = Looks(open_workspace(target).n_receipts)
    assert build(plan, catalog, target, runner, replace=True).n_reused == 12
    ahead = 2 * open_workspace(target).root.io_threads
    assert all(number <= n_offered <= number + ahead for number, n_offered in enumerate(runner.seen, start=1))


def test_a_forced_build_that_goes_on_reads_no_shard_in_the_client(
    own_music: Path, tmp_path: Path, plan_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "s.zarr"
    run(own_music, target, plan_of)
    interrupted(own_music, target, plan_of, replace=True)
    shard_file(target, 0).unlink()  # lost since: it is offered again
    second = shard_file(target, 1)
    data = bytearray(second.read_bytes())
    data[100] ^= 1
    second.unlink()  # it is a link to the finished store's, which stays as it is
    second.write_bytes(data)
    monkeypatch.setattr("melzarr.pipeline.storage.local.digest_of", pytest.fail)
    runner = Drawn()
    with pytest.raises(KeyboardInterrupt):
        run(own_music, target, plan_of, runner, replace=True)
    assert runner.n_jobs == 3
    monkeypatch.undo()
    summary = run(own_music, target, plan_of, replace=True)
    assert (summary.n_reused, summary.outdated) == (7, ("its bytes are not those that were written",))


class Drawn(InProcess):
    """A runner that takes all jobs, does none of them, and is stopped."""

    def run(self, function, jobs, rescue=None):
        self.n_jobs = len(list(jobs))
        raise KeyboardInterrupt


def test_of_a_damaged_store_nothing_is_kept_and_it_is_replaced(own_music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    run(own_music, target, plan_of)
    (target / "receipts/blake3/c/0").write_bytes(b"no chunk")
    summary = run(own_music, target, plan_of, replace=True)
    assert (summary.n_reused, summary.outdated) == (0, ())
    assert not verify(open_store(target)).problems


def test_a_sweep_leaves_the_shards_of_the_plan_and_nothing_else(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "s.zarr")
    store = workspace.store.path
    others = ["zarr.json", "mel/c/0/0/0/.0.abc.part", "mel/c/1/0/0/1", "mel/c/7/0/0/0", "label/c/0"]
    for name in (*map(shard_name, range(3)), *others):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"abc")
    (store / "empty/folder").mkdir(parents=True)
    (store / "link").symlink_to(tmp_path)
    digests = ["0" * 64] * 4
    assert workspace.missing(digests, [3, 4, 3, -1]) == [1, 3]
    assert workspace.missing(digests[:2], [3, 3]) == []
    with pytest.raises(KeyboardInterrupt), workspace.publishing(digests[:2], [3, 3]):
        raise KeyboardInterrupt
    left = {path.relative_to(store).as_posix() for path in store.rglob("*")}
    assert left == {
        name
        for i in range(2)
        for name in ("mel", "mel/c", f"mel/c/{i}", f"mel/c/{i}/0", f"mel/c/{i}/0/0", shard_name(i))
    }


def test_what_has_changed_since_a_store_was_finished_is_told(own_music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    run(own_music, target, plan_of)
    catalog, plan = plan_of(own_music)
    assert changes(open_store(target), plan, catalog) == []
    (own_music / "bells/bells.00002.wav").unlink()
    (own_music / "drums/drums.00004.wav").write_text("lo lo lo")
    shutil.copy(own_music / "bells/bells.00003.wav", own_music / "bells/bells.00099.wav")
    catalog, plan = plan_of(own_music, n_mels=64)
    assert changes(open_store(target), plan, catalog) == [
        "spec: n_mels was 128, is 64",
        "tracks new: bells/bells.00099",
        "tracks gone: bells/bells.00002",
        "tracks whose files have changed: drums/drums.00004",
    ]


def test_a_build_in_which_too_much_fails_is_ended_and_names_an_example(tmp_path: Path, plan_of) -> None:
    for number in range(30):
        path = tmp_path / f"music/a/{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no audio")
    with pytest.raises(
        BuildError, match=r"15 of the first 15 tracks have failed.*10 that are allowed.*a/00\.wav: .*no audio"
    ):
        run(tmp_path / "music", tmp_path / "s.zarr", plan_of)
    assert not (tmp_path / "s.zarr").exists()


def test_a_small_tree_may_have_several_failures_but_not_only_failures(tmp_path: Path, plan_of) -> None:
    (tmp_path / "music/a").mkdir(parents=True)
    (tmp_path / "music/a/bad.wav").write_text("no audio")
    with pytest.raises(BuildError, match="have failed"):
        run(tmp_path / "music", tmp_path / "s.zarr", plan_of)
    soundfile.write(tmp_path / "music/a/good.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 22050)
    assert run(tmp_path / "music", tmp_path / "s.zarr", plan_of).statuses == {"ok": 1, "failed": 1}


def test_the_share_that_may_fail_is_kept_to_the_track(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    with pytest.raises(BuildError, match="have failed"):
        build(plan, catalog, tmp_path / "s.zarr", InProcess(), max_failed=0.0)
    build(plan, catalog, tmp_path / "s.zarr", InProcess(), max_failed=1 / 12)


def test_a_client_holds_a_bounded_number_of_jobs(one_worker: OnDask) -> None:
    drawn = 0

    def jobs():
        nonlocal drawn
        for number in range(300):
            drawn += 1
            yield number

    results = one_worker.run(abs, jobs())
    next(results)
    assert drawn <= 128 + 10  # what was in flight, and what came back meanwhile
    assert max(results) == 299
    assert drawn == 300


def test_a_worker_returns_receipts_and_never_arrays(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    shard = plan.shard(0)
    workspace = open_workspace(tmp_path / "s.zarr")
    workspace.root.path.mkdir()
    receipt = make_shard(
        ShardJob(
            spec=plan.spec,
            versions=plan.versions,
            root=catalog.root,
            target=workspace.target,
            tracks_per_shard=5,
            shard=shard,
            key=plan.key(shard),
        )
    )
    assert len(receipt.to_json()) < 20_000  # three sums of 128 bands and five tracks, where the shard is 768 kB
    assert receipt.n_bytes == workspace.root.size(workspace.written(receipt.index, receipt.blake3))
