"""Each preset gives what its original computes of the same samples, before any logarithm.

The originals are written down here from their own parameters, by numpy and librosa, as far as their sources say them.
"""

from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import numpy.typing as npt
import pytest

from melzarr.pipeline.features.mel import mel_windows
from melzarr.pipeline.spec import PRESETS, FeatureSpec

Floats = npt.NDArray[np.floating]


def framed(samples: Floats, n_fft: int, hop_length: int) -> Floats:
    """Frames of reflected samples, as `torch.stft` and torchlibrosa take them, tapered by a periodic Hann window."""
    padded = np.pad(samples.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    return frames * np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2


def article(samples: Floats) -> Floats:
    """As librosa did by default in 2017, when it reflected."""
    return librosa.feature.melspectrogram(y=samples, sr=22050, pad_mode="reflect").T


def musicnn(samples: Floats) -> Floats:
    """extractor.py: `librosa.feature.melspectrogram` of librosa 0.7, which reflected; later in float16 and log10."""
    return librosa.feature.melspectrogram(
        y=samples, sr=16000, hop_length=256, n_fft=512, n_mels=96, pad_mode="reflect"
    ).T


def panns(samples: Floats) -> Floats:
    """torchlibrosa: a convolution with the rows of the DFT's matrix, then `librosa.filters.mel`; later 10 log10."""
    dft = np.exp(-2j * np.pi / 1024 * np.outer(np.arange(1024), np.arange(513)))
    spectrum = framed(samples, 1024, 320) @ dft
    return (spectrum.real**2 + spectrum.imag**2) @ librosa.filters.mel(
        sr=32000, n_fft=1024, n_mels=64, fmin=50, fmax=14000
    ).T


def whisper(samples: Floats) -> Floats:
    """audio.py: `torch.stft` without its last frame, then mel_filters.npz, which librosa made; later log10."""
    magnitudes = np.abs(np.fft.rfft(framed(samples, 400, 160)))[:-1] ** 2
    return magnitudes @ librosa.filters.mel(sr=16000, n_fft=400, n_mels=80).T


ORIGINALS: dict[str, tuple[Callable[[Floats], Floats], tuple[int, int]]] = {
    "article": (article, (5, 128)),
    "musicnn": (musicnn, (187, 96)),
    "panns": (panns, (1001, 64)),
    "whisper": (whisper, (3000, 80)),
}


def music(n_samples: int, sample_rate: int) -> npt.NDArray[np.float32]:
    """Chords of decaying partials over a little noise, from the first sample to the last."""
    rng, t = np.random.default_rng(0), np.arange(n_samples) / sample_rate
    sound = 0.01 * rng.standard_normal(n_samples)
    for pitch in (110, 277.2, 659.3):
        for partial in range(1, 12):
            sound += (
                0.2 / partial * np.sin(2 * np.pi * pitch * partial * t + rng.uniform(0, 6)) * np.exp(-(t % 0.5) * 4)
            )
    return (0.5 * sound).astype(np.float32)


@pytest.mark.parametrize("name", PRESETS)
def test_a_window_is_that_of_the_original(name: str) -> None:
    spec, (original, shape) = FeatureSpec.preset(name), ORIGINALS[name]
    samples = music(spec.window + spec.stride, spec.sample_rate)
    number = min(1, spec.n_windows - 1)
    theirs = original(samples[number * spec.stride :][: spec.window])
    ours = mel_windows(samples, spec)[number]
    assert theirs.shape == shape
    assert np.abs(ours[: len(theirs)] - theirs).max() <= 1e-5 * theirs.max()
    assert len(ours) - len(theirs) == (name == "whisper")  # the frame at its end


def test_the_windows_of_musicnn_are_the_patches_of_its_clip() -> None:
    """But for the first and the last frame of each, which the padding of a window reaches."""
    spec = FeatureSpec.preset("musicnn")
    samples = music(29 * spec.sample_rate, spec.sample_rate)
    clip, ours = musicnn(samples), mel_windows(samples, spec)
    patches = [clip[start : start + 187] for start in range(0, len(clip) - 187 + 1, 187)]
    assert len(patches) == len(ours) == spec.n_windows
    for patch, window in zip(patches, ours, strict=True):
        assert np.abs(patch[1:-1] - window[1:-1]).max() <= 1e-5 * patch.max()
