"""What jobs of a batch system are asked for, and how its listings are read. A real one is in test_slurm."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import dask
import pytest
from dask.utils import parse_bytes, parse_timedelta

from melzarr.pipeline.cli.options import read_walltime
from melzarr.pipeline.clusters.batch_systems import (
    SYSTEMS,
    _cluster_class,
    _folder,
    as_walltime,
    job_settings,
    lifetime,
    seconds_of,
)
from melzarr.pipeline.clusters.cluster import NANNY_BYTES, Resources
from melzarr.pipeline.clusters.job_scaling import Scaler, listed, words
from melzarr.pipeline.clusters.task_runner import connect
from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.worker_processes import ENVIRONMENT

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'melzarr[cluster]'")

NEED = 500 << 20  # bytes of a worker


def settings(system: str = "slurm", request: Resources | None = None, **configured: Any) -> dict[str, Any]:
    """Settings of jobs over what dask_jobqueue has preset."""
    _cluster_class(system)  # which brings the presets
    preset = dask.config.get(f"jobqueue.{system}")
    return job_settings(system, request or Resources(NEED), {**preset, **configured}, Path("/logs"))


def script(name: str, made: dict[str, Any]) -> str:
    """The job's script, as dask_jobqueue writes it."""
    kept = {key: value for key, value in made.items() if key not in {"scheduler_options", "shared_temp_directory"}}
    return str(_cluster_class(name).job_cls("tls://client:1", name="n", **kept).job_script())


def last(made: dict[str, Any], option: str) -> str:
    """The value of a worker's option that counts, which is the last one."""
    arguments = made["worker_extra_args"]
    return str(arguments[len(arguments) - arguments[::-1].index(option)])


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_job_is_one_thread_with_the_memory_of_a_shard(name: str, tmp_path: Path) -> None:
    made = {**settings(name), "log_directory": str(tmp_path)}
    text = script(name, made)
    assert "--nthreads 1 " in text
    assert "--death-timeout 60" in text
    assert "--no-dashboard" in text
    assert parse_bytes(last(made, "--memory-limit")) == NEED
    assert parse_bytes(made["memory"]) == NEED + NANNY_BYTES
    exported = dict(line.removeprefix("export ").split("=") for line in text.splitlines() if line.startswith("export"))
    assert exported == {"PYTHONSAFEPATH": "1", **ENVIRONMENT}


def test_a_slurm_script_asks_for_what_options_say(tmp_path: Path) -> None:
    made = settings(request=Resources(NEED, memory=4 << 30, walltime=5400), **{"log-directory": str(tmp_path)})
    text = script("slurm", made)
    for line in ("-J melzarr", "--cpus-per-task=1", "--mem=4G", "-t 01:30:00", f"-e {tmp_path}/melzarr-%J.err"):
        assert f"#SBATCH {line}\n" in text
    assert f" {sys.executable} " in f" {text.replace(chr(10), ' ')}"


def test_the_configuration_goes_before_presets_and_options_before_both() -> None:
    configured: dict[str, Any] = {
        "memory": "3GiB",
        "walltime": "02:00:00",
        "log-directory": "/mine",
        "shared-temp-directory": "/shared",
        "job-script-prologue": ["module load python", "export OMP_NUM_THREADS=2"],
        "worker-extra-args": ["--lifetime", "5m"],
        "scheduler-options": {"dashboard_address": ":9999"},
        "name": "music",
    }
    made = settings(**configured)
    assert parse_bytes(made["memory"]) == 3 << 30
    assert (made["log_directory"], made["shared_temp_directory"]) == ("/mine", "/shared")
    assert made["job_script_prologue"][-2:] == configured["job-script-prologue"]
    assert last(made, "--lifetime") == "5m"
    assert made["scheduler_options"] == {"dashboard": False, **configured["scheduler-options"]}
    assert not made.keys() & {"walltime", "job_name", "death_timeout", "interface"}, "dask_jobqueue reads them itself"
    made = settings(request=Resources(NEED, memory=5 << 30, walltime=600), **configured)
    assert parse_bytes(made["memory"]) == 5 << 30
    assert made["walltime"] == "00:10:00"


def test_a_whole_node_has_one_worker_a_core() -> None:
    made = settings(cores=24)
    assert (made["cores"], made["processes"]) == (24, 24)
    assert parse_bytes(made["memory"]) == 24 * (NEED + NANNY_BYTES)
    assert parse_bytes(last(made, "--memory-limit")) == NEED


