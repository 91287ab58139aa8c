"""Ogg Opus that was cut out of a longer stream, its clock set so that libsndfile reads it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

# A page of Ogg (RFC 3533, section 6): pattern, version, flags, granule position, serial, sequence, CRC, segments.
PAGE = struct.Struct("<4sBBqIIIB")
CRC = slice(22, 26)
LARGEST = 64 << 20  # bytes, which a worker can spare; at 128 kbit/s more than an hour
# Samples (at 48 kHz) of one frame for each configuration of a packet's first byte (RFC 6716, section 3.1).
FRAMES = (*(480, 960, 1920, 2880) * 3, *(480, 960) * 2, *(120, 240, 480, 960) * 4)

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def mended_opus(path: Path) -> io.BytesIO | None:
    """Set the clock of an Ogg Opus stream so that it does not begin before zero.

    A stream that was copied out of a longer one may say of its first page that it ends earlier than its own samples
    last. RFC 7845, section 4.3, forbids that, and libsndfile refuses the file, though all of its audio is there. With
    every granule position moved by the same number the audio is the same and the stream is legal.

    Parameters
    ----------
    path : Path
        An audio file.

    Returns
    -------
    io.BytesIO or None
        The same stream with another clock; None where the file is no Ogg Opus, or does not begin before zero.
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
    """Granule position of a page: samples until its last whole packet ends, or -1 where none does."""
    return int(PAGE.unpack_from(data, start)[3])


def _packets(data: bytearray, start: int) -> Iterator[bytes]:
    """Packets that end on a page; a run of segments of 255 bytes goes on in the next segment."""
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
