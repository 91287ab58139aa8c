"""A finished store, as plain zarr and plain xarray see it."""

import dataclasses
import json
import math
import warnings
from collections import Counter
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import xarray as xr
import zarr

from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.features.decibels import level_db
from melzarr.pipeline.inspection.describe import describe
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.atomic import tree_bytes
from melzarr.pipeline.zarr_store.layout import CHUNK_VALUES, COORDINATES, Variable, _Files, _write
from melzarr.pipeline.zarr_store.reader import Store, open_store

TEXT = ("track", "label", "split", "group", "status", "error", "source", "source_blake3")


def test_xarray_opens_it_with_all_coordinates_and_without_a_warning(finished: Store) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(finished.directory.path)
    assert dataset.mel.dims == ("track", "window", "frame", "band")
    assert dataset.mel.shape == (12, 60, 5, 128)
    assert set(dataset.coords) == set(COORDINATES)
    assert set(dataset.mel.coords) == set(COORDINATES)
    for name, (dims, attributes) in COORDINATES.items():
        assert dataset[name].dims == dims
        assert dataset[name].attrs.items() >= attributes.items()


def test_text_is_text_to_plain_zarr_and_to_xarray(finished: Store) -> None:
    group, dataset = zarr.open_group(finished.directory.path, mode="r"), xr.open_zarr(finished.directory.path)
    for name in TEXT:
        assert json.loads((finished.directory.path / name / "zarr.json").read_text())["data_type"] == "string"
        assert [str(value) for value in group[name][:]] == [str(value) for value in dataset[name].values]
    assert str(dataset.track.values[0]) == "bells/bells.00000"
    assert dataset.mel.sel(track="bells/bells.00000").shape == (60, 5, 128)


def test_coordinates_are_in_the_units_that_they_say(finished: Store, music: Path) -> None:
    dataset = xr.open_zarr(finished.directory.path)
    np.testing.assert_allclose(dataset.window, np.arange(60) * 0.04)
    np.testing.assert_allclose(dataset.frame, np.arange(5) * 512 / 22050)
    np.testing.assert_allclose(dataset.band, librosa.mel_frequencies(n_mels=130, fmin=0, fmax=11025)[1:-1])
    np.testing.assert_allclose(dataset.duration[0], 3.0)
    assert dataset.source_rate[0] == 22050
    np.testing.assert_allclose(dataset.peak[0], np.abs(soundfile.read(music / "bells/bells.00000.wav")[0]).max())
    assert dataset.clipped[0] == 0


