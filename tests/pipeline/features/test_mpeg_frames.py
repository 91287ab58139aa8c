"""Counting the frames of an MP3 gives its length, whatever its tag or its bit rate says."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from encode import encode

from melzarr.pipeline.features.mpeg_frames import CHUNK, Frames, count_frames, is_tag_of_whole


def counted(data: bytes) -> Frames | None:
    return count_frames(io.BytesIO(data))


def mp3(path: Path, rate: int, seconds: float = 2, channels: int = 1, *, tag: bool = True, vbr: bool = False) -> bytes:
    """MP3 of noise that comes and goes, so that frames of a variable bit rate differ in size."""
    n = round(seconds * rate)
    sound = 0.3 * np.random.default_rng(0).standard_normal((n, channels)).astype(np.float32)
    sound *= (np.arange(n) // (rate // 2) % 2)[:, None].astype(np.float32)
    options = {"container_options": {"write_xing": str(int(tag))}}
    if vbr:
        options["codec_options"] = {"flags": "+qscale", "global_quality": "300"}
    return encode(path, sound, rate, "libmp3lame", "mp3", **options).read_bytes()


@pytest.mark.parametrize("rate", [48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("tag", "vbr"), [(True, False), (False, False), (True, True), (False, True)])
def test_it_counts_what_ffmpeg_finds(tmp_path: Path, rate: int, channels: int, tag: bool, vbr: bool) -> None:

    found = counted(mp3(tmp_path / "a.mp3", rate, channels=channels, tag=tag, vbr=vbr))
    assert found is not None
    with av.open(str(tmp_path / "a.mp3")) as file:
        packets = [packet.size for packet in file.demux() if packet.size]
    assert (found.count, found.end, found.is_tagged, found.format.sample_rate) == (len(packets), "end", tag, rate)
    assert found.format.n_samples == (1152 if rate >= 32000 else 576)
    assert (len(set(packets)) > 3) == vbr
    # The encoder adds a delay and padding of up to three frames.
    assert 2 <= found.seconds < 2 + 4 * found.format.n_samples / rate


@pytest.mark.parametrize("rate", [44100, 24000])
def test_layer_ii_is_counted_too(tmp_path: Path, rate: int) -> None:
    encode(tmp_path / "a.mp2", np.zeros(2 * rate, np.float32), rate, "mp2", "mp2")
    found = counted((tmp_path / "a.mp2").read_bytes())
    assert found is not None
    assert found.end == "end"
    assert found.n_samples == len(soundfile.read(tmp_path / "a.mp2")[0])  # the header has an estimate


def test_tags_before_and_after_the_audio_are_no_frames(tmp_path: Path) -> None:
    data = mp3(tmp_path / "a.mp3", 44100, tag=False)
    expected = counted(data[data.index(b"\xff\xfb") :])
    front = b"ID3\x04\0\0\0\0\1\0" + bytes(128)
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)
    behind = bytes(32 - 32) + b"x" * 32 + ape + b"TAG" + bytes(125)
    assert counted(front + front + data[data.index(b"\xff\xfb") :] + behind) == expected


def test_a_change_of_channels_or_rate_ends_the_count(tmp_path: Path) -> None:
    first = mp3(tmp_path / "a.mp3", 44100, tag=False)
    for other in (mp3(tmp_path / "b.mp3", 44100, channels=2, tag=False), mp3(tmp_path / "c.mp3", 48000, tag=False)):
        whole, alone = counted(first + other[other.index(b"\xff\xfb") :]), counted(first)
        assert whole is not None
        assert alone is not None
        assert (whole.count, whole.end) == (alone.count, "change")


@pytest.mark.parametrize("damage", [bytes(3000), b"\xff" * 3000, b"\xff\xfb" * 1500])
def test_damage_between_frames_ends_the_count(tmp_path: Path, damage: bytes) -> None:
    data = mp3(tmp_path / "a.mp3", 44100, tag=False)
    half = counted(data[: len(data) // 2])
    assert half is not None
    found = counted(data[: len(data) // 2] + damage + data[len(data) // 2 :])
    assert found is not None
    assert found.count <= half.count + 1
    assert found.end != "end"


def test_bytes_without_a_frame_behind_the_last_one_are_no_damage(tmp_path: Path) -> None:
    data = mp3(tmp_path / "a.mp3", 44100, tag=False)
    assert counted(data + bytes(5000)) == counted(data + b"LYRICSBEGIN" * 50) == counted(data)


def test_a_file_that_was_cut_off_has_its_whole_frames(tmp_path: Path) -> None:
    data = mp3(tmp_path / "a.mp3", 44100)
    whole, cut = counted(data), counted(data[: len(data) // 2])
    assert whole is not None
    assert cut is not None
    assert cut.end == "end"
    assert cut.count == pytest.approx(whole.count / 2, abs=2)


def test_a_file_longer_than_what_is_read_at_a_time_is_counted(tmp_path: Path) -> None:
    data = mp3(tmp_path / "a.mp3", 44100, seconds=80, tag=False)
    assert len(data) > CHUNK
    found, half = counted(data), counted(data[: len(data) // 2])
    assert found is not None
    assert half is not None
    assert 80 <= found.seconds < 80.1
    assert found.count == pytest.approx(2 * half.count, abs=2)


@pytest.mark.parametrize("data", [b"", b"\xff", b"ID3", b"RIFF" + bytes(100), b"\xff\xf1" + bytes(100), bytes(1000)])
def test_other_files_have_no_frames(data: bytes) -> None:
    assert counted(data) is None


def test_a_tag_that_counts_the_bytes_of_the_file_is_of_the_whole(tmp_path: Path) -> None:
    data = mp3(tmp_path / "a.mp3", 44100)
    data = data[data.index(b"\xff\xfb") :]
    assert is_tag_of_whole(data[:64], len(data))
    assert is_tag_of_whole(data[:64], len(data) + 128)
    assert not is_tag_of_whole(data[:64], len(data) // 2)
    assert not is_tag_of_whole(data[:64], 2 * len(data))
    assert not is_tag_of_whole(mp3(tmp_path / "b.mp3", 44100, tag=False)[:64], len(data))
