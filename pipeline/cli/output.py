"""What a command prints: lines, JSON, and the next command."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from melzarr.pipeline.cli.options import (
    DEFAULT_DATASETS,
)
from melzarr.pipeline.untrusted_text import printable


def as_text(facts: Any) -> str:
    """Write JSON as every reader takes it: what is not a number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(facts), indent=2)


def next_step(*words: object, datasets: Path | None = None) -> None:
    """Print a command that can be run as it stands."""
    elsewhere = ["--datasets", str(datasets)] if datasets not in {None, DEFAULT_DATASETS} else []
    click.echo(f"next: {shlex.join(['melzarr', *map(str, words), *elsewhere])}")


def show(lines: Iterable[str]) -> None:
    """Print lines, with what would steer a terminal written out: stores and files by others name themselves."""
    for line in lines:
        click.echo(printable(line))


def count(n: int, what: str) -> str:
    """Say how many there are, such as "2 shards"."""
    return f"{n} {what}{'' if n == 1 else 's'}"
