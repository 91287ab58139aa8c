"""Decode files with libsndfile if its description of them is plausible; otherwise raise an error that says why not."""

from __future__ import annotations

import functools
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import soundfile

from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.features.audio_header import Header, UntrustedError, checked_rate
from melzarr.pipeline.features.mpeg_frames import CHUNK, Frames, count_frames, is_tag_of_whole
from melzarr.pipeline.features.pcm_header import PatchedFile, patches

LEFT_OPEN = 0x7FFFF000  # bytes; programs that write to a pipe leave this or a larger length in the header
DESCRIPTORS = Path("/dev/fd")  # of this process, by number
BLOCK = 1 << 16  # samples decoded at a time, so that memory is bounded for any number of channels
DENSEST = 100_000  # samples per byte; no codec stores more, not even of silence
MPEG_SLACK = 3 * 1152  # samples; a tag leaves out the padding, so its count may differ from that of the frames
# Encodings in which libsndfile seeks to the same samples as it decodes from the start of the file, also in FLAC. In
# Vorbis, a few in a hundred places begin with other samples.
SEEKABLE = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}

# First bytes of files that libsndfile cannot decode (offset, bytes), and their formats.
FOREIGN = (
    (4, b"ftyp", "MPEG-4 audio (AAC or ALAC)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x30\x26\xb2\x75", "Windows Media Audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"TTA1", "True Audio"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM audio"),
    (0, b"\x0b\x77", "Dolby AC-3"),
    (0, b"DSD ", "DSD"),
    (0, b"BW64", "BW64"),
    (0, b"#!AMR", "AMR"),
    (0, b".RMF", "RealMedia"),
    (0, b"\x47\x40", "MPEG-TS"),
    (28, b"\x7fFLAC", "Ogg FLAC"),
    (28, b"Speex", "Speex"),
    (28, b"\x80theora", "Ogg with Theora video"),
    (28, b"OpusHead", "Ogg Opus whose clock libsndfile refuses"),
)
# Format tags of WAV files (RFC 2361) that libsndfile cannot decode.
WAV_CODECS = {0x45: "G.726", 0x55: "MP3", 0xFF: "AAC", 0x1610: "AAC", 0x161: "Windows Media Audio", 0x2000: "AC-3"}

_stderr = threading.Lock()
_MPG123 = re.compile(rb"^(?:Note: |Warning: |\[[^\]\n]*libmpg123[^\]\n]*\]).*\n?", re.MULTILINE)


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read from start to end.

    If a file is seekable, soundfile seeks to the current position after each read. For MP3 and Opus this changes the
    position in the stream: a frame lacks data that it shares with the previous one, and the samples depend on the size
    of a read.
    """

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek."""
        return False


