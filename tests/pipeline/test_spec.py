"""A spec says what one track becomes, and refuses what cannot be computed."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import librosa
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.spec import (
    DTYPES,
    MEL_SCALES,
    NORMS,
    PAD_MODES,
    PRESETS,
    SCALES,
    WINDOW_FUNCTIONS,
    FeatureSpec,
)

COUNTS = ("sample_rate", "window", "stride", "n_windows", "n_fft", "hop_length", "n_mels")


@st.composite
def specs(draw: st.DrawFn) -> FeatureSpec:
    n_fft = 2 * draw(st.integers(2, 512))
    window = draw(st.integers(n_fft // 2 + 1, 3 * n_fft))
    scale, sample_rate = draw(st.sampled_from(SCALES)), draw(st.integers(1, 200_000))
    return FeatureSpec(
        sample_rate=sample_rate,
        window=window,
        stride=draw(st.integers(1, 2 * window)),
        n_windows=draw(st.integers(1, 50)),
        start=draw(st.just("middle") | st.floats(0, 1e6)),
        n_fft=n_fft,
        hop_length=draw(st.integers(1, window)),
        window_function=draw(st.sampled_from(WINDOW_FUNCTIONS)),
        pad_mode=draw(st.sampled_from(PAD_MODES)),
        n_mels=draw(st.integers(1, n_fft // 2)),
        fmin=draw(st.floats(0, sample_rate / 8)),
        fmax=draw(st.none() | st.floats(sample_rate / 4, sample_rate / 2)),
        mel_scale=draw(st.sampled_from(MEL_SCALES)),
        norm=draw(st.sampled_from(NORMS)),
        power=draw(st.floats(0.1, 4)),
        scale=scale,
        dtype="float32" if scale == "power" else draw(st.sampled_from(DTYPES)),
    )


# What the defaults are ------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_article() -> None:
    assert dataclasses.asdict(FeatureSpec()) == {
        "sample_rate": 22050,
        "window": 2205,
        "stride": 882,
        "n_windows": 599,
        "start": 0.0,
        "n_fft": 2048,
        "hop_length": 512,
        "window_function": "hann",
        "pad_mode": "reflect",
        "n_mels": 128,
        "fmin": 0.0,
        "fmax": None,
        "mel_scale": "slaney",
        "norm": "slaney",
        "power": 2.0,
        "scale": "power",
        "dtype": "float32",
    }


def test_the_defaults_give_599_windows_of_5_frames_of_128_bands() -> None:
    spec = FeatureSpec()
    assert spec.shape == (599, 5, 128)
    assert spec.n_samples == 529_641
    assert spec.seconds == pytest.approx(24.02, abs=0.005)
    assert spec.track_bytes == 599 * 5 * 128 * 4


def test_the_default_coordinates_are_seconds() -> None:
    spec = FeatureSpec()
    starts, centres = spec.window_starts(), spec.frame_centres()
    assert starts.shape == (599,)
    # Every 40 ms a window; both sides are quotients of whole numbers, so only their last bit may differ.
    np.testing.assert_allclose(starts, [40 * n / 1000 for n in range(599)], rtol=1e-15)
    np.testing.assert_allclose(centres, [0, 512 / 22050, 1024 / 22050, 1536 / 22050, 2048 / 22050], rtol=1e-15)


# What follows from any spec -------------------------------------------------------------------------------------------


@given(specs())
def test_the_windows_cover_the_samples_that_the_spec_asks_for(spec: FeatureSpec) -> None:
    last = [window * spec.stride for window in range(spec.n_windows)][-1]
    assert spec.n_samples == last + spec.window
    assert spec.valid_windows(spec.n_samples) == spec.n_windows
    assert spec.valid_windows(spec.n_samples - 1) == spec.n_windows - 1


@given(specs(), st.data())
def test_valid_windows_are_those_that_counting_finds_wholly_inside(spec: FeatureSpec, data: st.DataObject) -> None:
    n_samples = data.draw(st.integers(0, spec.n_samples + spec.window))
    inside = [n for n in range(spec.n_windows) if n * spec.stride + spec.window <= n_samples]
    assert spec.valid_windows(n_samples) == len(inside)


@given(specs())
def test_frames_are_as_many_as_librosa_makes_of_a_window(spec: FeatureSpec) -> None:
    padded = np.zeros(spec.window + spec.n_fft // 2 * 2, np.float32)
    frames = librosa.util.frame(padded, frame_length=spec.n_fft, hop_length=spec.hop_length)
    assert spec.n_frames == frames.shape[1] == len(spec.frame_centres())


@given(specs())
def test_bytes_are_those_of_the_array(spec: FeatureSpec) -> None:
    assert spec.track_bytes == math.prod(spec.shape) * np.empty(0, spec.dtype).itemsize


@pytest.mark.parametrize("start", [-1, math.nan, math.inf, "12", "end", None, True])
def test_a_start_that_is_no_place_in_a_file_is_refused(start: Any) -> None:
    with pytest.raises(
        SpecError, match=r"is not a number of seconds from 0 on; use one, such as start=30, or start=mid"
    ):
        FeatureSpec(start=start)


def test_equal_starts_are_equal_specs() -> None:
    assert json.dumps(FeatureSpec(start=-0.0).to_dict()) == json.dumps(FeatureSpec(start=0).to_dict())
    assert FeatureSpec(start=30) == FeatureSpec(start=30.0) != FeatureSpec(start="middle")


@given(specs())
def test_a_spec_survives_json(spec: FeatureSpec) -> None:
    assert FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_what_a_dict_leaves_out_keeps_its_default() -> None:
    assert FeatureSpec.from_dict({"n_mels": 64}) == FeatureSpec(n_mels=64)


def test_half_the_sample_rate_is_one_spec_however_it_is_given() -> None:
    assert FeatureSpec(fmax=11025) == FeatureSpec(fmax=11025.0) == FeatureSpec()
    assert FeatureSpec(fmax=11025).to_dict() == FeatureSpec().to_dict()
    assert FeatureSpec(fmin=50) == FeatureSpec(fmin=50.0)
    assert dataclasses.replace(FeatureSpec(fmax=11025), sample_rate=16000).highest_frequency == 8000
    assert FeatureSpec(fmax=8000).highest_frequency == 8000


def test_a_spec_of_before_the_newer_fields_is_the_default() -> None:
    new = {"window_function", "fmin", "fmax", "mel_scale", "norm", "start"}
    fields = {name: value for name, value in FeatureSpec().to_dict().items() if name not in new}
    assert len(fields) == 11
    assert FeatureSpec.from_dict(fields) == FeatureSpec()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_spec_of_whole_hops_that_says_where_it_comes_from(name: str) -> None:
    spec = FeatureSpec.preset(name)
    assert "github.com/" in PRESETS[name].origin or name == "article"
    assert name == "article" or spec.window % spec.hop_length == spec.stride % spec.hop_length == 0


def test_the_article_is_the_default() -> None:
    assert FeatureSpec.preset("article") == FeatureSpec()


def test_an_unknown_preset_is_named_beside_those_that_exist() -> None:
    with pytest.raises(SpecError, match="preset='vggish' is unknown; use one of article, musicnn, panns, whisper"):
        FeatureSpec.preset("vggish")


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FeatureSpec().n_mels = 64  # type: ignore[misc]


# What cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 1.5, 22050.0, "512", None, True, float("nan")])
@pytest.mark.parametrize("field", COUNTS)
def test_what_is_counted_is_a_whole_number_above_zero(field: str, value: Any) -> None:
    default = getattr(FeatureSpec(), field)
    with pytest.raises(SpecError) as caught:
        FeatureSpec(**{field: value})
    assert (
        str(caught.value) == f"{field}={value!r} is not a whole number above zero; give one, such as {field}={default}"
    )


@pytest.mark.parametrize(
    ("fields", "found", "remedy"),
    [
        ({"pad_mode": "wrap"}, "pad_mode='wrap' is unknown", "use one of reflect, constant, edge"),
        ({"window_function": "kaiser"}, "window_function='kaiser' is unknown", "use one of hann, hamming, blackman"),
        ({"window_function": ["hann"]}, "window_function=['hann'] is unknown", "use one of hann"),
        ({"mel_scale": "bark"}, "mel_scale='bark' is unknown", "use one of slaney, htk"),
        ({"norm": None}, "norm=None is unknown", "use one of slaney, none"),
        ({"fmax": 0}, "fmax=0 is not a frequency above 0 Hz, up to sample_rate / 2 = 11025 Hz", "leave it out"),
        ({"fmax": 12000.0}, "fmax=12000.0 is not a frequency", "use one, or leave it out for sample_rate / 2"),
        ({"fmax": "8000"}, "fmax='8000' is not a frequency", "use one"),
        ({"fmax": float("nan")}, "fmax=nan is not a frequency", "use one"),
        ({"fmax": True}, "fmax=True is not a frequency", "use one"),
        (
            {"fmin": -1},
            "fmin=-1 is not a frequency from 0 Hz to below fmax=11025 Hz",
            "use a lower one, such as fmin=0",
        ),
        ({"fmin": 11025}, "fmin=11025 is not a frequency", "use a lower one"),
        ({"fmin": 300.0, "fmax": 300.0}, "fmin=300.0 is not a frequency from 0 Hz to below fmax=300 Hz", "use a lower"),
        ({"fmin": float("nan")}, "fmin=nan is not a frequency", "use a lower"),
        ({"fmin": None}, "fmin=None is not a frequency", "use a lower"),
        ({"scale": "log"}, "scale='log' is unknown", "use one of power, db"),
        ({"dtype": "float64"}, "dtype='float64' is unknown", "use one of float32, float16"),
        ({"power": 0}, "power=0 is not a number in (0, 4]", "use 2 for power or 1 for magnitude"),
        ({"power": -1.0}, "power=-1.0", "use 2"),
        ({"power": 4.5}, "power=4.5", "use 2"),
        ({"power": float("nan")}, "power=nan", "use 2"),
        ({"power": "2"}, "power='2'", "use 2"),
        ({"n_fft": 2047}, "n_fft=2047 is odd", "use 2048"),
        ({"window": 500, "pad_mode": "edge"}, "window=500 is shorter than hop_length=512", "use window >= 512"),
        ({"window": 1024}, "window=1024 is too short to be reflected by n_fft // 2 = 1024", "use window > 1024"),
        ({"n_mels": 1025}, "n_mels=1025 is more than the 1024 bins of n_fft=2048", "use n_mels <= 1024"),
        ({"dtype": "float16"}, "dtype=float16 cannot hold scale=power", "use scale=db, or dtype=float32"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_field_value_and_remedy(
    fields: dict[str, Any], found: str, remedy: str
) -> None:
    with pytest.raises(SpecError) as caught:
        FeatureSpec(**fields)
    problem, _, advice = str(caught.value).partition("; ")
    assert found in problem
    assert remedy in advice


@pytest.mark.parametrize(
    "fields",
    [
        {"n_fft": 2048},
        {"window": 512, "pad_mode": "constant"},
        {"window": 1025},
        {"n_mels": 1024},
        {"dtype": "float16", "scale": "db"},
        {"power": 1},
        {"fmin": 0, "fmax": 8000},
        {"fmin": 11024.5},
    ],
)
def test_what_the_remedies_say_is_accepted(fields: dict[str, Any]) -> None:
    assert FeatureSpec(**fields).to_dict().items() >= fields.items()


def test_an_unknown_field_is_named_beside_those_that_exist() -> None:
    with pytest.raises(SpecError, match=r"f_min, n_mel: no such field of a spec; the fields are sample_rate, .*dtype"):
        FeatureSpec.from_dict({"n_mel": 64, "f_min": 20})
