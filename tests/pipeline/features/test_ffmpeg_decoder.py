"""Files that libsndfile cannot read, or not whole, are decoded by FFmpeg: all of them, from their first sample on."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from encode import CODECS, LOSSLESS, chords, encode

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features import audio as room
from melzarr.pipeline.features.audio import read_audio, read_header, stream_audio
from melzarr.pipeline.features.audio_header import FFMPEG, LIBSNDFILE
from melzarr.pipeline.features.extract import featurise
from melzarr.pipeline.spec import FeatureSpec

RATE = 44100
RATES = {"opus.opus": 48000, "opus.webm": 48000, "g726.wav": 8000}
# How much later than in the original the sound is, in samples: these containers do not say how long the encoder's delay
# is, and FFmpeg's encoder of WMA leaves out its first frame. All within one hop of the default spec, 1024 samples at
# 44.1 kHz, but for WMA.
DELAYS = {"aac.aac": 1024, "ac3.ac3": 256, "mp2.ts": 481, "wma.wma": -2048}


def music(seconds: float, rate: int = RATE, channels: int = 1) -> npt.NDArray[np.float32]:
    """Chords, [shape=(n, channels)]."""
    return chords(seconds, rate, channels)


def written(folder: Path, name: str, sound: npt.NDArray[np.float32]) -> Path:
    codec, container = CODECS[name]
    return encode(folder / name, sound, RATES.get(name, RATE), codec, container)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", CODECS)
def test_each_codec_gives_the_sound_in_time(tmp_path: Path, name: str, channels: int) -> None:
    rate = RATES.get(name, RATE)
    if name == "g726.wav" and channels == 2:
        pytest.skip("G.726 has one channel")
    sound = music(3, rate, channels)
    path = written(tmp_path, name, sound)
    audio, header = read_audio(path, rate, 4 * rate), read_header(path)
    expected = LIBSNDFILE if name in {"flac.flac", "opus.opus", "mp3.mp3"} else FFMPEG
    assert (header.decoder, header.sample_rate, header.channels) == (expected, rate, channels)
    assert audio.fault == ""
    assert header.duration == pytest.approx(3, abs=0.1)
    assert audio.header.duration == pytest.approx(3, abs=0.1)
    assert audio.header.promised == audio.header.duration
    mono, delay = sound.mean(axis=1), DELAYS.get(name, 0)
    if name in LOSSLESS:
        # 16 bits: half a step of rounding, and a step because full scale is written as 2^15 - 1 and read as 2^15.
        np.testing.assert_allclose(audio.samples, mono, rtol=0, atol=1.5 * 2**-15)
        return
    found = audio.samples[max(delay, 0) :][: mono.size]
    inside = slice(4000, found.size - 4000)
    shifts = {
        shift: np.corrcoef(found[inside], mono[max(-delay, 0) :][4000 + shift : found.size - 4000 + shift])[0, 1]
        for shift in (-64, -16, -4, 0, 4, 16, 64)
        if 0 <= 4000 + shift <= found.size + shift - 4000 <= mono.size - max(-delay, 0)
    }
    assert max(shifts, key=lambda shift: shifts[shift]) == 0
    assert shifts[0] > {"g726.wav": 0.9, "mp2.ts": 0.98}.get(
        name, 0.99
    )  # G.726 has 4 bits per sample, MP2 an old model


def test_the_first_sample_of_an_m4a_and_an_mp3_is_that_of_the_original(tmp_path: Path) -> None:
    sound = np.zeros((RATE, 1), np.float32)
    sound[[100, 20_000]] = 0.9
    for name in ("aac.m4a", "mp3.mp3"):
        codec, container = CODECS[name]
        path = encode(tmp_path / name, sound, RATE, codec, container, bit_rate=256_000)
        samples = read_audio(path, RATE, 2 * RATE).samples
        assert samples.size == RATE
        for place in (100, 20_000):
            assert place - 50 + np.argmax(np.abs(samples[place - 50 : place + 50])) == place


@pytest.mark.parametrize("name", ["aac.m4a", "alac.m4a", "wma.wma", "flac.oga"])
def test_a_stream_is_the_whole_file_in_pieces(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, music(4, channels=2))
    whole = read_audio(path, 22050, 10**9).samples
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(path, 22050))), whole)


def test_no_more_is_decoded_than_the_samples_need(tmp_path: Path) -> None:
    path = written(tmp_path, "aac.m4a", music(20))
    start = read_audio(path, RATE, RATE).samples
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)  # 10 s later
    path.write_bytes(data)
    np.testing.assert_array_equal(read_audio(path, RATE, RATE).samples, start)


def likeness(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the largest correlation of two sounds over all shifts."""
    spectra = [np.fft.rfft(sound / np.linalg.norm(sound), 2 * one.size) for sound in (one, other)]
    return float(np.fft.irfft(spectra[0] * spectra[1].conj()).max())


