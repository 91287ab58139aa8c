"""Chunks and shards are held to what Zarr itself writes and reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.zarr_store.layout import create_mel, is_packed
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.shard import decode_chunk, encode_chunk, index_bytes, pack, read_index, shard_name

SPEC = FeatureSpec(sample_rate=8000, window=700, stride=300, n_windows=6, n_fft=512, hop_length=128, n_mels=20)
HALF = FeatureSpec.from_dict({**SPEC.to_dict(), "scale": "db", "dtype": "float16"})


def made_tracks(spec: FeatureSpec, n_tracks: int, seed: int) -> np.ndarray:
    """Tracks of noise, of which some are short and one has failed."""
    rng = np.random.default_rng(seed)
    tracks = rng.standard_normal((n_tracks, *spec.shape)).astype(spec.dtype)
    for track in tracks:
        track[rng.integers(0, spec.n_windows + 1) :] = np.nan
    return tracks


def packed(tracks: np.ndarray, tracks_per_shard: int) -> bytes:
    return b"".join(pack([encode_chunk(track) for track in tracks], tracks_per_shard))


def read_chunk(path: Path, place: int, tracks_per_shard: int, out: np.ndarray) -> None:
    """Read one track of a shard's file."""
    data = path.read_bytes()
    start, n_bytes = map(int, read_index(data[-index_bytes(tracks_per_shard) :], len(data), tracks_per_shard)[place])
    decode_chunk(data[start : start + n_bytes], out)


def by_zarr(folder: Path, tracks: np.ndarray, spec: FeatureSpec, tracks_per_shard: int) -> zarr.Array:
    array = create_mel(folder, spec, len(tracks), tracks_per_shard)
    array[...] = tracks
    return array


@settings(max_examples=40, deadline=None)
@given(n_tracks=st.integers(1, 9), tracks_per_shard=st.integers(1, 5), half=st.booleans(), seed=st.integers(0, 99))
def test_shards_are_zarrs_to_the_last_byte(
    tmp_path_factory: pytest.TempPathFactory, n_tracks: int, tracks_per_shard: int, half: bool, seed: int
) -> None:
    spec, folder = HALF if half else SPEC, tmp_path_factory.mktemp("chunk")
    tracks = made_tracks(spec, n_tracks, seed)
    array = by_zarr(folder, tracks, spec, tracks_per_shard)
    assert is_packed(array, spec)
    for index in range(-(-n_tracks // tracks_per_shard)):
        rows = tracks[index * tracks_per_shard : (index + 1) * tracks_per_shard]
        path = folder / shard_name(index)
        assert packed(rows, tracks_per_shard) == path.read_bytes()
        for place, row in enumerate(rows):
            out = np.empty(spec.shape, spec.dtype)
            read_chunk(path, place, tracks_per_shard, out)
            np.testing.assert_array_equal(out, row)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard of four tracks, of which three are there."""
    path = tmp_path / "shard"
    path.write_bytes(packed(made_tracks(SPEC, 3, 0), 4))
    return path


def test_a_track_that_a_shard_lacks_is_said_to_be_missing(shard: Path) -> None:
    with pytest.raises(ValueError, match="it is missing"):
        read_chunk(shard, 3, 4, np.empty(SPEC.shape, np.float32))


def test_no_flipped_bit_is_read(shard: Path) -> None:
    data, rng = shard.read_bytes(), np.random.default_rng(0)
    chunk_bytes = len(encode_chunk(made_tracks(SPEC, 3, 0)[0]))
    index_start = len(data) - 4 * 16 - 4
    places = [*rng.integers(0, chunk_bytes, 60), *rng.integers(index_start, len(data), 60)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match="checksum"):
            read_chunk(shard, 0, 4, np.empty(SPEC.shape, np.float32))


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_no_shard_that_was_cut_off_is_read(shard: Path, share: float) -> None:
    data = shard.read_bytes()
    shard.write_bytes(data[: int(share * len(data))])
    with pytest.raises((OSError, ValueError)):
        read_chunk(shard, 0, 4, np.empty(SPEC.shape, np.float32))


def test_a_chunk_that_claims_another_size_is_not_unpacked(shard: Path) -> None:
    larger = np.zeros((4, *SPEC.shape), np.float32)
    shard.write_bytes(packed(larger[np.newaxis], 4))
    with pytest.raises(ValueError, match="does not have the size of a track"):
        read_chunk(shard, 0, 4, np.empty(SPEC.shape, np.float32))


def test_the_tracks_of_another_layout_are_read_by_zarr(tmp_path: Path) -> None:
    tracks = made_tracks(SPEC, 5, 0)
    group = zarr.create_group(tmp_path)
    array = group.create_array("mel", shape=tracks.shape, chunks=(2, 3, *SPEC.shape[1:]), dtype="float32")
    array[...] = tracks
    assert not is_packed(array, SPEC)
    read = Store(open_directory(tmp_path), group, SPEC).reader()
    for number, track in enumerate(tracks):
        out = np.empty(SPEC.shape, np.float32)
        read(number, out)
        np.testing.assert_array_equal(out, track)


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    tracks = made_tracks(HALF, 3, 0)
    group = zarr.create_group(tmp_path)
    by_zarr(tmp_path, tracks, HALF, 2)
    sizes = np.array([(tmp_path / shard_name(index)).stat().st_size for index in range(2)])
    group.create_group("receipts").create_array("n_bytes", data=sizes)
    read = Store(open_directory(tmp_path), zarr.open_group(tmp_path), HALF).reader()
    out = np.empty(HALF.shape, np.float32)
    read(2, out)
    np.testing.assert_array_equal(out, tracks[2].astype(np.float32))


def test_a_shard_in_the_place_of_another_is_not_read(own_store: Store) -> None:
    first, second = (own_store.directory.path / shard_name(index) for index in range(2))
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    with pytest.raises(ValueError, match="not have the size that was written"):
        own_store.reader()(0, np.empty(own_store.spec.shape, np.float32))
