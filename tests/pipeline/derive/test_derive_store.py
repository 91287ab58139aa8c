"""A store made of tracks of other stores: the bytes of a build of the same, and no shard packed that need not be."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import digests
from seaweed import Seaweed

from melzarr.cli import main
from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import Summary, build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.derive import derive_store as engine
from melzarr.pipeline.derive import repack
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.errors import BuildError, CallError, CatalogError, SpecError, StoreError
from melzarr.pipeline.features.decibels import level_db
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.shard import shard_name
from tests.conftest import rechunk

Built = Callable[..., Store]


@pytest.fixture(scope="module")
def built(music: Path, tmp_path_factory: pytest.TempPathFactory, plan_of) -> Built:
    """The function that builds a store of some of the music's tracks."""

    def make(numbers: object = None, tracks_per_shard: int = 5, **spec: object) -> Store:
        catalog, plan = plan_of(music, **spec)
        which = range(12) if numbers is None else list(numbers)
        few = dataclasses.replace(catalog, tracks=tuple(catalog.tracks[number] for number in which))
        target = tmp_path_factory.mktemp("built") / "s.zarr"
        plan = make_plan(plan.spec, few.tracks, plan.versions, tracks_per_shard)
        build(plan, few, target, InProcess())
        return open_store(target)

    return make


def made(parts: object, target: object, about: Store, **options: object) -> Summary:
    """Derive a store of some tracks of some stores, each a store, or one and some numbers."""
    chosen = [
        TrackSelection.whole(p) if isinstance(p, Store) else TrackSelection(p[0], np.array(p[1], np.intp))
        for p in parts
    ]
    return derive(chosen, target, about.attributes, **options)


def kept(target: Path, store: Store) -> list[tuple[int, int]]:
    """Numbers of the shards that are the same in another store, here and there."""
    paths = [sorted((root / "mel/c").iterdir(), key=lambda p: int(p.name)) for root in (target, store.directory.path)]
    return [
        (int(here.name), int(there.name))
        for here in paths[0]
        for there in paths[1]
        if (here / "0/0/0").read_bytes() == (there / "0/0/0").read_bytes()
    ]


def test_of_all_tracks_of_a_store_it_is_that_store(finished: Store, tmp_path: Path) -> None:
    receipts: list[Receipt] = []
    summary = made([finished], tmp_path / "s.zarr", finished, progress=receipts.append)
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    assert kept(tmp_path / "s.zarr", finished) == [(0, 0), (1, 1), (2, 2)]
    assert not any(
        (tmp_path / "s.zarr" / name).samefile(finished.directory.path / name) for name in map(shard_name, range(3))
    )
    assert [receipt.index for receipt in receipts] == [0, 1, 2]
    assert (summary.shape, summary.n_reused) == ((12, 60, 5, 128), 12)
    assert summary.statuses == {"ok": 9, "short": 1, "silent": 1, "failed": 1}
    assert len(summary.troubled) == 3
    assert not open_workspace(tmp_path / "s.zarr").root.exists()


@pytest.mark.parametrize("tracks_per_shard", [1, 3, 7, 20])
def test_in_other_shards_and_back_it_is_that_store(
    tracks_per_shard: int, finished: Store, tmp_path: Path, built: Built
) -> None:
    made([finished], tmp_path / "s.zarr", finished, tracks_per_shard=tracks_per_shard)
    assert digests(tmp_path / "s.zarr") == digests(built(tracks_per_shard=tracks_per_shard).directory.path)
    made([open_store(tmp_path / "s.zarr")], tmp_path / "again.zarr", finished, tracks_per_shard=5)
    assert digests(tmp_path / "again.zarr") == digests(finished.directory.path)


# Of twelve tracks with five a shard: whole shards at their place, at another one, in part, the last and partial one.
SELECTIONS = [
    range(5, 12), [10, 11], [0, 1, 2, 3, 4, 10, 11], [0, 2, 4, 6, 8, 10], [1], range(5, 10), [0, *range(5, 10)],
]  # fmt: skip


@pytest.mark.parametrize("numbers", SELECTIONS, ids=lambda numbers: "-".join(map(str, numbers)))
def test_of_some_tracks_it_has_the_bytes_of_a_build_of_them(
    numbers: list[int], finished: Store, tmp_path: Path, built: Built
) -> None:
    made([(finished, numbers)], tmp_path / "s.zarr", finished)
    assert digests(tmp_path / "s.zarr") == digests(built(numbers).directory.path)


