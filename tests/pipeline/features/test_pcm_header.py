"""Headers of WAV and AU files that cannot be true are corrected before libsndfile reads them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio import read_audio
from melzarr.pipeline.features.pcm_header import PatchedFile, patches

RATE = 22050


def wav(data: bytes, *, bits: int = 16, align: int = 2, channels: int = 1, size: int | None = None, tag: int = 1,
        behind: bytes = b"") -> bytes:  # fmt: skip
    facts = struct.pack("<IHHIIHH", 16, tag, channels, RATE, RATE * align, align, bits)
    chunks = b"WAVEfmt " + facts + b"data" + struct.pack("<I", len(data) if size is None else size) + data + behind
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def values(n: int = RATE) -> np.ndarray:
    return np.random.default_rng(0).integers(-30_000, 30_000, n).astype("<i2")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("bits", "held"), [(24, 4), (20, 4), (16, 4), (12, 3), (8, 2)])
def test_samples_in_larger_places_are_left_justified(tmp_path: Path, bits: int, held: int, channels: int) -> None:
    sound = values().astype(np.int64) >> max(0, 16 - bits) << max(0, 16 - bits)
    data = b"".join(int(value * 2 ** (8 * held - 16)).to_bytes(held, "little", signed=True) for value in sound)
    (tmp_path / "a.wav").write_bytes(wav(data, bits=bits, align=held * channels, channels=channels))
    audio = read_audio(tmp_path / "a.wav", RATE, RATE)
    expected = sound.reshape(-1, channels).mean(axis=1) / 2**15
    np.testing.assert_allclose(audio.samples, expected, rtol=0, atol=1e-7)
    assert audio.header.duration == RATE / channels / RATE


def test_a_frame_that_fits_no_sample_is_a_sentence(tmp_path: Path) -> None:
    for align, channels in ((5, 2), (1, 1), (8, 1)):
        (tmp_path / "a.wav").write_bytes(wav(values().tobytes(), bits=24, align=align, channels=channels))
        with pytest.raises(AudioError, match=rf"block align of {align} bytes, which does not fit {channels} channels"):
            read_audio(tmp_path / "a.wav", RATE, RATE)


def test_a_length_of_zero_means_to_the_end(tmp_path: Path) -> None:
    sound = values()
    (tmp_path / "a.wav").write_bytes(wav(sound.tobytes(), size=0))
    header = b".snd" + struct.pack(">5I", 28, 0, 3, RATE, 1) + bytes(4)
    (tmp_path / "a.au").write_bytes(header + sound.astype(">i2").tobytes())
    for name in ("a.wav", "a.au"):
        audio = read_audio(tmp_path / name, RATE, 2 * RATE)
        np.testing.assert_array_equal(audio.samples, sound.astype(np.float32) / 2**15)
        assert audio.header.duration == audio.header.promised == 1


@pytest.mark.parametrize("behind", [b"", b"LIST" + struct.pack("<I", 4) + b"INFO", b"id3 " + struct.pack("<I", 0)])
def test_data_that_are_really_empty_stay_so(tmp_path: Path, behind: bytes) -> None:
    assert patches(io.BytesIO(wav(b"", behind=behind))) == {}
    (tmp_path / "a.wav").write_bytes(wav(b"", behind=behind))
    assert read_audio(tmp_path / "a.wav", RATE, RATE).samples.size == 0


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"]
)
@pytest.mark.parametrize("format_", ["WAV", "WAVEX", "RF64", "W64", "AU", "AIFF", "CAF", "FLAC"])
def test_sound_headers_are_left_alone(tmp_path: Path, format_: str, subtype: str) -> None:
    if not soundfile.check_format(format_, subtype):
        pytest.skip("no such file")
    soundfile.write(tmp_path / "a", values(), RATE, format=format_, subtype=subtype)
    with (tmp_path / "a").open("rb") as file:
        assert patches(file) == {}


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_header_is_too_strange(head: bytes, rest: bytes) -> None:
    for start in (b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", b".snd", b""):
        try:
            found = patches(io.BytesIO(start + head + b"data\0\0\0\0" + rest))
        except AudioError:
            continue
        assert all(0 <= place < 200 and len(other) in {2, 4} for place, other in found.items())


def test_a_patched_file_reads_as_if_its_bytes_were_others(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(50)))
    expected = bytearray(range(50))
    expected[3:5], expected[40:41] = b"xy", b"z"
    with PatchedFile((tmp_path / "a").open("rb"), {3: b"xy", 40: b"z"}) as file:
        for start in range(50):
            for n_bytes in (1, 2, 7, 100):
                assert file.seek(start) == start
                assert file.read(n_bytes) == expected[start : start + n_bytes]
                assert file.tell() == min(50, start + n_bytes)
