"""One track on one core: melzarr's steps for each format, and other ways to the same windows.

    PYTHONPATH=tests/stores python tests/benchmarks/bench_track.py

The ways that compute windows are checked against librosa before anything is timed. What is not installed is left out;
`pip install mkl_fft torch essentia` to have it measured too.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import av
import click
import librosa
import numpy as np
import scipy.fft
import soundfile
import soxr
import threadpoolctl
from encode import encode
from suite import Goal, Result, Table, at_least, at_most, json_option, medians, relative

from melzarr.pipeline.builder.plan import TRACKS_PER_SHARD, Shard
from melzarr.pipeline.builder.worker import ShardJob, make_shard
from melzarr.pipeline.features.audio import RESAMPLE_MARGIN, RESAMPLE_QUALITY, read_audio, read_header
from melzarr.pipeline.features.extract import one_thread
from melzarr.pipeline.features.mel import mel_windows, plain_windows
from melzarr.pipeline.features.mel_filterbank import filterbank
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.tracks import Track
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.versions import versions

SPEC = FeatureSpec()
RATE = 44100
LONG = 20  # times 30 s: a file of ten minutes
FORMATS = {"WAV": "wav", "AU": "au", "FLAC": "flac", "Vorbis": "ogg", "MP3": "mp3"}
M4A = "M4A (AAC)"
LOADED = 5  # windows that are loaded one by one; the time of all is extrapolated
WRITTEN = "up to the written chunk"
KERNEL, BATCHED = "melzarr", "librosa: one batched call"

Ways = dict[str, Callable[[], object]]


def made(folder: Path) -> dict[str, Path]:
    """Write the track in every format, 44.1 kHz stereo, long ones, and as GTZAN has it: 22.05 kHz mono."""
    mono = demo_music.synthesise("chords", 0, seed=0, sample_rate=RATE, seconds=30.0)
    stereo = np.repeat(mono[:, None], 2, axis=1)
    files = {}
    for name, extension in FORMATS.items():
        files[name] = folder / f"track.{extension}"
        soundfile.write(files[name], stereo, RATE)
    files[M4A] = encode(folder / "track.m4a", stereo, RATE, "aac", "ipod", bit_rate=192_000)
    for name in ("MP3", "FLAC"):
        files[f"{name} of ten minutes"] = folder / f"long.{FORMATS[name]}"
        soundfile.write(files[f"{name} of ten minutes"], np.tile(stereo, (LONG, 1)), RATE)
    files["WAV, 22.05 kHz mono"] = folder / "gtzan.wav"
    soundfile.write(files["WAV, 22.05 kHz mono"], soxr.resample(mono, RATE, SPEC.sample_rate), SPEC.sample_rate)
    return files


def formats(files: dict[str, Path], rounds: int) -> tuple[Table, dict[str, dict[str, float]]]:
    """Time the steps of each format, in ms."""
    wanted = round((SPEC.seconds + RESAMPLE_MARGIN) * RATE)
    mono = read_audio(files["WAV"], RATE, wanted).samples
    columns: dict[str, Callable[[Path], Callable[[], object]]] = {
        "decoder alone": lambda path: lambda: decoder_alone(path, wanted),
        "decoded to mono": lambda path: lambda: read_audio(path, read_header(path).sample_rate, wanted),
        "decoded and resampled": lambda path: lambda: read_audio(path, SPEC.sample_rate, SPEC.n_samples),
        WRITTEN: whole_shard,
    }
    timed = {f"{name}/{step}": make(path) for name, path in files.items() for step, make in columns.items()}
    timed["soxr"] = lambda: soxr.resample(mono, RATE, SPEC.sample_rate, quality=RESAMPLE_QUALITY)
    timed["FFmpeg"] = lambda: by_ffmpeg(files[M4A], wanted)
    seconds = medians(timed, rounds, time.process_time)
    found = {name: {step: 1000 * seconds[f"{name}/{step}"] for step in columns} for name in files}
    for steps in found.values():
        steps[WRITTEN] /= TRACKS_PER_SHARD
    found |= {name: {"alone": 1000 * seconds[name]} for name in ("soxr", "FFmpeg")}
    rows = [(name, *(f"{value:.1f}" for value in found[name].values())) for name in files]
    remark = (
        f"Tracks of 30 s, 44.1 kHz stereo unless noted; times in ms of one core. Each column includes the ones before "
        f"it. The last is the time of a shard of {TRACKS_PER_SHARD} tracks per track, with digests, statistics and "
        f"writing. The decoder alone is libsndfile, which gives all samples, or FFmpeg, whose samples stay where they "
        f"are. soxr alone resamples the same samples in {found['soxr']['alone']:.1f} ms. FFmpeg decodes, mixes and "
        f"resamples the M4A in {found['FFmpeg']['alone']:.1f} ms."
    )
    return Table("format", tuple(columns), rows, remark), found


def decoder_alone(path: Path, wanted: int) -> None:
    """Decode some samples of a file, and do nothing with them."""
    if path.suffix != ".m4a":
        soundfile.read(path, wanted, dtype="float32", always_2d=True)
        return
    for _ in ffmpeg_frames(path, wanted):
        pass


def ffmpeg_frames(path: Path, wanted: int) -> Iterator[av.AudioFrame]:
    """Decode some samples of a file by FFmpeg."""
    with av.open(str(path)) as file:
        file.streams.audio[0].codec_context.thread_count = 1
        for frame in file.decode(audio=0):
            yield frame
            wanted -= frame.samples
            if wanted <= 0:
                return


def by_ffmpeg(path: Path, wanted: int) -> np.ndarray:
    """Decode, mix and resample by FFmpeg alone."""
    resampler = av.AudioResampler("flt", "mono", SPEC.sample_rate)
    return np.concatenate(
        [part.to_ndarray()[0] for frame in ffmpeg_frames(path, wanted) for part in resampler.resample(frame)]
    )


def whole_shard(path: Path) -> Callable[[], object]:
    """Make a shard of one file many times over, as a worker does: digests, statistics, receipt and disk included."""
    tracks = tuple(Track(f"{n:02d}", "label", path.name, f"{n:02d}", "train") for n in range(TRACKS_PER_SHARD))
    job = ShardJob(
        spec=SPEC, versions=versions(), root=open_directory(path.parent), target=open_directory(path),
        tracks_per_shard=TRACKS_PER_SHARD,
        shard=Shard(0, 0, tracks), key="",
    )  # fmt: skip

    numbers = itertools.count()  # a target of its own each time, or the shard would be there already

    def make() -> None:
        target = path.with_name(f"{path.name}.{next(numbers)}.zarr")
        open_workspace(target).root.path.mkdir()
        make_shard(replace(job, target=open_directory(target)))

    return make


def librosa_mel(windows: np.ndarray) -> np.ndarray:
    """Mel spectrograms of windows, (n, frame, band), by librosa."""
    return librosa.feature.melspectrogram(
        y=windows, sr=SPEC.sample_rate, n_fft=SPEC.n_fft, hop_length=SPEC.hop_length, n_mels=SPEC.n_mels,
        pad_mode=SPEC.pad_mode,
    ).swapaxes(-1, -2)  # fmt: skip


def by_tensorflow(windows: np.ndarray) -> Callable[[], np.ndarray] | None:
    """All windows by one batched call of tf.signal."""
    if not importlib.util.find_spec("tensorflow"):
        return None
    from melzarr.model.tensorflow_setup import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    bands, half = tf.constant(filterbank(SPEC).T.astype(np.float32)), SPEC.n_fft // 2

    @tf.function
    def mel(batch):  # type: ignore[no-untyped-def]
        frames = tf.signal.stft(tf.pad(batch, [[0, 0], [half, half]], "REFLECT"), SPEC.n_fft, SPEC.hop_length)
        return tf.square(tf.abs(frames)) @ bands

    return lambda: mel(tf.constant(windows)).numpy()


def by_torch(windows: np.ndarray) -> Callable[[], np.ndarray] | None:
    """All windows by one batched call of torch.stft."""
    if not importlib.util.find_spec("torch"):
        return None
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    bands, hann = torch.from_numpy(filterbank(SPEC).astype(np.float32)), torch.hann_window(SPEC.n_fft)

    def mel() -> np.ndarray:
        batch = torch.from_numpy(windows)
        found = torch.stft(batch, SPEC.n_fft, SPEC.hop_length, window=hann, pad_mode=SPEC.pad_mode, return_complex=True)
        return torch.matmul(bands, found.abs() ** 2).transpose(-1, -2).numpy()

    return mel


def by_essentia(windows: np.ndarray) -> Callable[[], np.ndarray] | None:
    """All windows by essentia, whose algorithms take a frame each."""
    if not importlib.util.find_spec("essentia"):
        return None
    standard = importlib.import_module("essentia.standard")
    taper = standard.Windowing(type="hann", normalized=False, zeroPhase=False, symmetric=False, size=SPEC.n_fft)
    spectrum = standard.PowerSpectrum(size=SPEC.n_fft)
    bands = standard.MelBands(
        inputSize=SPEC.n_fft // 2 + 1, numberBands=SPEC.n_mels, sampleRate=SPEC.sample_rate, lowFrequencyBound=0,
        highFrequencyBound=SPEC.sample_rate / 2, warpingFormula="slaneyMel", weighting="linear", normalize="unit_tri",
        type="magnitude",  # it is given power
    )  # fmt: skip

    def mel() -> np.ndarray:
        frames = librosa.util.frame(
            np.pad(windows, ((0, 0), (SPEC.n_fft // 2,) * 2), mode=SPEC.pad_mode),
            frame_length=SPEC.n_fft, hop_length=SPEC.hop_length, axis=-1,
        ).swapaxes(-1, -2)  # fmt: skip
        flat = np.ascontiguousarray(frames.reshape(-1, SPEC.n_fft))
        return np.array([bands(spectrum(taper(frame))) for frame in flat]).reshape(len(windows), SPEC.n_frames, -1)

    return mel


def floors(frames: np.ndarray) -> Ways:
    """What no way to the windows can leave out: real FFTs of all frames, and nothing else."""
    single = frames.astype(np.float32)
    ways: Ways = {
        "real FFTs of the 2995 frames alone, scipy, float64": lambda: scipy.fft.rfft(frames),
        "real FFTs alone, scipy, float32": lambda: scipy.fft.rfft(single),
    }
    if importlib.util.find_spec("mkl_fft"):
        mkl_fft, out = importlib.import_module("mkl_fft"), np.empty((len(frames), SPEC.n_fft // 2 + 1), np.complex64)
        ways["real FFTs alone, MKL, float32"] = lambda: mkl_fft.rfft(single, out=out)
    return ways


def loaded_one_by_one(path: Path, starts: range) -> None:
    """Compute some windows as the article did: the file is opened and read for each."""
    for start in starts:
        window, _ = librosa.load(
            path, sr=None, offset=start / SPEC.sample_rate, duration=SPEC.window / SPEC.sample_rate
        )
        librosa_mel(window)


def read_one_by_one(path: Path, starts: range) -> None:
    """Compute some windows as librosa of 2017 did: audioread's raw reader goes through the file up to each."""
    rawread = importlib.import_module("audioread.rawread")
    for start in starts:
        with rawread.RawAudioFile(str(path)) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # librosa 1 will not take it
            window, _ = librosa.load(
                file, sr=None, offset=start / SPEC.sample_rate, duration=SPEC.window / SPEC.sample_rate
            )
        librosa_mel(window)