def test_a_job_that_is_too_small_is_a_sentence() -> None:
    with pytest.raises(CallError, match=r"a job of 0\.10 GB is too small.*--memory 630MB"):
        settings(request=Resources(NEED, memory=10**8))


@pytest.mark.parametrize("walltime", [60, 600, 1800, 3600, 86400])
def test_the_last_worker_ends_before_its_job(walltime: int) -> None:
    _, least, _, stagger = lifetime(walltime)
    ends = [parse_timedelta(least) + sign * parse_timedelta(stagger) for sign in (-1, 1)]
    assert walltime / 2 < ends[0] < ends[1] < walltime


@pytest.mark.parametrize(
    ("name", "walltime", "seconds"),
    [
        ("slurm", "00:30:00", 1800),
        ("slurm", "1-12:00:00", 129600),
        ("slurm", "2-06", 194400),
        ("slurm", "90:30", 5430),
        ("slurm", "90", 5400),
        ("slurm", "UNLIMITED", None),
        ("slurm", None, None),
        ("pbs", "90", 90),
        ("pbs", "48:00:00", 172800),
        ("sge", "10:00", 600),
        ("lsf", "01:30", 5400),
        ("lsf", "90", 5400),
    ],
)
def test_a_walltime_is_read_as_its_system_reads_it(name: str, walltime: str | None, seconds: float | None) -> None:
    assert seconds_of(walltime, name) == seconds


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("seconds", [60, 3600, 5400, 90000])
def test_a_walltime_is_written_as_it_is_read(name: str, seconds: float) -> None:
    assert seconds_of(as_walltime(seconds, name), name) == seconds


@pytest.mark.parametrize(("text", "seconds"), [("01:30:00", 5400), ("1-00:00:01", 86401), ("90m", 5400), ("2h", 7200)])
def test_the_option_takes_clocks_and_units(text: str, seconds: float) -> None:
    assert read_walltime(SimpleNamespace(), SimpleNamespace(), text) == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["90", "abc", "1:2:3", "00:00:00", "-5m", ""])
def test_a_time_that_is_none_or_could_mean_two_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time; give one such as 01:30:00 or 90m"):
        read_walltime(SimpleNamespace(), SimpleNamespace(), text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("17 PENDING Priority\n18 RUNNING None\n", {"17": "PENDING Priority", "18": "RUNNING None"}),
        ("101.server.example\n102.server.example\n", {"101": "", "102": ""}),
        ("job-ID  prior name\n-----------\n    7 0.55 melzarr me qw\n", {"7": "0.55 melzarr me qw"}),
        ("", {}),
    ],
    ids=["slurm", "pbs", "sge", "nothing"],
)
def test_listings_are_read_by_the_number_that_a_line_begins_with(text: str, found: dict[str, str]) -> None:
    assert listed(text) == found


def test_of_a_command_that_failed_its_own_words_are_kept() -> None:
    said = "Command exited with non-zero exit code.\nExit code: 1\nCommand:\nqsub x\nstdout:\n\nstderr:\nno\nqueue\n\n"
    assert words(RuntimeError(said)) == "no queue"
    assert words(FileNotFoundError(2, "No such file", "qsub")).startswith("qsub was not found")


def test_importing_the_library_leaves_ctrl_c_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    _cluster_class("slurm")
    assert signal.getsignal(signal.SIGINT) is before


def fail(folder: Path, log: str) -> None:
    if log:
        (folder / log).touch()
    raise BuildError("lost")


def test_logs_are_for_their_owner_and_kept_where_something_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with _folder("slurm") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "log").touch()
    assert not folder.exists()
    for log in ("log", ""):
        with pytest.raises(BuildError, match="lost"), _folder("slurm") as folder:
            fail(folder, log)
        assert folder.exists() == bool(log)
        shutil.rmtree(folder, ignore_errors=True)


def test_without_the_programs_of_a_batch_system_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="PBS refuses a job: qsub was not found"), connect("pbs", 1, NEED) as runner:
        list(runner.run(os.getenv, ["HOME"]))
    assert not list((tmp_path / "melzarr").iterdir()), "neither keys nor logs are left"


def test_keys_are_for_their_owner_and_for_the_time_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with connect("pbs", 1, NEED):
        (folder,) = (tmp_path / "melzarr").iterdir()
        keys = list(folder.iterdir())
        assert {key.suffixes[-2] for key in keys} == {".ca_file", ".cert", ".key"}
        assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert not folder.exists()


