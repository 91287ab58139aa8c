"""A store of an older schema is read and verified; what is made from it has the schema of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import melzarr
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.zarr_store.layout import ADDED, SCHEMA_VERSION
from melzarr.pipeline.zarr_store.reader import Store, open_store


@pytest.fixture
def older(own_store: Store) -> Store:
    """A store as version 3 wrote it: without the columns that were added since."""
    path = Path(own_store.address)
    metadata = json.loads((path / "zarr.json").read_bytes())
    metadata["attributes"]["schema_version"] = 3
    for name in ADDED:
        shutil.rmtree(path / name)
        del metadata["consolidated_metadata"]["metadata"][name]
    (path / "zarr.json").write_text(json.dumps(metadata))
    uuid = open_store(path).content_uuid()
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace(own_store.attributes["uuid"], uuid))
    return open_store(path)


def test_it_is_read_and_sound(older: Store, finished: Store) -> None:
    assert older.attributes["schema_version"] == 3
    for name, nothing in ADDED.items():
        np.testing.assert_array_equal(older.values(name), [nothing] * 12)
        assert older.column(name, slice(3, 5)).shape == (2,)
        assert older.column(name).dtype == finished.column(name).dtype
    assert verify(older, None, n_samples=0, seed=0).problems == []
    np.testing.assert_array_equal(older.mel[:], finished.mel[:])


def test_a_store_of_today_without_such_a_column_is_damaged(older: Store) -> None:
    path = Path(older.address) / "zarr.json"
    path.write_text(path.read_text().replace('"schema_version": 3', f'"schema_version": {SCHEMA_VERSION}'))
    with pytest.raises(StoreError, match="is not a complete store"):
        open_store(older.address)


def test_what_is_made_from_it_has_the_schema_of_today(older: Store, music: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(music, tmp_path / "music"))
    shutil.copy(source / "bells/bells.00000.wav", source / "bells/new.wav")
    share = melzarr.open(older.address).share(tmp_path / "share", progress=False)
    grown = melzarr.append(older.address, source, workers=0, progress=False)
    assert (len(share), len(grown)) == (12, 13)
    for store, decoders in ((share, [""] * 12), (grown, [""] * 12 + ["libsndfile"])):
        assert store.attributes["schema_version"] == SCHEMA_VERSION
        assert store.opened.values("decoder").tolist() == decoders
        assert store.verify(progress=False).problems == []


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
    assert merged.tracks["decoder"].tolist() == [""] * 12 + ["libsndfile"] * 2
    assert melzarr.merge([older.address, tmp_path / "b.zarr"], tmp_path / "c.zarr").address == merged.address
