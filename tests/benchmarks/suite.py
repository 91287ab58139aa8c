"""What all benchmarks share: timing in turn, tables, and facts about the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import psutil

LIBRARIES = ("melzarr", "numpy", "numba", "librosa", "zarr", "xarray", "dask", "tensorflow", "torch", "annbatch")

json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Also write tables and goals as JSON."
)


def machine() -> dict[str, str]:
    """Return facts about this machine and the installed libraries, without which figures mean little."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": f"{os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "Python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    """Return the name of the processor, or "unknown"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@dataclass(frozen=True, slots=True)
class Table:
    """Some rows of figures; the first column is text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal of melzarr, and the result.

    Parameters
    ----------
    what : str
        What is measured.
    goal : str
        A sentence fragment, such as "at least 6".
    value : float
        The result.
    met : bool
        Whether the goal is met.
    bound : str
        What limits the result, if the goal is not met.
    """

    what: str
    goal: str
    value: float
    met: bool
    bound: str = ""


def at_least(what: str, bar: float, value: float, bound: str = "") -> Goal:
    """Make a goal that the value is at least `bar`."""
    return Goal(what, f"at least {bar:g}", value, value >= bar, bound)


def at_most(what: str, bar: float, value: float, bound: str = "") -> Goal:
    """Make a goal that the value is at most `bar`."""
    return Goal(what, f"at most {bar:g}", value, value <= bar, bound)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one benchmark."""

    name: str
    tables: Sequence[Table]
    goals: Sequence[Goal] = ()
    machine: Mapping[str, str] = field(default_factory=machine)

    def tell(self, out: Path | None) -> None:
        """Print as Markdown, and write as JSON if `out` is given."""
        print(f"{', '.join(f'{name} {value}' for name, value in self.machine.items())}\n")
        print("\n\n".join(map(markdown, self.tables)))
        if self.goals:
            print(f"\n{markdown(goal_table(self.goals))}")
        if out:
            out.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def markdown(table: Table) -> str:
    """Format a table as Markdown, with numbers on the right."""
    lines = [f"| {' | '.join([table.title, *table.columns])} |", f"|---|{'---:|' * len(table.columns)}"]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join([*lines, "", table.remark] if table.remark else lines)


def goal_table(goals: Sequence[Goal]) -> Table:
    """Make a table of goals and results."""
    rows = [(goal.what, goal.goal, f"{goal.value:.3g}", "" if goal.met else goal.bound or "not met") for goal in goals]
    return Table("measure", ("goal", "result", "limited by"), rows)


def medians(
    ways: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the median time of each function, in s.

    Each runs once per round, in turn, so that a slow moment affects all of them. The first round is a warm-up. With
    `time.process_time` as the clock, only the processor's time counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def relative(
    title: str, unit: str, values: Mapping[str, float], first: str, digits: int = 1, remark: str = ""
) -> Table:
    """Make a table of values, each also as a multiple of the value `first`."""
    rows = [(name, f"{value:,.{digits}f}", f"{value / values[first]:.2f}") for name, value in values.items()]
    return Table(title, (unit, f"relative to {first}"), rows, remark)
