"""Commands, schedulers and workers as processes of their own, also in environments that lack melzarr."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 120  # seconds
OURS = ("melzarr", "_editable", "__editable__", "__pycache__")


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def digests(store: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, such as a store."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def command(*words: object) -> list[str]:
    """Write a command of melzarr, as this environment has it."""
    return [str(Path(sys.executable).with_name("melzarr")), *map(str, words)]


def start(words: Sequence[str], cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start a command in a session of its own, as a terminal does, so that all that it starts can be signalled."""
    return subprocess.Popen(
        list(words), cwd=cwd, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def environment_without(folder: Path, *names: str) -> Path:
    """Make an environment that has all that this one has, but not melzarr, nor the packages named.

    Returns the path of its Python.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    here = Path(sysconfig.get_path("purelib"))
    there = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for entry in here.iterdir():
        if not entry.name.startswith((*OURS, *names)) and entry.suffix != ".pth":
            (there / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


class Processes:
    """A scheduler and workers, ended with the block; what they say goes to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, list[subprocess.Popen[bytes]]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process in a folder where there is nothing to import."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with (self.folder / "log").open("ab") as log:
            self.started.append(
                subprocess.Popen(
                    list(command), cwd=elsewhere, env={**inherited, **(environment or {})}, stdout=log, stderr=log
                )
            )

    def scheduler(self, python: Path | str = sys.executable, **environment: str) -> None:
        """Start the scheduler."""
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self.start([str(python), "-m", "distributed.cli.dask_scheduler", *words], environment)

    def worker(self, python: Path | str = sys.executable, **environment: str) -> None:
        """Start a worker of one thread."""
        words = ["--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
        self.start([str(python), "-m", "distributed.cli.dask_worker", self.address, *words], environment)

    def said(self) -> str:
        """What they have said."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")
