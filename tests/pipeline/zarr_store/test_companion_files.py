"""What lies beside a store is no part of it, and its list of checksums is the one that sha256sum knows."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.storage.digests import digest_of
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.zarr_store.companion_files import (
    CHECKSUMS,
    NAMES,
    checksum_lines,
    differences,
    is_companion,
    read_checksums,
)
from melzarr.pipeline.zarr_store.reader import Store

DIGESTS = st.binary(max_size=4).map(lambda data: hashlib.sha256(data).hexdigest())
FILE_NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in {".", ".."}
)
AWKWARD = ("a b", " leading", "back\\slash", "line\nbreak", "\\n", "naïve ♪", "carriage\rreturn", "*star", "-dash")


@given(st.dictionaries(FILE_NAMES, DIGESTS))
def test_what_was_written_is_read_back_and_sorted(digests: dict[str, str]) -> None:
    data = checksum_lines(digests)
    if digests:
        assert read_checksums(data) == digests
        assert list(read_checksums(data)) == sorted(digests)
        assert data == checksum_lines(dict(reversed(digests.items())))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="GNU's sha256sum is not here")
def test_sha256sum_reads_it_whatever_the_names(tmp_path: Path) -> None:
    for name in AWKWARD:
        (tmp_path / name).write_text(name)
    digests = {name: digest_of(tmp_path / name, hashlib.sha256) for name in AWKWARD}
    (tmp_path / CHECKSUMS).write_bytes(checksum_lines(digests))
    check = ["sha256sum", "--check", "--strict", CHECKSUMS]
    assert subprocess.run(check, cwd=tmp_path, check=True, capture_output=True).stdout.count(b": OK") == len(AWKWARD)
    (tmp_path / AWKWARD[3]).write_text("other")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 1


@pytest.mark.parametrize("line", ["", "ab", "ab name", "ab  ", "ab  /etc/passwd", "ab  ../up", "ab  a/../../up"])
def test_a_line_that_names_no_file_beside_it_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="names no file beside it"):
        read_checksums(f"{line}\n".encode())


def test_the_files_of_a_store_are_no_companions(own_store: Store) -> None:
    assert not any(is_companion(name) for name, _ in own_store.directory.files())
    assert all(
        map(is_companion, (*NAMES, "report/a.png", ".gitattributes", ".git/HEAD", "audio/a/b.wav", "mel/Thumbs.db"))
    )


def test_companions_do_not_change_what_a_store_is(own_store: Store) -> None:
    before = own_store.content_uuid()
    for name in ("README.md", "report/a.png", ".gitattributes", "desktop.ini", "mel/c/.DS_Store"):
        own_store.directory.write(name, b"x")
    assert own_store.content_uuid() == before
    assert verify(own_store).problems == ["README.md exists without SHA256SUMS"]
    own_store.directory.write("mel/README.md", b"x")
    assert own_store.content_uuid() != before


def test_every_difference_to_the_list_is_named(tmp_path: Path) -> None:
    directory = LocalDirectory(tmp_path)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b/c", "d")}
    assert differences(directory, {}) == ([], 0)
    for name in digests:
        directory.write(name, name.encode())
    directory.write(CHECKSUMS, checksum_lines(digests))
    for name in (".DS_Store", "Thumbs.db", "b/.DS_Store"):
        directory.write(name, b"")
    assert differences(directory, {}) == ([], 3)
    directory.write("b/c", b"other")
    directory.write("e", b"new")
    directory.remove(["d"])
    assert differences(directory, {"a": "0" * 64}) == (
        [
            f"a is not the file that {CHECKSUMS} lists",
            f"b/c is not the file that {CHECKSUMS} lists",
            f"d is missing, and {CHECKSUMS} lists it",
            f"e is not listed in {CHECKSUMS}",
        ],
        3,
    )
