"""Count the frames of an MPEG audio file, because neither its tag nor its size says reliably how long it is.

The header of each frame gives the frame's size, so that counting needs no decoding. Formats: ISO/IEC 11172-3, 2.4.2.3,
and ISO/IEC 13818-3, 2.4.2.3.
"""

from __future__ import annotations

import functools
import io
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import IO, Final

# kbit/s by bitrate index, from 1; (is MPEG-1, layer).
BITRATES: Final[dict[tuple[bool, int], tuple[int, ...]]] = {
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = (44100, 48000, 32000)  # Hz, of MPEG-1; half of them in MPEG-2, a quarter in MPEG-2.5
VERSIONS = {3: 1, 2: 2, 0: 4}  # what divides these rates, by the version's bits
MONO = 3  # the channel mode
CHUNK = 1 << 20  # bytes read at a time
SEARCHED = 1 << 16  # bytes after damage in which the next frame is looked for
ID3V1 = 128  # bytes of an ID3v1 tag
TAG_HEAD = 64  # bytes of a frame that show whether it holds a tag
TAG_SLACK = 2048  # bytes that may follow the audio: an ID3v1 or APE tag, or one more frame


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What is the same in all frames of a file.

    Parameters
    ----------
    sample_rate : int, in Hz
    n_samples : int
        Samples per frame and channel.
    """

    sample_rate: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of an MPEG audio file from its first one on, as long as one follows the other.

    Parameters
    ----------
    format : FrameFormat
        Format of the frames.
    count : int
        Number of frames, without one that only holds a tag.
    end : {"end", "change", "damage"}
        What follows the last frame: the end of the file, a frame of another format, or a frame after other bytes.
    is_tagged : bool
        Whether the file has a tag of Xing, LAME or Fraunhofer, which counts the frames.
    """

    format: FrameFormat
    count: int
    end: str
    is_tagged: bool

    @property
    def n_samples(self) -> int:
        """Number of samples of these frames, per channel."""
        return self.count * self.format.n_samples

    @property
    def seconds(self) -> float:
        """Duration of these frames."""
        return self.n_samples / self.format.sample_rate


def _table() -> tuple[dict[bytes, int], dict[int, FrameFormat]]:
    """Return the size of a frame by bytes 1 and 2 of its header, and the format by its version, layer and rate bits."""
    sizes, formats = {}, {}
    for version, divisor in VERSIONS.items():
        for layer in (1, 2, 3):
            for crc in (0, 1):
                first = 0xE0 | version << 3 | (4 - layer) << 1 | crc
                for rate_index, full in enumerate(RATES):
                    rate = full // divisor
                    n_samples = 384 if layer == 1 else 576 if layer == 3 and divisor > 1 else 1152
                    formats[_format_bits(first, rate_index << 2)] = FrameFormat(rate, n_samples)
                    for number, kbits in enumerate(BITRATES[divisor == 1, layer], start=1):
                        for padding in (0, 1):
                            if layer == 1:
                                size = (12_000 * kbits // rate + padding) * 4
                            else:
                                size = n_samples // 8 * 1000 * kbits // rate + padding
                            for private in (0, 1):
                                second = number << 4 | rate_index << 2 | padding << 1 | private
                                sizes[bytes((first, second))] = size
    return sizes, formats


def _format_bits(first: int, second: int) -> int:
    """Return the bits of version, layer and rate."""
    return (first & 0x1E) << 2 | (second & 0x0C) >> 2


SIZES, FORMATS = _table()


def count_frames(file: IO[bytes]) -> Frames | None:
    """Count the frames of an MPEG audio file.

    Parameters
    ----------
    file : binary file
        The file; its position changes.

    Returns
    -------
    Frames or None
        None if the file does not begin with a frame, after ID3 tags.
    """
    size = file.seek(0, io.SEEK_END)
    place, end = _after_tags(file), _before_tags(file, size)
    head = _read(file, place, TAG_HEAD)
    if not _is_frame(head, 0):
        return None
    kind, mono = _format_bits(head[1], head[2]), head[3] >> 6 == MONO
    frame, header = _patterns(kind, mono)
    count, stopped = 0, ""
    while not stopped:
        data = _read(file, place, min(CHUNK, end - place))
        found = frame.findall(data)
        rest = found[-1] if found else b""
        count += len(found) - bool(rest)
        place += len(data) - len(rest)
        if place + len(rest) >= end and (len(rest) < 4 or header.match(rest)):
            stopped = "end"  # also if the file was cut off within its last frame
        elif rest and not header.match(rest):
            stopped = _what_follows(file, place)
    tag = has_tag(head)
    return Frames(FORMATS[kind], count - tag, stopped, is_tagged=tag)


@functools.cache
def _patterns(kind: int, mono: bool) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Return patterns of a whole frame of one format, or in a group of all that follows the last one; and of a header.

    In a loop of Python, each frame would take three times as long.
    """
    headers: dict[int, list[bytes]] = defaultdict(list)
    for header, n_bytes in SIZES.items():
        if _format_bits(*header) == kind:
            headers[n_bytes].append(header)
    mode = rb"[\xc0-\xff]" if mono else rb"[\x00-\xbf]"
    kinds = {
        n_bytes: rb"[%b]" % re.escape(bytes({second for _, second in alike})) for n_bytes, alike in headers.items()
    }
    start = rb"\xff[%b]" % re.escape(bytes({first for alike in headers.values() for first, _ in alike}))
    frames = b"|".join(rb"%b%b.{%d}" % (second, mode, n_bytes - 4) for n_bytes, second in kinds.items())
    header = rb"%b(?:%b)%b" % (start, b"|".join(kinds.values()), mode)
    return re.compile(rb"%b(?:%b)|(.+)" % (start, frames), re.DOTALL), re.compile(header)


def _what_follows(file: IO[bytes], place: int) -> str:
    """Return what is at a place where a frame of the same format should begin, in the words of `Frames.end`."""
    data = _read(file, place, SEARCHED)
    n_bytes = SIZES.get(data[1:3]) if data[:1] == b"\xff" else None
    if n_bytes and _is_frame(data, n_bytes):
        return "change"
    return "damage" if _has_frames(data) else "end"


def _read(file: IO[bytes], place: int, n_bytes: int) -> bytes:
    file.seek(place)
    return file.read(n_bytes)


def _is_frame(data: bytes, place: int) -> bool:
    return data[place : place + 1] == b"\xff" and data[place + 1 : place + 3] in SIZES


def _has_frames(data: bytes) -> bool:
    """Return whether two frames that follow each other are in some bytes."""
    place = -1
    while (place := data.find(b"\xff", place + 1)) >= 0:
        n_bytes = SIZES.get(data[place + 1 : place + 3])
        if n_bytes and _is_frame(data, place + n_bytes):
            return True
    return False


def _after_tags(file: IO[bytes]) -> int:
    """Return where the audio begins: after ID3v2 tags (ID3v2.4, section 3.1)."""
    start = 0
    while (head := _read(file, start, 10))[:3] == b"ID3" and len(head) == 10:
        start += 10 + sum((head[6 + n] & 0x7F) << 7 * (3 - n) for n in range(4))
    return start


def _before_tags(file: IO[bytes], end: int) -> int:
    """Return where the audio ends: before an ID3v1 tag and an APE tag."""
    if end >= ID3V1 and _read(file, end - ID3V1, 3) == b"TAG":
        end -= ID3V1
    footer = _read(file, max(0, end - 32), 32)
    if footer[:8] == b"APETAGEX":
        end -= int.from_bytes(footer[12:16], "little") + 32 * bool(footer[23] & 0x80)
    return max(end, 0)


def has_tag(head: bytes) -> bool:
    """Return whether the first frame holds no audio but a tag of Xing, LAME or Fraunhofer.

    Parameters
    ----------
    head : bytes
        The first bytes of the frame.
    """
    place = _tag_place(head)
    return head[place : place + 4] in {b"Xing", b"Info"} or head[36:40] == b"VBRI"


def _tag_place(head: bytes) -> int:
    mpeg1, mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == MONO
    return 4 + ((17 if mono else 32) if mpeg1 else (9 if mono else 17))


def is_tag_of_whole(head: bytes, n_bytes: int) -> bool:
    """Return whether a tag of Xing or LAME counts the bytes that a file without other tags has.

    Parameters
    ----------
    head : bytes
        The first bytes of the file, which begin with a frame.
    n_bytes : int
        Size of the file.
    """
    tag = head[_tag_place(head) :][:16]
    if tag[:4] not in {b"Xing", b"Info"} or tag[7] & 3 != 3:  # it counts frames and bytes
        return False
    return 0 <= n_bytes - int.from_bytes(tag[12:16], "big") <= TAG_SLACK
