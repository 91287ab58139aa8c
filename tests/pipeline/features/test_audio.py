"""Any file becomes mono samples at the rate that was asked for, as librosa would load them, or a sentence."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from encode import chords

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features import libsndfile_decoder as room
from melzarr.pipeline.features.audio import read_audio, read_header, stream_audio
from melzarr.pipeline.features.libsndfile_decoder import FOREIGN

RATE = 22050
# Full scale is 1; single precision rounds at 6e-8, and soxr's filter ends well inside the margin that is decoded.
SAME = {"rtol": 0, "atol": 1e-6}


def music(seconds: float, rate: int = RATE, channels: int = 1) -> npt.NDArray[np.float32]:
    """Chords, [shape=(n,)] if there is one channel."""
    return np.squeeze(chords(seconds, rate, channels))


def write(path: Path, sound: npt.NDArray[np.float32], rate: int = RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, sound, rate, subtype=subtype)
    return path


def wav(data: bytes, *, rate: int = RATE, channels: int = 1, promised: int | None = None) -> bytes:
    """WAV of 16 bits with a header that may say anything."""
    size = len(data) if promised is None else promised
    frame = 2 * channels
    facts = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * frame % 2**32, frame, 16)
    riff = struct.pack("<I", min(36 + size, 2**32 - 1))
    return b"RIFF" + riff + b"WAVEfmt " + facts + b"data" + struct.pack("<I", size) + data


def au(data: bytes, *, annotation: bytes = b"", promised: int | None = None) -> bytes:
    """AU of 16 bits whose data begin after an annotation."""
    size = len(data) if promised is None else promised
    return b".snd" + struct.pack(">5I", 24 + len(annotation), size, 3, RATE, 1) + annotation + data


def by_librosa(path: Path, rate: int) -> npt.NDArray[np.float32]:
    return librosa.load(path, sr=rate, mono=True)[0]


# Codecs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-23),
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 0),
        ("a.au", "PCM_16", 2**-15),
        ("a.aiff", "PCM_16", 2**-15),
        ("a.caf", "PCM_16", 2**-15),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
    ],
)
def test_a_lossless_file_gives_its_samples(tmp_path: Path, name: str, subtype: str, step: float) -> None:
    sound = music(0.5)
    audio = read_audio(write(tmp_path / name, sound, subtype=subtype), RATE, sound.size)
    assert audio.samples.dtype == np.float32
    assert (audio.header.sample_rate, audio.header.channels) == (RATE, 1)
    assert audio.header.duration == audio.header.promised == sound.size / RATE
    assert audio.header.codec.endswith(subtype)
    # Half a step of rounding, and up to a step because full scale is written as 2^n - 1 and read as 2^n.
    np.testing.assert_allclose(audio.samples, sound, rtol=0, atol=1.5 * step + 6e-8 * (step > 0))


@pytest.mark.parametrize(
    ("name", "rate", "subtype"),
    [
        ("a.ogg", 44100, "VORBIS"),
        ("a.mp3", 44100, "MPEG_LAYER_III"),
        ("a.opus", 48000, "OPUS"),
        ("b.ogg", 22050, "VORBIS"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_lossy_file_gives_nearly_its_samples_and_no_later(
    tmp_path: Path, name: str, rate: int, subtype: str, channels: int
) -> None:
    sound = music(3, rate, channels)
    path = tmp_path / name
    soundfile.write(path, sound, rate, format="MP3" if name.endswith("mp3") else "OGG", subtype=subtype)
    audio = read_audio(path, rate, 2 * rate)
    assert audio.header.channels == channels
    mono = sound if channels == 1 else sound.mean(axis=1)
    assert audio.samples.size == 2 * rate
    # Half the energy would already be a correlation of 0.7; the codecs reach 0.99 for tones at their default rates.
    assert np.corrcoef(audio.samples, mono[: 2 * rate])[0, 1] > 0.99
    np.testing.assert_allclose(audio.samples, by_librosa(path, rate)[: 2 * rate], **SAME)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("name", "rate"), [("a.mp3", 22050), ("a.mp3", 44100), ("a.ogg", 44100), ("a.flac", 44100)])
def test_noise_that_fills_every_frame_is_decoded_in_one_go(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    # A frame of MP3 may lie partly in frames before it: what starts to decode within the file lacks that part.
    sound = 0.2 * np.random.default_rng(0).standard_normal((10 * rate, channels), np.float32)
    path = write(tmp_path / name, sound, rate)
    ours = read_audio(path, RATE, 9 * RATE).samples
    np.testing.assert_allclose(ours, by_librosa(path, RATE)[: 9 * RATE], **SAME)


@pytest.mark.parametrize("annotation", [b"", b"\0\0\0\0", b"made by hand\0" * 7, bytes(997)])
def test_the_data_of_an_au_file_begin_where_its_header_says(tmp_path: Path, annotation: bytes) -> None:
    values = np.random.default_rng(1).integers(-30_000, 30_000, 5000).astype(">i2")
    (tmp_path / "a.au").write_bytes(au(values.tobytes(), annotation=annotation))
    audio = read_audio(tmp_path / "a.au", RATE, 9999)
    np.testing.assert_array_equal(audio.samples, values.astype(np.float32) / 32768)


def test_the_name_does_not_say_what_a_file_is(tmp_path: Path) -> None:
    sound = music(0.2)
    write(tmp_path / "a.flac", sound).rename(tmp_path / "a.wav")
    audio = read_audio(tmp_path / "a.wav", RATE, sound.size)
    assert audio.header.codec == "FLAC PCM_16"
    np.testing.assert_allclose(audio.samples, sound, rtol=0, atol=1.5 * 2**-15)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.flac", "a.caf"])
def test_samples_of_16_bits_are_the_numbers_of_libsndfile(tmp_path: Path, name: str) -> None:
    every = np.arange(-(2**15), 2**15).astype(np.int16)
    soundfile.write(tmp_path / name, every, RATE, subtype="PCM_16")
    theirs = soundfile.read(tmp_path / name, dtype="float32")[0]
    assert read_audio(tmp_path / name, RATE, 2**16).samples.tobytes() == theirs.tobytes()


# Mono, at the rate that was asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 3, 6, 8])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    sound = music(0.3, RATE, channels)
    audio = read_audio(write(tmp_path / "a.wav", sound, subtype="FLOAT"), RATE, len(sound))
    # A mean of n values in single precision is wrong by some roundings of 6e-8 at most.
    np.testing.assert_allclose(audio.samples, sound.mean(axis=1, dtype=np.float64), rtol=0, atol=3e-7)
    assert audio.header.channels == channels


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("rate", "wanted_rate"),
    [(44100, 22050), (48000, 22050), (8000, 22050), (11025, 22050), (96000, 22050), (22050, 16000), (22050, 44100)],
)
def test_resampled_audio_is_that_of_librosa(tmp_path: Path, rate: int, wanted_rate: int, channels: int) -> None:
    path = write(tmp_path / "a.wav", music(3, rate, channels), rate)
    theirs = by_librosa(path, wanted_rate)
    for n_samples in (1, 2205, wanted_rate, 2 * wanted_rate + 7):
        ours = read_audio(path, wanted_rate, n_samples).samples
        assert (ours.shape, ours.dtype) == ((n_samples,), np.float32)
        np.testing.assert_allclose(ours, theirs[:n_samples], **SAME)


@pytest.mark.parametrize(
    "name",
    [
        "love_theme.128k.44100.stereo.mp3",
        "love_theme.16bit.8000.mono.wav",
        "love_theme.16bit.22050.mono.au",
        "fillets-ng-data--menu.ogg",
        "wesnoth-1.16-music--silence.ogg",
    ],
)
def test_real_music_is_that_of_librosa(shared: Path, name: str) -> None:
    path = shared / "music" / "formats" / name
    theirs = by_librosa(path, RATE)[:529_641]
    ours = read_audio(path, RATE, 529_641).samples
    assert ours.size == theirs.size
    np.testing.assert_allclose(ours, theirs, **SAME)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_it_says_how_loud_the_file_is_and_how_much_of_it_is_clipped(tmp_path: Path, rate: int) -> None:
    sine = np.sin(2 * np.pi * 100 * np.arange(rate) / rate)
    quiet = read_audio(write(tmp_path / "quiet.wav", 0.5 * sine, rate), RATE, 2 * RATE)
    assert quiet.peak == pytest.approx(0.5, abs=2**-15)
    assert quiet.clipped == 0
    hot = read_audio(write(tmp_path / "hot.wav", np.clip(2 * sine, -1, 1), rate), RATE, 2 * RATE)
    assert hot.peak == pytest.approx(1, abs=2**-15)
    # |2 sin| exceeds 1 beyond 30°, on 120° of each 180°; full scale begins a little below.
    assert hot.clipped == pytest.approx(2 / 3, abs=0.01)


def test_how_loud_it_is_is_said_of_each_channel_which_mixing_would_hide(tmp_path: Path) -> None:
    t = np.arange(RATE) / RATE
    tone = np.clip(1.5 * np.sin(2 * np.pi * 100 * t), -1, 1)
    for name, other in (("opposed", -tone), ("one", np.zeros(RATE))):
        soundfile.write(tmp_path / f"{name}.wav", np.stack([tone, other], axis=1), RATE, "PCM_16")
    opposed, one = (read_audio(tmp_path / f"{name}.wav", RATE, RATE) for name in ("opposed", "one"))
    assert np.abs(opposed.samples).max() < 1e-4
    assert opposed.peak == one.peak == 1
    clipped = np.mean(np.abs(tone) >= 1)
    assert opposed.clipped == pytest.approx(clipped, abs=1e-3)
    assert one.clipped == pytest.approx(clipped / 2, abs=1e-3)


@pytest.mark.parametrize(("rate", "frames"), [(44100, 44101), (44100, 1), (48000, 1000), (8000, 333), (22050, 1)])
def test_a_file_that_ends_before_gives_only_samples_that_it_covers(tmp_path: Path, rate: int, frames: int) -> None:
    path = write(tmp_path / "a.wav", music(2, rate)[:frames], rate)
    audio = read_audio(path, RATE, 10**12)  # memory for which there is none
    assert audio.samples.size == frames * RATE // rate
    np.testing.assert_allclose(audio.samples, by_librosa(path, RATE)[: audio.samples.size], **SAME)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a_header_without_audio_gives_no_samples(tmp_path: Path, rate: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(b"", rate=rate))
    audio = read_audio(tmp_path / "a.wav", RATE, 1000)
    assert (audio.samples.size, audio.header.duration) == (0, 0)


# No more than is needed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_no_more_is_decoded_than_the_samples_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rate: int
) -> None:
    path = write(tmp_path / name, music(10, rate), rate)
    decoded = []
    read = soundfile.SoundFile.read

    def counting(self: soundfile.SoundFile, *args: Any, **options: Any) -> Any:
        block = read(self, *args, **options)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert read_audio(path, RATE, RATE).samples.size == RATE
    margin = 0 if rate == RATE else 0.25 * rate  # the resampler's filter reaches beyond the last sample
    assert rate <= sum(decoded) <= rate + margin + 1


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_what_lies_behind_the_samples_does_not_matter(tmp_path: Path, rate: int) -> None:
    sound = music(4, rate)
    clean = read_audio(write(tmp_path / "clean.wav", sound, rate, "FLOAT"), RATE, RATE).samples
    sound[2 * rate :] = np.nan
    path = write(tmp_path / "dirty.wav", sound, rate, "FLOAT")
    assert read_audio(path, RATE, RATE).samples.tobytes() == clean.tobytes()
    with pytest.raises(AudioError, match=rf"sample {2 * rate} \(2\.000 s\) is not a finite number; export the file"):
        read_audio(path, RATE, 3 * RATE)


def test_a_header_is_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.flac", music(2, 44100, 2), 44100)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    header = read_header(path)
    assert (header.sample_rate, header.channels, header.duration, header.codec) == (44100, 2, 2.0, "FLAC PCM_16")


# A stream of the whole ------------------------------------------------------------------------------------------------


def streamed(path: Path, rate: int) -> npt.NDArray[np.float32]:
    """All blocks of a stream."""
    return np.concatenate([np.empty(0, np.float32), *stream_audio(path, rate)])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("rate", "wanted_rate"), [(RATE, RATE), (44100, RATE), (8000, RATE), (47999, RATE), (RATE, 44100), (RATE, 16000)]
)
def test_a_stream_is_the_whole_file_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, wanted_rate: int, channels: int
) -> None:
    monkeypatch.setattr(room, "BLOCK", 1000)
    sound = music(0.5, 48000, channels)
    for frames in (0, 1, 2, 999, 1000, 1001, 1999, 2000, 2001, 12345):
        path = write(tmp_path / "a.wav", sound[:frames], rate, "FLOAT")
        whole = read_audio(path, wanted_rate, 10**9).samples
        found = streamed(path, wanted_rate)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("block", [997, room.BLOCK])
@pytest.mark.parametrize(
    "name",
    [
        "love_theme.128k.44100.stereo.mp3",
        "love_theme.64k.48000.stereo.opus",
        "love_theme.16bit.8000.mono.wav",
        "love_theme.16bit.22050.mono.au",
        "fillets-ng-data--menu.ogg",
        "wesnoth-1.16-music--silence.ogg",
    ],
)
def test_a_stream_of_real_music_is_the_whole_file(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, block: int
) -> None:
    path = shared / "music" / "formats" / name
    whole = read_audio(path, RATE, 10**9).samples
    assert whole.size > 9 * RATE
    monkeypatch.setattr(room, "BLOCK", block)
    np.testing.assert_array_equal(streamed(path, RATE), whole)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a_stream_names_the_sample_that_is_no_finite_number_after_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    monkeypatch.setattr(room, "BLOCK", 1000)
    sound = music(2, rate, 2)
    sound[rate + 7, 1] = np.nan
    stream = stream_audio(write(tmp_path / "a.wav", sound, rate, "FLOAT"), RATE)
    given: list[int] = []
    with pytest.raises(AudioError, match=rf"sample {rate + 7} \(1\.000 s\) is not a finite number; export the file"):
        given.extend(samples.size for samples in stream)
    assert 0.9 * RATE < sum(given) <= RATE


def test_a_stream_of_a_file_that_was_cut_off_gives_what_is_there_and_logs_how_far_it_went(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.flac", music(6, 44100), 44100)
    whole = streamed(path, 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = streamed(path, 44100)
    assert 2 < found.size / 44100 < 4
    np.testing.assert_array_equal(found, whole[: found.size])
    assert f"{path}: damaged at {found.size / 44100:.2f} s" in caplog.text


@pytest.mark.parametrize("channels", [1, 6])
def test_a_stream_takes_no_more_memory_for_a_longer_file(tmp_path: Path, channels: int) -> None:
    peaks = []
    for seconds in (10, 10, 60):  # the first imports and keeps what is needed once
        path = write(tmp_path / f"{seconds}.wav", np.zeros((seconds * 44100, channels), np.float32) + 0.1, 44100)
        tracemalloc.start()
        for _ in stream_audio(path, RATE):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]
    # The next block of all channels is read while the last one is there; and what becomes of a block, as mono.
    assert peaks[2] < 4 * room.BLOCK * (2 * channels + 4)


# Files that were cut off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "encode", "order"), [("a.wav", wav, "<i2"), ("a.au", au, ">i2")])
def test_a_pcm_file_that_was_cut_off_gives_what_is_there_and_says_what_was_promised(
    tmp_path: Path, name: str, encode: Callable[..., bytes], order: str
) -> None:
    values = np.random.default_rng(1).integers(-30_000, 30_000, RATE).astype(order)
    (tmp_path / name).write_bytes(encode(values.tobytes(), promised=4 * RATE))
    audio = read_audio(tmp_path / name, RATE, 2 * RATE)
    np.testing.assert_array_equal(audio.samples, values.astype(np.float32) / 32768)
    assert (audio.header.duration, audio.header.promised) == (1.0, 2.0)


@pytest.mark.parametrize(("name", "encode"), [("a.wav", wav), ("a.au", au)])
def test_a_length_that_was_left_open_is_no_promise(tmp_path: Path, name: str, encode: Callable[..., bytes]) -> None:
    # What writes to a pipe cannot go back to fill the length in, and leaves it at its largest.
    (tmp_path / name).write_bytes(encode(bytes(2 * RATE), promised=2**32 - 1))
    header = read_audio(tmp_path / name, RATE, 2 * RATE).header
    assert (header.duration, header.promised) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.flac"])
def test_the_start_of_a_compressed_file_that_was_cut_off_is_that_of_the_whole(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, music(6, 44100), 44100)
    whole = read_audio(path, RATE, RATE).samples
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.testing.assert_allclose(read_audio(path, RATE, RATE).samples, whole, **SAME)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_an_mp3_that_was_cut_off_is_as_long_as_what_was_decoded(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.mp3", music(6, 44100), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    audio = read_audio(path, rate, 6 * rate)
    assert audio.header.promised == pytest.approx(6, abs=0.1)  # a frame or two of 26 ms
    assert 2 < audio.header.duration < 4
    assert audio.samples.size == pytest.approx(audio.header.duration * rate, abs=1)


def test_a_flac_that_was_cut_off_gives_what_is_there_and_says_how_far_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", music(6, 44100), 44100)
    whole = read_audio(path, 44100, 6 * 44100).samples
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    audio = read_audio(path, 44100, 6 * 44100)
    assert audio.fault.startswith(f"damaged at {audio.samples.size / 44100:.2f} s (FLAC FLAC, FFmpeg: ")
    assert (audio.header.duration, audio.header.promised) == (audio.samples.size / 44100, 6)
    np.testing.assert_array_equal(audio.samples, whole[: audio.samples.size])


def test_without_another_decoder_a_flac_that_was_cut_off_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melzarr.pipeline.features.audio.is_installed", lambda: False)
    path = write(tmp_path / "a.flac", music(6, 44100), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"decoding stopped after \d\.\d\d s: .+pip install"):
        read_audio(path, RATE, 6 * RATE)


# What cannot be used --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [RATE, 48000])
def test_a_sample_that_is_no_finite_number_is_named(tmp_path: Path, rate: int, value: float) -> None:
    sound = music(1, rate, 2)
    sound[rate // 2, 1] = value
    with pytest.raises(AudioError, match=rf"sample {rate // 2} \(0\.500 s\) is not a finite number"):
        read_audio(write(tmp_path / "a.wav", sound, rate, "FLOAT"), RATE, RATE)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_channels_whose_sum_is_no_finite_number_are_named_and_one_that_is_as_large_is_not(tmp_path: Path) -> None:
    sound = music(1, RATE, 2)
    sound[7] = 3e38
    with pytest.raises(AudioError, match=r"sample 7 \(0\.000 s\) is not a finite number"):
        read_audio(write(tmp_path / "a.wav", sound, subtype="FLOAT"), RATE, RATE)
    assert read_audio(write(tmp_path / "b.wav", sound[:, 0], subtype="FLOAT"), RATE, RATE).peak == np.float32(3e38)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"the file is empty \(0 bytes\); copy or download it again"),
        (b"This is a letter, not a song.\n" * 50, r"libsndfile finds no audio in the file \(.+\); it may be damaged"),
        (b"RIFF", "libsndfile finds no audio"),
        (wav(b"")[:30], "libsndfile finds no audio"),
        (bytes(10_000), "libsndfile finds no audio"),
    ],
    ids=["empty", "text", "four bytes", "half a header", "zeros"],
)
def test_what_is_no_audio_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(content)
    for read in (read_header, lambda path: read_audio(path, RATE, RATE)):
        with pytest.raises(AudioError, match=said):
            read(path)


@pytest.mark.parametrize(("offset", "magic", "codec"), FOREIGN)
def test_a_codec_that_libsndfile_lacks_is_named_with_what_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, magic: bytes, codec: str
) -> None:
    monkeypatch.setattr("melzarr.pipeline.features.audio.is_installed", lambda: False)
    path = tmp_path / "song.xyz"
    path.write_bytes(bytes(offset) + magic + np.random.default_rng(0).bytes(4000))
    with pytest.raises(AudioError) as caught:
        read_audio(path, RATE, RATE)
    assert str(caught.value).startswith(f"this is {codec}, which libsndfile {soundfile.__libsndfile_version__}")
    assert str(caught.value).endswith("ffmpeg -i song.xyz song.flac")


@pytest.mark.timeout(30)
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")  # to open it would wait for a writer, for ever
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to("pipe.wav")
    for name in ("pipe.wav", "folder.wav", "link.wav"):
        with pytest.raises(AudioError, match="this is no regular file; give audio in a file"):
            read_audio(tmp_path / name, RATE, RATE)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").symlink_to("nothing.wav")
    for name in ("nothing.wav", "broken.wav"):
        with pytest.raises(AudioError, match="the file cannot be read: No such file or directory; look at its path"):
            read_audio(tmp_path / name, RATE, RATE)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_rate_that_no_audio_has_is_refused(tmp_path: Path, rate: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(bytes(1000), rate=rate))
    with pytest.raises(
        AudioError, match=rf"a sample rate of {rate} Hz is outside 1000 to 768000 Hz; the header is wrong"
    ):
        read_audio(tmp_path / "a.wav", RATE, RATE)


@pytest.mark.parametrize("rate", [0, 2**32 - 1])
def test_a_rate_that_libsndfile_refuses_is_a_sentence(tmp_path: Path, rate: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(bytes(1000), rate=rate))
    with pytest.raises(AudioError, match=r"it may be damaged|the header is wrong"):
        read_audio(tmp_path / "a.wav", RATE, RATE)


@pytest.mark.parametrize("rate", [1000, 768_000])
def test_rates_at_the_limits_are_read(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", music(1, rate), rate)
    assert read_audio(path, RATE, RATE).samples.size == RATE


# An Opus file that libsndfile refuses ---------------------------------------------------------------------------------


def test_a_real_opus_file_that_libsndfile_refuses_is_read_in_time_with_the_same_piece(shared: Path) -> None:
    folder = shared / "music" / "formats"
    path = folder / "love_theme.64k.48000.stereo.opus"
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    audio = read_audio(path, RATE, 20 * RATE)
    assert (audio.header.codec, audio.header.sample_rate, audio.header.channels) == ("OGG OPUS", 48000, 2)
    assert audio.header.duration == pytest.approx(45, abs=0.02)  # a packet of 20 ms
    piece = read_audio(folder / "love_theme.16bit.22050.mono.au", RATE, 20 * RATE).samples
    inside = slice(RATE, 19 * RATE)
    alike = {
        lag: np.corrcoef(piece[inside], audio.samples[RATE + lag : 19 * RATE + lag])[0, 1] for lag in range(-50, 51)
    }
    assert max(alike, key=alike.__getitem__) == 0
    assert alike[0] > 0.95


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac", "a.ogg"])
def test_files_of_macos_in_the_current_folder_and_beside_a_file_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write(tmp_path / name, music(1), RATE)
    alone = read_audio(path, RATE, RATE)
    for folder in (tmp_path / "elsewhere", tmp_path):
        (folder / ".AppleDouble").mkdir(parents=True)
        for other in ("._", f"._{name}", f".AppleDouble/{name}"):
            (folder / other).write_bytes(b"\0\5\x16\7" + bytes(200))
        monkeypatch.chdir(folder)
        found = read_audio(path, RATE, RATE)
        assert found.header == alone.header
        assert found.header.decoder == "libsndfile"
        np.testing.assert_array_equal(found.samples, alone.samples)


def test_a_process_without_stderr_reads_files_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", music(1), RATE)
    code = (
        "import os, sys; os.close(2); from pathlib import Path\n"
        "from melzarr.pipeline.features.audio import read_audio\n"
        "print(read_audio(Path(sys.argv[1]), 22050, 22050).samples.size)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    assert done.stdout == "22050\n"