def test_no_worker_is_asked_for_where_none_is_wanted() -> None:
    with pytest.raises(CallError, match="--workers 0 computes in this process"), connect("slurm", 0, NEED):
        pass


class Queue:
    """Two jobs as dask_jobqueue holds them, and a batch system's queue."""

    def __init__(self) -> None:
        self.text = "11 PENDING Priority\n12 RUNNING None\n"
        self.scheduler = SimpleNamespace(tasks={n: SimpleNamespace(state="no-worker") for n in range(5)})
        self.workers = {name: self.job(name) for name in ("11", "12")}
        self.worker_spec = dict.fromkeys(self.workers)
        self.observed: set[str] = set()
        self.loop = SimpleNamespace(add_callback=lambda *_: None)

    def job(self, number: str | None) -> Any:
        async def call(_: object) -> str:
            return self.text

        return SimpleNamespace(job_id=number, status=None, _call=call)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def scaler(queue: Queue, said: list[str], tmp_path: Path) -> Iterator[Scaler]:
    made = Scaler(queue, maximum=2, listing=("true",), title="Slurm", logs=tmp_path, say=said.append)
    yield made
    made.state = "stopped"  # it never ran


def test_as_many_workers_are_wanted_as_shards_are_not_done(queue: Queue, scaler: Scaler) -> None:
    queue.scheduler.tasks[0].state = "memory"
    queue.scheduler.tasks[1].state = "processing"
    assert asyncio.run(scaler.target()) == 4


def test_a_job_that_left_the_queue_before_it_worked_is_forgotten_so_that_another_comes(
    queue: Queue, scaler: Scaler
) -> None:
    queue.text = "12 RUNNING None\n"
    asyncio.run(scaler._miss())
    assert set(queue.workers) == {"12"}
    assert set(queue.worker_spec) == {"11", "12"}, "it is still wanted"


def test_a_job_that_has_worked_is_left_to_dask(queue: Queue, scaler: Scaler) -> None:
    queue.observed = {"11", "12-0"}  # one that has several workers too
    scaler._welcome()
    queue.observed, queue.text = set(), ""
    asyncio.run(scaler._miss())
    assert set(queue.workers) == {"11", "12"}


def test_a_queue_that_cannot_be_read_proves_nothing(queue: Queue, scaler: Scaler) -> None:
    async def call(_: object) -> str:
        raise RuntimeError("slurm_load_jobs error: Unable to contact slurm controller")

    for job in queue.workers.values():
        job._call = call
    asyncio.run(scaler._miss())
    assert set(queue.workers) == {"11", "12"}


def test_jobs_that_end_before_they_work_are_hopeless_only_when_nothing_works(
    queue: Queue, scaler: Scaler, tmp_path: Path
) -> None:
    (tmp_path / "melzarr-12.err").write_text("first\nno such python\n")
    for number in range(3):
        assert scaler.hopeless == ""
        queue.workers = {"11": queue.job("12")}
        queue.text = ""
        queue.observed = {"77"} if number == 0 else set()
        asyncio.run(scaler._miss())
    assert "1 jobs of Slurm ended before they became workers, 3 times in a row" in scaler.hopeless
    assert f"{tmp_path}/melzarr-12.err and ends: first / no such python" in scaler.hopeless
    with pytest.raises(BuildError, match="3 times in a row"):
        scaler.watch()


def test_a_worker_that_comes_gives_hope_again(queue: Queue, scaler: Scaler) -> None:
    for _ in range(2):
        scaler._round("lost")
    queue.observed = {"11"}
    scaler._welcome()
    scaler._round("lost")
    assert scaler.hopeless == ""


def test_where_some_jobs_are_refused_the_build_goes_on_with_the_others(
    queue: Queue, scaler: Scaler, said: list[str]
) -> None:
    queue.workers["13"] = queue.job(None)
    queue.worker_spec["13"] = None
    scaler._refused(RuntimeError("stderr:\nsbatch: error: QOSMaxSubmitJobPerUserLimit"))
    assert said == ["Slurm refuses a job: sbatch: error: QOSMaxSubmitJobPerUserLimit; continuing with 2 jobs"]
    assert set(queue.workers) == set(queue.worker_spec) == {"11", "12"}
    assert scaler.hopeless == ""


def test_a_line_about_the_queue_is_said_once(scaler: Scaler, said: list[str]) -> None:
    asyncio.run(scaler._miss())
    for _ in range(3):
        scaler.watch()
    assert said == ["waiting for Slurm: 2 jobs without a worker yet (PENDING Priority)"]
