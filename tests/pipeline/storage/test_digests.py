"""Digests are those of the algorithms' authors, whatever the size of a file, also of a file that is copied."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

from melzarr.pipeline.storage.digests import BLOCK, copy_with_digests, digest_of
from melzarr.pipeline.storage.directory import source_digest
from melzarr.pipeline.storage.local import LocalDirectory

PUBLISHED = {  # of "abc": FIPS 180-2, appendix B.1, and b3sum
    hashlib.sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    blake3: "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
}


@pytest.mark.parametrize("algorithm", PUBLISHED)
def test_a_digest_of_abc_is_the_published_one(tmp_path: Path, algorithm) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert digest_of(tmp_path / "file", algorithm) == PUBLISHED[algorithm]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_a_file_has_the_digests_of_its_bytes_and_so_has_its_copy(tmp_path: Path, size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(data)
    expected = {"blake3": blake3(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
    assert digest_of(tmp_path / "file") == expected["blake3"]
    assert copy_with_digests(tmp_path / "file", tmp_path / "copy", blake3, hashlib.sha256) == expected
    assert (tmp_path / "copy").read_bytes() == data


def test_a_source_has_the_digest_of_the_kind_that_it_is_compared_with(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"abc")
    root, older = LocalDirectory(tmp_path), f"sha256:{PUBLISHED[hashlib.sha256]}"
    assert source_digest(root, "a.wav") == source_digest(root, "a.wav", "00" * 32) == PUBLISHED[blake3]
    assert source_digest(root, "a.wav", older) == older
    assert source_digest(root, "b.wav") == source_digest(root, "b.wav", older) == ""
