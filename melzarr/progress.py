"""Progress bars of the Python interface: shown in terminals and notebooks unless they are switched off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from melzarr.pipeline.cli.progress import build_progress, progress_bar, progress_bars

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Progress


def is_shown(progress: bool | None) -> bool:
    """Return whether progress is shown: as asked, or by default in a terminal and in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules if progress is None else progress


@contextmanager
def counting(progress: bool | None, total: int, what: str, unit: str = "track") -> Iterator[Callable[[int], object]]:
    """Yield a function that is called with the number of items that are done since the last call."""
    if is_shown(progress):
        with progress_bar(total, what, unit) as bar:
            yield bar.update
    else:
        yield lambda _: None


def stepping(progress: bool | None) -> AbstractContextManager[Callable[[str, int], Callable[[int], object]]]:
    """Provide a function that starts a step, from its name and number of tracks; it returns one as in `counting`."""
    return progress_bars() if is_shown(progress) else nullcontext(lambda _name, _n_tracks: lambda _: None)


@contextmanager
def building(progress: bool | None, n_tracks: int, what: str = "features") -> Iterator[Progress]:
    """Yield a function that is called with the receipt of each shard."""
    if is_shown(progress):
        with build_progress(n_tracks, what) as advance:
            yield advance
    else:
        yield lambda _: None
