"""Ogg Opus that was cut out of a longer stream, mended so that libsndfile reads it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

# A page of Ogg (RFC 3533, section 6): pattern, version, flags, granule position, serial, sequence, CRC, segments.
PAGE = struct.Struct("<4sBBqIIIB")
CRC = slice(22, 26)
UNKNOWN = -1  # granule position of a page on which no packet ends
SHIFT = 48_000  # samples, one second at Opus' rate: more than any encoder's delay
LARGEST = 256 << 20  # bytes; at 128 kbit/s some four hours

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def mended_opus(path: Path) -> io.BytesIO | None:
    """Shift the clock of an Ogg Opus stream so that it does not begin before zero.

    A stream that FFmpeg copied out of a longer one may say of its first page that it ends earlier than its own samples
    last. RFC 7845, section 4.3, forbids that, and libsndfile refuses the file, though all of its audio is there. With
    every granule position moved on by the same number the audio is the same and the stream is legal.

    Parameters
    ----------
    path : Path
        A file that libsndfile refuses.

    Returns
    -------
    io.BytesIO or None
        The same stream with another clock; None where the file is no Ogg Opus.
    """
    if path.stat().st_size > LARGEST:
        return None
    data = bytearray(path.read_bytes())
    if data[28:36] != b"OpusHead":
        return None
    for start, end in _pages(data):
        pattern, version, flags, position, *rest = PAGE.unpack_from(data, start)
        if position > 0:  # header pages are at zero
            PAGE.pack_into(data, start, pattern, version, flags, position + SHIFT, *rest)
            page = memoryview(data)[start:end]
            page[CRC] = bytes(4)
            page[CRC] = struct.pack("<I", ogg_crc(bytes(page)))
    return io.BytesIO(data)


def _pages(data: bytearray) -> Iterator[tuple[int, int]]:
    """Start and end of each whole page."""
    start = 0
    while start + PAGE.size <= len(data) and data[start : start + 4] == b"OggS":
        segments = start + PAGE.size
        end = segments + data[segments - 1] + sum(data[segments : segments + data[segments - 1]])
        if end > len(data):
            return
        yield start, end
        start = end


def ogg_crc(data: bytes) -> int:
    """Checksum of an Ogg page: CRC-32 with the polynomial of zlib's, but from the highest bit on and not inverted.

    Parameters
    ----------
    data : bytes
        The page, its own checksum set to zero.
    """
    crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
