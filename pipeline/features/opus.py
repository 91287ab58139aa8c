"""Repair the clock of an Ogg Opus file that was cut out of a longer stream, so that libsndfile reads it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

# Ogg page header (RFC 3533, section 6): pattern, version, flags, granule position, serial, sequence, CRC, segments.
PAGE = struct.Struct("<4sBBqIIIB")
CRC = slice(22, 26)
LARGEST = 64 << 20  # bytes of memory that a worker can spare; more than an hour at 128 kbit/s
# Samples (at 48 kHz) of one frame for each configuration of a packet's first byte (RFC 6716, section 3.1).
FRAMES = (*(480, 960, 1920, 2880) * 3, *(480, 960) * 2, *(120, 240, 480, 960) * 4)

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def mended_opus(path: Path) -> io.BytesIO | None:
    """Shift the clock of an Ogg Opus stream that begins before zero.

    In a stream that was copied out of a longer one, the end time of the first page may be less than the duration of the
    page. RFC 7845, section 4.3, forbids this, and libsndfile refuses the file, although all of its audio is there.
    Adding the same number to the granule position of every audio page keeps the audio and makes the stream valid.

    Parameters
    ----------
    path : Path
        An audio file.

    Returns
    -------
    io.BytesIO or None
        The stream with a shifted clock; None if the file is not Ogg Opus, is too large (`LARGEST`), or needs no shift.
    """
    with path.open("rb") as file:
        if file.read(36)[28:] != b"OpusHead" or path.stat().st_size > LARGEST:
            return None
        file.seek(0)
        data = bytearray(file.read())
    audio = [(start, end) for start, end in _pages(data) if _position(data, start) > 0]  # header pages are at zero
    if not audio:
        return None
    first = audio[0][0]
    shift = sum(map(n_samples, _packets(data, first))) - _position(data, first)
    if shift <= 0:
        return None
    for start, end in audio:
        pattern, version, flags, position, *rest = PAGE.unpack_from(data, start)
        PAGE.pack_into(data, start, pattern, version, flags, position + shift, *rest)
        page = memoryview(data)[start:end]
        page[CRC] = bytes(4)
        page[CRC] = struct.pack("<I", ogg_crc(bytes(page)))
    return io.BytesIO(data)


def _position(data: bytearray, start: int) -> int:
    """Return the granule position of a page: samples up to the end of its last whole packet, or -1 if none ends."""
    return int(PAGE.unpack_from(data, start)[3])


def _packets(data: bytearray, start: int) -> Iterator[bytes]:
    """Yield the packets that end on a page; a packet continues after each segment of 255 bytes."""
    segments = start + PAGE.size
    here = segments + data[segments - 1]
    size = 0
    for length in data[segments:here]:
        size += length
        if length < 255:
            yield bytes(data[here : here + size])
            here, size = here + size, 0


def n_samples(packet: bytes) -> int:
    """Count the samples at 48 kHz that an Opus packet decodes to, from its first bytes (RFC 6716, section 3.1).

    Parameters
    ----------
    packet : bytes
        The packet; an empty one decodes to nothing.
    """
    if not packet:
        return 0
    code = packet[0] & 3
    frames = (1, 2, 2)[code] if code < 3 else packet[1] & 63 if len(packet) > 1 else 0
    return frames * FRAMES[packet[0] >> 3]


def _pages(data: bytearray) -> Iterator[tuple[int, int]]:
    """Yield start and end of each complete page."""
    start = 0
    while start + PAGE.size <= len(data) and data[start : start + 4] == b"OggS":
        segments = start + PAGE.size
        end = segments + data[segments - 1] + sum(data[segments : segments + data[segments - 1]])
        if end > len(data):
            return
        yield start, end
        start = end


def ogg_crc(data: bytes) -> int:
    """Return the checksum of an Ogg page: CRC-32 with zlib's polynomial, highest bit first and not inverted.

    Parameters
    ----------
    data : bytes
        The page, with its checksum set to zero.
    """
    crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
