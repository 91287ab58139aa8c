"""An excerpt has the samples that decoding from the beginning gives there, and no more is decoded than it needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from encode import CODECS, encode

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio import open_audio, read_audio, read_header
from melzarr.pipeline.features.decoder_subprocess import featurise_apart
from melzarr.pipeline.features.extract import featurise
from melzarr.pipeline.features.mel import mel_windows
from melzarr.pipeline.spec import FeatureSpec

RATE = 22050
SPEC = FeatureSpec(n_windows=24)  # 1.02 s
STARTS = (0.0, 0.5, 1 / 3, 3.21, 4.599)
TAKES = "of the 1.02 s that the spec takes"
TO_THE_END = f"0.50 s from 3.50 s on, to the end of its file, {TAKES}"
BEYOND = "it starts at 50.00 s, but its file has 4.00 s; none"
FORMATS = {
    "pcm.wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "ulaw.wav": ("WAV", "ULAW"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "a.aiff": ("AIFF", "PCM_24"),
    "a.au": ("AU", "ALAW"),
    "a.flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
}
OF_FFMPEG = ["aac.m4a", "alac.m4a", "wma.wma"]


def noise(seconds: float, rate: int, channels: int = 2) -> npt.NDArray[np.float32]:
    """Noise under a swell: it fills every frame, and no two places are alike."""
    rng = np.random.default_rng(0)
    sound = 0.2 * rng.standard_normal((round(seconds * rate), channels)).astype(np.float32)
    return sound * (1 + np.sin(3 * np.arange(len(sound)) / rate, dtype=np.float32))[:, None] / 2


def written(folder: Path, name: str, seconds: float = 6, rate: int = 44100) -> Path:
    path = folder / name
    if name in OF_FFMPEG:
        codec, container = CODECS[name]
        return encode(path, noise(seconds, rate), rate, codec, container)
    kind, subtype = FORMATS[name]
    rate = 48000 if subtype == "OPUS" else rate
    soundfile.write(path, noise(seconds, rate), rate, format=kind, subtype=subtype)
    return path


def blocks(path: Path, n_samples: int, start: int = 0) -> npt.NDArray[np.float32]:
    with open_audio(path) as decoder:
        none = np.empty((0, decoder.header.channels), np.float32)
        found = np.concatenate([none, *decoder.blocks(n_samples, start)])
        assert decoder.position == start + len(found)
        return found


@pytest.mark.parametrize("name", [*FORMATS, *OF_FFMPEG])
def test_the_samples_at_any_place_are_those_of_decoding_from_the_beginning(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    whole = blocks(path, 10**9)
    rng = np.random.default_rng(1)
    for start in [1, 4095, 4096, 65535, 65536, 65537, *rng.integers(0, len(whole) - 3000, 10).tolist()]:
        np.testing.assert_array_equal(blocks(path, 3000, start), whole[start : start + 3000])
    np.testing.assert_array_equal(blocks(path, 10**9, len(whole) - 7), whole[-7:])


@pytest.mark.parametrize("name", ["fillets-ng-data--menu.ogg", "love_theme.128k.44100.stereo.mp3",
                                  "love_theme.96k.44100.stereo.m4a", "wesnoth-1.16-music--silence.ogg"])  # fmt: skip
def test_so_are_those_of_real_music(shared: Path, name: str) -> None:
    path = shared / "music/formats" / name
    whole = blocks(path, 10**9)
    for start in np.random.default_rng(1).integers(0, len(whole) - 3000, 10).tolist():
        np.testing.assert_array_equal(blocks(path, 3000, start), whole[start : start + 3000])


@pytest.mark.parametrize("name", ["pcm.wav", "a.flac", "vorbis.ogg", "a.mp3"])
@pytest.mark.parametrize("wanted_rate", [22050, 44100, 16000])
def test_an_excerpt_is_that_of_librosa(tmp_path: Path, name: str, wanted_rate: int) -> None:
    path = written(tmp_path, name)
    whole = librosa.load(path, sr=None)[0]
    for start in STARTS:
        audio, first = read_audio(path, wanted_rate, 10**9, start, start + 1.25), round(start * 44100)
        assert (audio.samples.size, audio.start) == (1.25 * wanted_rate // 1, start)
        part = librosa.resample(whole[first : first + 55125], orig_sr=44100, target_sr=wanted_rate)
        np.testing.assert_allclose(audio.samples, part[: audio.samples.size], rtol=0, atol=1e-6)
        if name in {
            "pcm.wav",
            "a.flac",
        }:  # librosa seeks in MP3 and Vorbis too, where that is not exact, and rounds down
            theirs = librosa.load(path, sr=wanted_rate, offset=(first + 0.5) / 44100, duration=1.25)[0]
            np.testing.assert_allclose(audio.samples, theirs[: audio.samples.size], rtol=0, atol=1e-6)


def test_an_m4a_too(tmp_path: Path) -> None:
    path = written(tmp_path, "aac.m4a")
    whole = blocks(path, 10**9).mean(axis=1)
    for start in STARTS:
        first = round(start * 44100)
        part = librosa.resample(whole[first:], orig_sr=44100, target_sr=RATE)
        np.testing.assert_allclose(read_audio(path, RATE, RATE, start).samples, part[:RATE], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["pcm.wav", "a.flac"])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_no_more_is_decoded_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rate: int
) -> None:
    path, decoded, read = written(tmp_path, name, 20, rate), [], soundfile.SoundFile.read

    def counting(self: soundfile.SoundFile, *args: Any, **options: Any) -> Any:
        block = read(self, *args, **options)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert read_audio(path, RATE, RATE, 15.0).samples.size == RATE
    margin = 0 if rate == RATE else 0.25 * rate  # the resampler's filter reaches beyond the last sample
    assert rate <= sum(decoded) <= rate + margin + 1
    decoded.clear()
    assert read_audio(path, RATE, 10 * RATE, 15.0, 15.5).samples.size == RATE // 2
    assert sum(decoded) == rate / 2


def test_what_lies_outside_does_not_matter(tmp_path: Path) -> None:
    sound = noise(6, 44100)
    soundfile.write(tmp_path / "clean.wav", sound, 44100, "FLOAT")
    sound[: 2 * 44100] = sound[3 * 44100 :] = np.nan
    soundfile.write(tmp_path / "dirty.wav", sound, 44100, "FLOAT")
    clean, dirty = (read_audio(tmp_path / f"{name}.wav", RATE, 10**9, 2.0, 3.0) for name in ("clean", "dirty"))
    assert clean.samples.tobytes() == dirty.samples.tobytes()
    assert (clean.peak, clean.clipped) == (dirty.peak, dirty.clipped)
    with pytest.raises(AudioError, match=r"sample 132300 \(3\.000 s\) is not a finite number"):
        read_audio(tmp_path / "dirty.wav", RATE, 10**9, 2.0, 3.1)


def test_how_loud_it_is_is_said_of_the_excerpt(tmp_path: Path) -> None:
    sound = np.full(4 * RATE, 0.25)
    sound[:RATE] = 1
    soundfile.write(tmp_path / "a.wav", sound, RATE, "FLOAT")
    audio = read_audio(tmp_path / "a.wav", RATE, RATE, 1.0)
    assert (audio.peak, audio.clipped, audio.header.duration) == (0.25, 0, 4)


@pytest.mark.parametrize("name", ["pcm.wav", "a.flac", "a.mp3", "aac.m4a"])
def test_the_middle_of_a_file(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    start = (read_header(path).duration - SPEC.seconds) / 2
    windows, receipt = featurise(path, FeatureSpec(n_windows=24, start="middle"))
    assert (receipt.status, receipt.start) == ("ok", start)
    assert math.isnan(receipt.end)
    expected = mel_windows(read_audio(path, RATE, SPEC.n_samples, start).samples, SPEC)
    np.testing.assert_array_equal(windows, expected)
    same, of_a_number = featurise(path, FeatureSpec(n_windows=24, start=start))
    np.testing.assert_array_equal(same, windows)
    assert of_a_number.start == start


def test_the_middle_of_a_file_that_is_too_short_is_its_beginning(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(0.5, RATE), RATE)
    _, receipt = featurise(tmp_path / "a.wav", FeatureSpec(n_windows=24, start="middle"))
    assert (receipt.status, receipt.start) == ("short", 0)
    assert receipt.error.startswith("0.50 s of the 1.02 s that the spec takes: ")


def test_without_a_length_there_is_no_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "aac.m4a", 3)
    monkeypatch.setattr("melzarr.pipeline.features.ffmpeg_decoder.FFmpegDecoder._length", lambda *_: math.nan)
    windows, receipt = featurise(path, FeatureSpec(n_windows=24, start="middle"))
    assert (len(windows), receipt.status) == (0, "failed")
    assert "its middle is not known" in receipt.error
    assert math.isnan(receipt.start)


@pytest.mark.parametrize(
    ("start", "end", "status", "n_windows", "sentence"),
    [
        (1.0, 2.5, "ok", 24, ""),
        (1.0, 1.5, "short", 11, f"0.50 s from 1.00 s to its end at 1.50 s, {TAKES}: windows from 11 on are missing"),
        (3.5, math.nan, "short", 11, f"{TO_THE_END}: windows from 11 on are missing"),
        (3.5, 9.0, "short", 11, f"{TO_THE_END}: windows from 11 on are missing"),
        (50.0, 60.0, "short", 0, f"{BEYOND} {TAKES}: shorter than one window of 0.100 s"),
    ],
)
@pytest.mark.parametrize("name", ["pcm.wav", "vorbis.ogg"])
def test_an_excerpt_that_is_too_short_says_why(
    tmp_path: Path, name: str, start: float, end: float, status: str, n_windows: int, sentence: str
) -> None:
    path = written(tmp_path, name, 4)
    windows, receipt = featurise(path, FeatureSpec(n_windows=24, start=start), end=end)
    assert (receipt.status, receipt.n_windows, receipt.error) == (status, n_windows, sentence)
    assert (receipt.start, receipt.duration, len(windows)) == (start, 4, n_windows)
    assert receipt.end == end or math.isnan(end)


def test_in_a_subprocess_it_is_the_same(tmp_path: Path) -> None:
    path, spec = written(tmp_path, "pcm.wav", 4), FeatureSpec(n_windows=24, start=1)
    windows, receipt = featurise(path, spec, end=1.5)
    apart, told = featurise_apart(path, spec, 1.5)
    np.testing.assert_array_equal(apart, windows)
    assert told == receipt


def test_a_silent_excerpt_is_named_by_its_place(tmp_path: Path) -> None:
    sound = noise(4, RATE)
    sound[RATE : 3 * RATE] = 0
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    _, receipt = featurise(tmp_path / "a.wav", FeatureSpec(n_windows=24, start=1))
    assert (receipt.status, receipt.error) == ("silent", "1.02 s from 1.00 s on are silent (peak digital silence)")


def test_a_track_with_a_long_silent_start_is_not_silent(tmp_path: Path) -> None:
    sound = noise(5, RATE)
    sound[: 4 * RATE] = 0
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    _, receipt = featurise(tmp_path / "a.wav", FeatureSpec(n_windows=120))
    assert (receipt.status, receipt.error) == ("ok", "")


def test_a_cut_off_flac_goes_on_with_another_decoder(tmp_path: Path) -> None:
    path = written(tmp_path, "a.flac")
    whole = read_audio(path, 44100, 10**9, 1.0).samples
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    audio = read_audio(path, 44100, 10**9, 1.0)
    assert 1 < audio.samples.size / 44100 < 3
    np.testing.assert_array_equal(audio.samples, whole[: audio.samples.size])
    beyond = read_audio(path, 44100, 44100, 5.0)
    assert (beyond.samples.size, beyond.header.duration) == (0, 1 + audio.samples.size / 44100)
