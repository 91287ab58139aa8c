"""Decode an audio file to mono float32 samples at the spec's rate. Only this module and `opus` know codecs."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.opus import mended_opus

# Seconds decoded beyond the last requested sample, for the resampler's filter (soxr HQ: about 10 ms at 8 kHz).
RESAMPLE_MARGIN = 0.25
RESAMPLE_QUALITY = "HQ"  # librosa's default, soxr_hq
RATES = (1_000, 768_000)  # Hz, of real audio; outside, a header is wrong and would need absurd amounts of memory
LEFT_OPEN = 0x7FFFF000  # bytes; programs that write to a pipe leave this or a larger length in the header
# A track with a peak below this has a loudness below -70 LUFS, which is silence in EBU R 128.
SILENCE_PEAK = 10 ** (-70 / 20)
FULL_SCALE = 0.999  # the largest 16-bit value is slightly less than 1, also after a codec
BLOCK = 1 << 16  # samples decoded at a time, so that memory is bounded for any number of channels

# First bytes of files that libsndfile cannot decode (offset, bytes), and their formats.
FOREIGN = (
    (4, b"ftyp", "MPEG-4 audio (AAC or ALAC)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x30\x26\xb2\x75", "Windows Media Audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"MPCK", "Musepack"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM audio"),
    (0, b"\x0b\x77", "Dolby AC-3"),
    (0, b"DSD ", "DSD"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """Header of an audio file.

    Parameters
    ----------
    sample_rate : int, in Hz
        Sample rate of the file.
    channels : int
        Number of channels of the file.
    duration : float, in s
        Length of the audio in the file.
    promised : float, in s
        Length according to the header; longer than `duration` if the file was cut off.
    codec : str
        Container and encoding, such as "FLAC PCM_16".
    """

    sample_rate: int
    channels: int
    duration: float
    promised: float
    codec: str


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read from start to end.

    If a file is seekable, soundfile seeks to the current position after each read. For MP3 and Opus this changes the
    position in the stream: a frame lacks data that it shares with the previous one, and the samples depend on the size
    of a read.
    """

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek."""
        return False


@dataclass(frozen=True, slots=True)
class Audio:
    """Decoded start of a track.

    Parameters
    ----------
    samples : np.ndarray [shape=(n_samples,), dtype=float32]
        Mono samples at the requested rate.
    header : Header
        Header of the file.
    peak : float
        Largest magnitude of the decoded samples in any channel, before mixing and resampling; 1 is full scale.
    clipped : float
        Share of the samples of all channels at or beyond full scale.
    """

    samples: npt.NDArray[np.float32]
    header: Header
    peak: float
    clipped: float


def read_header(path: Path) -> Header:
    """Read the header of an audio file, without decoding the audio.

    Raises
    ------
    AudioError
        If the file is missing or empty, or libsndfile cannot read it.
    """
    with open_audio(path) as file:
        return _header(file)


def stream_header(stream: IO[bytes]) -> Header:
    """Read the header of an open file, and only the bytes that libsndfile asks for.

    Raises
    ------
    AudioError, OSError
        If that fails; `read_header` of the whole file then gives the reason.
    """
    try:
        with SequentialFile(stream) as file:
            return _header(file)
    except soundfile.LibsndfileError as error:
        raise AudioError(error.error_string) from error


def read_audio(path: Path, sample_rate: int, n_samples: int) -> Audio:
    """Decode the start of a file to mono, then resample it.

    Parameters
    ----------
    path : Path
        A file in WAV, AU, FLAC, Ogg Vorbis, Opus, MP3 or another format that libsndfile reads.
    sample_rate : int > 0, in Hz
        Rate of the returned samples.
    n_samples : int > 0
        Number of samples to return at that rate; only the part of the file that they need is decoded.

    Returns
    -------
    Audio
        With `n_samples` samples, or fewer if the file is shorter.

    Raises
    ------
    AudioError
        If the file cannot be decoded or its samples are not finite.

    Notes
    -----
    As in librosa.load, channels are averaged before soxr resamples at quality HQ.
    """
    with open_audio(path) as file:
        header = _header(file)
        rate = header.sample_rate
        wanted = n_samples
        if rate != sample_rate:
            wanted = -(-n_samples * rate // sample_rate) + round(RESAMPLE_MARGIN * rate)
        level = _Level()
        mono = _decode(file, wanted, level)
    if mono.size < min(wanted, round(header.duration * rate)):  # the header is wrong, as in an MP3 that was cut off
        header = replace(header, duration=mono.size / rate)
    if rate == sample_rate:
        return Audio(mono, header, level.peak, level.clipped)
    # Only samples that the file fully covers: the resampler may round the length up.
    covered = min(n_samples, mono.size * sample_rate // rate)
    return Audio(
        soxr.resample(mono, rate, sample_rate, quality=RESAMPLE_QUALITY)[:covered], header, level.peak, level.clipped
    )


@dataclass(slots=True)
class _Level:
    """Largest magnitude of samples, and the number at full scale, in all channels; mixing would hide them."""

    peak: float = 0.0
    n_full: int = 0
    n_samples: int = 0

    def add(self, block: npt.NDArray[np.float32]) -> None:
        peak = float(max(np.max(block), -np.min(block)))
        if peak >= FULL_SCALE:
            self.n_full += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
        self.peak, self.n_samples = max(self.peak, peak), self.n_samples + block.size

    @property
    def clipped(self) -> float:
        return self.n_full / max(1, self.n_samples)


def stream_audio(path: Path, sample_rate: int) -> Iterator[npt.NDArray[np.float32]]:
    """Decode a whole file to mono and resample it in blocks, so that memory does not depend on its length.

    Parameters
    ----------
    path : Path
        As for `read_audio`.
    sample_rate : int > 0, in Hz
        Rate of the yielded samples.

    Yields
    ------
    np.ndarray [shape=(n,), dtype=float32]
        The next samples; together they are the samples that `read_audio` returns for the whole file.

    Raises
    ------
    AudioError
        If the file cannot be opened, or decoding stops partway.
    """
    with open_audio(path) as file:
        rate = _header(file).sample_rate
        if rate == sample_rate:
            yield from _mono_blocks(file, file.frames)
            return
        resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality=RESAMPLE_QUALITY)
        n_read = n_given = 0
        for mono in _mono_blocks(file, file.frames):
            n_read += mono.size
            samples = resampler.resample_chunk(mono)
            n_given += samples.size
            yield samples
        covered = n_read * sample_rate // rate
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)[: max(0, covered - n_given)]


def open_audio(path: Path) -> SequentialFile:
    """Open a file with libsndfile.

    Raises
    ------
    AudioError
        If the file cannot be opened; the message gives the reason.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a named pipe or a device would block forever
            raise AudioError("this is no regular file; give audio in a file")
        if facts.st_size == 0:
            raise AudioError("the file is empty (0 bytes); copy or download it again")
        return _opened(path)
    except soundfile.LibsndfileError as error:
        raise AudioError(_diagnosis(path, error)) from error
    except OSError as error:
        raise AudioError(f"the file cannot be read: {error.strerror}; look at its permissions and its disk") from error