def damaged(path: Path, place: float, damage: bytes) -> Path:
    """Overwrite a file at a place, as a share of its length."""
    data = bytearray(path.read_bytes())
    start = round(place * len(data))
    data[start : start + len(damage)] = damage
    path.write_bytes(data)
    return path


def test_decoding_goes_on_behind_damage_and_a_sentence_says_where_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, "aac.aac", music(4))
    whole = read_audio(path, RATE, 5 * RATE).samples
    audio = read_audio(damaged(path, 0.5, b"\x55" * 200), RATE, 5 * RATE)
    assert re.match(r"damaged at (1\.9|2\.0)\d s \(AAC AAC, FFmpeg: ", audio.fault)
    assert audio.samples.size > 3.3 * RATE
    np.testing.assert_array_equal(audio.samples[:RATE], whole[:RATE])
    assert likeness(audio.samples[-RATE:], whole[-RATE:]) > 0.9
    _, receipt = featurise(path, FeatureSpec(n_windows=120))
    assert receipt.status == "short"
    assert receipt.error.endswith(audio.fault)
    assert receipt.duration == audio.samples.size / RATE


def test_what_was_decoded_before_damage_to_the_end_counts(tmp_path: Path) -> None:
    path = written(tmp_path, "aac.aac", music(4))
    audio = read_audio(damaged(path, 0.5, b"\x55" * path.stat().st_size), RATE, 4 * RATE)
    assert 1.5 < audio.samples.size / RATE < 2.5
    assert audio.header.duration == audio.samples.size / RATE


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_a_stream_that_changes_its_format_ends_there(tmp_path: Path, rate: int) -> None:
    first = encode(tmp_path / "a.aac", music(2), RATE, "aac", "adts").read_bytes()
    second = encode(tmp_path / "b.aac", music(2, rate, 2), rate, "aac", "adts").read_bytes()
    (tmp_path / "c.aac").write_bytes(first + second)
    audio = read_audio(tmp_path / "c.aac", RATE, 4 * RATE)
    assert audio.samples.size / RATE == pytest.approx(2, abs=0.1)
    said = rf"its format changes after 2\.0\d s, from {RATE} Hz and 1 channels to {rate} Hz and 2"
    assert re.fullmatch(said, audio.fault)


# MP3, Ogg and FLAC of which libsndfile does not say the truth ---------------------------------------------------------


def mp3(path: Path, seconds: float = 4, rate: int = RATE, channels: int = 1, *, tag: bool = False) -> Path:
    options = {"container_options": {"write_xing": str(int(tag)), "id3v2_version": "0"}}
    return encode(path, music(seconds, rate, channels), rate, "libmp3lame", "mp3", **options)


def test_mp3_of_variable_bit_rate_without_a_tag_is_decoded_whole(tmp_path: Path) -> None:
    sound = music(10)
    sound[: 5 * RATE] = 0.3 * np.random.default_rng(0).standard_normal((5 * RATE, 1))
    options = {"codec_options": {"flags": "+qscale", "global_quality": "600"}, "container_options": {"write_xing": "0"}}
    path = encode(tmp_path / "a.mp3", sound[::-1], RATE, "libmp3lame", "mp3", **options)
    assert abs(soundfile.info(path).duration - 10) > 1
    for audio in (read_audio(path, RATE, RATE), read_audio(path, RATE, 20 * RATE)):
        assert audio.header.duration == pytest.approx(10, abs=0.1)
    assert audio.samples.size == pytest.approx(10 * RATE, abs=3000)
    assert audio.header.decoder == FFMPEG


@pytest.mark.parametrize("count", [20, 2**32 - 1])
def test_a_tag_that_counts_too_few_or_too_many_frames_is_not_believed(tmp_path: Path, count: int) -> None:
    path = mp3(tmp_path / "a.mp3", tag=True)
    data = bytearray(path.read_bytes())
    place = max(data.find(b"Info"), data.find(b"Xing")) + 8
    data[place : place + 4] = struct.pack(">I", count)
    path.write_bytes(data)
    audio = read_audio(path, RATE, 10 * RATE)
    assert audio.header.duration == pytest.approx(4, abs=0.1)
    assert read_header(path).duration == pytest.approx(4, abs=0.1)
    assert audio.fault == ""


