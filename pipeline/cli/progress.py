"""Progress bars of the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import tqdm

from melzarr.pipeline.untrusted_text import printable

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Progress
    from melzarr.pipeline.shard_receipt import Receipt


@contextmanager
def progress_bar(total: int, what: str, unit: str = "track") -> Iterator[tqdm.tqdm[Any]]:
    """Show done, rate and time left on stderr; if that is not a terminal, print a line every ten seconds."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm.tqdm(total=total, desc=what, unit=unit, mininterval=interval, delay=0.5, leave=False, position=0) as bar:
        yield bar


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[int], object]]]:
    """Yield a function that starts a bar for a step, from its name and its number of tracks."""
    with ExitStack() as bars:
        yield lambda name, n_tracks: bars.enter_context(progress_bar(n_tracks, name)).update


@contextmanager
def build_progress(n_tracks: int, what: str = "features") -> Iterator[Progress]:
    """Show the progress of a build, from its receipts."""
    n_failed = 0

    def advance(receipt: Receipt) -> None:
        nonlocal n_failed
        n_failed += receipt.n_failed
        bar.set_postfix(failed=n_failed, refresh=False)
        bar.update(len(receipt.tracks))

    with progress_bar(n_tracks, what) as bar:
        yield advance


def beside_bar(line: str) -> None:
    """Print a line to stderr without breaking a progress bar."""
    tqdm.tqdm.write(printable(line), file=sys.stderr)