def _opened(path: Path) -> SequentialFile:
    """Open a file by its content; repair an Opus stream that libsndfile refuses but could read."""
    # By descriptor, so that libsndfile sees no name. It would take an extension for the format, and macOS's ._ twin
    # beside an MP3 for a resource fork, and then give up.
    try:
        file = SequentialFile(os.open(path, os.O_RDONLY))
    except soundfile.LibsndfileError:
        stream = mended_opus(path)
        if stream is None:
            raise
        file = SequentialFile(stream)
    if file.subtype == "OPUS":
        file.seek(0)  # otherwise libsndfile 1.2.2 returns the pre-skip as audio if the stream's clock starts late
    return file


def _diagnosis(path: Path, error: soundfile.LibsndfileError) -> str:
    """Return a message about a file that libsndfile cannot open: its format, if known, and a remedy."""
    with path.open("rb") as file:
        head = file.read(16)
    for offset, magic, name in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return (
                f"this is {name}, a codec that libsndfile {soundfile.__libsndfile_version__} lacks; convert it, for "
                f"example with: ffmpeg -i {shlex.quote(path.name)} {shlex.quote(path.stem + '.flac')}"
            )
    reason = error.error_string.rstrip(".")
    return f"libsndfile finds no audio in the file ({reason}); it may be damaged or no audio at all"


def _header(file: SequentialFile) -> Header:
    rate, channels = file.samplerate, file.channels
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"a sample rate of {rate} Hz is outside {RATES[0]} to {RATES[1]} Hz; the header is wrong")
    duration = file.frames / rate
    # libsndfile's log of a WAV, AU or AIFF file that was cut off: "data : 1323000 (should be 661478)"
    cut = re.search(r"^\s*(?:data|Data Size|SSND)\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    promised = duration
    if cut and int(cut[2]) and int(cut[1]) < LEFT_OPEN:
        promised *= int(cut[1]) / int(cut[2])
    return Header(rate, channels, duration, max(promised, duration), f"{file.format} {file.subtype}")


def _decode(file: SequentialFile, n_samples: int, level: _Level) -> npt.NDArray[np.float32]:
    """Decode the first samples of a file to mono, and measure their level."""
    mono = np.empty(min(n_samples, max(file.frames, 0)), np.float32)
    done = 0
    for block in _mono_blocks(file, mono.size, level):
        mono[done : done + block.size] = block
        done += block.size
    return mono[:done]


def _mono_blocks(
    file: SequentialFile, n_samples: int, level: _Level | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the first samples of a file in blocks, averaged over the channels."""
    done = 0
    try:
        while done < n_samples and len(
            block := file.read(min(BLOCK, n_samples - done), dtype="float32", always_2d=True)
        ):
            mono = _mixed(block)
            if not np.isfinite(mono).all():
                first = done + int(np.flatnonzero(~np.isfinite(mono))[0])
                place = f"sample {first} ({first / file.samplerate:.3f} s)"
                raise AudioError(f"{place} is not a finite number; export the file again")
            if level:
                level.add(block)
            yield mono
            done += len(block)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"decoding stopped after {done / file.samplerate:.2f} s: {error.error_string}") from error


def _mixed(block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean of the channels; `np.mean` along such a short axis takes twenty times as long."""
    mono = block[:, 0].copy()
    for channel in range(1, block.shape[1]):
        mono += block[:, channel]
    return np.divide(mono, np.float32(block.shape[1]), out=mono)