def kernels(path: Path, rounds: int) -> tuple[Table, dict[str, float]]:
    """Time all ways from samples to the 599 windows, in ms."""
    samples = read_audio(path, SPEC.sample_rate, SPEC.n_samples).samples
    starts = range(0, (SPEC.n_windows - 1) * SPEC.stride + 1, SPEC.stride)
    windows = np.stack([samples[start : start + SPEC.window] for start in starts])
    expected = librosa_mel(windows)
    others = {"tf.signal, batched": by_tensorflow, "torch.stft, batched": by_torch, "essentia": by_essentia}
    ways: Ways = {
        KERNEL: lambda: mel_windows(samples, SPEC),
        "melzarr without its kernel, for specs that the kernel does not support": lambda: plain_windows(samples, SPEC),
        BATCHED: lambda: librosa_mel(windows),
        "librosa: one call per window": lambda: [librosa_mel(window) for window in windows],
        **{name: way for name, make in others.items() if (way := make(windows))},
    }
    np.testing.assert_allclose(ways[KERNEL](), expected, rtol=0, atol=1e-6 * expected.max())
    remarks = []
    for name in ways.keys() & others.keys():
        apart = float(np.abs(np.asarray(ways[name]()) - expected).max() / expected.max())
        if apart > 1e-4:
            remarks.append(f"{name} gives other values: they differ by up to {apart:.1e} of the largest.")
    ways |= floors(np.random.default_rng(0).standard_normal((SPEC.n_windows * SPEC.n_frames, SPEC.n_fft)))
    some = starts[len(starts) // (2 * LOADED) :: len(starts) // LOADED][
        :LOADED
    ]  # on average as far into the file as all
    few: Ways = {"librosa: the file loaded again for each window": lambda: loaded_one_by_one(path, some)}
    if importlib.util.find_spec("audioread") and version("librosa") < "1":  # which takes no such reader any more
        few["the same with audioread's raw reader, as in 2017"] = lambda: read_one_by_one(path, some)
    seconds = medians(ways | few, rounds, time.process_time)
    found = {name: 1000 * seconds[name] * (SPEC.n_windows / LOADED if name in few else 1) for name in seconds}
    remark = f"The file is loaded for {LOADED} windows; the time of all is extrapolated. {' '.join(remarks)}".strip()
    return relative("599 windows, one core", "ms", found, KERNEL, remark=remark), found


