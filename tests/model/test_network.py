"""The article's network and its front end."""

import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training extra is not installed")

from melzarr.model.network import network  # noqa: E402
from melzarr.pipeline.spec import FeatureSpec  # noqa: E402

STATISTICS = {"mean_db": np.linspace(-40, 0, 128).tolist(), "std_db": np.linspace(10, 20, 128).tolist()}


@pytest.mark.parametrize(("frontend", "statistics"), [("none", {}), ("db", STATISTICS)])
def test_it_has_the_articles_weights(frontend: str, statistics) -> None:
    model = network(FeatureSpec(), 10, frontend=frontend, **statistics)
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    # (2·128·256 + 256) + 2·(2·256·256 + 256) + (5·256·1024 + 1024) + (1024·10 + 10)
    assert trained == 1_650_442
    assert model.input_shape == (None, 5, 128)
    assert model.output_shape == (None, 10)


def power(n: int) -> np.ndarray:
    return (10 ** np.random.default_rng(0).uniform(-12, 3, (n, 5, 128))).astype(np.float32)


def standardised(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(model.input, model.get_layer("standardised").output)(x))


def test_the_front_end_is_librosas_level_standardised() -> None:
    x = power(4)
    expected = librosa.power_to_db(x, ref=1.0, amin=1e-10, top_db=None)
    expected = (expected - np.array(STATISTICS["mean_db"])) / np.array(STATISTICS["std_db"])
    np.testing.assert_allclose(standardised(network(FeatureSpec(), 10, **STATISTICS), x), expected, atol=1e-4)


def test_levels_are_only_standardised() -> None:
    x = np.random.default_rng(0).uniform(-90, 20, (4, 5, 128)).astype(np.float32)
    model = network(FeatureSpec(scale="db"), 10, **STATISTICS)
    expected = (x - np.array(STATISTICS["mean_db"])) / np.array(STATISTICS["std_db"])
    np.testing.assert_allclose(standardised(model, x), expected, atol=1e-4)


def test_silence_and_a_constant_band_stay_finite() -> None:
    model = network(FeatureSpec(), 3, mean_db=[0.0] * 128, std_db=[0.0] * 128)
    assert np.isfinite(np.asarray(model(np.zeros((1, 5, 128), np.float32)))).all()


@pytest.mark.slow
def test_a_saved_model_opens_in_safe_mode_without_melzarr(tmp_path: Path) -> None:
    model = network(FeatureSpec(), 10, **STATISTICS)
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", power(3))
    np.save(tmp_path / "y.npy", np.asarray(model(power(3))))
    code = (
        "import sys, numpy as np, keras\n"
        "y = np.asarray(keras.saving.load_model('m.keras', safe_mode=True)(np.load('x.npy')))\n"
        "np.testing.assert_allclose(y, np.load('y.npy'), atol=1e-6)\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('model', 'pipeline')]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="frontend='mel' is unknown"):
        network(FeatureSpec(), 10, frontend="mel")
    with pytest.raises(ValueError, match="0 and 0 bands, but the spec has 128"):
        network(FeatureSpec(), 10)
