"""Tables of the tracks for Hugging Face: their columns, their pictures, their windows, and the form of their files."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import librosa
import numpy as np
import pyarrow as pa
import pytest
from matplotlib import colormaps
from PIL import Image
from pyarrow import parquet

from melzarr.pipeline.report.mel_figure import RANGE_DB
from melzarr.pipeline.share import parquet_tables
from melzarr.pipeline.share.parquet_tables import write_tables
from melzarr.pipeline.share.track_picture import MAX_COLUMNS, draw_track
from melzarr.pipeline.spec import PRESETS, FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store

SPEC = FeatureSpec(n_windows=60)


@pytest.fixture(scope="module")
def folder(finished: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the music, with its windows; not to be changed."""
    folder = tmp_path_factory.mktemp("hub")
    write_tables(finished, folder, arrays=True)
    return folder


def tables(folder: Path) -> dict[str, pa.Table]:
    return {path.name: parquet.read_table(path) for path in sorted((folder / "data").iterdir())}


def picture(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Levels in dB of a picture by its colours, low bands first, and where it is opaque."""
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[::-1]
    palette = (colormaps["magma"](np.linspace(0, 1, 91))[:, :3] * 255).round().astype(int)
    distance = np.abs(rgba[..., None, :3].astype(int) - palette).sum(axis=-1)
    return distance.argmin(axis=-1) + RANGE_DB[0], rgba[..., 3] == 255


def test_each_split_has_the_rows_of_its_tracks(finished: Store, folder: Path) -> None:
    found, split = tables(folder), finished.values("split")
    assert list(found) == [f"{name}-00000-of-00001.parquet" for name in sorted(set(split))]
    for name, table in found.items():
        numbers = np.flatnonzero(split == name.partition("-")[0])
        labels = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        assert [labels[row] for row in table["label"].to_pylist()] == finished.values("label")[numbers].tolist()
        for column in ("track", "split", "group", "status", "error", "n_windows", "source", "source_blake3"):
            assert table[column].to_pylist() == finished.values(column)[numbers].tolist()
        for column in ("duration", "peak", "end"):
            values = [np.nan if value is None else value for value in table[column].to_pylist()]
            np.testing.assert_array_equal(values, finished.values(column)[numbers])


def test_its_pictures_are_the_middle_frames_of_its_windows_in_db(finished: Store, folder: Path) -> None:
    rows = {row["track"]: row for table in tables(folder).values() for row in table.to_pylist()}
    for number, (track, n_valid) in enumerate(zip(finished.values("track"), finished.values("n_windows"), strict=True)):
        if not n_valid:
            assert rows[track]["image"] is None
            continue
        levels, opaque = picture(rows[track]["image"]["bytes"])
        assert levels.shape == (128, 60)
        assert opaque.all(axis=0).tolist() == (np.arange(60) < n_valid).tolist()
        expected = librosa.power_to_db(finished.mel[number][:n_valid, 2].T, amin=1e-10, top_db=None)
        np.testing.assert_allclose(levels[:, :n_valid], np.clip(expected, *RANGE_DB), atol=0.5 + 1e-3)


def test_its_windows_are_levels_in_db_and_nan_where_there_is_none(finished: Store, folder: Path) -> None:
    rows = {row["track"]: row for table in tables(folder).values() for row in table.to_pylist()}
    for track, mel in zip(finished.values("track"), finished.mel[:], strict=True):
        found = np.array(rows[track]["mel_db"], np.float32)
        expected = np.where(np.isnan(mel), np.nan, librosa.power_to_db(np.nan_to_num(mel), amin=1e-10, top_db=None))
        np.testing.assert_allclose(found, expected, atol=2**-5)  # half a step of float16 between 64 and 128


def test_its_schema_says_what_the_library_reads(folder: Path) -> None:
    schema = parquet.read_schema(folder / "data/train-00000-of-00001.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["label"] == {"names": ["bells", "drums"], "_type": "ClassLabel"}
    assert features["image"] == {"_type": "Image"}
    assert features["mel_db"] == {"shape": [60, 5, 128], "dtype": "float16", "_type": "Array3D"}
    assert features["duration"] == {"dtype": "float64", "_type": "Value"}
    assert schema.field("image").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert schema.field("mel_db").type == pa.list_(pa.list_(pa.list_(pa.float16())))


def test_the_files_and_their_row_groups_are_bounded(
    finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = 1024 + 60 * 256 + 2 * 60 * 5 * 128
    monkeypatch.setattr(parquet_tables, "GROUP_BYTES", 2 * row)
    monkeypatch.setattr(parquet_tables, "FILE_BYTES", 5 * row)
    made = write_tables(finished, tmp_path, arrays=True)
    n_train = next(table.n_rows for table in made.splits if table.split == "train")
    names = sorted(path.name for path in (tmp_path / "data").glob("train-*"))
    assert names == [f"train-{n:05d}-of-{-(-n_train // 4):05d}.parquet" for n in range(-(-n_train // 4))]
    metadata = parquet.read_metadata(tmp_path / "data" / names[0])
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [2, 2]
    assert metadata.row_group(0).column(0).has_offset_index
    assert b"content_defined_chunking" in metadata.metadata
    found = pa.concat_tables(parquet.read_table(tmp_path / "data" / name) for name in names)
    assert found["track"].to_pylist() == finished.values("track")[finished.values("split") == "train"].tolist()


def test_the_bytes_are_the_same_each_time(finished: Store, folder: Path, tmp_path: Path) -> None:
    made = write_tables(finished, tmp_path, arrays=True)
    for path in (tmp_path / "data").iterdir():
        assert path.read_bytes() == (folder / "data" / path.name).read_bytes()
    assert sum(table.n_file_bytes for table in made.splits) == sum(
        path.stat().st_size for path in (tmp_path / "data").iterdir()
    )


def test_the_picture_of_one_long_window_is_all_its_frames() -> None:
    spec = PRESETS["whisper"].spec
    ramp = np.linspace(-60, 30, spec.n_frames, dtype=np.float32)
    stored = np.broadcast_to(10 ** (ramp / 10), (spec.n_mels, spec.n_frames)).T[None]
    levels, opaque = picture(draw_track(np.ascontiguousarray(stored), 1, spec))
    n_columns = -(-3000 // 3)  # of at most MAX_COLUMNS
    assert levels.shape == (160, n_columns)
    assert n_columns <= MAX_COLUMNS
    assert opaque.all()
    np.testing.assert_allclose(levels[0], ramp[:3000].reshape(-1, 3).mean(axis=1), atol=0.51)


@pytest.mark.parametrize(("scale", "dtype"), [("db", "float32"), ("db", "float16")])
def test_a_store_in_db_gives_the_same_picture(scale: str, dtype: str) -> None:
    power = np.random.default_rng(0).gamma(0.5, size=SPEC.shape).astype(np.float32)
    db = dataclasses.replace(SPEC, scale=scale, dtype=dtype)
    stored = librosa.power_to_db(power, amin=1e-10, top_db=None).astype(dtype)
    (found, _), (expected, _) = picture(draw_track(stored, 50, db)), picture(draw_track(power, 50, SPEC))
    assert np.abs(found - expected).max() <= (dtype == "float16")  # a level can be rounded the other way
