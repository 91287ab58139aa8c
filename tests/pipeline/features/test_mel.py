"""All windows at once give what librosa gives for each by itself, and what the article's author computed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.features import mel as room
from melzarr.pipeline.features.decibels import as_stored, level_db, quick_levels, stored_levels
from melzarr.pipeline.features.kernel import WIDTH
from melzarr.pipeline.features.mel import KERNEL_FFTS, mel_windows, plain_windows
from melzarr.pipeline.features.mel_filterbank import band_centres, filterbank
from melzarr.pipeline.spec import MEL_SCALES, NORMS, PAD_MODES, WINDOW_FUNCTIONS, FeatureSpec

Transform = Callable[[npt.NDArray[np.float32], FeatureSpec], npt.NDArray[np.float32]]

# Below the smallest normal number of float32 (1e-38) its precision is absolute: 1e-45, times the bins of a band.
TINY = 1e-41
SMALL = FeatureSpec(sample_rate=8000, window=700, stride=300, n_windows=40, n_fft=512, hop_length=128, n_mels=20)


def signal(n_samples: int, seed: int = 0, sample_rate: int = 22050) -> npt.NDArray[np.float32]:
    """Two tones that come and go over noise 40 dB below."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / sample_rate
    tones = sum(
        np.sin(2 * np.pi * f * t + p) for f, p in zip(rng.uniform(50, 3000, 2), rng.uniform(0, 6, 2), strict=True)
    )
    return (0.3 * tones * np.sin(7 * t) ** 2 + 0.003 * rng.standard_normal(n_samples)).astype(np.float32)


def bands_of_librosa(spec: FeatureSpec) -> dict[str, Any]:
    norm = None if spec.norm == "none" else "slaney"
    return {
        "n_mels": spec.n_mels, "fmin": spec.fmin, "fmax": spec.fmax, "htk": spec.mel_scale == "htk", "norm": norm,
    }  # fmt: skip


def by_librosa(samples: npt.NDArray[np.float32], spec: FeatureSpec) -> npt.NDArray[np.float32]:
    """Mel spectrogram of each window by itself, shape (n_windows, n_frames, n_mels)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=.* is too large for input signal", UserWarning)
        return np.stack(
            [
                librosa.feature.melspectrogram(
                    y=samples[start : start + spec.window],
                    sr=spec.sample_rate,
                    n_fft=spec.n_fft,
                    hop_length=spec.hop_length,
                    window=spec.window_function,
                    center=True,
                    pad_mode=spec.pad_mode,
                    power=spec.power,
                    **bands_of_librosa(spec),
                ).T
                for start in range(0, samples.size - spec.window + 1, spec.stride)
            ][: spec.n_windows]
        )


def assert_equal(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> None:
    """Equal within 1e-6 of each window's largest value."""
    assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
    largest = theirs.max(axis=(1, 2), keepdims=True).astype(np.float64)
    assert np.all(np.abs(ours.astype(np.float64) - theirs) <= 1e-6 * largest + TINY)


def assert_equal_to_librosa(samples: npt.NDArray[np.float32], spec: FeatureSpec) -> None:
    theirs = by_librosa(samples, spec)
    # librosa keeps spectra in single precision (rounding 6e-8) and adds up to a few hundred bins in a band: well below
    # 1e-6 of what is largest. In double precision the same holds for 1e-5 of each value above what cancels out.
    assert_equal(mel_windows(samples, spec), theirs)
    plain = plain_windows(samples, spec)
    assert_equal(plain, theirs)
    np.testing.assert_allclose(plain, theirs, rtol=1e-5, atol=1e-12 * float(theirs.max()))


# The same as elsewhere ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_the_default_windows_are_those_of_librosa(pad_mode: str, power: float) -> None:
    spec = FeatureSpec(pad_mode=pad_mode, power=power, n_windows=12)
    assert_equal_to_librosa(signal(spec.n_samples), spec)


