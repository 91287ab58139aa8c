"""The same songs in twenty codecs and containers become the same windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from encode import CODECS, encode

import melzarr
from melzarr.pipeline.features.audio import read_audio
from melzarr.pipeline.sources import demo_music

pytestmark = pytest.mark.slow

RATE = 44100
STYLES = ("arpeggio", "bells", "choir", "chords", "drums")
LOSSLESS = {  # as libsndfile writes them, and below those of FFmpeg
    "pcm16.wav": "PCM_16",
    "pcm24.wav": "PCM_24",
    "float.wav": "FLOAT",
    "pcm16.aiff": "PCM_16",
    "pcm16.au": "PCM_16",
    "pcm16.caf": "PCM_16",
    "pcm16.w64": "PCM_16",
    "pcm24.flac": "PCM_24",
}
LOSSLESS_TOO = ("alac.m4a", "alac.caf", "flac.oga", "wavpack.wv", "tta.tta")
LOSSY = ("aac.m4a", "aac.aac", "ac3.ac3", "mp3.mp3", "aac.mkv", "mp2.ts", "opus.webm", "opus.opus", "vorbis.ogg")
SPEC = {"n_windows": 60, "tracks_per_shard": 8}


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per codec, with five songs of 3 s each in it."""
    root = tmp_path_factory.mktemp("songs")
    for number, style in enumerate(STYLES):
        whole = demo_music.synthesise(style, number, seed=18, sample_rate=RATE, seconds=3.0)
        whole = np.round(0.9 * 2**15 * whole).astype(np.int16)[:, np.newaxis]
        for name in (*LOSSLESS, *LOSSLESS_TOO, *LOSSY):
            rate = 48000 if name.startswith("opus") else RATE
            sound = whole if rate == RATE else soxr.resample(whole, RATE, rate)
            kind, _, extension = name.partition(".")
            path = root / name.replace(".", "-") / f"{style}.{extension}"
            path.parent.mkdir(exist_ok=True)
            if name in LOSSLESS or kind == "vorbis":
                exact = sound / np.float32(2**15) if name == "float.wav" else sound
                soundfile.write(path, exact, rate, subtype=LOSSLESS.get(name))
            else:
                codec, container = CODECS[name]
                encode(path, sound, rate, codec, container, bit_rate=192_000)
    return root


def test_all_are_ok_and_windows_are_those_of_the_original(songs: Path, tmp_path: Path) -> None:
    store = melzarr.build(songs, tmp_path / "songs.zarr", workers=0, progress=False, valid=0, test=0, **SPEC)
    tracks = store.tracks
    assert set(tracks["status"]) == {"ok"}, tracks["error"][tracks["status"] != "ok"].tolist()
    assert set(tracks["decoder"][tracks["label"].isin([name.replace(".", "-") for name in LOSSLESS])]) == {"libsndfile"}
    assert set(tracks["decoder"][tracks["label"] == "aac-m4a"]) == {"FFmpeg"}
    assert np.abs(tracks["duration"] - 3).max() < 0.1
    windows = dict(zip(tracks.index, store.mel.values, strict=True))
    for name in (*LOSSLESS, *LOSSLESS_TOO):
        for style in STYLES:
            original, found = (windows[f"{folder}/{style}"] for folder in ("float-wav", name.replace(".", "-")))
            np.testing.assert_array_equal(found, original, err_msg=f"{name} {style}")
    assert store.verify(songs, sample=len(tracks), progress=False).problems == []


def test_lossy_ones_are_aligned_in_time_to_one_hop(songs: Path) -> None:
    hop = melzarr.FeatureSpec().hop_length
    for style in STYLES:
        original = read_audio(songs / f"float-wav/{style}.wav", 22050, 60_000).samples
        spectrum = np.fft.rfft(original, 1 << 17)
        for name in LOSSY:
            path = songs / name.replace(".", "-") / f"{style}.{name.partition('.')[2]}"
            found = read_audio(path, 22050, 60_000).samples
            correlation = np.fft.irfft(np.fft.rfft(found, 1 << 17) * spectrum.conj())
            lag = int(np.argmax(correlation))
            assert min(lag, (1 << 17) - lag) <= hop, (name, style)


def test_a_scan_names_every_codec(songs: Path) -> None:
    found = melzarr.scan(songs, workers=2, progress=False, **SPEC)
    assert [problem for problem in found.problems if not problem.startswith("label ")] == []  # (too few for all splits)
    assert sum(found.codecs.values()) == 5 * len((*LOSSLESS, *LOSSLESS_TOO, *LOSSY))
    # FFmpeg takes MPEG audio of any layer for MP3 in a transport stream.
    assert set(found.codecs) >= {"MOV AAC", "MOV ALAC", "CAF ALAC", "OGG FLAC", "MP3 MPEG_LAYER_III", "MPEGTS MP3"}
