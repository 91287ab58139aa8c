"""Correct wrong headers of WAV and AU files, because libsndfile trusts them."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import IO

from melzarr.pipeline.errors import AudioError

PCM = 1  # format tag of integer samples
LARGEST = 0xFFFFFFFF  # a length that means "to the end of the file"
MAX_CHUNKS = 1000  # of a WAV file before its data; more are no audio


class PatchedFile(io.RawIOBase):
    """A file in which a few bytes read as others, without a copy.

    Parameters
    ----------
    file : binary file
        The file; it is closed together with this one.
    patches : mapping of int to bytes
        Other bytes, by their position.
    """

    def __init__(self, file: IO[bytes], patches: Mapping[int, bytes]) -> None:
        self.file, self.patches = file, patches

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self.file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer."""
        start = self.file.tell()
        data = bytearray(self.file.read(len(buffer)))
        for place, other in self.patches.items():
            for offset, byte in enumerate(other, start=place - start):
                if 0 <= offset < len(data):
                    data[offset] = byte
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def patches(file: IO[bytes]) -> dict[int, bytes]:
    """Return the bytes of a WAV or AU header to replace, by their position; empty if the header is plausible.

    A recorder that was switched off leaves a data length of 0 although samples follow. Some programs write 24-bit
    samples in 32-bit frames. libsndfile reads wrong samples in both cases.

    Parameters
    ----------
    file : binary file
        An audio file; its position changes.

    Raises
    ------
    AudioError
        If the size of a frame does not fit the size of a sample.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(24)
    if head[:4] == b".snd" and len(head) == 24:
        return _au_patches(head, size)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav_patches(file, size)
    return {}


def _au_patches(head: bytes, size: int) -> dict[int, bytes]:
    start, n_bytes = struct.unpack(">II", head[4:12])
    return {8: struct.pack(">I", LARGEST)} if n_bytes == 0 and size > start else {}


def _wav_patches(file: IO[bytes], size: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    place = 12
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        if len(chunk := file.read(8)) < 8:
            return found
        name, n_bytes = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"fmt ":
            found |= _format_patches(file.read(16), place + 8)
        if name == b"data":
            rest = size - place - 8
            if n_bytes == 0 and rest and not _is_chunk(file.read(8), rest):
                found[place + 4] = struct.pack("<I", min(rest, LARGEST))
            return found
        place += 8 + n_bytes + n_bytes % 2
    return found


def _format_patches(data: bytes, place: int) -> dict[int, bytes]:
    """Return the patch of a WAV format whose samples are smaller than their place in a frame (left-justified)."""
    if len(data) < 16:
        return {}
    tag, channels, _, _, align, bits = struct.unpack("<HHIIHH", data)
    if tag != PCM or not channels or align == channels * -(-bits // 8):
        return {}
    held, odd = divmod(align, channels)
    if odd or not -(-bits // 8) < held <= 4:
        raise AudioError(
            f"the WAV header has a block align of {align} bytes, which does not fit {channels} channels of {bits} "
            f"bits; export the file again"
        )
    return {place + 14: struct.pack("<H", 8 * held)}


def _is_chunk(head: bytes, n_bytes: int) -> bool:
    """Return whether a chunk of a WAV file begins with these bytes."""
    return (
        len(head) == 8
        and head[:4].isascii()
        and head[:4].strip().isalnum()
        and (int.from_bytes(head[4:], "little") <= n_bytes - 8)
    )
