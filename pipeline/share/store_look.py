"""Assess a store in a thread, beside the copy of its shards: the copy often waits for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from melzarr.pipeline.inspection.near_duplicates import Step
from melzarr.pipeline.inspection.quality import QualityReport, find
from melzarr.pipeline.zarr_store.reader import Store


class StoreLook:
    """An assessment of a store that runs from the start to the end of a `with` block.

    Parameters
    ----------
    store : Store
        The store.

    Notes
    -----
    Progress is shown only while `result` waits, because one step is shown at a time. At the end of the block, an
    assessment that still runs is stopped. It draws nothing: what draws changes the filters of warnings, which all
    threads share.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._n_read, self._is_stopped = store, 0, False
        self._step: Step | None = None
        self._shown: Callable[[int], object] = lambda _: None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="melzarr-look")

    def __enter__(self) -> Self:
        """Start."""
        self._found = self._pool.submit(find, self._store, self._read, self._next)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._is_stopped = True
        self._pool.shutdown()

    def result(self, step: Step) -> QualityReport:
        """Wait for the findings.

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
        return self._found.result()

    def _read(self, n_tracks: int) -> None:
        if self._is_stopped:
            raise _StoppedError
        with self._lock:
            self._n_read += n_tracks
            self._shown(n_tracks)

    def _next(self, name: str, n_tracks: int) -> Callable[[int], object]:
        with self._lock:
            return self._step(name, n_tracks) if self._step else lambda _: None


class _StoppedError(Exception):
    """The result is not needed any more."""
