"""A song of any length is heard through the same windows as the store, and what cannot be heard is said."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.model import predict as room
from melzarr.model.evaluate import song_probabilities
from melzarr.model.messages import prediction_line
from melzarr.model.plots import draw_songs
from melzarr.model.predict import Prediction, expected_windows, predict, song_windows
from melzarr.model.run_directory import Run
from melzarr.model.song_model import SongModel
from melzarr.model.track_summary import track_summary
from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features import libsndfile_decoder
from melzarr.pipeline.features.audio import read_audio
from melzarr.pipeline.features.extract import featurise
from melzarr.pipeline.features.mel import mel_windows
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store

RATE = 22050
SMALL = FeatureSpec(sample_rate=8000, window=700, stride=300, n_windows=5, n_fft=512, hop_length=128, n_mels=20)


def write(path: Path, n_samples: int, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (n_samples, channels))
    soundfile.write(path, noise * np.linspace(0.1, 1, n_samples)[:, None], rate, subtype="PCM_16")
    return path


def heard(path: Path, spec: FeatureSpec) -> np.ndarray:
    return np.concatenate(list(song_windows(path, spec)))


def of_the_whole(path: Path, spec: FeatureSpec) -> np.ndarray:
    """Windows of all samples at once."""
    return mel_windows(read_audio(path, spec.sample_rate, 10**9).samples, replace(spec, n_windows=10**6))


# Windows of a song ----------------------------------------------------------------------------------------------------


def assert_heard_whole(path: Path, n_samples: int, stride: int, block: int, decoded: int) -> None:
    write(path, n_samples, 8000)
    spec = replace(SMALL, stride=stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "BLOCK_BYTES", block * 4 * max(stride, 6 * 20))
        patch.setattr(libsndfile_decoder, "BLOCK", decoded)
        found = heard(path, spec)
    assert found.shape == (1 + (n_samples - 700) // stride, 6, 20) == (expected_windows(path, spec), *spec.shape[1:])
    np.testing.assert_array_equal(found, of_the_whole(path, spec))


DECODED = st.sampled_from([97, 1000, 4096])


@given(st.integers(700, 9000), st.integers(50, 700), st.integers(1, 6), DECODED)
def test_windows_of_a_song_are_those_of_its_samples_in_one_piece(
    tmp_path_factory: pytest.TempPathFactory, n_samples: int, stride: int, block: int, decoded: int
) -> None:
    assert_heard_whole(tmp_path_factory.getbasetemp() / "song.wav", n_samples, stride, block, decoded)


@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])
@given(st.integers(4000, 9000), st.integers(701, 1500), st.integers(1, 6), DECODED)
def test_windows_with_gaps_between_them_are_those_of_its_samples_too(
    tmp_path_factory: pytest.TempPathFactory, n_samples: int, stride: int, block: int, decoded: int
) -> None:
    assert_heard_whole(tmp_path_factory.getbasetemp() / "song.wav", n_samples, stride, block, decoded)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 2), (44100, 1), (11025, 2)])
def test_blocks_are_joined_in_a_song_of_any_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, channels: int
) -> None:
    path = write(tmp_path / "song.flac", 3 * rate, rate, channels)
    monkeypatch.setattr(room, "BLOCK_BYTES", 16 * 4 * SMALL.stride)
    monkeypatch.setattr(libsndfile_decoder, "BLOCK", 5000)
    blocks = [len(windows) for windows in song_windows(path, SMALL)]
    assert blocks == [16, 16, 16, 16, 14]  # 1 + (24000 - 700) // 300
    np.testing.assert_array_equal(heard(path, SMALL), of_the_whole(path, SMALL))


def test_windows_so_wide_that_few_fit_a_block_are_heard(tmp_path: Path) -> None:
    path = write(tmp_path / "song.wav", 8 * RATE)
    wide = FeatureSpec(window=4 * RATE, stride=RATE, hop_length=8, n_windows=1)  # 5.6 MB each; 1024 would be no chunk
    found = list(song_windows(path, wide))
    assert [len(windows) for windows in found] == [1] * 5
    samples = read_audio(path, RATE, 10**9).samples
    np.testing.assert_array_equal(np.concatenate(found), mel_windows(samples, replace(wide, n_windows=5)))


def test_a_window_in_the_middle_of_a_song_is_librosas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "song.wav", 5 * RATE)
    monkeypatch.setattr(room, "BLOCK_BYTES", 32 * 4 * 882)
    samples, found = soundfile.read(path, dtype="float32")[0], heard(path, FeatureSpec())
    for number in (0, 31, 32, 77, len(found) - 1):
        window = samples[882 * number : 882 * number + 2205]
        expected = librosa.feature.melspectrogram(y=window, sr=RATE, n_fft=2048, hop_length=512, pad_mode="reflect").T
        np.testing.assert_allclose(found[number], expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize(
    "fields", [{}, {"scale": "db"}, {"scale": "db", "dtype": "float16"}, {"power": 1.0}, {"n_windows": 3}]
)
def test_the_first_windows_are_those_that_a_store_would_hold(tmp_path: Path, fields: dict[str, object]) -> None:
    path = write(tmp_path / "song.wav", 2 * 44100, 44100, 2)
    spec = FeatureSpec.from_dict({"n_windows": 40, **fields})
    stored, receipt = featurise(path, spec)
    assert receipt.status == "ok"
    found = heard(path, spec)
    assert found.dtype == np.float32
    assert len(found) > len(stored)
    assert np.isfinite(found).all()
    # What the resampler makes of the last samples that featurise asks for depends a little on those behind them.
    np.testing.assert_allclose(found[: len(stored) - 1], stored[:-1].astype(np.float32), rtol=1e-5, atol=1e-5)


def test_memory_does_not_grow_with_a_song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK_BYTES", 32 * 4 * 882)
    block, peaks = replace(FeatureSpec(), n_windows=32), []
    for seconds in (20, 20, 80):  # the first imports and keeps what is needed once
        path = write(tmp_path / f"{seconds}.wav", seconds * RATE)
        tracemalloc.start()
        n_windows = sum(len(windows) for windows in song_windows(path, FeatureSpec()))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert n_windows == 1 + (80 * RATE - 2205) // 882
    # By chance more samples wait for a whole block of windows, and are copied once; 60 s more are 20 times as many.
    assert peaks[2] < peaks[1] + 2 * 4 * block.n_samples


# A song's genre -------------------------------------------------------------------------------------------------------


def prediction(*rows: list[float]) -> Prediction:
    answers = np.array(rows, np.float32)
    return Prediction(Path("song.mp3"), ("blues", "disco", "metal"), np.arange(len(rows)) * 0.04, answers)


def test_a_song_is_what_its_windows_say_together() -> None:
    song = prediction([0.9, 0.1, 0.0], [0.4, 0.5, 0.1], [0.3, 0.5, 0.2])
    mean = np.log(np.maximum(song.probabilities.astype(np.float64), 1e-12)).mean(axis=0)
    expected = np.exp(mean) / np.exp(mean).sum()
    assert (song.genre, song.vote) == ("blues", "disco")
    np.testing.assert_allclose(song.song_probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(song.shares, [1 / 3, 2 / 3, 0])
    assert [label for label, _ in song.top(9)] == ["blues", "disco", "metal"]
    assert song.top(1) == [("blues", pytest.approx(expected[0], rel=1e-5))]


def test_a_song_of_windows_that_exclude_each_other_still_has_probabilities() -> None:
    song = prediction(*[[1.0, 0.0, 0.0]] * 5000, *[[0.0, 1.0, 0.0]] * 4999)
    assert song.genre == "blues"
    assert song.song_probabilities.sum() == pytest.approx(1)
    assert np.isfinite(song.song_probabilities).all()


def test_a_script_reads_the_same() -> None:
    facts = prediction([0.9, 0.1, 0.0], [0.4, 0.5, 0.1]).to_dict()
    assert (facts["path"], facts["status"], facts["genre"], facts["n_windows"]) == ("song.mp3", "ok", "blues", 2)
    assert list(facts["probabilities"]) == list(facts["votes"]) == ["blues", "disco", "metal"]
    assert sum(facts["probabilities"].values()) == pytest.approx(1)


def test_a_track_of_the_store_is_heard_as_the_model_hears_the_store(tiny: Store, trained: Run, music: Path) -> None:
    told: list[int] = []
    model, number = trained.model(), tiny.values("track").tolist().index("drums/drums.00003")
    song = predict(model, trained.spec, ("bells", "drums"), music / "drums/drums.00003.wav", told.append)
    in_store = model.predict(np.asarray(tiny.mel[number]), verbose=0)
    # Sums of single precision in another order.
    np.testing.assert_allclose(song.probabilities[:24], in_store, rtol=0, atol=1e-5)
    assert len(song.starts) == len(song.probabilities) == sum(told) == 1 + (3 * RATE - 2205) // 882
    np.testing.assert_allclose(song.starts[:3], [0, 0.04, 0.08])


# What cannot be heard -------------------------------------------------------------------------------------------------


def test_a_song_of_one_window_is_heard_and_one_sample_less_is_too_short(tmp_path: Path) -> None:
    assert heard(write(tmp_path / "one.wav", 2205), FeatureSpec()).shape == (1, 5, 128)
    for n_samples in (2204, 1, 0):
        path = write(tmp_path / f"{n_samples}.wav", n_samples)
        assert expected_windows(path, FeatureSpec()) == 0
        with pytest.raises(AudioError, match=r"0\.\d{3} s of audio are shorter than one window of 0\.100 s; give a lo"):
            heard(path, FeatureSpec())


@pytest.mark.parametrize("seconds", [1, 60])
def test_a_silent_song_is_said(tmp_path: Path, seconds: int) -> None:
    soundfile.write(tmp_path / "silent.wav", np.full(seconds * 8000, 1e-4), 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="it is silent, its peak is below -70 dBFS"):
        heard(tmp_path / "silent.wav", SMALL)


@pytest.mark.parametrize("loud", [slice(100), slice(-100, None)], ids=["at its start", "at its end"])
def test_a_song_that_is_heard_for_a_moment_is_no_silent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loud: slice
) -> None:
    monkeypatch.setattr(room, "BLOCK_BYTES", 4 * 4 * SMALL.stride)
    monkeypatch.setattr(libsndfile_decoder, "BLOCK", 1000)
    sound = np.zeros(8 * 8000)
    sound[loud] = 0.5
    soundfile.write(tmp_path / "song.wav", sound, 8000)
    assert len(heard(tmp_path / "song.wav", SMALL)) == expected_windows(tmp_path / "song.wav", SMALL)


def test_a_song_too_loud_for_its_windows_is_said_as_for_a_store(tmp_path: Path) -> None:
    loud = np.random.default_rng(0).uniform(-1e25, 1e25, 8000)
    soundfile.write(tmp_path / "loud.wav", loud, 8000, subtype="FLOAT")
    assert "overflow" in featurise(tmp_path / "loud.wav", SMALL)[1].error
    with pytest.raises(AudioError, match="overflow"):
        heard(tmp_path / "loud.wav", SMALL)


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_text("la la la")
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "folder.mp3").mkdir()
    soundfile.write(tmp_path / "nan.wav", np.append(np.full(9000, 0.5), np.nan), 8000, subtype="FLOAT")
    for name, said in [
        ("text.mp3", "libsndfile finds no audio"), ("empty.mp3", r"the file is empty \(0 bytes\)"),
        ("folder.mp3", "no regular file"), ("none.mp3", "the file cannot be read: No such file"),
        ("nan.wav", r"sample 9000 \(1\.125 s\) is not a finite number"),
    ]:  # fmt: skip
        with pytest.raises(AudioError, match=said):
            heard(tmp_path / name, SMALL)
        if name != "nan.wav":
            assert expected_windows(tmp_path / name, SMALL) == 0


# Two opinions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.1, 0.14, 0.18, 0.5, 1.1, 2.4, 5.0])
def test_of_a_song_of_any_length_it_says_what_the_saved_model_says_of_all_windows(
    joined: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    spec = joined.spec  # its tracks have 24 windows, 1.02 s
    path = write(tmp_path / "song.wav", round(seconds * RATE))
    monkeypatch.setattr(room, "BLOCK_BYTES", 10 * 4 * spec.stride)
    model, labels = joined.model(), tuple(joined.labels)
    found = predict(model, spec, labels, path)
    windows = heard(path, spec)
    np.testing.assert_allclose(found.song_probabilities, np.asarray(model(windows))[0], rtol=0, atol=1e-4)
    assert found.genre == labels[int(found.song_probabilities.argmax())]
    told = found.to_dict()
    assert told["probabilities"] == dict(zip(labels, found.song_probabilities.tolist(), strict=True))
    if len(windows) < 3:  # a summary of so few says nothing
        assert found.summary is None
        assert "opinions" not in told
        assert "its summary" not in prediction_line(found, 1)
        return
    assert told["opinions"]["windows"] == dict(zip(labels, song_probabilities(found.probabilities), strict=True))
    assert told["opinions"]["summary"] == dict(zip(labels, found.summary.whole.tolist(), strict=True))


def test_the_summary_over_time_is_that_of_spans_as_long_as_a_track(joined: Run, tmp_path: Path) -> None:
    spec, path = joined.spec, write(tmp_path / "song.wav", 4 * RATE)
    found = predict(joined.model(), spec, tuple(joined.labels), path)
    windows = heard(path, spec)
    assert len(windows) == 98
    starts = [0, 24, 48, 72]  # the last has 26 windows, for the two of the end would be too short for a span
    np.testing.assert_allclose(found.summary.starts, np.array(starts) * 0.04)
    network = SongModel.of(joined.model()).second.summary
    for row, begin, end in zip(found.summary.probabilities, starts, [*starts[1:], 98], strict=True):
        of_span = track_summary(10 * np.log10(np.maximum(windows[begin:end, 2].astype(np.float64), 1e-10)))
        np.testing.assert_allclose(row, np.asarray(network(of_span[None]))[0], rtol=0, atol=1e-4)


def test_both_opinions_are_drawn_over_time(joined: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "song.wav", 4 * RATE)
    found = predict(joined.model(), joined.spec, tuple(joined.labels), path)
    alone = replace(found, summary=None)
    heights = []
    for number, songs in enumerate(([alone], [found], [alone, found], [found, alone])):
        draw_songs(songs, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as drawn:
            heights.append(drawn.height)
    assert heights[0] < heights[1] < heights[2] == heights[3]
    assert prediction_line(found, 1).endswith(
        f"; its summary: {found.labels[int(found.summary.whole.argmax())]} {found.summary.whole.max():.2f})"
    )
