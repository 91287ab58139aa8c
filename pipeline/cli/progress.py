"""What commands show while they work: lines, progress bars, and where they compute."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from melzarr.pipeline.builder.feedback import Feedback
from melzarr.pipeline.human_units import count
from melzarr.pipeline.untrusted_text import printable

if TYPE_CHECKING:
    import tqdm

    from melzarr.pipeline.builder.feedback import Advance, Progress
    from melzarr.pipeline.builder.run_build import Summary
    from melzarr.pipeline.clusters.task_runner import Runner
    from melzarr.pipeline.shard_receipt import Receipt


def say(line: str, *, err: bool = False) -> None:
    """Print a line without breaking a progress bar, with control characters escaped."""
    import tqdm

    with tqdm.tqdm.external_write_mode():
        click.echo(printable(line), err=err)


def beside_bar(line: str) -> None:
    """Print a line to stderr without breaking a progress bar."""
    say(line, err=True)


def show_made(summary: Summary) -> None:
    """Print what a build made; its remark goes to stderr."""
    from melzarr.pipeline.cli.messages import summary_lines
    from melzarr.pipeline.zarr_store.reader import open_store

    for line in summary_lines(summary, open_store(summary.target).n_bytes):
        say(line)
    if summary.remark:
        beside_bar(summary.remark)


@contextmanager
def _bar(total: int | None, what: str, unit: str = "track") -> Iterator[tqdm.tqdm[Any]]:
    """Show done, rate and time left on stderr; if that is not a terminal, print a line every ten seconds.

    A step without a total is shown by its name, in a terminal.
    """
    import tqdm

    how: dict[str, Any] = {"mininterval": 0.1 if sys.stderr.isatty() else 10.0, "delay": 0.5}
    if total is None:
        how = {"bar_format": "{desc}", "disable": not sys.stderr.isatty()}
    with tqdm.tqdm(total=total, desc=what, unit=unit, leave=False, position=0, **how) as bar:
        yield bar
    sys.stderr.flush()  # tqdm keeps the return to the start of the line, so the next text would stand further right


@contextmanager
def counting(total: int | None, what: str, unit: str = "track") -> Iterator[Advance]:
    """Show the progress of a step."""
    with _bar(total, what, unit) as bar:
        yield bar.update


@contextmanager
def building(n_tracks: int, what: str) -> Iterator[Progress]:
    """Show the progress of a build, from its receipts."""
    n_failed = 0

    def advance(receipt: Receipt) -> None:
        nonlocal n_failed
        n_failed += receipt.n_failed
        bar.set_postfix(failed=n_failed, refresh=False)
        bar.update(len(receipt.tracks))

    with _bar(n_tracks, what) as bar:
        yield advance


QUIET = Feedback(counting=counting, building=building, force="--force")  # with --json, whose output is one document
SHOWN = replace(QUIET, say=say, warn=say, made=show_made)


@contextmanager
def workers(
    cluster: str, n_workers: int | None, resources: dict[str, Any], as_json: bool, worker_bytes: int
) -> Iterator[Runner]:
    """Start workers, print how many there are, and yield what runs jobs on them."""
    from melzarr.pipeline.clusters.task_runner import connect

    with connect(cluster, n_workers, worker_bytes, say=beside_bar, **resources) as runner:
        at = runner.dashboard and f"; dashboard at {runner.dashboard}"
        say(f"{count(runner.n_workers, 'worker')}{at}", err=as_json)
        yield runner