def goals(steps: dict[str, dict[str, float]], ways: dict[str, float]) -> list[Goal]:
    """What the kernel and a whole track set out to be."""
    fastest = min(value for name, value in ways.items() if name.startswith("real FFTs") and "float32" in name)
    resampled = statistics.median(
        steps[name]["decoded and resampled"] - steps[name]["decoded to mono"] for name in FORMATS
    )
    written, batched = steps["WAV, 22.05 kHz mono"][WRITTEN], ways[BATCHED]
    return [
        at_least("speed of the kernel, relative to librosa's batched call", 6, batched / ways[KERNEL]),
        at_most("time of the kernel, relative to the fastest FFTs of its frames alone", 2, ways[KERNEL] / fastest),
        at_most(
            "time from WAV to written chunk, relative to librosa's batched call alone",
            0.2,
            written / batched,
            "two fifths are the kernel; the rest is digests of file and shard, decoding, LZ4, writing and levels",
        ),
        at_most(
            "time from M4A to windows, relative to FFmpeg's decoding, mixing and resampling, and the kernel",
            1,
            (steps[M4A]["decoded and resampled"] + ways[KERNEL]) / (steps["FFmpeg"]["alone"] + ways[KERNEL]),
        ),
        at_most("time of resampling, relative to soxr alone", 1.1, resampled / steps["soxr"]["alone"]),
        *(
            at_most(
                f"time of {name} of ten minutes, relative to 30 s",
                1.1,
                long / steps[name]["decoded and resampled"],
                bound,
            )
            for name, bound in {
                "MP3": "counting its frames, because no tag says reliably how long it is",
                "FLAC": "",
            }.items()
            for long in [steps[f"{name} of ten minutes"]["decoded and resampled"]]
        ),
    ]


@click.command()
@click.option("--rounds", type=int, default=9, show_default=True)
@json_option
def main(rounds: int, out: Path | None) -> None:
    """Time the steps of one track and other ways to its windows."""
    with tempfile.TemporaryDirectory() as folder, threadpoolctl.threadpool_limits(1), one_thread():
        files = made(Path(folder))
        by_format, steps = formats(files, rounds)
        by_way, ways = kernels(files["WAV, 22.05 kHz mono"], rounds)
    Result("One track, one core", [by_format, by_way], goals(steps, ways)).tell(out)


if __name__ == "__main__":
    sys.exit(main())
