"""A workspace: nothing but what melzarr has made in it is used or removed, whoever else writes there, and when."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import digests

from melzarr.cli import main
from melzarr.pipeline.builder.job_array import finish, make_part, read_plan, write_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing import local_workspace
from melzarr.pipeline.publishing.local_workspace import LocalWorkspace, sweep
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.staging import PLAN
from melzarr.pipeline.publishing.workspace import REMOVING
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.zarr_store.reader import Store, open_store

STRANGER = 12_345  # uid
SMALL = ("--n-windows", "60", "--tracks-per-shard", "5")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="to give a folder to another user takes root")


class KilledError(BaseException):
    """What ends a process in the middle of something."""


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder in which nothing may change."""
    folder = tmp_path / "precious"
    (folder / "c/0/0/0").mkdir(parents=True)
    for name in ("thesis.txt", "0000000.json", "c/0/0/0/0"):
        (folder / name).write_text("years of work")
    return folder


def unchanged(folder: Path) -> bool:
    return sorted(path.read_text() for path in folder.rglob("*") if path.is_file()) == ["years of work"] * 3


# Links and other users ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "store", "shards", "receipts", "replaced"])
@pytest.mark.parametrize(
    "words", [("features", "MUSIC", "s.zarr", "--workers", 0, *SMALL), ("share", "STORE", "s.zarr")]
)
def test_a_link_in_the_workspace_is_refused_and_what_it_leads_to_stays(
    name: str, words: tuple[object, ...], music: Path, finished: Store, tmp_path: Path, precious: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    link = tmp_path / "s.zarr.building" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(precious)
    there = {"MUSIC": music, "STORE": finished.directory}
    refused = melzarr(*(there.get(str(word), word) for word in words))
    assert refused.exit_code == 1
    assert f"is a link to {precious}, and nothing is removed there; remove the link" in refused.stderr
    assert unchanged(precious)


def test_links_deeper_in_it_are_removed_as_links(music: Path, finished: Store, tmp_path: Path, precious: Path, plan_of):
    store = tmp_path / "s.zarr.building/store"
    (store / "mel").mkdir(parents=True)
    (store / "mel/c").symlink_to(precious / "c")
    (store / "label").symlink_to(precious)
    (store / "zarr.json").symlink_to(precious / "thesis.txt")
    catalog, plan = plan_of(music)
    build(plan, catalog, tmp_path / "s.zarr", InProcess())
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    assert not [path for path in (tmp_path / "s.zarr").rglob("*") if path.is_symlink()]
    assert unchanged(precious)


def test_a_sweep_keeps_files_and_no_links_to_files(tmp_path: Path, precious: Path) -> None:
    folder = tmp_path / "swept"
    (folder / "a").mkdir(parents=True)
    (folder / "a/kept").write_text("x")
    (folder / "a/linked").symlink_to(precious / "thesis.txt")
    (folder / "b/c").mkdir(parents=True)
    sweep(folder, frozenset({"a/kept", "a/linked"}))
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["kept"]
    assert not (folder / "b").exists()
    (tmp_path / "link").symlink_to(precious)
    with pytest.raises(OSError, match="link"):
        sweep(tmp_path / "link", frozenset())
    assert unchanged(precious)


@needs_root
@pytest.mark.parametrize("name", ["", "shards"])
def test_the_work_of_another_user_is_not_gone_on_with(name: str, music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    (tmp_path / "s.zarr.building" / name).mkdir(parents=True)
    os.chown(tmp_path / "s.zarr.building" / name, STRANGER, -1)
    with pytest.raises(BuildError, match=rf"belongs to another user \(uid {STRANGER}\), whose work is not continued"):
        build(plan, catalog, tmp_path / "s.zarr", InProcess())
    with pytest.raises(BuildError, match="belongs to another user"):
        read_plan(tmp_path / "s.zarr")


@needs_root
def test_nobody_else_has_a_finished_store_removed(own_store: Store) -> None:
    before, workspace = digests(own_store.directory.path), open_workspace(own_store.directory)
    workspace.root.write(REMOVING)
    os.chown(workspace.root.folder, STRANGER, -1)
    with pytest.raises(BuildError, match="belongs to another user"):
        workspace.cleanup_after_crash()
    assert digests(own_store.directory.path) == before


def test_nobody_else_can_put_anything_into_it(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "s.zarr")
    with workspace.locked():
        assert workspace.root.folder.stat().st_mode & 0o777 == 0o700


# Parts of another plan ------------------------------------------------------------------------------------------------


def late_part(music: Path, target: Path, plan_of) -> Callable[[], object]:
    """Begin a part of a plan that another plan then takes the place of; return what it does later."""
    catalog, plan = plan_of(music)
    write_plan(plan, catalog, target)
    written = read_plan(target)
    catalog, plan = plan_of(music, n_mels=64)
    write_plan(plan, catalog, target)
    return lambda: make_part(written, target, 1, 1, InProcess())


def test_a_part_of_an_older_plan_ends_with_a_sentence(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    late = late_part(music, target, plan_of)
    make_part(read_plan(target), target, 1, 1, InProcess())
    with pytest.raises(BuildError, match="was replaced or finished after this part began; run the part again"):
        late()
    assert finish(read_plan(target), target).statuses["ok"] == 9
    assert verify(open_store(target), music).problems == []


def test_its_receipts_take_the_place_of_none(
    music: Path, tmp_path: Path, plan_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late part that has just seen its plan writes its shard, when the new plan's part has written all of its own."""
    target = tmp_path / "s.zarr"
    late = late_part(music, target, plan_of)
    make_part(read_plan(target), target, 1, 1, InProcess())
    with monkeypatch.context() as patch:
        patch.setattr(LocalWorkspace, "require_plan", lambda _: None)
        late()
    assert open_workspace(target).n_receipts() == 6
    assert finish(read_plan(target), target).statuses["ok"] == 9
    assert open_store(target).spec.n_mels == 64
    assert verify(open_store(target), music).problems == []


def test_what_it_writes_after_the_end_goes_with_the_next_question(
    music: Path, tmp_path: Path, plan_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "s.zarr"
    late = late_part(music, target, plan_of)
    make_part(read_plan(target), target, 1, 1, InProcess())
    finish(read_plan(target), target)
    workspace = open_workspace(target)
    with monkeypatch.context() as patch:
        patch.setattr(LocalWorkspace, "require_plan", lambda _: None)
        workspace.root.folder.mkdir()  # as where it looked right before the end
        late()
    assert workspace.n_receipts() == 3
    workspace.cleanup_after_crash(open_store(target).receipts())
    assert not workspace.root.exists()


def test_a_stopped_build_is_not_taken_for_what_a_late_part_has_left(music: Path, tmp_path: Path, plan_of) -> None:
    target, (catalog, plan) = tmp_path / "s.zarr", plan_of(music)
    write_plan(plan, catalog, target)
    make_part(read_plan(target), target, 1, 2, InProcess())
    workspace = open_workspace(target)
    workspace.cleanup_after_crash()
    assert workspace.n_receipts() == 2
    workspace.adopt_receipts()  # as a build in one piece begins
    workspace.root.remove([PLAN])
    workspace.cleanup_after_crash()
    assert workspace.n_receipts() == 2


def test_the_next_plan_and_a_build_in_one_keep_what_fits(music: Path, tmp_path: Path, plan_of, finished: Store) -> None:
    target, (catalog, plan) = tmp_path / "s.zarr", plan_of(music)
    write_plan(plan, catalog, target)
    make_part(read_plan(target), target, 1, 2, InProcess())
    write_plan(plan, replace(catalog, rule={**catalog.rule, "said": "of another plan"}), target)
    assert make_part(read_plan(target), target, 1, 2, InProcess()).n_reused == 7
    assert build(plan, catalog, target, InProcess()).n_reused == 7
    assert digests(target) == digests(finished.directory.path)


def test_one_that_goes_on_while_the_store_is_published_harms_nothing(
    music: Path, tmp_path: Path, plan_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, original = tmp_path / "s.zarr", LocalWorkspace._put
    late = late_part(music, target, plan_of)
    make_part(read_plan(target), target, 1, 1, InProcess())

    def put(self: LocalWorkspace, store: Path) -> None:
        with pytest.raises(BuildError):
            late()
        original(self, store)

    monkeypatch.setattr(LocalWorkspace, "_put", put)
    finish(read_plan(target), target)
    assert verify(open_store(target), music).problems == []


def test_a_build_in_one_ends_the_parts_that_still_run(music: Path, tmp_path: Path, plan_of) -> None:
    target, (catalog, plan) = tmp_path / "s.zarr", plan_of(music)
    write_plan(plan, catalog, target)
    written = read_plan(target)
    catalog, plan = plan_of(music, n_mels=64)
    build(plan, catalog, target, InProcess())
    with pytest.raises(BuildError, match="run the part again"):
        make_part(written, target, 1, 1, InProcess())


def test_a_shard_that_is_lost_at_the_last_moment_keeps_the_store_from_appearing(
    music: Path, tmp_path: Path, plan_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, (catalog, plan) = tmp_path / "s.zarr", plan_of(music)
    original = LocalWorkspace.refuse_occupied

    def lose(self: LocalWorkspace, replace: bool) -> None:
        (self.root.folder / "store/mel/c/1/0/0/0").unlink(missing_ok=True)
        original(self, replace)

    with monkeypatch.context() as patch:
        patch.setattr(LocalWorkspace, "refuse_occupied", lose)
        with pytest.raises(BuildError, match="did not arrive in"):
            build(plan, catalog, target, InProcess())
    assert not target.exists()
    assert build(plan, catalog, target, InProcess()).n_reused == 7


def test_a_store_that_does_not_open_does_not_cost_the_work(
    music: Path, tmp_path: Path, plan_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, (catalog, plan) = tmp_path / "s.zarr", plan_of(music)
    with monkeypatch.context() as patch:
        patch.setattr("melzarr.pipeline.builder.publish.open_store", lambda _: (_ for _ in ()).throw(BuildError("no")))
        with pytest.raises(BuildError, match="no"):
            build(plan, catalog, target, InProcess())
    assert open_workspace(target).n_receipts() == 3


def test_killed_between_its_two_files_there_is_no_plan(music: Path, tmp_path: Path, plan_of) -> None:
    target, (catalog, plan) = tmp_path / "s.zarr", plan_of(music)
    write_plan(plan, catalog, target)

    def killed(path: Path, *parts: bytes) -> None:
        if path.name == PLAN:
            raise KilledError
        write_whole(path, *parts)

    (music_of_some := tmp_path / "some").mkdir()
    shutil.copytree(music / "bells", music_of_some / "bells")
    catalog, plan = plan_of(music_of_some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melzarr.pipeline.storage.local.write_whole", killed)
        with pytest.raises(KilledError):
            write_plan(plan, catalog, target)
    with pytest.raises(BuildError, match=r"tracks\.csv is not the file that was written with it.*job-array init"):
        read_plan(target)


# What is left ---------------------------------------------------------------------------------------------------------


def test_a_question_discards_no_staged_build(own_store: Store, music: Path) -> None:
    target = own_store.directory
    assert melzarr("job-array", "init", music, target, *SMALL, "--force").exit_code == 0
    assert melzarr("job-array", "part", "1/1", target, "--workers", 0).exit_code == 0
    assert "up to date" in melzarr("features", music, target, *SMALL, "--workers", 0).stdout
    assert melzarr("job-array", "finish", target).exit_code == 0


def test_a_question_discards_no_append_that_can_go_on(own_music: Path, tmp_path: Path) -> None:
    target, new = tmp_path / "s.zarr", tmp_path / "new"
    new.mkdir()
    for path in sorted((own_music / "drums").iterdir())[:3]:
        path.rename(new / path.name)
    assert melzarr("features", own_music, target, *SMALL, "--workers", 0).exit_code == 0
    for path in new.iterdir():
        shutil.copy(path, own_music / "drums")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "melzarr.pipeline.publishing.local_workspace._exchange", lambda *_: (_ for _ in ()).throw(KilledError())
        )
        with pytest.raises(KilledError):
            CliRunner().invoke(main, ["append", str(target), str(own_music), "--workers", "0"], standalone_mode=False)
    for path in new.iterdir():
        (own_music / "drums" / path.name).unlink()
    n_receipts = open_workspace(target).n_receipts()
    assert "up to date" in melzarr("features", own_music, target, *SMALL, "--workers", 0).stdout
    assert open_workspace(target).n_receipts() == n_receipts > 0


def test_what_a_kill_leaves_of_a_workspace_that_was_removed_goes_with_the_next(
    music: Path, tmp_path: Path, plan_of
) -> None:
    target, (catalog, plan) = tmp_path / "s.zarr", plan_of(music)

    def killed(folder: Path, last: str) -> None:  # noqa: ARG001
        if folder.exists():
            next(path for path in folder.rglob("*") if path.is_file()).unlink()
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_workspace, "_remove", killed)
        with pytest.raises(KilledError):
            build(plan, catalog, target, InProcess())
    assert verify(open_store(target)).problems == []
    assert not open_workspace(target).root.exists()
    assert (tmp_path / "s.zarr.building.trash").is_dir()
    open_workspace(target).cleanup_after_crash()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zarr"]


def test_what_a_kill_leaves_of_the_note_beside_a_store_goes_with_the_next(own_store: Store, music: Path) -> None:
    folder = own_store.directory.path.parent
    left, others = folder / f".{own_store.directory.name}.built.json.{'0a' * 8}.part", folder / ".s.part"
    for again in ((), ("--force",)):
        left.write_text("{")
        others.write_text("mine")
        assert melzarr("features", music, own_store.directory, "--workers", 0, *SMALL, *again).exit_code == 0
        assert not left.exists()
        assert others.exists()


@needs_root
def test_what_another_user_has_put_in_the_place_of_trash_stays(
    music: Path, tmp_path: Path, precious: Path, plan_of
) -> None:
    trash, (catalog, plan) = tmp_path / "s.zarr.building.trash", plan_of(music)
    precious.rename(trash)
    os.chown(trash, STRANGER, -1)
    build(plan, catalog, tmp_path / "s.zarr", InProcess())
    assert unchanged(trash)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zarr", trash.name]


def test_an_empty_folder_of_trash_goes_with_a_refusal(own_store: Store, plan_of, music: Path) -> None:
    """A kill right before the last step of a share leaves it; the share is then refused when it is made again."""
    (trash := own_store.directory.path.with_name("own.zarr.building.trash")).mkdir()
    catalog, plan = plan_of(music)
    with pytest.raises(BuildError, match="already exists"):
        build(plan, catalog, own_store.directory, InProcess())
    assert not trash.exists()


def test_a_build_that_is_refused_leaves_nothing(own_store: Store, music: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    with pytest.raises(BuildError, match="already exists"):
        build(plan, catalog, own_store.directory, InProcess())
    assert not open_workspace(own_store.directory).root.exists()
