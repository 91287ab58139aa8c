"""One track on one core: melzarr's steps, and beside them other ways to the same numbers. Run it with `make bench`.

Every round takes each way once, in turn, so that a slow moment of the machine falls on all of them; what is printed is
the median of the rounds. The ways that compute windows are checked against each other before anything is timed.
"""

from __future__ import annotations

import importlib.util
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import scipy.fft
import soundfile
import threadpoolctl

from pipeline import synth
from pipeline.audio import read_audio
from pipeline.layout import encode_shard
from pipeline.mel import mel_windows, plain_windows
from pipeline.spec import FeatureSpec

ROUNDS = 9
SPEC = FeatureSpec()


def librosa_mel(windows: np.ndarray) -> np.ndarray:
    """Mel spectrograms of windows, (n, frame, band), by librosa."""
    return librosa.feature.melspectrogram(
        y=windows, sr=SPEC.sample_rate, n_fft=SPEC.n_fft, hop_length=SPEC.hop_length, n_mels=SPEC.n_mels,
        pad_mode=SPEC.pad_mode,
    ).swapaxes(-1, -2)  # fmt: skip


def bare_ffts(frames: np.ndarray) -> dict[str, Callable[[], object]]:
    """What no way to the windows can leave out: real FFTs of all frames, and nothing else."""
    single = frames.astype(np.float32)
    ways = {
        "floor: bare real FFTs of the 2995 frames, scipy, float64": lambda: scipy.fft.rfft(frames),
        "floor: the same, scipy, float32": lambda: scipy.fft.rfft(single),
    }
    if importlib.util.find_spec("mkl_fft"):  # not a dependency; install it to compare
        mkl_fft, out = importlib.import_module("mkl_fft"), np.empty((len(frames), SPEC.n_fft // 2 + 1), np.complex64)
        ways["floor: the same, MKL, float32"] = lambda: mkl_fft.rfft(single, out=out)
    return ways


def ways(folder: Path) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by name."""
    wav, mp3 = folder / "track.wav", folder / "track.mp3"
    synth.write_track(wav, "chords", 0, seed=0, sample_rate=22050, seconds=30.0)
    stereo = np.repeat(synth.synthesise("chords", 0, seed=0, sample_rate=44100, seconds=30.0)[:, None], 2, axis=1)
    soundfile.write(mp3, stereo, 44100)
    samples = read_audio(wav, SPEC.sample_rate, SPEC.n_samples).samples
    windows = np.stack([samples[start : start + SPEC.window] for start in range(0, 598 * SPEC.stride + 1, SPEC.stride)])
    frames = np.random.default_rng(0).standard_normal((SPEC.n_windows * SPEC.n_frames, SPEC.n_fft))
    mel = mel_windows(samples, SPEC)
    np.testing.assert_allclose(mel, librosa_mel(windows), rtol=0, atol=1e-6 * mel.max())
    block = mel[np.newaxis]
    return {
        "melzarr: decode WAV, 22.05 kHz mono": lambda: read_audio(wav, SPEC.sample_rate, SPEC.n_samples),
        "melzarr: decode and resample MP3, 44.1 kHz stereo": lambda: read_audio(mp3, SPEC.sample_rate, SPEC.n_samples),
        "melzarr: 599 mel windows": lambda: mel_windows(samples, SPEC),
        "melzarr: the same by the plain path": lambda: plain_windows(samples, SPEC),
        "melzarr: encode the chunk": lambda: encode_shard(block, SPEC, 1, 1, 0),
        **bare_ffts(frames),
        "librosa: one batched call": lambda: librosa_mel(windows),
        "librosa: a call for each window": lambda: [librosa_mel(window) for window in windows],
    }


def main() -> None:
    """Time all ways and print a table."""
    with tempfile.TemporaryDirectory() as folder, threadpoolctl.threadpool_limits(1):
        timed = ways(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(ROUNDS):
            for name, way in timed.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    own = medians["melzarr: 599 mel windows"]
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, {ROUNDS} rounds\n")
    print("| one track of 30 s, one core | ms | beside melzarr's mel windows |")
    print("|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median:.1f} | {median / own:.2f} |")
    fastest = min(median for name, median in medians.items() if name.startswith("floor") and "float32" in name)
    batched = medians["librosa: one batched call"]
    print(f"\nmel windows: {own / fastest:.2f} of the fastest bare FFTs, {batched / own:.1f} times as fast as librosa")


if __name__ == "__main__":
    sys.exit(main())
