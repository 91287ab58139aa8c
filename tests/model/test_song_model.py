"""Two opinions in one saved model of a song: counted by hand, and opened in plain Keras."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training extra is not installed")

from melzarr.model.network import network  # noqa: E402
from melzarr.model.song_model import SongModel, mean_of_members, mean_opinion, song_model, summary_network  # noqa: E402
from melzarr.model.song_summary import SongSummary  # noqa: E402
from melzarr.model.track_summary import track_summary  # noqa: E402
from melzarr.pipeline.spec import FeatureSpec  # noqa: E402

SPEC = FeatureSpec(n_mels=16, n_windows=20)
WEIGHT = 0.3


def power(n: int, spec: FeatureSpec = SPEC) -> np.ndarray:
    return (10 ** np.random.default_rng(n).uniform(-12, 3, (n, *spec.shape[1:]))).astype(np.float32)


def of_windows(seed: int, spec: FeatureSpec = SPEC) -> "keras.Model":
    keras.utils.set_random_seed(seed)
    return network(spec, 3, mean_db=[-40.0] * spec.n_mels, std_db=[20.0] * spec.n_mels)


def of_summaries(seed: int, n_mels: int = 16) -> "keras.Model":
    keras.utils.set_random_seed(seed)
    mean, std = np.array([-40.0, 40.0, 60.0]), np.array([9.0, 4.0, 5.0])
    several = summary_network(3, mean.repeat(n_mels), std.repeat(n_mels), units=8, n_members=2)
    return mean_of_members(several)


def geometric_mean(probabilities: list[np.ndarray]) -> np.ndarray:
    product = np.prod(np.array(probabilities, np.float64), axis=0) ** (1 / len(probabilities))
    return np.asarray(product / product.sum(axis=-1, keepdims=True))


def test_the_mean_of_opinions_is_their_geometric_mean() -> None:
    networks, x = [of_windows(1), of_windows(2), of_windows(3)], power(5)
    expected = geometric_mean([np.asarray(one(x)) for one in networks])
    np.testing.assert_allclose(mean_opinion(networks, "mean")(x), expected, atol=1e-6)
    several = summary_network(3, [0.0] * 48, [1.0] * 48, units=4, n_members=3)
    summaries = np.random.default_rng(0).normal(size=(4, 48))
    expected = geometric_mean([np.asarray(several(summaries))[:, number] for number in range(3)])
    np.testing.assert_allclose(mean_of_members(several)(summaries), expected, atol=1e-6)


def test_each_small_network_is_a_dense_layer_of_its_own() -> None:
    keras.utils.set_random_seed(0)
    several = summary_network(3, [-40.0] * 48, [9.0] * 48, units=200, n_members=2)
    x = np.random.default_rng(0).normal(-40, 9, (5, 48))
    dense, biases, genre, _ = several.trainable_weights
    found = np.asarray(several(x))
    for number in range(2):
        hidden = np.maximum((x + 40) / 9 @ np.asarray(dense)[:, number] + np.asarray(biases)[number], 0)
        scores = hidden @ np.asarray(genre)[number]
        expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, number], expected, atol=1e-5)
        # A uniform distribution of Glorot and Bengio's variance, 2 / (inputs + outputs).
        assert np.asarray(dense)[:, number].std() == pytest.approx(np.sqrt(2 / (48 + 200)), rel=0.05)
    assert not np.array_equal(found[:, 0], found[:, 1])


def by_hand(windows: "keras.Model", summaries: "keras.Model", x: np.ndarray) -> np.ndarray:
    mean = np.log(np.asarray(windows(x), np.float64)).mean(axis=0)
    summary = track_summary(10 * np.log10(np.maximum(x[:, x.shape[1] // 2].astype(np.float64), 1e-10)))
    weight = WEIGHT if len(x) > 2 else 0.0
    score = (1 - weight) * mean + weight * np.log(np.asarray(summaries(summary[None]), np.float64)[0])
    return np.exp(score) / np.exp(score).sum()


@pytest.mark.parametrize("n", [1, 2, 3, 50])
@pytest.mark.parametrize("window", [2205, 1700, 600])  # five frames, four, and two
def test_it_takes_all_windows_of_a_song_of_any_length(n: int, window: int) -> None:
    spec = FeatureSpec(n_mels=16, window=window, stride=window, n_fft=512, hop_length=512)
    windows, summaries = of_windows(1, spec), of_summaries(2)
    model, x = song_model(spec, windows, summaries, WEIGHT), power(n, spec)
    found = model.predict_on_batch(x)
    assert found.shape == (1, 3)
    np.testing.assert_allclose(found[0], by_hand(windows, summaries, x), atol=1e-5)
    song, summed = SongModel.of(model), SongSummary(spec)
    summed.add(x)
    _, both = song.second.of_track(np.log(np.asarray(windows(x))).mean(axis=0), summed.whole())
    np.testing.assert_allclose(both, found[0], atol=1e-5)  # as melzarr predict adds it up


def test_levels_that_are_stored_are_not_converted_again() -> None:
    spec = FeatureSpec(n_mels=16, scale="db")
    windows, summaries = of_windows(1, spec), of_summaries(2)
    x = np.random.default_rng(0).normal(-40, 15, (30, *spec.shape[1:])).astype(np.float32)
    mean = np.log(np.asarray(windows(x), np.float64)).mean(axis=0)
    of_summary = np.log(np.asarray(summaries(track_summary(x[:, 2])[None]), np.float64)[0])
    expected = np.exp((1 - WEIGHT) * mean + WEIGHT * of_summary)
    found = song_model(spec, windows, summaries, WEIGHT).predict_on_batch(x)[0]
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-5)


def test_a_network_alone_has_no_second_opinion() -> None:
    alone = of_windows(1)
    assert SongModel.of(alone) == SongModel(alone)
    mean = mean_opinion([alone, of_windows(2)], "mean")
    assert SongModel.of(mean) == SongModel(mean)


@pytest.mark.slow
def test_a_saved_model_opens_in_plain_keras_and_is_taken_apart_again(tmp_path: Path) -> None:
    windows = mean_opinion([of_windows(1), of_windows(2)], "windows of two members")
    summaries = mean_opinion([of_summaries(1), of_summaries(2)], "summaries of two members")
    song_model(SPEC, windows, summaries, WEIGHT).save(tmp_path / "m.keras")
    x = power(40)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", by_hand(windows, summaries, x))
    code = (
        "import sys, numpy as np, keras\n"
        "y = keras.saving.load_model('m.keras', safe_mode=True).predict_on_batch(np.load('x.npy'))\n"
        "np.testing.assert_allclose(y, np.load('y.npy')[None], atol=1e-5)\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'melzarr']\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    song = SongModel.of(keras.saving.load_model(tmp_path / "m.keras", safe_mode=True))
    np.testing.assert_allclose(song.windows(x), windows(x), atol=1e-6)
    summary = track_summary(10 * np.log10(np.maximum(x[:, 2], 1e-10)))
    alone, both = song.second.of_track(np.log(np.asarray(windows(x))).mean(axis=0), summary)
    np.testing.assert_allclose(alone, summaries(summary[None])[0], atol=1e-6)
    np.testing.assert_allclose(both, by_hand(windows, summaries, x), atol=1e-5)


@pytest.mark.parametrize("n", [1, 19, 20, 39, 40, 101])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_a_summary_in_blocks_is_that_of_all_windows(n: int, block: int) -> None:
    x, song = power(n), SongSummary(SPEC)
    for start in range(0, n, block):
        song.add(x[start : start + block])
    levels = 10 * np.log10(np.maximum(x[:, 2].astype(np.float64), 1e-10))
    np.testing.assert_allclose(song.whole(), track_summary(levels), rtol=0, atol=2e-4)
    spans = song.spans()
    assert song.starts == [20 * k for k in range(max(1, n // 20))]
    for row, begin, end in zip(spans, song.starts, [*song.starts[1:], n], strict=True):
        np.testing.assert_allclose(row, track_summary(levels[begin:end]), rtol=0, atol=2e-4)
