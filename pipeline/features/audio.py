"""Decode an audio file to mono float32 samples at the spec's rate."""

from __future__ import annotations

import logging
import math
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import soxr

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio_header import Header, UntrustedError
from melzarr.pipeline.features.ffmpeg_decoder import FFmpegDecoder, is_installed
from melzarr.pipeline.features.libsndfile_decoder import LibsndfileDecoder

Decoder: TypeAlias = LibsndfileDecoder | FFmpegDecoder
Result = TypeVar("Result")

# Seconds decoded beyond the last requested sample, for the resampler's filter (soxr HQ: about 10 ms at 8 kHz).
RESAMPLE_MARGIN = 0.25
RESAMPLE_QUALITY = "HQ"  # librosa's default, soxr_hq
TAIL = 0.5  # s; a header may count padding that is not decoded, up to some packets of a codec
WHOLE = 1 << 62  # samples; more than any file has
# A track with a peak below this has a loudness below -70 LUFS, which is silence in EBU R 128.
SILENCE_PEAK = 10 ** (-70 / 20)
FULL_SCALE = 0.999  # the largest 16-bit value is slightly less than 1, also after a codec
LOUDEST = 1e38  # if no sum of channels can be larger, none overflows float32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Audio:
    """Decoded part of a track.

    Parameters
    ----------
    samples : np.ndarray [shape=(n_samples,), dtype=float32]
        Mono samples at the requested rate.
    header : Header
        Header of the file; its duration is that of the decoded audio if all of it was decoded.
    peak : float
        Largest magnitude of the decoded samples in any channel, before mixing and resampling; 1 is full scale.
    clipped : float
        Share of the samples of all channels at or beyond full scale.
    fault : str
        Where the audio is damaged, or why it ends before the end of the file; empty if it is sound.
    start : float, in s
        Where the samples begin in the file.
    """

    samples: npt.NDArray[np.float32]
    header: Header
    peak: float
    clipped: float
    fault: str = ""
    start: float = 0.0


def read_header(path: Path) -> Header:
    """Read the header of an audio file, without decoding the audio.

    Raises
    ------
    AudioError
        If the file is missing or empty, or no decoder can read it.
    """
    with open_audio(path) as decoder:
        return decoder.header


def read_audio(path: Path, sample_rate: int, n_samples: int, start: float | str = 0.0, end: float = math.nan) -> Audio:
    """Decode a part of a file to mono, then resample it.

    Parameters
    ----------
    path : Path
        An audio file. libsndfile decodes it, or FFmpeg if libsndfile cannot, or not all of it.
    sample_rate : int > 0, in Hz
        Rate of the returned samples.
    n_samples : int > 0
        Number of samples to return at that rate. Nothing behind the part of the file that they need is decoded, and
        nothing before it if its encoding has exact places.
    start : float >= 0, in s, or "middle"
        Where that part begins, rounded to a sample of the file; "middle" centres it in the file.
    end : float > start, in s
        Where it ends at the latest; NaN if only the file's end limits it.

    Returns
    -------
    Audio
        With `n_samples` samples, or fewer if the file ends or `end` comes before.

    Raises
    ------
    AudioError
        If the file cannot be decoded, its samples are not finite, or its middle is not known.

    Notes
    -----
    As in librosa.load, channels are averaged before soxr resamples at quality HQ, and what is outside the part does not
    matter.
    """
    return _decoded(path, lambda decoder: _read(decoder, sample_rate, n_samples, start, end))


def read_channels(
    path: Path, seconds: float, start: float = 0.0, end: float = math.nan
) -> tuple[int, npt.NDArray[np.float32]]:
    """Decode a part of a file, without mixing and resampling.

    Parameters
    ----------
    path : Path
        As for `read_audio`.
    seconds : float > 0, in s
        How much to decode.
    start, end : float, in s
        As for `read_audio`.

    Returns
    -------
    sample_rate : int, in Hz
        Rate of the file.
    samples : np.ndarray [shape=(n, channels), dtype=float32]

    Raises
    ------
    AudioError
        If the file cannot be decoded.
    """

    def read(decoder: Decoder) -> tuple[int, npt.NDArray[np.float32]]:
        header = decoder.header
        nothing, first = np.empty((0, header.channels), np.float32), round(start * header.sample_rate)
        n_samples = _limited(round(seconds * header.sample_rate), first, end, header)
        return header.sample_rate, np.concatenate([nothing, *decoder.blocks(n_samples, first)])

    return _decoded(path, read)


def _decoded(path: Path, read: Callable[[Decoder], Result]) -> Result:
    """Return what a function reads from a file, from the other decoder if the first one stops early."""
    try:
        with open_audio(path) as decoder:
            return read(decoder)
    except UntrustedError as error:
        with _other_decoder(path, error) as decoder:
            return read(decoder)


