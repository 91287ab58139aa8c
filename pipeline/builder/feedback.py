"""What a job tells its caller while it runs: lines, remarks and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melzarr.pipeline.builder.run_build import Summary
    from melzarr.pipeline.shard_receipt import Receipt

Advance = Callable[[int], object]  # called with the number of items done since the last call
Progress = Callable[["Receipt"], object]  # called with the receipt of each shard


def _ignore(_: object) -> None:
    pass


def _without_progress(*_: Any) -> AbstractContextManager[Callable[[Any], object]]:
    return nullcontext(_ignore)


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What a job tells its caller; by default nothing.

    Parameters
    ----------
    say : callable
        Called with a line about what is done.
    warn : callable
        Called with a sentence about what may be wrong.
    made : callable
        Called with the summary of a store that was built.
    counting : callable
        Called with a number of items, or None if there is nothing to count; the name of a step; and the unit if it is
        not "track". Returns a context manager that yields an `Advance`.
    building : callable
        Called with a number of tracks and the name of a step; returns a context manager that yields a `Progress`.
    force : str
        How the caller writes the option that replaces a store.
    """

    say: Callable[[str], object] = _ignore
    warn: Callable[[str], object] = _ignore
    made: Callable[[Summary], object] = _ignore
    counting: Callable[..., AbstractContextManager[Advance]] = _without_progress
    building: Callable[[int, str], AbstractContextManager[Progress]] = _without_progress
    force: str = "force=True"

    @contextmanager
    def steps(self) -> Iterator[Callable[[str, int | None], Advance]]:
        """Yield a function that starts a step, given its name and its number of tracks, and ends the one before."""
        with ExitStack() as stack:

            def start(name: str, n_tracks: int | None) -> Advance:
                stack.close()
                return stack.enter_context(self.counting(n_tracks, name))

            yield start


SILENT = Feedback()
