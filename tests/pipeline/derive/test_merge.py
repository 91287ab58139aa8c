"""Stores that become one: the same tracks, the same bytes, nothing computed again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from processes import digests

from melzarr.cli import main
from melzarr.model.selection import select
from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.merge import join, merge, merged_attributes, merged_versions
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing.local_workspace import LocalWorkspace
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.storage.zip import pack_folder
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.shard import shard_name

Half = Callable[..., Store]


@pytest.fixture(scope="module")
def half(music: Path, tmp_path_factory: pytest.TempPathFactory, plan_of) -> Half:
    """The function that builds a store of some of the music's tracks."""

    def make(numbers: range, versions: dict[str, str] | None = None, **about: object) -> Store:
        catalog, plan = plan_of(music)
        few = dataclasses.replace(catalog, tracks=tuple(catalog.tracks[number] for number in numbers))
        target = tmp_path_factory.mktemp("half") / "s.zarr"
        build(make_plan(plan.spec, few.tracks, plan.versions, 5), few, target, InProcess())
        if not (about or versions):
            return open_store(target)
        store = open_store(target)
        facts = {**store.attributes, **about, "versions": {**store.attributes["versions"], **(versions or {})}}
        derive([TrackSelection.whole(store)], target.with_name("other.zarr"), facts)
        return open_store(target.with_name("other.zarr"))

    return make


def merged(stores: list[Store], target: Path) -> None:
    merge([store.directory for store in stores], open_directory(target))


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_two_halves_of_a_store_are_that_store(half: Half, finished: Store, tmp_path: Path) -> None:
    first, second = half(range(5)), half(range(5, 12))
    result = melzarr("merge", first.directory, second.directory, tmp_path / "s.zarr")
    assert result.exit_code == 0, result.output
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    for here, (store, there) in enumerate([(first, 0), (second, 0), (second, 1)]):
        assert (tmp_path / "s.zarr" / shard_name(here)).read_bytes() == store.directory.read(shard_name(there))
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"made {tmp_path / 's.zarr'}: mel (12, 60, 5, 128), ")
    assert lines[1:] == [
        "  tracks: 9 ok, 1 failed, 1 short, 1 silent",
        "  12 tracks are in shards that were kept unchanged",
        f"next: melzarr verify {tmp_path / 's.zarr'}",
    ]


def test_where_the_first_ends_within_a_shard_the_others_are_packed_anew(
    half: Half, finished: Store, tmp_path: Path
) -> None:
    result = melzarr("merge", half(range(7)).directory, half(range(7, 12)).directory, tmp_path / "s.zarr")
    assert "5 tracks are in shards that were kept unchanged, 7 were packed again from their chunks" in result.stdout
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)


