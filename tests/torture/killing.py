"""Run a command of melzarr, and end it right before its n-th change to the files below a folder.

    python tests/torture/killing.py FOLDER N SIGKILL features music s.zarr --workers 0

A change makes, opens for writing, renames, links or removes a file or a folder. Python tells of each before it happens
(PEP 578), so the signal falls between two of them, at the same place each time. The whole process group gets it, as
from a terminal. A command that comes to its end says how many changes it made.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from processes import PATIENCE, start

CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NEVER = 0


def changes(folder: str) -> Callable[[str, tuple[object, ...]], bool]:
    """Make the function that says whether an event of Python's is a change to what is below a folder."""

    def is_inside(name: object) -> bool:
        if not isinstance(name, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(name)).startswith(folder)  # noqa: PTH100  (asked for each file)

    def is_change(event: str, arguments: tuple[object, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            return isinstance(flags, int) and bool(flags & WRITES) and is_inside(path)
        return event in CHANGES and any(map(is_inside, arguments))

    return is_change


def main(folder: str, number: int, sent: signal.Signals, words: list[str]) -> None:
    """Run the command with the hook that ends it."""
    count, is_change = 0, changes(folder)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if is_change(event, arguments):
            count += 1
            if count == number:
                os.killpg(0, sent)

    sys.addaudithook(look)
    atexit.register(lambda: os.write(2, f"{count} changes\n".encode()))
    from melzarr.cli import main as command

    command(words)


def run(
    folder: Path, words: list[object], number: int = NEVER, sent: signal.Signals = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; `number` and `sent` say before which change it ends, and by what."""
    script = [sys.executable, __file__, str(folder), str(number), sent.name, *map(str, words)]
    with start(script, cwd=folder) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(script, process.returncode, out, err)


def n_changes(done: subprocess.CompletedProcess[str]) -> int:
    """How many changes a command made that came to its end."""
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.findall(r"(\d+) changes$", done.stderr, re.MULTILINE)[-1])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), signal.Signals[sys.argv[3]], sys.argv[4:])
