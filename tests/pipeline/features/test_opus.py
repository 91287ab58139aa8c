"""An Opus stream that was cut out of a longer one gives the samples that it gave there."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.features.audio import read_audio, read_header
from melzarr.pipeline.features.opus import mended_opus, n_samples, ogg_crc

RATE = 48_000


def opus(seconds: float, channels: int = 1) -> bytes:
    """Ogg Opus of noise and a tone, as libsndfile writes it."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE))[:, None] / RATE
    sound = 0.1 * rng.standard_normal((t.size, channels)) + 0.3 * np.sin(2 * np.pi * 440 * t)
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="OGG", subtype="OPUS")
    return file.getvalue()


def pages(data: bytes) -> Iterator[bytes]:
    """Split a stream into pages (RFC 3533, section 6)."""
    while data:
        assert data[:4] == b"OggS"
        end = 27 + data[26] + sum(data[27 : 27 + data[26]])
        yield data[:end]
        data = data[end:]


def crc_by_bits(data: bytes) -> int:
    """Divide bit by bit by the polynomial of RFC 3533."""
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc >> 31 else crc << 1) & 0xFFFFFFFF
    return crc


def moved(data: bytes, by: int) -> bytes:
    """Move the clock of all pages of audio."""
    out = b""
    for page in pages(data):
        position = struct.unpack_from("<q", page, 6)[0]
        new = bytearray(page)
        if position > 0:
            struct.pack_into("<q", new, 6, position + by)
        new[22:26] = bytes(4)
        new[22:26] = struct.pack("<I", ogg_crc(bytes(new)))
        out += new
    return out


# Checksums ------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_the_division_bit_by_bit(data: bytes) -> None:
    assert ogg_crc(data) == crc_by_bits(data)


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_the_checksum_is_that_which_libogg_stored(subtype: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE), RATE, format="OGG", subtype=subtype)
    found = list(pages(file.getvalue()))
    assert len(found) > 3
    for page in found:
        assert ogg_crc(page[:22] + bytes(4) + page[26:]) == struct.unpack_from("<I", page, 22)[0]


# Packets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "milliseconds"),  # RFC 6716, table 2
    [
        *((first + i, ms) for first in (0, 4, 8) for i, ms in enumerate((10, 20, 40, 60))),
        *((first + i, ms) for first in (12, 14) for i, ms in enumerate((10, 20))),
        *((first + i, ms) for first in (16, 20, 24, 28) for i, ms in enumerate((2.5, 5, 10, 20))),
    ],
)
def test_a_packet_is_as_long_as_its_first_bytes_say(configuration: int, milliseconds: float) -> None:
    frame = milliseconds * RATE / 1000
    for stereo in (0, 4):
        first = configuration << 3 | stereo
        assert n_samples(bytes([first, 0])) == frame
        assert n_samples(bytes([first | 1, 0])) == n_samples(bytes([first | 2, 0])) == 2 * frame
        assert n_samples(bytes([first | 3, 0b11000000 | 5, 0])) == 5 * frame


@pytest.mark.parametrize("packet", [b"", b"\x03"])
def test_a_packet_that_is_broken_has_no_length(packet: bytes) -> None:
    assert n_samples(packet) == 0


# Streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("by", [-1, -100, -312, -5000])
def test_a_stream_that_libsndfile_refuses_gives_the_samples_of_the_legal_one(
    tmp_path: Path, by: int, channels: int
) -> None:
    legal = opus(4.3, channels)
    (tmp_path / "legal.opus").write_bytes(legal)
    path = tmp_path / "cut.opus"
    path.write_bytes(moved(legal, by))
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    expected, _ = soundfile.read(tmp_path / "legal.opus", dtype="float32", always_2d=True)
    for n in (1000, RATE, 10 * RATE):
        ours = read_audio(path, RATE, n).samples
        assert ours.tobytes() == read_audio(tmp_path / "legal.opus", RATE, n).samples.tobytes()
        # The mean of two channels is rounded to single precision, 6e-8 of full scale.
        np.testing.assert_allclose(ours, expected[:n].mean(axis=1), rtol=0, atol=1e-6)
    assert read_header(path).duration == pytest.approx(4.3, abs=1e-4)


@pytest.mark.parametrize("by", [1, 48_000, 123_456_789])
def test_a_legal_stream_that_starts_late_gives_the_same_samples(tmp_path: Path, by: int) -> None:
    path = tmp_path / "late.opus"
    path.write_bytes(moved(opus(4.3), by))
    assert mended_opus(path) is None
    (tmp_path / "legal.opus").write_bytes(opus(4.3))
    for n in (1000, 10 * RATE):
        early, late = (read_audio(tmp_path / name, RATE, n) for name in ("legal.opus", "late.opus"))
        assert late.samples.tobytes() == early.samples.tobytes()
        assert late.header == early.header


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.5, 0.99, 1.0, 1.01, 3.0])
def test_a_legal_stream_of_any_length_keeps_it(tmp_path: Path, seconds: float) -> None:
    # On its last page a stream says how many of its samples are to be kept; in a short one that is the first page too.
    path = tmp_path / "short.opus"
    path.write_bytes(opus(seconds))
    expected, _ = soundfile.read(path, dtype="float32")
    audio = read_audio(path, RATE, 10 * RATE)
    assert audio.samples.size == expected.size == round(seconds * RATE)
    assert audio.header.duration == audio.header.promised == expected.size / RATE
    np.testing.assert_array_equal(audio.samples, expected)


@pytest.mark.parametrize("by", [-312, -20])
def test_what_is_mended_is_a_stream_with_right_checksums_and_the_same_packets(tmp_path: Path, by: int) -> None:
    path = tmp_path / "moved.opus"
    path.write_bytes(moved(opus(3), by))
    stream = mended_opus(path)
    assert stream is not None
    before, after = list(pages(path.read_bytes())), list(pages(stream.getvalue()))
    for old, new in zip(before, after, strict=True):
        assert new[:6] + new[14:22] + new[26:] == old[:6] + old[14:22] + old[26:]
        assert crc_by_bits(new[:22] + bytes(4) + new[26:]) == struct.unpack_from("<I", new, 22)[0]


@pytest.mark.parametrize(
    "content", [b"", b"OggS", b"no opus" * 100, opus(1)[:47], opus(1)[:200]],
    ids=["nothing", "the sign alone", "something else", "half of its first page", "half of its second page"],
)  # fmt: skip
def test_what_is_no_stream_of_opus_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert mended_opus(tmp_path / "file") is None


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.ogg", "VORBIS"), ("a.flac", "PCM_16")])
def test_another_codec_is_left_alone(tmp_path: Path, name: str, subtype: str) -> None:
    soundfile.write(tmp_path / name, np.zeros(RATE), RATE, subtype=subtype)
    assert mended_opus(tmp_path / name) is None


def test_a_file_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "cut.opus"
    content = moved(opus(2), -312)
    path.write_bytes(content)
    read_audio(path, RATE, RATE)
    assert path.read_bytes() == content


def test_a_large_file_of_another_kind_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.m4a"
    with path.open("wb") as file:
        file.write(b"\0\0\0\x20ftypM4A ")
        file.truncate(1 << 30)
    tracemalloc.start()
    assert mended_opus(path) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