class LibsndfileDecoder:
    """An audio file, decoded by libsndfile.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    header : Header
        Header of the file.
    fault : str
        Always empty: if libsndfile stops before the end, `blocks` raises an error.
    position : int
        Number of samples of the file up to the end of the last block.

    Raises
    ------
    UntrustedError
        If libsndfile cannot open the file, or its description of the file is implausible.
    AudioError
        If the header of the file is wrong, so that no decoder can read it.
    OSError
        If the file cannot be read.
    """

    fault = ""
    position = 0

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            frames = _mpeg_frames(file)
            patched = patches(file)
            _refuse_chain(file)
        try:
            with quiet():
                self.file = _opened(path, patched)
        except soundfile.LibsndfileError as error:
            raise UntrustedError(_diagnosis(path, error)) from error
        try:
            self.header = _header(self.file, frames, path.stat().st_size)
            if self.file.subtype == "OPUS":
                self.file.seek(0)  # otherwise libsndfile 1.2.2 returns the pre-skip as audio if the clock starts late
        except BaseException:
            self.close()
            raise
        self.is_mpeg = self.file.subtype.startswith("MPEG")

    def __enter__(self) -> LibsndfileDecoder:
        """Return this decoder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def blocks(self, n_samples: int, start: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """Decode some samples of the file, in blocks.

        Parameters
        ----------
        n_samples : int
            Number of samples per channel.
        start : int
            Number of samples before them. They are decoded too, and not returned, unless the encoding is `SEEKABLE`.

        Yields
        ------
        np.ndarray [shape=(n, channels), dtype=float32]
            Samples of each channel; full scale is 1.

        Raises
        ------
        UntrustedError
            If libsndfile fails, or stops before the end of the file.
        """
        rate, end = self.header.sample_rate, start + n_samples
        try:
            if start and self.file.subtype in SEEKABLE:
                self.position = self.file.seek(min(start, self.file.frames))
            while self.position < end:
                left = (start if self.position < start else end) - self.position
                with quiet() if self.is_mpeg else nullcontext():
                    block = self._read(min(BLOCK, left))
                if not len(block):
                    break
                self.position += len(block)
                if self.position > start:
                    yield block
                del block  # so that the next block can have its memory
        except soundfile.LibsndfileError as error:
            raise UntrustedError(
                f"decoding stopped after {self.position / rate:.2f} s: {error.error_string}"
            ) from error
        expected = min(end, round(self.header.duration * rate)) - MPEG_SLACK * self.is_mpeg
        if self.position < expected:
            raise UntrustedError(f"libsndfile decodes {self.position / rate:.2f} s of {self.header.duration:.2f} s")

    def _read(self, n_samples: int) -> npt.NDArray[np.float32]:
        """Decode the next samples; numpy scales those of 16 bits to the same numbers, in a third of the time."""
        if self.file.subtype != "PCM_16":
            return self.file.read(n_samples, dtype="float32", always_2d=True)  # type: ignore[no-any-return]
        return self.file.read(n_samples, dtype="int16", always_2d=True) * np.float32(2**-15)  # type: ignore[no-any-return]


def _opened(path: Path, patched: Mapping[int, bytes]) -> SequentialFile:
    """Open a file by its content alone.

    libsndfile would take an extension for the format. Beside an MP3, or in the current folder if it has no name, it
    would take a file ``._NAME`` for the resource fork of macOS, and then give up. There is none beside a descriptor.
    """
    if patched:
        return SequentialFile(PatchedFile(path.open("rb", buffering=0), patched))
    descriptor = os.open(path, os.O_RDONLY)
    if not DESCRIPTORS.is_dir():
        return SequentialFile(descriptor)
    try:
        return SequentialFile(DESCRIPTORS / str(descriptor))
    finally:
        os.close(descriptor)


def stream_header(stream: IO[bytes]) -> Header:
    """Read the header of an open file, and only the bytes that libsndfile asks for.

    Raises
    ------
    AudioError, OSError
        If that is not enough; the header of the whole file then gives it, or the reason.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(1 << 12)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and not is_tag_of_whole(head, size)):
        raise AudioError("the length of this MP3 is only known from the whole file")
    if patches(stream):
        raise AudioError("the length in its header is wrong")
    stream.seek(0)
    try:
        with SequentialFile(stream) as file:
            return _header(file, None, size)
    except soundfile.LibsndfileError as error:
        raise AudioError(error.error_string) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Remove what libmpg123 prints to stderr about a damaged file: it names no file, and a status says more."""
    with _stderr:
        kept = _place_for_messages()
        try:
            stderr = os.dup(2)
        except OSError:  # it is closed, so that nothing is printed
            yield
            return
        os.dup2(kept, 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if n_bytes := os.lseek(kept, 0, os.SEEK_CUR):
                os.lseek(kept, 0, os.SEEK_SET)
                rest = _MPG123.sub(b"", os.read(kept, n_bytes))
                os.lseek(kept, 0, os.SEEK_SET)
                os.write(2, rest)  # what other threads printed meanwhile


@functools.cache
def _place_for_messages() -> int:
    """Return the descriptor of a file without a name, which is used again and again."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _mpeg_frames(file: IO[bytes]) -> Frames | None:
    """Return the frames of an MPEG audio file, or None if it is another file."""
    frames = count_frames(file)
    if frames and frames.end == "change":
        raise UntrustedError(f"the format of this MP3 changes after {frames.seconds:.2f} s", frames.seconds)
    if frames and frames.end == "damage":
        raise UntrustedError(f"this MP3 is damaged at {frames.seconds:.2f} s")
    return frames


def _refuse_chain(file: IO[bytes]) -> None:
    """Raise UntrustedError if an Ogg stream follows another: libsndfile reads only the first (RFC 3533, section 4)."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return
    data, is_continued = b"OggS", False
    while block := file.read(CHUNK):
        data = data[-5:] + block
        place = 0 if is_continued else data.find(b"OggS\0\0")  # a page that is no stream's first
        if place >= 0:
            is_continued = True
            if data.find(b"OggS\0\2", place) >= 0:  # the first page of a stream
                raise UntrustedError("this is a chain of Ogg streams, of which libsndfile reads the first")


def _header(file: SequentialFile, frames: Frames | None, n_bytes: int) -> Header:
    rate = checked_rate(file.samplerate)
    if file.frames > DENSEST * n_bytes:
        raise UntrustedError(f"its header does not say how long it is, or says {file.frames / rate:.3g} s")
    duration = promised = file.frames / rate
    if frames:
        if file.frames < frames.n_samples - MPEG_SLACK:
            raise UntrustedError(
                f"libsndfile counts {duration:.2f} s in this MP3, from a tag or an estimate, but it has "
                f"{frames.seconds:.2f} s"
            )
        duration = min(duration, frames.seconds)
        promised = promised if frames.is_tagged else duration
        if promised > 100 * duration:
            raise UntrustedError(f"the tag of this MP3 counts {promised:.3g} s, but it has {duration:.2f} s")
    # libsndfile's log of a WAV, AU or AIFF file that was cut off: "data : 1323000 (should be 661478)"
    cut = re.search(r"^\s*(?:data|Data Size|SSND)\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if cut and int(cut[2]) and int(cut[1]) < LEFT_OPEN:
        promised *= int(cut[1]) / int(cut[2])
    return Header(rate, file.channels, duration, max(promised, duration), f"{file.format} {file.subtype}")


def _diagnosis(path: Path, error: soundfile.LibsndfileError) -> str:
    """Return a message about a file that libsndfile cannot open: its format, if known."""
    with path.open("rb") as file:
        head = file.read(64)
    if name := _format_name(head):
        return f"this is {name}, which libsndfile {soundfile.__libsndfile_version__} does not read"
    return f"libsndfile finds no audio in the file ({error.error_string.rstrip('.')})"


def _format_name(head: bytes) -> str:
    """Return the name of a format that libsndfile lacks, by the first bytes of a file; empty if it is not known."""
    for offset, magic, name in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt ":
        tag = int.from_bytes(head[20:22], "little")
        return f"{WAV_CODECS[tag]} in WAV" if tag in WAV_CODECS else ""
    return "ALAC or AAC in CAF" if head[:4] == b"caff" else ""
