"""A build in stages: a plan, parts that know nothing of each other, an end."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from processes import digests

from melzarr.cli import main
from melzarr.pipeline.builder.job_array import finish, make_part, read_plan, write_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.zarr_store.reader import Store, open_store

SMALL = ("--n-windows", "60", "--tracks-per-shard", "5")


def part(target: object, number: int, n_parts: int, **options: object) -> int:
    """Make a part as a process of its own would; return how many of its tracks were kept."""
    return make_part(read_plan(target), target, number, n_parts, InProcess(), **options).n_reused


@pytest.mark.parametrize("n_parts", [1, 2, 3, 7])
def test_parts_in_any_order_give_the_bytes_of_one_build(
    n_parts: int, music: Path, tmp_path: Path, plan_of, finished: Store
) -> None:
    catalog, plan = plan_of(music)
    target = tmp_path / "s.zarr"
    write_plan(plan, catalog, target)
    numbers = list(range(1, n_parts + 1))
    random.Random(n_parts).shuffle(numbers)
    for number in numbers:
        part(target, number, n_parts)
    summary = finish(read_plan(target), target)
    assert summary.statuses == {"ok": 9, "short": 1, "silent": 1, "failed": 1}
    assert digests(target) == digests(finished.directory.path)
    assert not open_workspace(target).root.exists()


def test_a_plan_is_read_as_it_was_written(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    write_plan(plan, catalog, tmp_path / "s.zarr", replace=True)
    written = read_plan(tmp_path / "s.zarr")
    assert (written.plan, written.replace) == (plan, True)
    assert written.root.folder == music
    assert [written.plan.key(shard) for shard in written.plan.shards()] == [plan.key(shard) for shard in plan.shards()]


def test_each_shard_is_in_one_part(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    write_plan(plan, catalog, tmp_path / "s.zarr")
    written = read_plan(tmp_path / "s.zarr")
    for n_parts in (1, 2, 3, 5):
        parts = [shard.index for number in range(1, n_parts + 1) for shard in written.part(number, n_parts)]
        assert sorted(parts) == [0, 1, 2]


def test_the_end_names_what_is_missing_and_publishes_nothing(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    target = tmp_path / "s.zarr"
    write_plan(plan, catalog, target)
    part(target, 2, 3)
    with pytest.raises(BuildError, match=r"2 of 3 shards are missing, .* bells/bells\.00000: 0, 2"):
        finish(read_plan(target), target)
    assert not target.exists()
    part(target, 1, 3)
    part(target, 3, 3)
    next((open_workspace(target).root.folder / "shards").glob("0000001.*")).unlink()
    with pytest.raises(BuildError, match=r"1 of 3 shards are missing, the first with the track bells/bells\.00005: 1"):
        finish(read_plan(target), target)
    assert not target.exists()


def test_a_part_that_is_made_again_is_checked_and_kept(own_music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(own_music)
    target = tmp_path / "s.zarr"
    write_plan(plan, catalog, target)
    assert (part(target, 1, 2), part(target, 1, 2)) == (0, 7)
    soundfile.write(own_music / "bells/bells.00000.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 22050)
    assert part(target, 1, 2) == 2
    part(target, 2, 2)
    finish(read_plan(target), target)
    assert not verify(open_store(target), own_music).problems


def test_parts_of_another_plan_are_missing(music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    for n_mels in (64, 128):
        catalog, plan = plan_of(music, n_mels=n_mels)
        write_plan(plan, catalog, target)
        if n_mels == 64:
            part(target, 1, 1)
    with pytest.raises(BuildError, match="3 of 3 shards are missing"):
        finish(read_plan(target), target)


def test_what_the_parts_have_left_out_one_build_makes(music: Path, tmp_path: Path, plan_of, finished: Store) -> None:
    catalog, plan = plan_of(music)
    target = tmp_path / "s.zarr"
    write_plan(plan, catalog, target)
    part(target, 2, 3)
    assert build(plan, catalog, target, InProcess()).n_reused == 5
    assert digests(target) == digests(finished.directory.path)


def test_failures_are_counted_over_all_parts(tmp_path: Path, plan_of) -> None:
    for number in range(30):
        path = tmp_path / f"music/a/{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 5 == 4:
            soundfile.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 80_000), 22050)
        else:
            path.write_text("no audio")
    catalog, plan = plan_of(tmp_path / "music")
    target = tmp_path / "s.zarr"
    write_plan(plan, catalog, target)
    for number in range(1, 7):
        part(target, number, 6)  # four of five have failed, which for so few might be by chance
    with pytest.raises(BuildError, match="24 of the first 30 tracks have failed"):
        finish(read_plan(target), target)
    assert finish(read_plan(target), target, max_failed=0.8).statuses["failed"] == 24


def test_a_store_that_is_there_is_replaced_only_where_the_plan_says_so(
    own_music: Path, tmp_path: Path, plan_of
) -> None:
    target = tmp_path / "s.zarr"
    catalog, plan = plan_of(own_music, n_mels=64)
    build(plan, catalog, target, InProcess())
    catalog, plan = plan_of(own_music)
    with pytest.raises(BuildError, match="already exists"):
        write_plan(plan, catalog, target)
    store = target.rename(tmp_path / "aside.zarr")
    write_plan(plan, catalog, target)
    part(target, 1, 1)
    store.rename(target)
    with pytest.raises(BuildError, match="was created by another process in the meantime"):
        finish(read_plan(target), target)
    assert open_store(target).spec.n_mels == 64
    write_plan(plan, catalog, target, replace=True)
    part(target, 1, 1)
    finish(read_plan(target), target)
    assert open_store(target).spec.n_mels == 128


def test_what_still_fits_of_a_store_that_is_replaced_is_kept(own_music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    catalog, plan = plan_of(own_music)
    build(plan, catalog, target, InProcess())
    soundfile.write(own_music / "drums/drums.00004.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 22050)
    write_plan(plan, catalog, target, replace=True)
    assert [part(target, number, 2) for number in (1, 2)] == [5, 5]
    assert finish(read_plan(target), target).statuses["failed"] == 0


def test_an_end_that_was_killed_after_the_store_had_appeared_is_an_end(
    music: Path, tmp_path: Path, plan_of, finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, plan = plan_of(music)
    target = tmp_path / "s.zarr"
    write_plan(plan, catalog, target)
    part(target, 1, 1)

    def killed(path: Path, *parts: bytes) -> None:
        if path.name == "published":
            raise KeyboardInterrupt
        write_whole(path, *parts)

    written = read_plan(target)
    with monkeypatch.context() as patch:
        patch.setattr("melzarr.pipeline.storage.local.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(written, target)
    assert digests(target) == digests(finished.directory.path)
    finish(read_plan(target), target)
    assert digests(target) == digests(finished.directory.path)
    assert not open_workspace(target).root.exists()


@pytest.mark.parametrize("damage", ["none", "text", "other", "tracks"])
def test_a_plan_that_is_none_is_a_sentence(damage: str, music: Path, tmp_path: Path, plan_of) -> None:
    target = tmp_path / "s.zarr"
    root = open_workspace(target).root
    if damage != "none":
        catalog, plan = plan_of(music)
        write_plan(plan, catalog, target)
        name = "tracks.csv" if damage == "tracks" else "plan.json"
        root.write(name, {"text": b"{", "other": b"{}", "tracks": b"a,b\n"}[damage])
    with pytest.raises(BuildError, match="melzarr job-array init SOURCE"):
        read_plan(target)


def test_stages_from_bucket_to_bucket(music: Path, bucket: ObjectStoreDirectory, plan_of, finished: Store) -> None:
    for path in music.glob("*/*"):
        bucket.write(f"music/{path.relative_to(music).as_posix()}", path.read_bytes())
    target = bucket.child("s.zarr")
    catalog, plan = plan_of(bucket.child("music"))
    write_plan(plan, catalog, target)
    part(target, 1, 2)
    with pytest.raises(BuildError, match="1 of 3 shards are missing"):
        finish(read_plan(target), target)
    part(target, 2, 2)
    finish(read_plan(target), target)
    assert {name: target.digest(name, hashlib.sha256) for name, _ in target.files()} == digests(finished.directory.path)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["job-array", *map(str, arguments)])


def test_the_command_line_leads_from_stage_to_stage(music: Path, tmp_path: Path, finished: Store) -> None:
    target = tmp_path / "s.zarr"
    begun = command("init", music, target, *SMALL)
    assert begun.exit_code == 0, begun.output
    assert begun.stdout.splitlines()[-1] == f"next: melzarr job-array part 1/3 {target}"
    made = command("part", "1/2", target, "--workers", "0")
    assert "part 1 of 2: 7 tracks, 2 shards" in made.stdout
    assert made.stdout.splitlines()[-1] == f"next: melzarr job-array finish {target}"
    refused = command("finish", target)
    assert refused.exit_code == 1
    assert "1 of 3 shards are missing" in refused.stderr
    facts = json.loads(command("part", "2/2", target, "--workers", "0", "--json").stdout)
    assert (facts["tracks"], facts["reused"]) == ({"ok": 4, "silent": 1}, 0)
    assert command("part", "9/9", target, "--workers", "0").stdout.strip() == "part 9 of 9: 0 tracks, 0 shards"
    done = command("finish", target)
    assert done.stdout.splitlines()[-1] == f"next: melzarr verify {target}"
    assert digests(target) == digests(finished.directory.path)
    assert "is finished" in command("finish", target).stdout
    assert "is finished and up to date" in command("init", music, target, *SMALL).stdout


@pytest.mark.parametrize("text", ["3", "0/3", "4/3", "a/b", "-1/3", "1/3/5"])
def test_a_part_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    refused = command("part", "--", text, tmp_path / "s.zarr")
    assert refused.exit_code == 2
    assert "is not a part; give one such as 3/16" in refused.stderr


@pytest.mark.slow
def test_parts_at_the_same_time_and_twice_disturb_nobody(music: Path, tmp_path: Path, finished: Store) -> None:
    target = tmp_path / "s.zarr"
    assert command("init", music, target, *SMALL).exit_code == 0
    melzarr = Path(sys.executable).with_name("melzarr")
    processes = [
        subprocess.Popen(
            [melzarr, "job-array", "part", f"{number}/3", target, "--workers", "0"], stdout=subprocess.PIPE
        )
        for number in (1, 2, 3, 1, 2, 3)
    ]
    assert [process.communicate(timeout=200) and process.returncode for process in processes] == [0] * 6
    assert command("finish", target).exit_code == 0
    assert digests(target) == digests(finished.directory.path)
