"""Digests of files: BLAKE3, at the speed of memory on any processor, and SHA-256, which people check by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

SHA256 = "sha256:"  # marks the digest of a source that a store of an older schema has; without it, it is a BLAKE3
BLOCK = 1 << 18  # bytes that are read at a time, into memory that stays in the processor's cache


class Hasher(Protocol):
    """An object of hashlib, or one like it."""

    @property
    def name(self) -> str:
        """Name of the algorithm."""
        ...

    def update(self, data: Any, /) -> object:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of all bytes, in hexadecimal."""
        ...


Hash = Callable[[], Hasher]


def file_blocks(path: Path) -> Iterator[memoryview]:
    """Yield a file's bytes in blocks, each valid until the next is requested."""
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            yield buffer[:n_bytes]


def digest_of(path: Path, algorithm: Hash = blake3) -> str:
    """Return the digest of a file's bytes, in hexadecimal."""
    (digest,) = digests_of(file_blocks(path), algorithm).values()
    return digest


def copy_with_digests(path: Path, copy: Path, *algorithms: Hash) -> dict[str, str]:
    """Copy a file, and return the digests of the bytes that were copied, as `digests_of` does."""

    def copied() -> Iterator[memoryview]:
        for block in file_blocks(path):
            file.write(block)
            yield block

    with copy.open("wb") as file:
        return digests_of(copied(), *algorithms)


def digests_of(blocks: Iterable[bytes | memoryview], *algorithms: Hash) -> dict[str, str]:
    """Return the digests of bytes that come in blocks, in hexadecimal: "blake3" and "sha256", if both are wanted."""
    digests = [algorithm() for algorithm in algorithms]
    for block in blocks:
        for digest in digests:
            digest.update(block)
    return {digest.name: digest.hexdigest() for digest in digests}
