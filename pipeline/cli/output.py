"""Print the output of a command: lines, JSON, and the next command."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from melzarr.pipeline.cli.options import DEFAULT_DATASETS
from melzarr.pipeline.untrusted_text import printable


def as_text(facts: Any) -> str:
    """Return standard JSON: NaN and infinity become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(facts), indent=2)


def next_step(*words: object, datasets: Path | None = None) -> None:
    """Print the next command, ready to run."""
    elsewhere = ["--datasets", str(datasets)] if datasets not in {None, DEFAULT_DATASETS} else []
    click.echo(f"next: {shlex.join(['melzarr', *map(str, words), *elsewhere])}")


def show(lines: Iterable[str]) -> None:
    """Print lines with control characters escaped, because the names of stores and files are not trusted."""
    for line in lines:
        click.echo(printable(line))