def test_it_is_one_store_to_xarray_to_verify_and_to_a_training(
    half: Half, music: Path, finished: Store, tmp_path: Path
) -> None:
    first, second = half(range(6, 12)), half(range(6))
    merged([first, second], tmp_path / "s.zarr")
    dataset = xr.open_zarr(tmp_path / "s.zarr")
    both = [xr.open_zarr(store.directory.path) for store in (first, second)]
    for name in ("mel", "track", "split", "label", "group", "status", "source", "peak"):
        np.testing.assert_array_equal(dataset[name].values, np.concatenate([half[name].values for half in both]))
    train = dataset.mel.values[((dataset.split == "train") & (dataset.status == "ok")).values].astype(np.float64)
    levels = 10 * np.log10(np.maximum(train, 1e-10)).reshape(-1, 128)
    np.testing.assert_allclose(dataset.mean_db, levels.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(dataset.std_db, levels.std(axis=0), atol=1e-4)
    verdict = melzarr("verify", tmp_path / "s.zarr", "--source", music, "--sample", "3")
    assert verdict.stdout.splitlines()[-1] == "sound"
    store = open_store(tmp_path / "s.zarr")
    chosen = select(store, "train")
    assert sorted(store.values("track")[chosen.tracks]) == sorted(
        finished.values("track")[select(finished, "train").tracks]
    )


def test_it_does_not_matter_in_how_many_steps_it_is_done(half: Half, tmp_path: Path) -> None:
    stores = [half(range(3)), half(range(3, 4), title="second"), half(range(4, 9)), half(range(9, 12), licence="free")]
    merged(stores, tmp_path / "at once.zarr")
    merged(stores[:2], tmp_path / "a.zarr")
    merged(stores[2:], tmp_path / "b.zarr")
    merged([open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")], tmp_path / "in steps.zarr")
    assert digests(tmp_path / "at once.zarr") == digests(tmp_path / "in steps.zarr")


def test_what_is_said_of_them_is_joined(half: Half, tmp_path: Path) -> None:
    first = half(range(5), title="one", licence="free", recipe={"name": "x", "origin": "here", "licence": "free"})
    second = half(range(5, 12), {"numpy": "1.0"}, title="two", licence="free", split={"method": "manifest"})
    result = melzarr("merge", first.directory, second.directory, tmp_path / "s.zarr")
    numpy = first.attributes["versions"]["numpy"]
    assert result.stdout.splitlines()[0] == f"computed by different versions: numpy {numpy}, 1.0"
    about = open_store(tmp_path / "s.zarr").attributes
    assert (about["title"], about["licence"]) == ("one; two", "free")
    assert about["recipe"] == {
        "name": "x + unnamed", "origin": "here", "merged": [first.attributes["recipe"], {}],
    }  # fmt: skip
    assert about["split"] == {"method": "merged", "of": [first.attributes["split"], {"method": "manifest"}]}
    assert about["versions"] == {**first.attributes["versions"], "numpy": f"{numpy}, 1.0"}
    assert verify(open_store(tmp_path / "s.zarr")).problems == []
    lines = melzarr("inspect", tmp_path / "s.zarr").stdout
    assert "recipe    x + unnamed: here" in lines


WORDS = st.text("ab ;,", min_size=1, max_size=6)
ABOUT = st.fixed_dictionaries(
    {
        "title": WORDS,
        "licence": WORDS,
        "split": st.sampled_from(
            [{"method": "hash", "seed": 0}, {"seed": 0, "method": "hash"}, {"method": "manifest"}]
        ),
        "recipe": st.sampled_from([{}, {"name": "a", "origin": "o"}, {"name": "b", "origin": "o"}]),
        "versions": st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["1", "2"])),
    }
)


@given(first=ABOUT, second=ABOUT, third=ABOUT)
def test_attributes_are_joined_in_any_number_of_steps_and_each_once(
    first: dict[str, object], second: dict[str, object], third: dict[str, object]
) -> None:
    at_once = merged_attributes([first, second, third])
    assert merged_attributes([merged_attributes([first, second]), third]) == at_once
    assert merged_attributes([first, merged_attributes([second, third])]) == at_once
    assert merged_attributes([at_once, second]) == at_once
    assert all(list(merged_attributes([first, first])[name]) == list(first[name]) for name in ("split", "recipe"))


def test_texts_and_versions_are_joined_each_once() -> None:
    assert join(["a; b", "b", "c; a"], "; ") == "a; b; c"
    assert merged_versions([{"x": "1", "y": "1"}, {"x": "2", "z": "3"}]) == {"x": "1, 2", "y": "1", "z": "3"}


def test_an_id_in_two_of_them_is_refused(half: Half, tmp_path: Path) -> None:
    first, second = half(range(5)), half(range(3, 12))
    refused = melzarr("merge", first.directory, second.directory, tmp_path / "s.zarr")
    assert refused.exit_code == 2
    assert (
        f"'bells/bells.00003' is the id of a track in {first.directory} and of one in {second.directory}"
        in refused.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_another_spec_is_refused(half: Half, music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music, n_mels=64)
    build(plan, catalog, tmp_path / "other.zarr", InProcess())
    with pytest.raises(SpecError, match="differ in n_mels=128 and 64"):
        merged([half(range(3)), open_store(tmp_path / "other.zarr")], tmp_path / "s.zarr")


def test_what_is_there_is_kept_where_it_is_the_same_and_else_replaced_by_force_alone(
    half: Half, finished: Store, tmp_path: Path
) -> None:
    first, second, third = half(range(5)), half(range(5, 12)), half(range(5, 9))
    target = tmp_path / "s.zarr"
    assert melzarr("merge", first.directory, third.directory, target).exit_code == 0
    assert "is finished and up to date" in melzarr("merge", first.directory, third.directory, target).stdout
    refused = melzarr("merge", first.directory, second.directory, target)
    assert refused.exit_code == 1
    assert "is not the merge of these stores; choose another path, or replace it with --force" in refused.stderr
    done = melzarr("merge", first.directory, second.directory, target, "--force", "--json")
    facts = json.loads(done.stdout)
    assert (facts["store"], facts["kept"], facts["packed"]) == (str(target), 12, 0)
    assert facts["tracks"] == {"ok": 9, "short": 1, "silent": 1, "failed": 1}
    assert digests(target) == digests(finished.directory.path)
    (tmp_path / "precious").mkdir()
    assert "is not a melzarr store" in melzarr("merge", first.directory, second.directory, tmp_path / "precious").stderr


def test_calls_that_make_no_sense_are_refused(half: Half, tmp_path: Path) -> None:
    store = half(range(3)).directory
    assert "give two or more stores" in melzarr("merge", store, tmp_path / "s.zarr").stderr
    (tmp_path / "link.zarr").symlink_to(store.path)
    for out in (store, f"{store}/../{store.name}", tmp_path / "link.zarr"):
        refused = melzarr("merge", store, tmp_path / "b.zarr", out)
        assert (refused.exit_code, "which must be kept" in refused.stderr) == (2, True)
    missing = melzarr("merge", store, tmp_path / "none.zarr", tmp_path / "s.zarr")
    assert "there is no store at" in missing.stderr


def test_what_a_kill_after_the_last_step_left_goes_with_the_next_run(half: Half, tmp_path: Path) -> None:
    first, second, target = half(range(5)), half(range(5, 12)), tmp_path / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalWorkspace, "discard", lambda _: None)
        merged([first, second], target)
    assert open_workspace(target).root.exists()
    assert "is finished and up to date" in melzarr("merge", first.directory, second.directory, target).stdout
    assert not open_workspace(target).root.exists()


def test_of_archives_an_archive(half: Half, finished: Store, tmp_path: Path) -> None:
    first, second = half(range(5)), half(range(5, 12))
    pack_folder(second.directory.path, tmp_path / "second.zarr.zip")
    done = melzarr("merge", first.directory, tmp_path / "second.zarr.zip", tmp_path / "s.zarr.zip")
    assert done.exit_code == 0, done.output
    assert verify(open_store(f"{tmp_path}/s.zarr.zip")).problems == []
    assert open_store(f"{tmp_path}/s.zarr.zip").attributes == finished.attributes


def test_a_damaged_track_is_named_and_nothing_appears(half: Half, tmp_path: Path) -> None:
    first, second = half(range(7)), half(range(7, 12))
    copy = Path(shutil.copytree(second.directory.path, tmp_path / "copy.zarr"))
    data = bytearray((copy / shard_name(0)).read_bytes())
    data[100] ^= 1
    (copy / shard_name(0)).write_bytes(data)
    refused = melzarr("merge", first.directory, copy, tmp_path / "s.zarr")
    assert refused.exit_code == 1
    assert f"{copy}: track drums/drums.00001 cannot be copied (its checksum does not match its bytes)" in refused.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_between_buckets(half: Half, finished: Store, bucket: ObjectStoreDirectory) -> None:
    for name, store in (("a.zarr", half(range(7))), ("b.zarr", half(range(7, 12)))):
        for file, _ in store.directory.files():
            bucket.write(f"{name}/{file}", store.directory.read(file))
    target = bucket.child("s.zarr")
    done = melzarr("merge", bucket.child("a.zarr"), bucket.child("b.zarr"), target)
    assert done.exit_code == 0, done.output
    assert {name: target.digest(name, hashlib.sha256) for name, _ in target.files()} == digests(finished.directory.path)
    assert not bucket.child("s.zarr.building").exists()