def test_only_whole_shards_at_their_place_in_a_shard_are_kept(finished: Store, tmp_path: Path) -> None:
    made([(finished, range(5, 12))], tmp_path / "a.zarr", finished)
    assert kept(tmp_path / "a.zarr", finished) == [(0, 1), (1, 2)]
    made([(finished, [0, 1, 2, 3, 4, 10, 11])], tmp_path / "b.zarr", finished)
    assert kept(tmp_path / "b.zarr", finished) == [(0, 0), (1, 2)]
    made([(finished, [0, *range(5, 10)])], tmp_path / "c.zarr", finished)
    assert kept(tmp_path / "c.zarr", finished) == []


@settings(max_examples=3)
@given(data=st.data())
def test_any_tracks_of_any_stores_are_those_tracks(
    data: st.DataObject, finished: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against numpy: the windows, the coordinates, and the statistics of the train tracks."""
    order = data.draw(st.permutations(range(12)))
    cut, n = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 12))
    numbers = [sorted(order[:n][:cut]), sorted(order[:n][cut:])]
    tracks_per_shard = data.draw(st.integers(1, 6))
    target = tmp_path_factory.mktemp("any") / "s.zarr"
    made([(finished, some) for some in numbers], target, finished, tracks_per_shard=tracks_per_shard)
    chosen, dataset = numbers[0] + numbers[1], xr.open_zarr(finished.directory.path)
    expected, found = dataset.isel(track=chosen), xr.open_zarr(target)
    for name in ("mel", *(name for name in found.coords if name not in {"mean_db", "std_db"})):
        np.testing.assert_array_equal(found[name].values, expected[name].values)
        assert found[name].attrs == expected[name].attrs
    train = expected.mel.values[((expected.split == "train") & (expected.status == "ok")).values].astype(np.float64)
    levels = 10 * np.log10(np.maximum(train, 1e-10)).reshape(-1, 128)
    if len(levels):
        np.testing.assert_allclose(found.mean_db, levels.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(found.std_db, levels.std(axis=0), atol=1e-4)
    else:
        assert np.isnan(found.mean_db).all()
    assert verify(open_store(target)).problems == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"scale": "db"}),
        ({}, {"scale": "db", "dtype": "float16"}),
        ({"scale": "db"}, {"scale": "db", "dtype": "float16"}),
    ],
)
def test_what_is_turned_into_levels_or_halves_has_the_bytes_of_a_build_of_those(
    before: dict[str, str], after: dict[str, str], tmp_path: Path, built: Built
) -> None:
    source, expected = built(**before), built(**after)
    summary = made([source], tmp_path / "s.zarr", source, spec=expected.spec)
    assert summary.n_reused == 0
    assert digests(tmp_path / "s.zarr") == digests(expected.directory.path)
    levels = source.mel[0] if before else level_db(source.mel[0], source.spec)
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").mel[0], levels.astype(expected.spec.dtype))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"scale": "db"}, {}, "has scale=db, from which scale=power cannot be derived"),
        ({"scale": "db", "dtype": "float16"}, {"scale": "db"}, "has dtype=float16, from which dtype=float32 cannot be"),
        (
            {},
            {"n_windows": 30},
            "has n_windows=60, from which n_windows=30 cannot be derived; compute it from the audio",
        ),
    ],
)
def test_what_cannot_be_made_of_a_store_is_refused(
    before: dict[str, object], after: dict[str, object], said: str, tmp_path: Path, built: Built
) -> None:
    source = built(range(2), **before)
    with pytest.raises(SpecError, match=said):
        made([source], tmp_path / "s.zarr", source, spec=built(range(1), **after).spec)
    assert not list(tmp_path.iterdir())


def test_stores_that_do_not_go_together_are_refused_before_any_work(
    finished: Store, own_store: Store, tmp_path: Path, built: Built
) -> None:
    target = tmp_path / "out/s.zarr"
    with pytest.raises(SpecError, match=r"differ in n_mels=128 and 64, scale=power and db; build one of them again"):
        made([(finished, [0]), built([1], n_mels=64, scale="db")], target, finished)
    with pytest.raises(CatalogError) as refused:
        made([(finished, [0, 3]), (own_store, [1, 2, 3])], target, finished)
    assert str(refused.value).startswith(
        f"'bells/bells.00003' is the id of a track in {finished.directory} and of one in {own_store.directory}; leave"
    )
    with pytest.raises(CallError, match="no tracks are selected"):
        made([(finished, [])], target, finished)
    for numbers in ([1, 0], [0, 0], [-1], [12]):
        with pytest.raises(ValueError, match="must be ascending, below 12"):
            made([(finished, numbers)], target, finished)
    assert not target.parent.exists()


def test_a_group_is_in_one_split(own_music: Path, tmp_path: Path, plan_of) -> None:
    def of_an_album(number: int, split: str) -> Store:
        manifest, target = own_music / f"{number}.csv", tmp_path / f"{number}.zarr"
        manifest.write_text(f"path,label,group,split\nbells/bells.0000{number}.wav,bells,first album,{split}\n")
        catalog, plan = plan_of(manifest)
        build(plan, catalog, target, InProcess())
        return open_store(target)

    first, second, third = of_an_album(0, "train"), of_an_album(2, "test"), of_an_album(3, "unused")
    with pytest.raises(CatalogError, match=r"00000' \(train\) and .*00002' \(test\) are in one group, 'first album'"):
        made([first, second], tmp_path / "s.zarr", first)
    made([first, third], tmp_path / "s.zarr", first)
    assert open_store(tmp_path / "s.zarr").values("split").tolist() == ["train", "unused"]


def stops_after(n_shards: int) -> Callable[[Receipt], None]:
    """A progress that stops a derivation after some shards, as if it were killed."""
    left = [n_shards]

    def progress(_: Receipt) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return progress


def interrupted(parts: object, target: object, about: Store, **options: object) -> None:
    with pytest.raises(KeyboardInterrupt):
        made(parts, target, about, progress=stops_after(2), **options)


@pytest.mark.parametrize("tracks_per_shard", [5, 2])
def test_one_that_was_stopped_goes_on(
    tracks_per_shard: int, finished: Store, tmp_path: Path, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_threads", lambda *_: 1)
    target, options = tmp_path / "s.zarr", {"tracks_per_shard": tracks_per_shard}
    interrupted([finished], target, finished, **options)
    assert not target.exists()
    n_receipts = open_workspace(target).n_receipts()
    assert 2 <= n_receipts <= 4
    monkeypatch.setattr(repack, "_packed", counting := Counting(repack._packed))
    summary = made([finished], target, finished, **options)
    assert counting.calls == (0 if tracks_per_shard == 5 else 6 - n_receipts)
    assert summary.n_reused == 12 - 2 * counting.calls
    assert digests(target) == digests(built(**options).directory.path)


class Counting:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        return self.function(*arguments)


def test_what_an_earlier_run_left_is_checked(finished: Store, tmp_path: Path, built: Built) -> None:
    target = tmp_path / "s.zarr"
    interrupted([finished], target, finished, tracks_per_shard=2)
    (shard,) = (open_workspace(target).root.path / "shards").glob("0000001.*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    (open_workspace(target).root.path / "receipts/0000000.json").write_text("{}")
    made([finished], target, finished, tracks_per_shard=2)
    assert digests(target) == digests(built(tracks_per_shard=2).directory.path)


def test_the_work_of_another_derivation_is_forgotten(
    finished: Store, tmp_path: Path, built: Built, own_music: Path, plan_of
) -> None:
    target = tmp_path / "s.zarr"
    interrupted([finished], target, finished, tracks_per_shard=2)
    shutil.copy(own_music / "bells/bells.00003.wav", own_music / "bells/bells.00000.wav")  # the same id, other bytes
    catalog, plan = plan_of(own_music)
    build(plan, catalog, tmp_path / "other.zarr", InProcess())
    other = open_store(tmp_path / "other.zarr")
    assert made([other], target, finished, tracks_per_shard=2).n_reused == 0
    made([other], tmp_path / "fresh.zarr", finished, tracks_per_shard=2)
    assert digests(target) == digests(tmp_path / "fresh.zarr")
    assert digests(target) != digests(built(tracks_per_shard=2).directory.path)


def test_a_receipt_that_fits_the_key_but_not_the_tracks_is_not_believed(
    finished: Store, tmp_path: Path, own_music: Path, plan_of
) -> None:
    """As the note would be that says what was being made, if it were left from another time."""
    shutil.copy(own_music / "bells/bells.00003.wav", own_music / "bells/bells.00000.wav")
    catalog, plan = plan_of(own_music)
    build(plan, catalog, tmp_path / "other.zarr", InProcess())
    target, root = tmp_path / "s.zarr", open_workspace(tmp_path / "s.zarr").root
    interrupted([open_store(tmp_path / "other.zarr")], target, finished, tracks_per_shard=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melzarr.pipeline.publishing.workspace.Workspace.forget", lambda _: None)
        made([finished], target, finished, tracks_per_shard=2)
    made([finished], tmp_path / "fresh.zarr", finished, tracks_per_shard=2)
    assert digests(target) == digests(tmp_path / "fresh.zarr")
    assert not root.exists()


def test_what_is_there_is_replaced_only_where_that_is_asked_for(finished: Store, own_store: Store) -> None:
    target = own_store.directory.path
    with pytest.raises(BuildError, match="already exists"):
        made([(finished, [0, 1])], target, finished)
    assert digests(target) == digests(finished.directory.path)
    interrupted([finished], target, finished, replace=True, tracks_per_shard=2)
    assert digests(target) == digests(finished.directory.path)
    made([(finished, [0, 1])], target, finished, replace=True)
    assert open_store(target).n_tracks == 2


def test_a_store_is_replaced_by_one_of_its_own_tracks_and_others(
    finished: Store, own_store: Store, tmp_path: Path
) -> None:
    made([(finished, range(5, 12))], tmp_path / "late.zarr", finished)
    made([(finished, range(5))], own_store.directory.path, finished, replace=True)
    early = open_store(own_store.directory.path)
    made([early, open_store(tmp_path / "late.zarr")], early.directory.path, finished, replace=True, in_place=True)
    assert digests(early.directory.path) == digests(finished.directory.path)
    assert kept(early.directory.path, finished) == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(BuildError, match="is being built by process"), open_workspace(early.directory.path).locked():
        made([finished], early.directory.path, finished, replace=True)


def cannot_link(path: Path, name: Path) -> None:
    """As between two disks; zarr has its own uses for links."""
    if name.parent.name == "shards":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    original_link(path, name)


original_link = os.link


@pytest.mark.parametrize("why", ["another disk", "a link"])
def test_what_cannot_be_linked_is_copied(
    why: str, own_store: Store, finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "a link":
        path = own_store.directory.path / shard_name(1)
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr("os.link", cannot_link)
    made([own_store], tmp_path / "s.zarr", finished)
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    assert not (tmp_path / "s.zarr" / shard_name(1)).is_symlink()
    assert kept(tmp_path / "s.zarr", own_store) == [(0, 0), (1, 1), (2, 2)]


def damage(store: Store, index: int, place: int) -> None:
    path = store.directory.path / shard_name(index)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("what", ["damaged", "missing"])
def test_a_damaged_shard_that_would_be_kept_is_named_and_nothing_appears(
    what: str, linked: bool, own_store: Store, finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not linked:
        monkeypatch.setattr("os.link", cannot_link)
    if what == "damaged":
        damage(own_store, 2, 100)
    else:
        (own_store.directory.path / shard_name(2)).unlink()
    reason = "its bytes are not those that were written" if what == "damaged" else "it is missing"
    names = "drums/drums.00004, drums/drums.00005"
    with pytest.raises(StoreError, match=rf"the shard mel/c/2/0/0/0, with the tracks {names}, cannot .* \({reason}\)"):
        made([own_store], tmp_path / "s.zarr", finished)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(("place", "name"), [(100, "bells/bells.00005"), (-1, "bells/bells.00005"), (None, "bells")])
def test_a_damaged_track_is_named_and_nothing_appears(
    place: int | None, name: str, own_store: Store, finished: Store, tmp_path: Path
) -> None:
    if place is None:
        (own_store.directory.path / shard_name(1)).write_bytes(b"")
    else:
        damage(own_store, 1, place)
    with pytest.raises(StoreError, match=rf"track {name}.* cannot be copied \(.*\); see: melzarr verify"):
        made([own_store], tmp_path / "s.zarr", finished, tracks_per_shard=7)
    assert not (tmp_path / "s.zarr").exists()


def test_a_shard_in_another_ones_place_is_found(own_store: Store, finished: Store, tmp_path: Path) -> None:
    first, second, aside = (own_store.directory.path / name for name in (shard_name(0), shard_name(1), "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    with pytest.raises(StoreError, match=r"its shard does not have the size that was written"):
        made([own_store], tmp_path / "s.zarr", finished, tracks_per_shard=7)


def test_windows_that_are_said_to_be_valid_and_are_not_are_refused(
    own_store: Store, finished: Store, tmp_path: Path
) -> None:
    number = finished.values("track").tolist().index("drums/drums.00004")  # failed, so all of it is NaN
    group = zarr.open_group(own_store.directory.path, mode="r+")
    group["n_windows"][number] = 60
    group["split"][number], group["status"][number] = "train", "ok"
    with pytest.raises(
        StoreError, match=r"drums/drums\.00004 cannot be copied \(one of its 60 valid windows is not fini"
    ):
        made([open_store(own_store.directory.path)], tmp_path / "s.zarr", finished, tracks_per_shard=7)
    group["n_windows"][number] = 61
    with pytest.raises(StoreError, match="it cannot have 61 valid windows of 60"):
        made([open_store(own_store.directory.path)], tmp_path / "s.zarr", finished, tracks_per_shard=7)


@pytest.mark.parametrize("chunks", [(1, 60, 5, 128), (2, 30, 5, 128)])
def test_somebody_elses_layout_is_read_and_packed_as_here(
    chunks: tuple[int, ...], own_store: Store, finished: Store, tmp_path: Path
) -> None:
    store = rechunk(own_store, chunks)
    assert (store.chunks(), store.tracks_per_shard) == (None, chunks[0])
    read, found = store.reader(), np.empty_like(finished.mel[...])
    for number in range(12):
        read(number, found[number])
    np.testing.assert_array_equal(found, finished.mel[...])
    lines = CliRunner().invoke(main, ["inspect", str(store.directory)]).stdout
    assert f"one track {chunks}; each in a separate file" in lines
    assert made([store], tmp_path / "s.zarr", finished, tracks_per_shard=5).n_reused == 0
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    made([store], tmp_path / "likewise.zarr", finished)
    made([finished], tmp_path / "expected.zarr", finished, tracks_per_shard=chunks[0])
    assert digests(tmp_path / "likewise.zarr") == digests(tmp_path / "expected.zarr")


# What explains a store appears with it.


def test_what_explains_a_store_sees_it_whole_and_appears_with_it(finished: Store, tmp_path: Path) -> None:
    target, seen = tmp_path / "s.zarr", []

    def explain(store: Store, folder: Path, checksums: Mapping[str, str]) -> None:
        assert not target.exists()
        seen.append((verify(store).problems, store.attributes["uuid"]))
        assert checksums == {name: digest for name, digest in digests(folder).items() if name.startswith("mel/c/")}
        np.testing.assert_array_equal(store.mel[7], finished.mel[7])
        (folder / "README.md").write_text(f"{store.n_tracks} tracks")
        (folder / "more").mkdir()
        (folder / "more/list.csv").write_text("a")

    made([finished], target, finished, explain=explain)
    assert seen == [([], finished.attributes["uuid"])]
    assert (target / "README.md").read_text() == "12 tracks"
    assert (target / "more/list.csv").read_text() == "a"


def test_where_explaining_fails_nothing_appears(finished: Store, tmp_path: Path) -> None:
    def explain(_: Store, folder: Path, __: object) -> None:
        (folder / "README.md").write_text("half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        made([finished], tmp_path / "s.zarr", finished, explain=explain)
    assert not (tmp_path / "s.zarr").exists()
    assert made([finished], tmp_path / "s.zarr", finished).n_reused == 12
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)


# In an object store.


def remote_digests(directory: Directory) -> dict[str, str]:
    return {name: directory.digest(name, hashlib.sha256) for name, _ in directory.files()}


def uploaded(store: Store, directory: ObjectStoreDirectory) -> Store:
    for name, _ in store.directory.files():
        directory.write(name, store.directory.read(name))
    return open_store(directory)


def test_from_disk_to_bucket_to_bucket_to_disk_it_is_that_store(
    finished: Store, bucket: ObjectStoreDirectory, tmp_path: Path
) -> None:
    first, second = bucket.child("a.zarr"), bucket.child("b.zarr")
    made([finished], first, finished)
    assert remote_digests(first) == digests(finished.directory.path)
    made([open_store(first)], second, finished, tracks_per_shard=3)
    made([open_store(second)], tmp_path / "s.zarr", finished, tracks_per_shard=5)
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    assert not bucket.child("a.zarr.building").exists()
    assert not bucket.child("b.zarr.building").exists()


def test_of_a_store_on_the_web(finished: Store, bucket: ObjectStoreDirectory, s3: Seaweed, tmp_path: Path) -> None:
    uploaded(finished, bucket.child("s.zarr"))
    web = open_store(open_directory(f"{bucket}/s.zarr".replace("s3:/", s3.web)))
    made([(web, range(5, 12))], tmp_path / "s.zarr", finished)
    made([(finished, range(5, 12))], tmp_path / "fresh.zarr", finished)
    assert digests(tmp_path / "s.zarr") == digests(tmp_path / "fresh.zarr")


def test_in_a_bucket_one_that_was_stopped_goes_on(
    finished: Store, bucket: ObjectStoreDirectory, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_threads", lambda *_: 1)
    target, expected = bucket.child("s.zarr"), digests(built(tracks_per_shard=2).directory.path)
    source = uploaded(finished, bucket.child("source.zarr"))
    interrupted([source], target, finished, tracks_per_shard=2)
    with pytest.raises(StoreError, match="there is no store"):
        open_store(target)
    assert made([source], target, finished, tracks_per_shard=2).n_reused >= 4
    assert remote_digests(target) == expected


def test_in_a_bucket_what_explains_a_store_sees_it_whole_and_appears_with_it(
    finished: Store, bucket: ObjectStoreDirectory, music: Path
) -> None:
    target, seen = bucket.child("s.zarr"), []

    def explain(store: Store, folder: Path, _: object) -> None:
        assert target.size("zarr.json") is None
        assert (str(store.directory), store.directory.name, store.n_bytes) == (f"{target}", "s.zarr", finished.n_bytes)
        seen.append(verify(store, music, n_samples=3))
        read, track = store.reader(), np.empty(store.spec.shape, np.float32)
        read(7, track)
        np.testing.assert_array_equal(track, finished.mel[7])
        np.testing.assert_array_equal(store.mel[7], finished.mel[7])
        with store.directory.local("label/zarr.json") as path:
            assert path.parent.parent == folder
        with pytest.raises(CallError, match="is not published yet and can only be read"):
            store.directory.write("README.md", b"")
        (folder / "README.md").write_text("12 tracks")

    made([finished], target, finished, explain=explain)
    assert (seen[0].problems, seen[0].n_tracks, seen[0].n_sampled) == ([], 12, 3)
    assert target.read("README.md") == b"12 tracks"
    assert target.read("zarr.json") == finished.directory.read("zarr.json")


def test_in_a_bucket_shards_of_a_store_that_is_replaced_stay_where_they_are(
    finished: Store, bucket: ObjectStoreDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made([(finished, range(7))], tmp_path / "early.zarr", finished)
    made([(finished, range(7, 12))], tmp_path / "late.zarr", finished)
    target = bucket.child("s.zarr")
    early, late = uploaded(open_store(tmp_path / "early.zarr"), target), open_store(tmp_path / "late.zarr")
    written, original = [], ObjectStoreDirectory.write

    def write(self: ObjectStoreDirectory, name: str, *parts: bytes) -> None:
        written.append(name)
        original(self, name, *parts)

    monkeypatch.setattr(ObjectStoreDirectory, "write", write)

    def explain(store: Store, _: Path, __: object) -> None:
        assert verify(store).problems == []

    assert made([early, late], target, finished, replace=True, in_place=True, explain=explain).n_reused == 5
    assert sorted(name[:14] for name in written if "shards/" in name) == ["shards/0000001", "shards/0000002"]
    assert remote_digests(target) == digests(finished.directory.path)


def test_parts_of_receipts_are_those_of_all(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = list(finished.receipts())
    for wanted in ([], [1], [0, 2], [0, 1, 2]):
        for step in (5, 1 << 16):
            monkeypatch.setattr("melzarr.pipeline.zarr_store.reader.CHUNK_VALUES", step)
            found = list(finished.receipts(np.array(wanted, np.intp)))
            assert [repr(receipt) for receipt in found] == [repr(everything[index]) for index in wanted]