def test_an_mp3_that_changes_its_format_says_when(tmp_path: Path) -> None:
    first = mp3(tmp_path / "a.mp3", 3).read_bytes()
    for rate, channels in ((RATE, 2), (48000, 1)):
        (tmp_path / "c.mp3").write_bytes(first + mp3(tmp_path / "b.mp3", 3, rate, channels).read_bytes())
        _, receipt = featurise(tmp_path / "c.mp3", FeatureSpec(n_windows=120))
        assert receipt.status == "short"
        assert "the format of this MP3 changes after 3.0" in receipt.error
        assert "cut off" not in receipt.error
        assert receipt.duration == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(
    "front", [bytes(100), bytes(5000), b"ID3\x04\0\x10\0\0\0\x0a" + bytes(10) + b"3DI\x04\0\x10\0\0\0\x0a"]
)
def test_an_mp3_with_something_in_front_is_decoded_from_its_first_frame_on(tmp_path: Path, front: bytes) -> None:
    path = mp3(tmp_path / "a.mp3")
    whole = read_audio(path, RATE, 10 * RATE)
    path.write_bytes(front + path.read_bytes())
    audio = read_audio(path, RATE, 10 * RATE)
    assert audio.header.duration == pytest.approx(4, abs=0.1)
    n = min(whole.samples.size, audio.samples.size)
    assert np.corrcoef(audio.samples[-n:], whole.samples[-n:])[0, 1] > 0.999


