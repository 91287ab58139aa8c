"""Workers are forked from a server with one thread, which ends with its last user and imports nothing foreign."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from processes import command, start, wait_for

import melzarr
from melzarr.cli import main
from melzarr.pipeline import worker_processes as room
from melzarr.pipeline.clusters.task_runner import OnDask, connect
from melzarr.pipeline.features import kernel_cache
from melzarr.pipeline.worker_processes import SERVER_ENVIRONMENT, will_start_workers, worker_start_method

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")

KERNEL = "mel_power"


def servers(process: psutil.Process | None = None) -> list[psutil.Process]:
    """Forkservers of a process, by default of this one."""
    children = (process or psutil.Process()).children()
    return [child for child in children if any("multiprocessing.forkserver" in word for word in child.cmdline())]


def how_it_started(_: object) -> tuple[int, bool, int]:
    """Process that a worker is forked from, whether it has the kernel from there, and how often it was compiled."""
    times = kernel_cache._compile.cache_info()
    return os.getppid(), times.hits > 0, times.misses


def started(runner: OnDask, n_workers: int) -> list[tuple[int, bool, int]]:
    """How each worker has started, once all are there."""
    wait_for(lambda: len(runner.client.nthreads()) == n_workers)
    return list(runner.client.run(how_it_started, None).values())


def test_workers_are_copies_of_a_server_with_one_thread_that_has_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "2")  # as many have in their profile
    monkeypatch.setenv("MELZARR_TEST", "late")
    with worker_start_method() as method, connect("local", 2, 1 << 28) as runner:
        assert method == "forkserver"
        assert isinstance(runner, OnDask)
        (server,) = servers()
        assert started(runner, 2) == [(server.pid, True, 1)] * 2
        assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1
        assert set(runner.client.run(os.getenv, "MELZARR_TEST").values()) == {"late"}
        workers = server.children()
        runner.release()
        wait_for(lambda: not server.children())
    assert not any(process.is_running() for process in (server, *workers))


def fails(_: object) -> None:
    raise ZeroDivisionError


def test_nothing_is_left_after_an_error() -> None:
    family = []

    def jobs() -> Iterator[int]:
        wait_for(servers()[0].children)
        family.extend([servers()[0], *servers()[0].children()])
        yield 1

    with pytest.raises(ZeroDivisionError), connect("local", 1, 1 << 28) as runner:
        list(runner.run(fails, jobs()))
    assert len(family) == 2
    assert not any(process.is_running() for process in family)


def test_a_server_serves_all_and_leaves_no_trace() -> None:
    before, blocked = dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with worker_start_method():
        (server,) = servers()
        with worker_start_method() as method:
            assert method == "forkserver"
            assert servers() == [server]
        assert servers() == [server]
        assert SERVER_ENVIRONMENT.items() <= server.environ().items()
    assert not servers()
    assert dict(os.environ) == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


def test_no_server_is_started_if_no_worker_is_needed() -> None:
    with worker_start_method(needed=False) as method:
        assert method == "spawn"
        assert not servers()


@pytest.mark.parametrize(
    ("cluster", "workers", "is_there", "replace", "needed"),
    [
        ("local", None, False, False, True), ("local", 2, True, True, True), ("local", 2, True, False, False),
        ("local", 0, False, False, False), ("slurm", 2, False, False, False), (object(), None, False, True, False),
    ],
)  # fmt: skip
def test_a_build_starts_workers_here_unless_a_store_is_only_compared(
    tmp_path: Path, cluster: object, workers: int | None, is_there: bool, replace: bool, needed: bool
) -> None:
    target = tmp_path if is_there else tmp_path / "new.zarr"
    assert will_start_workers(cluster, workers, target, replace=replace) == needed
    assert will_start_workers(cluster, workers, None, replace=False) == (cluster == "local" and workers != 0)


def test_a_store_that_is_up_to_date_starts_no_server(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["features", str(music), str(tmp_path / "s.zarr"), "--n-windows", "20"]
    assert CliRunner().invoke(main, [*words, "--workers", "0"]).exit_code == 0
    monkeypatch.setattr(room, "_start_server", lambda: pytest.fail("it was started"))
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0, again.output
    assert "is finished and up to date" in again.output
    melzarr.build(music, tmp_path / "s.zarr", n_windows=20, progress=False)


OTHERS = """
import multiprocessing, os
from melzarr.pipeline.worker_processes import worker_start_method
if __name__ == "__main__":
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    with worker_start_method() as method:
        print(method)
    process.join()
    print(process.exitcode)
"""


def test_a_server_of_somebody_else_is_not_used_and_not_ended(tmp_path: Path) -> None:
    (tmp_path / "others.py").write_text(OTHERS)
    assert said(["others.py"], tmp_path) == ["spawn", "0"]


LIGHT = """
import sys
from melzarr.pipeline.clusters.task_runner import connect

def heavy(_):
    return sorted({"pandas", "pyarrow", "zarr"} & sys.modules.keys())

if __name__ == "__main__":
    with connect("local", 1, 1 << 28) as runner:
        print(*runner.run(heavy, [1]), "pandas" in sys.modules)
"""


def test_neither_workers_nor_the_client_import_what_only_others_need(tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text(LIGHT)
    assert said(["light.py"], tmp_path) == ["[]", "False"]


def test_a_folder_for_temporary_files_whose_path_is_too_long_for_a_socket_is_no_fault(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    code = "from melzarr.pipeline.worker_processes import worker_start_method as m\nwith m() as method: print(method)"
    assert said(["-c", code], tmp_path, TMPDIR=str(deep)) == ["spawn"]


def said(words: list[str], folder: Path, **environment: str) -> list[str]:
    """What a program says, without a word on stderr."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.split()


def test_the_server_imports_nothing_from_the_folder_in_which_it_runs(tmp_path: Path) -> None:
    for name in ("numpy", "distributed", "selectors", "melzarr"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')\n")
    code = (
        "import sys; sys.path.remove('')\n"
        "import multiprocessing, os\n"
        "from melzarr.pipeline.worker_processes import worker_start_method\n"
        "with worker_start_method():\n"
        "    process = multiprocessing.get_context('forkserver').Process(target=os.getpid)\n"
        "    process.start(); process.join()\n"
        "    print(process.exitcode)\n"
    )
    assert said(["-c", code], tmp_path) == ["0"]
    assert not (tmp_path / "imported").exists()


def test_ctrl_c_while_the_server_imports_shows_no_traceback_and_leaves_nothing(music: Path, tmp_path: Path) -> None:
    process = start(command("features", music, "s.zarr", "--workers", 2), tmp_path)
    client = psutil.Process(process.pid)
    wait_for(lambda: servers(client))
    time.sleep(0.2)
    (server,) = servers(client)
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in text
    assert "stopped; what was finished is kept" in text
    assert not server.is_running()


@pytest.mark.slow
def test_the_kernel_is_compiled_once_for_all_workers(music: Path, tmp_path: Path) -> None:
    settings = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1"}
    words = command("features", music, tmp_path / "s.zarr", "--workers", 2, "--tracks-per-shard", 1, "--n-windows", 9)
    done = subprocess.run(
        words, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if KERNEL in line]
    assert sum("data saved to" in line for line in lines) == 1
    assert not any("data loaded from" in line for line in lines)
