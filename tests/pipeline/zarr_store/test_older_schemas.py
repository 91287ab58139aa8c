"""A store of an older schema is read and verified; what is made from it has the schema of today."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from older_store import made_older
from processes import digests

import melzarr
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.builder.up_to_date import changes
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.zarr_store.layout import ADDED, SCHEMA_VERSION, is_file_of_a_store
from melzarr.pipeline.zarr_store.reader import Store, open_store


@pytest.fixture(params=[3, 4])
def older(own_store: Store, music: Path, request: pytest.FixtureRequest) -> Store:
    """A store as an earlier version wrote it."""
    return made_older(own_store, request.param, music)


def test_it_is_read_and_sound(older: Store, finished: Store, music: Path) -> None:
    for name, nothing in ADDED.items():
        expected = [nothing] * 12 if older.attributes["schema_version"] == 3 else finished.values(name)
        np.testing.assert_array_equal(older.values(name), expected)
        assert older.column(name, slice(3, 5)).shape == (2,)
        assert older.column(name).dtype == finished.column(name).dtype
    np.testing.assert_array_equal(older.mel[:], finished.mel[:])
    assert all(map(is_file_of_a_store, (name for name, _ in older.directory.files(without="mel/c"))))
    assert older.column("source_blake3").dtype == finished.column("source_blake3").dtype
    for source, digest in zip(older.values("source"), older.values("source_blake3"), strict=True):
        assert digest == f"sha256:{hashlib.sha256((music / source).read_bytes()).hexdigest()}"
    verdict = verify(older, music, n_samples=1, seed=0)
    assert (verdict.problems, verdict.n_sources) == ([], 12)


def test_what_changed_since_is_found(older: Store, music: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(music, tmp_path / "music"))
    (source / older.values("source")[3]).write_bytes(b"another")
    verdict = verify(older, source)
    assert [problem.partition(":")[0] for problem in verdict.problems] == [older.values("track")[3]]
    shard = older.directory.path / "mel/c/1/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    assert any("mel/c/1/0/0/0 is not the one" in p or "cannot be decoded" in p for p in verify(older).problems)


def test_a_store_of_today_without_such_a_column_is_damaged(older: Store) -> None:
    path, schema = Path(older.address) / "zarr.json", older.attributes["schema_version"]
    path.write_text(path.read_text().replace(f'"schema_version": {schema}', f'"schema_version": {SCHEMA_VERSION}'))
    with pytest.raises(StoreError, match="is not a complete store"):
        open_store(older.address)


def test_what_is_made_from_it_has_the_schema_of_today(
    older: Store, finished: Store, music: Path, tmp_path: Path
) -> None:
    source, shards = Path(shutil.copytree(music, tmp_path / "music")), digests(finished.directory.path / "mel/c")
    shutil.copy(source / "bells/bells.00000.wav", source / "bells/new.wav")
    decoders, before = older.values("decoder").tolist(), older.values("source_blake3").tolist()
    share = melzarr.open(older.address).share(tmp_path / "share", progress=False)
    grown = melzarr.append(older.address, source, workers=0, progress=False)
    assert (len(share), len(grown)) == (12, 13)
    for store, more in ((share, []), (grown, ["libsndfile"])):
        assert store.attributes["schema_version"] == SCHEMA_VERSION
        assert store.opened.values("decoder").tolist() == decoders + more
        assert store.opened.values("source_blake3")[:12].tolist() == before  # what a SHA-256 says is kept
        assert store.verify(source, progress=False).problems == []
    assert digests(tmp_path / "share/mel/c") == shards
    assert grown.opened.values("source_blake3")[12] == open_directory(music).digest("bells/bells.00000.wav")
    assert melzarr.append(older.address, source, workers=0, progress=False).address == grown.address  # all are there


def test_it_is_merged_with_a_store_of_today(older: Store, music: Path, tmp_path: Path) -> None:
    for label in ("bells", "drums"):
        (tmp_path / "music" / label).mkdir(parents=True)
        shutil.copy(music / label / f"{label}.00000.wav", tmp_path / "music" / label / "new.wav")
    melzarr.build(
        tmp_path / "music",
        tmp_path / "b.zarr",
        valid=0,
        test=0,
        workers=0,
        progress=False,
        n_windows=60,
        tracks_per_shard=5,
    )
    merged = melzarr.merge([older.address, tmp_path / "b.zarr"], tmp_path / "c.zarr", progress=False)
    assert merged.attributes["schema_version"] == SCHEMA_VERSION
    assert merged.tracks["decoder"].tolist() == older.values("decoder").tolist() + ["libsndfile"] * 2
    assert merged.verify(progress=False).problems == []
    assert melzarr.merge([older.address, tmp_path / "b.zarr"], tmp_path / "c.zarr").address == merged.address


def test_it_is_up_to_date_and_a_build_by_force_computes_it_again(older: Store, music: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    assert changes(older, plan, catalog) == []
    summary = build(plan, catalog, older.directory, InProcess(), replace=True)
    assert (summary.n_reused, summary.outdated) == (0, ())  # its digests cannot be compared with those of today
    assert open_store(older.address).attributes["schema_version"] == SCHEMA_VERSION