def _read(decoder: Decoder, sample_rate: int, n_samples: int, start: float | str, end: float) -> Audio:
    header, level = decoder.header, _Level()
    start = _start_in_the_middle(header, n_samples / sample_rate) if isinstance(start, str) else start
    first = round(start * header.sample_rate)
    rate, wanted = header.sample_rate, n_samples
    if rate != sample_rate:
        wanted = -(-n_samples * rate // sample_rate) + round(RESAMPLE_MARGIN * rate)
    wanted = _limited(wanted, first, end, header)
    mono = np.concatenate([np.empty(0, np.float32), *_mono_blocks(decoder, wanted, level, first)])
    if mono.size < wanted:  # the file was decoded to its end
        seconds = decoder.position / rate
        header = replace(header, duration=seconds, promised=_promised(header, seconds))
    if rate == sample_rate:
        return Audio(mono, header, level.peak, level.clipped, decoder.fault, start)
    # Only samples that the file fully covers: the resampler may round the length up.
    covered = min(n_samples, mono.size * sample_rate // rate)
    samples = soxr.resample(mono, rate, sample_rate, quality=RESAMPLE_QUALITY)[:covered]
    return Audio(samples, header, level.peak, level.clipped, decoder.fault, start)


def _start_in_the_middle(header: Header, seconds: float) -> float:
    """Return where a part of some seconds begins that is centred in a file."""
    if math.isnan(header.duration):
        raise AudioError(
            "the file does not say how long it is, so that its middle is not known; convert it, or give --start in s"
        )
    return max(0.0, header.duration - seconds) / 2


def _limited(n_samples: int, first: int, end: float, header: Header) -> int:
    """Return how many samples from a first one on are before an end in s, at most `n_samples`; NaN is no end."""
    return n_samples if math.isnan(end) else max(0, min(n_samples, round(end * header.sample_rate) - first))


def _promised(header: Header, seconds: float) -> float:
    """Return the duration that a header promises, if it is longer than what was decoded by more than padding."""
    return header.promised if header.promised > seconds + TAIL or header.duration < header.promised else seconds


@dataclass(slots=True)
class _Level:
    """Largest magnitude of samples, and the number at full scale, in all channels; mixing would hide them."""

    peak: float = 0.0
    n_full: int = 0
    n_samples: int = 0

    def add(self, block: npt.NDArray[np.float32]) -> float:
        """Add the samples of a block, and return their largest magnitude; NaN if a sample is NaN."""
        peak = float(max(np.max(block), -np.min(block)))
        if peak >= FULL_SCALE:
            self.n_full += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
        self.peak, self.n_samples = max(self.peak, peak), self.n_samples + block.size
        return peak

    @property
    def clipped(self) -> float:
        return self.n_full / max(1, self.n_samples)


def stream_audio(path: Path, sample_rate: int) -> Iterator[npt.NDArray[np.float32]]:
    """Decode a whole file to mono and resample it in blocks, so that memory does not depend on its length.

    If a file is damaged, or ends with a change of its format, that is a warning in the log.

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
        If the file cannot be opened, or has a sample that is not finite.
    """
    resampler: soxr.ResampleStream | None = None
    n_read = n_given = 0
    for rate, mono in _whole(path):
        if rate == sample_rate:
            yield mono
            continue
        if resampler is None:
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality=RESAMPLE_QUALITY)
        n_read += mono.size
        samples = resampler.resample_chunk(mono)
        n_given += samples.size
        yield samples
    if resampler is not None:
        covered = n_read * sample_rate // rate
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)[: max(0, covered - n_given)]


def _whole(path: Path) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield the rate and the next samples of a whole file; another decoder goes on if the first one stops early."""
    n_done = 0
    decoder = open_audio(path)
    while True:
        with decoder:
            n_skipped = n_done
            try:
                for mono in _mono_blocks(decoder, WHOLE, _Level()):
                    rest = mono[n_skipped:]
                    n_skipped -= mono.size - rest.size
                    n_done += rest.size
                    if rest.size:
                        yield decoder.header.sample_rate, rest
            except UntrustedError as error:
                reason = error
            else:
                if decoder.fault:
                    logger.warning("%s: %s", path, decoder.fault)
                return
        decoder = _other_decoder(path, reason)


def open_audio(path: Path) -> Decoder:
    """Open a file with libsndfile, or with FFmpeg if libsndfile cannot read it or cannot be trusted with it.

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
        return LibsndfileDecoder(path)
    except UntrustedError as error:
        return _other_decoder(path, error)
    except OSError as error:
        remedy = "its path" if isinstance(error, FileNotFoundError) else "its permissions and its disk"
        raise AudioError(f"the file cannot be read: {error.strerror}; look at {remedy}") from error


def _other_decoder(path: Path, reason: UntrustedError) -> FFmpegDecoder:
    """Open with FFmpeg what libsndfile does not read; if that fails too, raise an error with both reasons."""
    if not is_installed():
        raise AudioError(
            f'{reason}; for FFmpeg\'s decoders: pip install "melzarr[codecs]", or convert it, for example with: '
            f"ffmpeg -i {shlex.quote(path.name)} {shlex.quote(path.stem + '.flac')}"
        ) from reason
    try:
        return FFmpegDecoder(path, reason)
    except AudioError as error:
        raise AudioError(f"{reason}; {error}; it may be damaged or no audio at all") from reason


def _mono_blocks(decoder: Decoder, n_samples: int, level: _Level, start: int = 0) -> Iterator[npt.NDArray[np.float32]]:
    """Yield some samples of a file in blocks, averaged over the channels."""
    for block in decoder.blocks(n_samples, start):
        mono = _mixed(block)
        is_sound = level.add(block) * block.shape[1] < LOUDEST
        if not is_sound and not (finite := np.isfinite(mono)).all():
            first = decoder.position - len(block) + int(np.argmin(finite))
            place = f"sample {first} ({first / decoder.header.sample_rate:.3f} s)"
            raise AudioError(f"{place} is not a finite number; export the file again")
        del block  # so that the decoder can use its memory for the next one
        yield mono


def _mixed(block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean of the channels; `np.mean` along such a short axis takes twenty times as long."""
    if block.shape[1] == 1:
        return block[:, 0]
    mono: npt.NDArray[np.float32] = block[:, 0] + block[:, 1]
    for channel in range(2, block.shape[1]):
        mono += block[:, channel]
    mono /= np.float32(block.shape[1])
    return mono