def test_two_mp3s_with_tags_that_were_joined_are_decoded_whole(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.mp3", music(3), RATE, "libmp3lame", "mp3").read_bytes()
    assert data.startswith(b"ID3")
    (tmp_path / "a.mp3").write_bytes(data + data)
    audio = read_audio(tmp_path / "a.mp3", RATE, 10 * RATE)
    assert audio.header.duration == pytest.approx(6, abs=0.1)
    assert likeness(audio.samples[-2 * RATE :], music(3)[RATE:, 0]) > 0.9


@pytest.mark.parametrize("damage", [bytes(3000), b"\x55" * 400])
def test_a_damaged_mp3_is_not_said_to_be_cut_off(
    tmp_path: Path, damage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    _, receipt = featurise(damaged(mp3(tmp_path / "a.mp3"), 0.5, damage), FeatureSpec(n_windows=200))
    assert receipt.status == "short"
    assert "cut off" not in receipt.error
    assert receipt.duration > 3.5
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("same", [True, False])
def test_all_links_of_a_chain_of_ogg_streams_are_decoded(tmp_path: Path, same: bool) -> None:
    soundfile.write(tmp_path / "a.ogg", music(3), RATE)
    soundfile.write(tmp_path / "b.ogg", music(2) if same else music(2, channels=2), RATE)
    (tmp_path / "c.ogg").write_bytes((tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes())
    audio = read_audio(tmp_path / "c.ogg", RATE, 10 * RATE)
    assert audio.samples.size / RATE == pytest.approx(5 if same else 3, abs=0.05)
    assert read_header(tmp_path / "c.ogg").duration == pytest.approx(5 if same else 3, abs=0.05)
    assert ("its format changes after 3.0" in audio.fault) is not same


def test_a_flac_of_unknown_length_is_as_long_as_its_frames(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", music(3), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # the number of samples in STREAMINFO (RFC 9639, section 8.2)
    (tmp_path / "a.flac").write_bytes(data)
    assert read_header(tmp_path / "a.flac").duration == pytest.approx(3, abs=1e-6)
    for seconds in (1, 10):
        audio = read_audio(tmp_path / "a.flac", RATE, seconds * RATE)
        assert audio.header.duration == pytest.approx(3, abs=1e-6)
        np.testing.assert_allclose(audio.samples, music(3)[: seconds * RATE, 0], rtol=0, atol=1.5 * 2**-15)


# Containers with pictures, and what is no audio -----------------------------------------------------------------------


def video(path: Path, *, sound: bool) -> Path:
    with av.open(str(path), "w") as file:
        picture = file.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        voice = file.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 5 * number, np.uint8), "rgb24")
            file.mux(picture.encode(frame))
        file.mux(picture.encode(None))
        if voice:
            for start in range(0, 2 * RATE, 1024):
                part = np.ascontiguousarray(music(3)[start : start + 1024].T)
                frame = av.AudioFrame.from_ndarray(part, "fltp", "mono")
                frame.sample_rate, frame.pts = RATE, start
                file.mux(voice.encode(frame))
            file.mux(voice.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_a_film_gives_its_sound(tmp_path: Path, name: str) -> None:
    audio = read_audio(video(tmp_path / name, sound=True), RATE, RATE)
    assert np.corrcoef(audio.samples, music(1)[:, 0])[0, 1] > 0.99 or name == "a.avi"  # AVI keeps the encoder's delay
    assert audio.header.duration == pytest.approx(2, abs=0.1)
    with pytest.raises(AudioError, match="there is no audio in it"):
        read_audio(video(tmp_path / f"silent-{name}", sound=False), RATE, RATE)


def test_names_in_another_encoding_do_not_matter(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="ipod") as file:
        file.metadata["artist"] = "Bj?rk"
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ones((1, 1024), np.float32) / 9, "fltp", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    data = (tmp_path / "a.m4a").read_bytes()
    assert b"Bj?rk" in data
    (tmp_path / "a.m4a").write_bytes(data.replace(b"Bj?rk", b"Bj\xf6rk"))
    assert read_audio(tmp_path / "a.m4a", RATE, RATE).samples.size == pytest.approx(1024, abs=20)  # a track in ms


def test_a_codec_that_ffmpeg_does_not_know_is_a_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, "g726.wav", music(1, 8000))
    data = bytearray(path.read_bytes())
    data[20:22] = b"\x99\x99"  # the format tag of the WAV
    path.write_bytes(data)
    with pytest.raises(AudioError, match="this is WAV in a codec that FFmpeg does not know; it may be damaged"):
        read_audio(path, 8000, 8000)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music(1), RATE)
    lists = [
        b"ffconcat version 1.0\nfile a.wav\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.wav\n#EXT-X-ENDLIST\n",
    ]
    for number, text in enumerate(lists):
        (tmp_path / f"{number}.mp3").write_bytes(text)
        with pytest.raises(AudioError, match="FFmpeg finds no audio in the file"):
            read_audio(tmp_path / f"{number}.mp3", RATE, RATE)


def test_a_name_that_looks_like_an_address_is_a_name(tmp_path: Path) -> None:
    for name in ("concat:a|b.m4a", "http:x.m4a", "-i.m4a", "50%.m4a", "ü ? #.m4a"):
        codec, container = CODECS["aac.m4a"]
        encode(tmp_path / "plain", music(1), RATE, codec, container).rename(tmp_path / name)
        assert read_audio(tmp_path / name, RATE, RATE).samples.size == RATE


def test_a_cut_off_m4a_says_so(tmp_path: Path) -> None:
    options = {"container_options": {"movflags": "faststart"}}
    path = encode(tmp_path / "a.m4a", music(6), RATE, "aac", "ipod", **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, receipt = featurise(path, FeatureSpec(n_windows=200))
    assert receipt.status == "short"
    assert 2 < receipt.duration < 5
    assert "damaged at" in receipt.error or "its header promises 6.00 s, so the file was cut off" in receipt.error


def test_without_it_a_sentence_names_the_codec_and_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "is_installed", lambda: False)
    for name, said in {
        "aac.m4a": r"this is MPEG-4 audio \(AAC or ALAC\), which libsndfile .* does not read",
        "flac.oga": "this is Ogg FLAC",
        "g726.wav": "this is G.726 in WAV",
        "alac.caf": "this is ALAC or AAC in CAF",
        "ac3.ac3": "this is Dolby AC-3",
        "wma.wma": "this is Windows Media Audio",
        "mp2.ts": "this is MPEG-TS",
        "wavpack.wv": "this is WavPack",
        "tta.tta": "this is True Audio",
    }.items():
        path = written(tmp_path, name, music(1, RATES.get(name, RATE)))
        remedy = (
            rf'; for FFmpeg\'s decoders: pip install "melzarr\[codecs\]", or .* ffmpeg -i {path.name} {path.stem}.flac$'
        )
        with pytest.raises(AudioError, match=said + ".*" + remedy):
            read_audio(path, RATE, RATE)
