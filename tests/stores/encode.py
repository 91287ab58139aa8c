"""Write sound with FFmpeg's encoders, through PyAV, in codecs and containers that libsndfile does not write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

# Codec, and container if the extension does not say it, by the name of a file.
CODECS = {
    "aac.m4a": ("aac", "ipod"),
    "alac.m4a": ("alac", "ipod"),
    "aac.aac": ("aac", "adts"),
    "alac.caf": ("alac", "caf"),
    "wma.wma": ("wmav2", "asf"),
    "ac3.ac3": ("ac3", "ac3"),
    "flac.oga": ("flac", "ogg"),
    "flac.flac": ("flac", "flac"),
    "opus.opus": ("libopus", "ogg"),
    "opus.webm": ("libopus", "webm"),
    "mp3.mp3": ("libmp3lame", "mp3"),
    "mp2.ts": ("mp2", "mpegts"),
    "aac.mkv": ("aac", "matroska"),
    "wavpack.wv": ("wavpack", "wv"),
    "tta.tta": ("tta", "tta"),
    "g726.wav": ("g726", "wav"),
}
LOSSLESS = {"alac.m4a", "alac.caf", "flac.oga", "flac.flac", "wavpack.wv", "tta.tta"}


def chords(seconds: float, rate: int, channels: int) -> npt.NDArray[np.float32]:
    """Chords whose tones come and go, different in each channel, so that no shift or channel goes unnoticed."""
    t = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(0)
    sound = np.zeros((t.size, channels))
    for channel in range(channels):
        for frequency in rng.uniform(100, 3000, 6):
            sound[:, channel] += 0.1 * np.sin(2 * np.pi * frequency * t) * np.sin(rng.uniform(3, 20) * t) ** 2
    return sound.astype(np.float32)


def encode(path: Path, sound: npt.NDArray[np.float32], rate: int, codec: str, container: str, **options: Any) -> Path:
    """Encode sound, shape (n,) or (n, channels): int16, or float32 of full scale 1.

    Parameters
    ----------
    path : Path
        The file.
    sound : np.ndarray
        Samples.
    rate : int, in Hz
        Sample rate.
    codec, container : str
        FFmpeg's names.
    **options
        ``bit_rate``, options of the codec in `codec_options`, and of the container in `container_options`.
    """

    channels = sound.reshape(len(sound), -1)
    layout = {1: "mono", 2: "stereo"}[channels.shape[1]]
    with av.open(str(path), "w", format=container, options=options.get("container_options", {})) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if codec not in _INTEGER:
            stream.bit_rate = options.get("bit_rate", 128_000)
        elif stream.codec_context.format.name not in {"s16", "s16p"}:
            stream.codec_context.format = "s16" if codec == "tta" else "s16p"
        stream.codec_context.options = options.get("codec_options", {})
        resampler = av.AudioResampler(
            stream.codec_context.format.name, layout, rate, frame_size=stream.frame_size or 1024
        )
        if channels.dtype != np.int16 and codec in _INTEGER:
            channels = np.round(channels * 32767).astype(np.int16)
        kind = "s16" if channels.dtype == np.int16 else "flt"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels).reshape(1, -1), kind, layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in (frame, None):
            for each in resampler.resample(part):
                file.mux(stream.encode(each))
        file.mux(stream.encode(None))
    return path


_INTEGER = {"alac", "flac", "wavpack", "tta", "g726"}
