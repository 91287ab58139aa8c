"""Assess and draw a store in threads, beside the copy of its shards: the copy often waits for the disk."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from melzarr.pipeline.inspection.near_duplicates import Step
from melzarr.pipeline.inspection.quality import QualityReport, find
from melzarr.pipeline.report.charts import Charts
from melzarr.pipeline.zarr_store.reader import Store


class StoreLook:
    """An assessment of a store, and a picture of its labels. They run from the start to the end of a `with` block.

    Parameters
    ----------
    store : Store
        The store.
    draw : Charts
        Functions that draw the picture.

    Notes
    -----
    Progress is shown only while `result` waits, because one step is shown at a time. At the end of the block, an
    assessment that still runs is stopped.
    """

    def __init__(self, store: Store, draw: Charts) -> None:
        self._store, self._draw, self._n_read, self._is_stopped = store, draw, 0, False
        self._step: Step | None = None
        self._shown: Callable[[int], object] = lambda _: None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="melzarr-look")

    def __enter__(self) -> Self:
        """Start."""
        self._found = self._pool.submit(find, self._store, self._read, self._next)
        self._drawn = self._pool.submit(self._draw_examples)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._is_stopped = True
        self._pool.shutdown()

    def result(self, step: Step) -> tuple[QualityReport, bytes]:
        """Wait for the findings, and for the picture of one track of each label: a PNG, empty if no track is ok.

        Parameters
        ----------
        step : callable
            Called with the name and the number of tracks of each step; returns a callback for its progress.

        Raises
        ------
        StoreError, BuildError
            As for `find`.
        """
        with self._lock:
            self._step, self._shown = step, step("look", self._store.n_tracks)
            self._shown(self._n_read)
        return self._found.result(), self._drawn.result()

    def _read(self, n_tracks: int) -> None:
        if self._is_stopped:
            raise _StoppedError
        with self._lock:
            self._n_read += n_tracks
            self._shown(n_tracks)

    def _next(self, name: str, n_tracks: int) -> Callable[[int], object]:
        with self._lock:
            return self._step(name, n_tracks) if self._step else lambda _: None

    def _draw_examples(self) -> bytes:
        if not (self._store.column("status") == "ok").any():
            return b""
        with tempfile.TemporaryDirectory(prefix="melzarr-") as folder:
            path = Path(folder, "examples.png")
            self._draw.draw_examples(self._store, path)
            return path.read_bytes()


class _StoppedError(Exception):
    """The result is not needed any more."""
