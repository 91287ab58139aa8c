"""A store is assessed in a thread beside its copy, and not a moment longer than that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import plain_charts
import pytest

from melzarr.pipeline.inspection.quality import find
from melzarr.pipeline.share import store_look as room
from melzarr.pipeline.share.share_options import ShareOptions
from melzarr.pipeline.share.store_look import StoreLook
from melzarr.pipeline.share.write_share import share
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.zarr_store.reader import Store


def test_it_finds_the_same(finished: Store) -> None:
    shown: dict[str, list[int]] = {}

    def step(name: str, n_tracks: int) -> Callable[[int], object]:
        shown[name] = [n_tracks]
        return shown[name].append

    with StoreLook(finished) as look:
        found = look.result(step)
    assert repr(found) == repr(find(finished))
    n_tracks, *read = shown["look"]
    assert sum(read) == n_tracks == finished.n_tracks


def test_at_the_end_of_the_block_it_stops(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, may_go_on, n_read = threading.Event(), threading.Event(), []

    def slow_find(_: object, progress: Callable[[int], object], __: object) -> None:
        has_begun.set()
        may_go_on.wait(10)
        progress(1)
        n_read.append(1)

    def copy_that_fails() -> None:
        assert has_begun.wait(10)
        threading.Timer(0.1, may_go_on.set).start()
        raise ValueError("the copy failed")

    monkeypatch.setattr(room, "find", slow_find)
    with pytest.raises(ValueError, match="the copy failed"), StoreLook(finished):
        copy_that_fails()
    assert may_go_on.is_set()  # it was waited for,
    assert not n_read  # and read no further


def test_the_documents_are_those_of_a_look_at_the_copy(
    finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ShareOptions(title="another title", published="2026-11-23")
    begun, folders = [], [tmp_path / name / "music" for name in ("beside", "after")]
    for folder, of_source in zip(folders, (StoreLook, lambda *_: nullcontext()), strict=True):

        def look(*of: Any, start: Callable[..., Any] = of_source) -> Any:
            begun.append(of)
            return start(*of)

        monkeypatch.setattr("melzarr.pipeline.share.write_share.StoreLook", look)
        share(finished, folder, given, draw=plain_charts)
    assert begun == 2 * [(finished,)]
    beside, after = (
        {name: (folder / name).read_bytes() for name, _ in LocalDirectory(folder).files()} for folder in folders
    )
    assert beside == after