@st.composite
def specs(draw: st.DrawFn, kernel: bool = False) -> FeatureSpec:
    """Legal specs; those that the kernel computes, or any."""
    powers_of_two = st.sampled_from(KERNEL_FFTS[:9])  # to 2048, so that it takes no longer
    n_fft = draw(powers_of_two if kernel else st.one_of(powers_of_two, st.integers(8, 512).map(lambda n: 2 * n)))
    pad_mode = draw(st.sampled_from(PAD_MODES))
    window = draw(st.integers(n_fft // 2 + 1 if pad_mode == "reflect" else 1, 2 * n_fft))
    sample_rate = draw(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]))
    fmax = draw(st.none() | st.floats(sample_rate / 4, sample_rate / 2))
    return FeatureSpec(
        sample_rate=sample_rate,
        window=window,
        stride=draw(st.integers(max(1, window // 8), 2 * window)),
        n_windows=draw(st.integers(1, 12)),
        n_fft=n_fft,
        hop_length=draw(st.integers(max(1, window // 20), window)),
        window_function=draw(st.sampled_from(WINDOW_FUNCTIONS)),
        pad_mode=pad_mode,
        n_mels=draw(st.integers(1, max(1, n_fft // 16))),
        fmin=draw(st.just(0.0) | st.floats(0, sample_rate / 16)),
        fmax=fmax,
        mel_scale=draw(st.sampled_from(MEL_SCALES)),
        norm=draw(st.sampled_from(NORMS)),
        power=2.0 if kernel else draw(st.sampled_from([2.0, 1.0, 0.5, 3.0])),
    )


def assume_no_empty_band(spec: FeatureSpec) -> None:
    try:
        filterbank(spec)
    except SpecError:
        assume(False)


@settings(max_examples=40)
@given(spec=specs(), seed=st.integers(0, 99), more=st.integers(0, 3000))
def test_any_windows_are_those_of_librosa(spec: FeatureSpec, seed: int, more: int) -> None:
    assume_no_empty_band(spec)
    assert_equal_to_librosa(signal(spec.window + more, seed, spec.sample_rate), spec)


@pytest.mark.parametrize("window_function", WINDOW_FUNCTIONS)
@pytest.mark.parametrize("n_fft", [400, 512])  # the plain path, and the kernel
def test_every_window_function_is_that_of_librosa(n_fft: int, window_function: str) -> None:
    spec = replace(SMALL, n_fft=n_fft, window_function=window_function, n_windows=3)
    assert_equal_to_librosa(signal(spec.n_samples, sample_rate=8000), spec)


@settings(max_examples=25)
@given(spec=specs(kernel=True), seed=st.integers(0, 99))
def test_the_levels_of_any_windows_are_those_of_librosa(spec: FeatureSpec, seed: int) -> None:
    """Where they are loud: within 1e-6 of the largest value, 40 dB below it, is 4e-4 dB."""
    assume_no_empty_band(spec)
    in_db = replace(spec, scale="db")
    power = by_librosa(signal(spec.n_samples, seed, spec.sample_rate), spec)
    ours = as_stored(mel_windows(signal(spec.n_samples, seed, spec.sample_rate), in_db), in_db)
    theirs = librosa.power_to_db(power, ref=1.0, top_db=None)
    loud = power >= 1e-4 * power.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(ours[loud], theirs[loud], rtol=0, atol=1e-6 / 1e-4 * 10 / math.log(10) + 5e-5)


def test_a_quiet_window_beside_a_loud_one_is_that_of_librosa() -> None:
    samples = signal(SMALL.n_samples, sample_rate=8000)
    samples[: samples.size // 2] *= np.float32(1e-4)
    assert_equal_to_librosa(samples, SMALL)


def test_a_band_80_db_below_a_tone_is_that_of_librosa() -> None:
    spec = FeatureSpec(n_windows=5)
    t = np.arange(spec.n_samples) / spec.sample_rate
    samples = (0.9 * np.sin(2 * np.pi * 200 * t) + 1e-5 * np.sin(2 * np.pi * 5000 * t)).astype(np.float32)
    assert_equal_to_librosa(samples, spec)
    # Single precision tells it apart too: its rounding is spread over all bins, and power squares it.
    ours, theirs = (level_db(mel[:, 2], spec) for mel in (mel_windows(samples, spec), by_librosa(samples, spec)))
    heard = theirs > theirs.max() - 110
    np.testing.assert_allclose(ours[heard], theirs[heard], rtol=0, atol=0.05)


@pytest.mark.parametrize("fields", [{"fmin": 2000}, {"fmax": 100}, {"fmin": 300, "window_function": "boxcar"}])
def test_bands_100_db_below_what_is_outside_them_are_those_of_librosa(fields: dict[str, Any]) -> None:
    """The rounding of the kernel follows the loudest bin, and these windows are computed by the plain path."""
    spec = FeatureSpec(n_windows=5, n_mels=4, **fields)
    t = np.arange(spec.n_samples) / spec.sample_rate
    quiet = 1e-5 * (np.sin(2 * np.pi * 5000 * t) + np.sin(2 * np.pi * 50 * t))
    assert_equal_to_librosa((0.9 * np.sin(2 * np.pi * 220 * t) + quiet).astype(np.float32), spec)


def test_the_windows_of_the_author_are_met(shared: Path) -> None:
    reference = np.load(shared / "reference" / "hiphop.00053.npz", allow_pickle=False)
    samples, rate = soundfile.read(shared / "reference" / "hiphop.00053.au", dtype="float32")
    spec = FeatureSpec()
    assert (rate, reference["mel"].shape) == (spec.sample_rate, (21, 5, 128))
    ours = mel_windows(samples, spec)[reference["window"]]
    largest = reference["mel"].max(axis=(1, 2), keepdims=True)
    assert largest.min() > 0
    assert np.max(np.abs(ours - reference["mel"]) / largest) <= 1e-6


# The kernel and the plain path ----------------------------------------------------------------------------------------

SIGNALS: dict[str, Callable[[int], npt.ArrayLike]] = {
    "tones": signal,
    "noise": lambda n: np.random.default_rng(n).uniform(-1, 1, n),
    "silence": np.zeros,
    "DC": np.ones,
    "alternating": lambda n: 1 - 2 * (np.arange(n) % 2),
    "full-scale square wave": lambda n: np.where(np.arange(n) % 50 < 25, 1, -1),
    "impulse": lambda n: np.arange(n) == n // 2,
    "16-bit samples, unscaled": lambda n: np.round(32767 * signal(n)),
    "-200 dB": lambda n: 1e-10 * signal(n),
    "power below normal numbers": lambda n: 1e-20 * signal(n),
    "samples below normal numbers": lambda n: 1e-40 * signal(n),
}


@pytest.mark.parametrize("name", SIGNALS)
@settings(max_examples=10)
@example(spec=FeatureSpec(n_windows=WIDTH + 1), more=10_000)
@example(spec=FeatureSpec(n_windows=3, n_fft=1 << 16, hop_length=1 << 14, window=1 << 16, n_mels=1), more=0)
@given(spec=specs(kernel=True), more=st.integers(-1, 3000))
def test_the_kernel_computes_what_the_plain_path_does(name: str, spec: FeatureSpec, more: int) -> None:
    assume_no_empty_band(spec)
    samples = np.asarray(SIGNALS[name](spec.window + more), np.float32)
    assert_equal(mel_windows(samples, spec), plain_windows(samples, spec))


@settings(max_examples=20)
@given(spec=specs(kernel=True), seed=st.integers(0, 99))
def test_the_bytes_of_a_window_do_not_depend_on_the_windows_beside_it(spec: FeatureSpec, seed: int) -> None:
    assume_no_empty_band(spec)
    samples = signal(spec.n_samples, seed)
    samples[: samples.size // 3] *= np.float32(1e-3)
    mel = mel_windows(samples, spec)
    assert len(mel) == spec.n_windows
    for number, window in enumerate(mel):
        start = number * spec.stride
        alone = mel_windows(samples[start : start + spec.window], spec)
        assert alone.tobytes() == window.tobytes()


@pytest.mark.parametrize("spec", [SMALL, FeatureSpec(n_windows=20), FeatureSpec(n_windows=20, n_fft=1000)])
def test_threads_do_not_meet(spec: FeatureSpec) -> None:
    tracks = [signal(spec.n_samples, seed) for seed in range(16)]
    before = [mel_windows(samples, spec).tobytes() for samples in tracks]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda samples: mel_windows(samples, spec).tobytes(), 4 * tracks)) == 4 * before


def test_the_bytes_do_not_depend_on_what_the_processor_can() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from melzarr.pipeline.features.decibels import sum_levels\n"
        "from melzarr.pipeline.features.mel import mel_windows\n"
        "from melzarr.pipeline.spec import FeatureSpec\n"
        "samples = np.random.default_rng(0).uniform(-1, 1, 20_000).astype(np.float32)\n"
        "mel = mel_windows(samples, FeatureSpec())\n"
        "print(len(mel), hashlib.sha256(mel.tobytes()).hexdigest(), sum_levels(mel, FeatureSpec()))\n"
    )
    least = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}  # on x86-64: SSE2, four numbers at a time, no FMA
    said = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | more, stdout=subprocess.PIPE, check=True).stdout
        for more in ({}, least)
    ]
    assert said[0] == said[1]
    assert said[0].startswith(b"21 ")


@pytest.mark.parametrize("spec", [SMALL, FeatureSpec(n_windows=10), FeatureSpec(n_windows=10, n_fft=1000)])
@pytest.mark.parametrize("peak", [1e17, 1e19, 1e30, 3e38])
def test_what_is_far_beyond_full_scale_is_infinite_and_its_neighbours_are_as_ever(
    spec: FeatureSpec, peak: float
) -> None:
    samples = signal(spec.n_samples)
    usual = mel_windows(samples, spec)
    samples[: spec.window] *= np.float32(peak)
    mel, theirs = mel_windows(samples, spec), plain_windows(samples, spec)
    assert not np.isnan(mel).any()
    np.testing.assert_array_equal(np.isinf(mel), np.isinf(theirs))
    assert np.isinf(mel[0]).any() or peak < 1e30
    beyond = -(-spec.window // spec.stride)  # the windows that the loud samples reach
    assert mel[beyond:].tobytes() == usual[beyond:].tobytes()


# What is declared is what comes ---------------------------------------------------------------------------------------


def test_shape_and_type_are_those_that_the_spec_declares() -> None:
    ours = mel_windows(signal(SMALL.n_samples + 5000), SMALL)
    assert (ours.shape, ours.dtype) == (SMALL.shape, np.float32)
    assert np.isfinite(ours).all()
    assert ours.min() >= 0


@pytest.mark.parametrize("n_samples", [0, 1, 699, 700, 999, 1000, 1001, 5000])
def test_short_audio_gives_the_windows_that_it_covers_wholly(n_samples: int) -> None:
    samples = signal(SMALL.n_samples)
    ours = mel_windows(samples[:n_samples], SMALL)
    n_windows = len([start for start in range(0, n_samples, 300) if start + 700 <= n_samples])
    assert ours.shape == (n_windows, *SMALL.shape[1:])
    assert ours.tobytes() == mel_windows(samples, SMALL)[:n_windows].tobytes()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_silence_gives_zeros(power: float) -> None:
    spec = FeatureSpec(power=power, n_windows=3)
    assert not mel_windows(np.zeros(spec.n_samples, np.float32), spec).any()


def test_the_samples_are_left_as_they_are() -> None:
    samples = signal(SMALL.n_samples)
    samples.flags.writeable = False
    before = samples.tobytes()
    mel_windows(samples, SMALL)
    assert samples.tobytes() == before


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("block_bytes", [1, 30_000, 100_000, 1 << 24])
def test_the_bytes_do_not_depend_on_the_size_of_the_block(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, power: float
) -> None:
    spec = FeatureSpec(n_windows=23, power=power)
    samples = signal(spec.n_samples)
    before = plain_windows(samples, spec).tobytes()
    monkeypatch.setattr(room, "BLOCK_BYTES", block_bytes)
    assert plain_windows(samples, spec).tobytes() == before


@pytest.mark.parametrize("transform", [mel_windows, plain_windows])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("left_behind", [1e300, -1.0, np.nan])
def test_what_memory_held_before_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, left_behind: float, power: float, transform: Transform
) -> None:
    spec = FeatureSpec(n_windows=3, power=power)
    samples = signal(spec.n_samples)
    before = transform(samples, spec).tobytes()

    def used(shape: Any, dtype: Any = float) -> npt.NDArray[Any]:
        return np.full(shape, min(left_behind, float(np.finfo(dtype).max)), dtype)

    monkeypatch.setattr(np, "empty", used)
    assert transform(samples, spec).tobytes() == before


# Bands ----------------------------------------------------------------------------------------------------------------


@given(specs())
def test_the_filterbank_is_that_of_librosa_or_is_refused_for_an_empty_band(spec: FeatureSpec) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Empty filters detected", UserWarning)
        theirs = librosa.filters.mel(sr=spec.sample_rate, n_fft=spec.n_fft, **bands_of_librosa(spec))
    if (empty := np.flatnonzero(theirs.max(axis=1) == 0)).size:
        with pytest.raises(SpecError, match=rf"n_mels={spec.n_mels} leaves band {empty[0]} without any"):
            filterbank(spec)
    else:
        ours = filterbank(spec)
        np.testing.assert_array_equal(ours, theirs)
        assert np.count_nonzero(ours, axis=0).max() <= 2  # each bin lies in two bands at most


@pytest.mark.parametrize("spec", [FeatureSpec(n_mels=1024), FeatureSpec(n_fft=256, hop_length=64)])
def test_bands_that_are_too_narrow_are_refused_with_a_remedy(spec: FeatureSpec) -> None:
    with pytest.raises(SpecError, match=rf"n_mels={spec.n_mels} leaves band \d+ .* use fewer bands or a larger n_fft"):
        mel_windows(signal(spec.n_samples), spec)


@example(FeatureSpec())
@given(specs())
def test_the_centres_of_the_bands_are_even_on_the_mel_scale(spec: FeatureSpec) -> None:
    ours, ends = band_centres(spec), (spec.fmin, spec.highest_frequency)
    theirs = librosa.mel_frequencies(spec.n_mels + 2, fmin=ends[0], fmax=ends[1], htk=spec.mel_scale == "htk")[1:-1]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_allclose(
        mels(ours, spec.mel_scale), np.linspace(*mels(ends, spec.mel_scale), spec.n_mels + 2)[1:-1], rtol=1e-9
    )


def mels(hertz: npt.ArrayLike, scale: str) -> npt.NDArray[np.float64]:
    """Slaney's Auditory Toolbox: linear to 1 kHz at 200/3 Hz a mel, then 27 mels for each factor of 6.4."""
    hertz = np.asarray(hertz, np.float64)
    if scale == "htk":  # as the HTK Book has it in natural logarithms
        return 1127.01048 * np.log1p(hertz / 700)
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def test_a_tone_is_loudest_in_the_band_whose_centre_is_nearest() -> None:
    spec = FeatureSpec(n_windows=1)
    t = np.arange(spec.n_samples) / spec.sample_rate
    for band in (30, 60, 90, 120):
        tone = np.sin(2 * np.pi * band_centres(spec)[band] * t).astype(np.float32)
        assert mel_windows(tone, spec)[0, 2].argmax() == band


# Levels ---------------------------------------------------------------------------------------------------------------

# Single precision tells 1e-5 dB apart at 100 dB.
LEVELS = {"rtol": 0, "atol": 5e-5}


def spectra(power: float) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(0).uniform(-8, 4, (3, 5, 20))
    return np.append((10 ** (values * power)).ravel(), [0, 1e-38, 1e-10, 1e-5, 1]).astype(np.float32)


def test_the_level_of_power_is_that_of_librosa() -> None:
    values = spectra(1.0)
    ours = level_db(values, FeatureSpec(power=2))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, librosa.power_to_db(values, ref=1.0, top_db=None), **LEVELS)


def test_the_level_of_magnitude_is_that_of_librosa() -> None:
    values = spectra(0.5)
    ours = level_db(values, FeatureSpec(power=1))
    np.testing.assert_allclose(ours, librosa.amplitude_to_db(values, ref=1.0, top_db=None), **LEVELS)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0, 4.0])
def test_the_level_does_not_depend_on_the_exponent(power: float) -> None:
    magnitude = np.array([0, 1e-5, 1e-3, 0.5, 1, 30])
    ours = level_db((magnitude**power).astype(np.float32), FeatureSpec(power=power))
    np.testing.assert_allclose(ours, [-100, -100, -60, -6.0206, 0, 29.5424], **LEVELS)


def test_a_store_of_power_holds_what_was_computed() -> None:
    values = spectra(1.0)
    stored = as_stored(values, FeatureSpec())
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, values)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_of_decibels_holds_librosas_level_in_its_type(dtype: str) -> None:
    values = spectra(1.0)
    stored = as_stored(values, FeatureSpec(scale="db", dtype=dtype))
    expected = librosa.power_to_db(values, ref=1.0, top_db=None)
    assert stored.dtype == np.dtype(dtype)
    # float16 has 11 significant bits: between 64 and 128 dB its steps are 1/16 dB, and rounding is by half of one.
    np.testing.assert_allclose(stored, expected, rtol=0, atol=1 / 32 if dtype == "float16" else LEVELS["atol"])


@pytest.mark.parametrize(("scale", "dtype"), [("power", "float32"), ("db", "float32"), ("db", "float16")])
def test_the_levels_of_what_is_stored_are_librosas_whatever_the_scale(scale: str, dtype: str) -> None:
    values, spec = spectra(1.0), FeatureSpec(scale=scale, dtype=dtype)
    levels = stored_levels(as_stored(values, spec), spec)
    expected = librosa.power_to_db(values, ref=1.0, top_db=None)
    np.testing.assert_allclose(levels, expected, rtol=0, atol=1 / 32 if dtype == "float16" else LEVELS["atol"])


@given(seed=st.integers(0, 99), power=st.sampled_from([2.0, 1.0, 0.5]), exponent=st.floats(-12, 6))
def test_quick_levels_are_the_levels(seed: int, power: float, exponent: float) -> None:
    spec = FeatureSpec(power=power)
    mel = (10**exponent * np.random.default_rng(seed).random((3, 5, 128)) ** 4).astype(np.float32)
    np.testing.assert_allclose(quick_levels(mel, spec), stored_levels(mel, spec), rtol=0, atol=1e-4)
    in_db = replace(spec, scale="db", dtype="float16")
    np.testing.assert_array_equal(quick_levels(as_stored(mel, in_db), in_db), as_stored(mel, in_db).astype(np.float64))
