"""Decode with FFmpeg, through PyAV, the files that libsndfile cannot read or does not read whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio_header import FFMPEG, Header, UntrustedError, checked_rate

BLOCK = 1 << 16  # samples per block; frames of most codecs have about a thousand
# Containers that hold music. FFmpeg also knows playlists, which would make it open other files.
CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,iff,latm,loas,matroska,webm,mov,mp4,mp3,mpc,mpc8,mpeg,"
    "mpegts,nut,ogg,rm,tak,tta,voc,w64,wav,wv,xwma"
)
# Those whose duration is an estimate from the bit rate, or that of a tag; their packets are counted.
COUNTED = {"aac", "ac3", "dts", "eac3", "latm", "loas", "mp3", "mpeg", "mpegts"}

# Type of a sample by FFmpeg's name of it.
SAMPLES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


def is_installed() -> bool:
    """Return whether PyAV is installed."""
    return find_spec("av") is not None


class FFmpegDecoder:
    """The first audio stream of a file, decoded by FFmpeg.

    Parameters
    ----------
    path : Path
        The file.
    reason : UntrustedError, optional
        Why libsndfile does not decode the file.

    Attributes
    ----------
    header : Header
        Header of the file.
    fault : str
        Where the audio is damaged, or why it ends before the end of the file; empty if it is sound.
    position : int
        Number of samples of the stream up to the end of the last block.

    Raises
    ------
    AudioError
        If FFmpeg finds no audio in the file.
    """

    def __init__(self, path: Path, reason: UntrustedError | None = None) -> None:
        self.path, self.reason, self.fault, self.position = path, reason, "", 0
        self.container = _opened(path)
        try:
            self.header = self._header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FFmpegDecoder:
        """Return this decoder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _header(self) -> Header:
        container = self.container.format.name.partition(",")[0]
        if not self.container.streams.audio:
            raise AudioError(f"this is {container.upper()}, and there is no audio in it")
        self.stream = self.container.streams.audio[0]
        context = self.stream.codec_context
        if context is None:
            raise AudioError(f"this is {container.upper()} in a codec that FFmpeg does not know")
        context.thread_count = 1  # a worker has one core
        codec = f"{container.upper()} {context.codec.canonical_name.upper()}"
        length = self._length(container)
        return Header(checked_rate(context.sample_rate), context.channels, length, length, codec, FFMPEG)

    def _length(self, container: str) -> float:
        """Return the duration of the stream in s, or NaN."""
        said = math.nan if self.stream.duration is None else float(self.stream.duration * self.stream.time_base)
        if container not in {*COUNTED, "ogg"} and not math.isnan(said):
            return said
        counted = _counted(self.path, self.stream.index)
        # FFmpeg gives the duration of one link of a chain of Ogg streams. Of one stream it is exact.
        return said if container == "ogg" and counted < said + 1 else counted

    def blocks(self, n_samples: int, start: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """Decode some samples of the stream, in blocks.

        If the stream changes its format, the blocks end there. `fault` says so, and where the stream is damaged.

        Parameters
        ----------
        n_samples : int
            Number of samples per channel.
        start : int
            Number of samples before them; they are decoded too, because the samples of most codecs depend on them.

        Yields
        ------
        np.ndarray [shape=(n, channels), dtype=float32]
            Samples of each channel; full scale is 1.
        """
        rate, channels = self.header.sample_rate, self.header.channels
        end = math.inf if self.reason is None else self.reason.end * rate
        if self.container.format.name.startswith("mov") and not math.isnan(self.header.duration):
            end = min(end, self.header.duration * rate)  # the last frame may be longer than the audio
        stop = round(min(start + n_samples, end))
        left, frames = np.empty((channels, 0), np.float32), self._frames()
        while self.position < stop:
            n_next = min((start if self.position < start < stop else stop) - self.position, BLOCK)
            parts, n_found = [left], left.shape[1]
            while n_found < n_next and (frame := next(frames, None)):
                parts.append(_as_float(frame, channels))
                n_found += frame.samples
            if not n_found:
                return
            found = np.concatenate(parts, axis=1)
            block, left = found[:, :n_next].T, found[:, n_next:]
            self.position += len(block)
            if self.position > start:
                yield block
        if self.reason and not math.isinf(self.reason.end) and stop == round(self.reason.end * rate):
            self.fault = str(self.reason)

    def _frames(self) -> Iterator[Any]:
        """Yield the frames as long as they have the format of the first one, and set `fault`.

        A packet that cannot be decoded is left out, as players do; what follows comes earlier by some hundredths of a
        second.
        """
        import av  # noqa: PLC0415

        rate, channels = self.header.sample_rate, self.header.channels
        done, codec, kind = 0, self.header.codec, None
        for frame in self._decoded_frames():
            if isinstance(frame, av.error.PatchWelcomeError):
                self.fault = f"its format changes after {done / rate:.2f} s, and FFmpeg stops there"
                break
            if isinstance(frame, Exception):
                said = getattr(frame, "strerror", frame)
                self.fault = self.fault or f"damaged at {done / rate:.2f} s ({codec}, FFmpeg: {said})"
                continue
            found = frame.sample_rate, frame.layout.nb_channels
            kind = kind or (frame.layout.name, frame.format.name)
            if found != (rate, channels) or kind != (frame.layout.name, frame.format.name):
                change = f"from {rate} Hz and {channels} channels to {found[0]} Hz and {found[1]}"
                self.fault = f"its format changes after {done / rate:.2f} s, {change}"
                break
            done += frame.samples
            yield frame
        if self.fault and not done:
            said = f"{self.reason}; " if self.reason else ""
            raise AudioError(f"{said}FFmpeg decodes nothing of it: {self.fault}")

    def _decoded_frames(self) -> Iterator[Any]:
        """Yield the frames of all packets, and the error of each packet that FFmpeg cannot decode."""
        import av  # noqa: PLC0415

        packets = _packets(self.container, self.stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                yield from packet.decode()
            except (av.FFmpegError, ValueError) as error:  # PyAV's own, if the decoder could not be opened
                yield error


def _opened(path: Path) -> Any:
    import av  # noqa: PLC0415

    # PyAV 19 takes text in any encoding, and has no such option; before, text that is not UTF-8 was an error.
    text_errors = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    try:
        # An address, so that no name is taken for another protocol.
        allowed = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        return av.open(f"file:{path}", container_options=allowed, **text_errors)
    except av.FFmpegError as error:
        raise AudioError(f"FFmpeg finds no audio in the file ({error.strerror})") from error


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream, also if PyAV stops at one of a stream that begins later, as in a recording."""
    while True:
        try:
            yield from container.demux(stream)
        except IndexError:
            continue
        return


def _counted(path: Path, stream: int) -> float:
    """Return the duration in s of all packets of a stream, up to damage, without what is skipped at its start."""
    import av  # noqa: PLC0415

    ticks = 0
    with _opened(path) as container:
        chosen = container.streams[stream]
        with suppress(av.FFmpegError):  # decoding reports the damage
            for packet in _packets(container, chosen):
                ticks += packet.duration or 0
        skipped = max(0, chosen.start_time or 0)
        return float((ticks - skipped) * chosen.time_base) if ticks else math.nan


def _as_float(frame: Any, channels: int) -> npt.NDArray[np.float32]:
    """Return the samples of a frame, [shape=(channels, n), dtype=float32]; full scale is 1.

    PyAV's own ``to_ndarray`` takes as long as FFmpeg takes to decode a frame.
    """
    kind = np.dtype(SAMPLES[frame.format.name.removesuffix("p")])
    if frame.format.is_planar:
        samples = np.array([np.frombuffer(plane, kind, frame.samples) for plane in frame.planes])
    else:
        samples = np.frombuffer(frame.planes[0], kind, frame.samples * channels).reshape(-1, channels).T
    if kind.kind == "f":
        return samples.astype(np.float32, copy=False)
    scale = 2.0 ** (8 * kind.itemsize - 1)
    if kind.kind == "u":
        return samples.astype(np.float32) / np.float32(scale) - np.float32(1)
    return samples.astype(np.float32) * np.float32(1 / scale)  # a power of two, so that nothing more is rounded