def test_each_chunk_is_one_track_checksummed_and_each_shard_some_tracks(finished: Store) -> None:
    mel = zarr.open_array(finished.directory.path / "mel", mode="r")
    assert mel.chunks == (1, 60, 5, 128)
    assert mel.shards == (5, 60, 5, 128)
    (sharding,) = json.loads((finished.directory.path / "mel/zarr.json").read_text())["codecs"]
    assert [codec["name"] for codec in sharding["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert sorted(path.name for path in (finished.directory.path / "mel/c").iterdir()) == ["0", "1", "2"]


def test_what_is_not_there_is_nan_with_a_status_and_a_sentence(finished: Store) -> None:
    dataset = xr.open_zarr(finished.directory.path)
    status = dict(zip(dataset.track.values.tolist(), dataset.status.values.tolist(), strict=True))
    assert status.pop("bells/bells.00001") == "short"
    assert status.pop("drums/drums.00002") == "silent"
    assert status.pop("drums/drums.00004") == "failed"
    assert set(status.values()) == {"ok"}
    failed, short = dataset.sel(track="drums/drums.00004"), dataset.sel(track="bells/bells.00001")
    assert np.isnan(failed.mel).all()
    assert np.isnan([failed[name] for name in ("duration", "source_rate", "source_channels", "peak", "clipped")]).all()
    assert failed.n_windows == 0
    # 1 s holds the windows that begin up to 0.9 s: 0.00, 0.04 … 0.88
    assert short.n_windows == 23
    assert np.isfinite(short.mel[:23]).all()
    assert np.isnan(short.mel[23:]).all()
    for track, row in dataset.groupby("track"):
        assert (str(row.error.values.item()) == "") == (status.get(track) == "ok")


def test_statistics_are_those_of_the_train_splits_ok_tracks(finished: Store) -> None:
    dataset = xr.open_zarr(finished.directory.path)
    train = dataset.split.values == "train"
    assert set(dataset.status.values[train]) > {"ok", "silent"}  # silence would bend them
    levels = librosa.power_to_db(dataset.mel.values[train & (dataset.status.values == "ok")], ref=1.0, top_db=None)
    levels = levels.astype(np.float64).reshape(-1, 128)
    np.testing.assert_allclose(dataset.mean_db, levels.mean(axis=0), atol=1e-4)  # float32 levels
    np.testing.assert_allclose(dataset.std_db, levels.std(axis=0), atol=1e-4)


def test_attributes_say_what_it_is_and_name_no_path_of_this_machine(finished: Store, music: Path) -> None:
    attributes = finished.attributes
    assert FeatureSpec.from_dict(attributes["spec"]) == finished.spec
    assert attributes["schema_version"] == 5
    assert {"melzarr features", "librosa", "libsndfile", "numpy", "soxr", "zarr"} <= attributes["versions"].keys()
    assert attributes.keys() >= {"title", "licence", "split", "recipe", "uuid"}
    for path in finished.directory.path.rglob("*.json"):
        assert str(music) not in path.read_text()


def test_its_uuid_is_the_digest_of_its_files(own_store: Store) -> None:
    assert own_store.attributes["uuid"] == own_store.content_uuid()
    (own_store.directory.path / "mel/zarr.json").write_text(
        (own_store.directory.path / "mel/zarr.json").read_text() + " "
    )
    assert own_store.attributes["uuid"] != own_store.content_uuid()


def test_its_description_counts_and_names_its_tracks(finished: Store) -> None:
    dataset, facts = xr.open_zarr(finished.directory.path), describe(finished)
    names = ("label", "split", "status")
    counts = Counter(zip(*(dataset[name].values.tolist() for name in names), strict=True))
    assert facts.tracks == [dict(zip((*names, "tracks"), (*key, n), strict=True)) for key, n in sorted(counts.items())]
    troubled = dataset.isel(track=np.flatnonzero(dataset.status.values != "ok"))
    assert facts.troubled == [
        {name: str(track[name].values.item()) for name in ("source", "status", "error")}
        for track in (troubled.isel(track=[number]) for number in range(troubled.track.size))
    ]
    assert facts.bytes == finished.n_bytes == tree_bytes(finished.directory.path)


def test_its_receipts_are_those_of_its_workers(
    music: Path, tmp_path: Path, plan_of, finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    catalog, plan = plan_of(music)
    build(plan, catalog, tmp_path / "s.zarr", InProcess(), progress=given.append)
    plain = [repr(dataclasses.replace(receipt, seconds={})) for receipt in given]
    assert [repr(receipt) for receipt in finished.receipts()] == plain
    monkeypatch.setattr("melzarr.pipeline.zarr_store.reader.CHUNK_VALUES", 6)  # a shard at a time
    assert [repr(receipt) for receipt in finished.receipts()] == plain


@pytest.mark.parametrize("shape", [(1,), (CHUNK_VALUES,), (CHUNK_VALUES + 1,), (513, 128), (3, 2 * CHUNK_VALUES)])
def test_no_chunk_beside_the_windows_grows_with_the_store(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = np.arange(math.prod(shape)).reshape(shape)
    dims = ("shard", "band")[: len(shape)]
    files = _Files(tmp_path / "s.zarr")
    group = zarr.create_group(files.store)
    _write(group, Variable("numbers", dims, data, {}), files)
    _write(group, Variable("texts", dims, data.astype("S"), {}), files)
    assert all(name.endswith("zarr.json") for name in files.held)  # chunks are not kept in memory
    files.write_metadata()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert group["numbers"].chunks[0] == min(shape[0], max(1, CHUNK_VALUES // math.prod(shape[1:])))
    assert group["numbers"].chunks[1:] == shape[1:]
    np.testing.assert_array_equal(group["numbers"][...], data)
    np.testing.assert_array_equal(group["texts"][...], data.astype("S").astype(np.dtypes.StringDType()))


def test_decibels_in_float16_are_a_smaller_store(music: Path, tmp_path: Path, plan_of, finished: Store) -> None:
    catalog, plan = plan_of(music, scale="db", dtype="float16")
    build(plan, catalog, tmp_path / "db.zarr", InProcess())
    dataset = xr.open_zarr(tmp_path / "db.zarr")
    assert dataset.mel.dtype == np.float16
    assert dataset.mel.attrs["units"] == "dB"
    power = finished.mel[0]
    # float16 has 11 significant bits: between 64 and 128 dB its steps are 1/16 dB, and rounding is by half of one
    np.testing.assert_allclose(dataset.mel[0].values, level_db(power, finished.spec), atol=1 / 32)


def test_no_store_a_foreign_group_and_another_schema_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*melzarr features"):
        open_store(tmp_path / "none.zarr")
    zarr.create_group(tmp_path / "foreign.zarr")
    with pytest.raises(StoreError, match="schema_version=None"):
        open_store(tmp_path / "foreign.zarr")
    (tmp_path / "file.zarr").write_text("x")
    with pytest.raises(StoreError):
        open_store(tmp_path / "file.zarr")
