"""Whoever holds a lock is named, and a damaged record is no error of its own."""

from __future__ import annotations

import json
import os

import pytest

from melzarr.pipeline.storage.lock_holder import name_holder, read_fields, this_process


def test_this_process_is_named() -> None:
    data = json.dumps({**this_process(), "beat": 3}).encode()
    assert name_holder(data).startswith(f"process {os.getpid()} on ")
    assert read_fields(data)["beat"] == 3


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"{}"])
def test_a_damaged_record_names_an_unknown_process(data: bytes) -> None:
    assert read_fields(data) == {}
    assert name_holder(data) == "process ? on ?"
