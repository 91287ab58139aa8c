"""Jobs of a batch system (Slurm, PBS, SGE, LSF) as the place where a build runs, each job a single-threaded worker."""

from __future__ import annotations

import contextlib
import getpass
import importlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import distributed
from dask.utils import parse_bytes

from melzarr.pipeline.clusters.cluster import (
    ENVIRONMENT,
    NANNY_BYTES,
    SILENT,
    Cluster,
    Resources,
    http_settings,
    need,
    orderly_end,
    quiet,
    security,
)
from melzarr.pipeline.clusters.job_scaling import Scaler
from melzarr.pipeline.errors import CallError

WORKERS = 10  # jobs at the most where nobody has said how many
HOST = "127.0.0.1"  # where the dashboard is seen: on this machine alone, since it lets whoever reaches it in
DASHBOARD = f"{HOST}:0"
MARGIN = 120  # seconds before its walltime in which a worker has ended at the latest, a fifth of it where that is less
STAGGER = 300  # seconds over which the ends of workers are spread, to either side; a tenth where that is less


USER = "USER"  # stands for the user's name, which only those have to have who use such a system


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """A batch system.

    Parameters
    ----------
    title : str
        How a person calls it.
    cluster : str
        Its class in dask_jobqueue.
    listing : tuple of str
        Command that lists the user's jobs, queued and running: a line each, which begins with the job's number.
    short : tuple of (tuple of int, tuple of int), in s
        What the numbers of a walltime with one colon stand for, and those of one with none.
    """

    title: str
    cluster: str
    listing: tuple[str, ...]
    short: tuple[tuple[int, ...], tuple[int, ...]] = ((60, 1), (1,))


SYSTEMS = {
    "slurm": System(
        title="Slurm",
        cluster="SLURMCluster",
        listing=("squeue", "--me", "--noheader", "--format=%i %T %r"),
        short=((60, 1), (60,)),
    ),
    "pbs": System(title="PBS", cluster="PBSCluster", listing=("qselect", "-u", USER)),
    "sge": System(title="SGE", cluster="SGECluster", listing=("qstat", "-u", USER)),
    "lsf": System(
        title="LSF", cluster="LSFCluster", listing=("bjobs", "-noheader", "-o", "jobid"), short=((3600, 60), (60,))
    ),
}


@contextmanager
def batch(name: str, wish: Resources) -> Iterator[Cluster]:
    """Have jobs of a batch system come and go with the work; all are cancelled at the end, however it comes.

    What Dask's configuration says of them (``jobqueue.slurm`` and so on) goes before what is preset here, and options
    go before both. Client, scheduler and workers speak TLS, with certificates that are made for this build unless the
    configuration names some: on the network of a cluster others could else have the workers run their code.
    """
    if wish.workers == 0:
        raise CallError(f"--workers 0 computes in this process; leave out --cluster {name}, or give it workers")
    system = SYSTEMS[name]
    cluster_class = _cluster_class(name)
    n_workers = WORKERS if wish.workers is None else wish.workers
    # How often a shard may lose its worker stays as Dask has it, three times: jobs are preempted by the dozen, and only
    # what ends workers again and again is worth the minutes that its tracks take one by one.
    with _folder(name) as folder, quiet(), orderly_end(on_sigterm=True) as held:
        settings = job_settings(name, wish, dask.config.get(f"jobqueue.{name}"), folder)
        if settings["scheduler_options"]["dashboard_address"] == DASHBOARD:
            held.enter_context(dask.config.set({"distributed.dashboard.link": f"http://{HOST}:{{port}}/status"}))
        held.enter_context(dask.config.set(http_settings(dashboard=wish.dashboard)))
        cluster = cluster_class(**settings, security=security(), silence_logs=SILENT)
        held.callback(_remove_keys, cluster)
        held.enter_context(cluster)
        client = held.enter_context(distributed.Client(cluster, set_as_default=False))
        logs = Path(settings["log_directory"])
        listing = tuple(getpass.getuser() if word == USER else word for word in system.listing)
        watched = {"listing": listing, "title": system.title, "logs": logs, "say": wish.say}
        scaler = cluster.adapt(Adaptive=Scaler, minimum=0, maximum=n_workers, **watched)
        wish.say(f"at most {n_workers} workers in jobs of {system.title}, of which logs are in {logs}")
        yield Cluster(client, n_workers, scaler.watch)


def _cluster_class(name: str) -> Any:
    """Import a batch system's class, but not what its module makes of Ctrl-C: an end at once, with exit code 0."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        return getattr(importlib.import_module("dask_jobqueue"), SYSTEMS[name].cluster)
    except ImportError as error:
        raise need("cluster", f"--cluster {name}", error) from error
    finally:
        signal.signal(signal.SIGINT, ctrl_c)


def job_settings(name: str, wish: Resources, configured: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Say what jobs are asked for.

    Parameters
    ----------
    name : str
        The batch system.
    wish : Resources
        What the build needs, and what options say.
    configured : mapping
        The batch system's section of Dask's configuration.
    folder : Path
        Where logs and certificates go, if nothing else is configured.

    Returns
    -------
    dict
        Arguments of the cluster's class.

    Raises
    ------
    CallError
        Where a job is too small for a shard.
    """
    cores = configured.get("cores") or 1
    processes = configured.get("processes") or cores
    least = processes * (cores // processes * wish.worker_bytes + NANNY_BYTES)
    memory = wish.memory or (parse_bytes(configured["memory"]) if configured.get("memory") else least)
    if memory < least:
        raise CallError(
            f"a job of {memory / 1e9:.2f} GB is too small: one shard of this spec needs {least / 1e9:.2f} GB; use "
            f"--memory {-(-least // 1_000_000)}MB, or a smaller --tracks-per-shard"
        )
    settings: dict[str, Any] = {
        "cores": cores,
        "processes": processes,
        "memory": f"{memory}B",
        "worker_extra_args": ["--no-dashboard", "--memory-limit", f"{memory // processes - NANNY_BYTES}B"],
        "job_script_prologue": [
            "export PYTHONSAFEPATH=1",  # the folder that a job happens to run in is no place to import from
            *(f"export {variable}={value}" for variable, value in ENVIRONMENT.items()),
            *(configured.get("job-script-prologue") or ()),
        ],
        "log_directory": configured.get("log-directory") or str(folder),
        "shared_temp_directory": configured.get("shared-temp-directory") or str(folder),
        "scheduler_options": {
            "dashboard": wish.dashboard,
            "dashboard_address": DASHBOARD,
            **(configured.get("scheduler-options") or {}),
        },
    }
    if configured.get("name") in {None, "dask-worker"}:  # which is preset
        settings["job_name"] = "melzarr"
    if wish.walltime:
        settings["walltime"] = as_walltime(wish.walltime, name)
    if seconds := seconds_of(settings.get("walltime") or configured.get("walltime"), name):
        settings["worker_extra_args"] += lifetime(seconds)
    settings["worker_extra_args"] += configured.get("worker-extra-args") or []  # the last of an option counts
    return settings


def lifetime(walltime: float) -> list[str]:
    """Have a worker end by itself, its shard done, before its job is ended; not all workers at the same time.

    Parameters
    ----------
    walltime : float, in s
        Time that its job has.
    """
    stagger = min(STAGGER, walltime / 10)
    least = walltime - min(MARGIN, walltime / 5) - stagger
    return ["--lifetime", f"{least:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]


def as_walltime(seconds: float, name: str) -> str:
    """Write a time as a batch system reads it, such as "01:30:00"."""
    minutes, rest = divmod(round(seconds), 60)
    if name == "lsf":  # which knows no seconds
        minutes, rest = minutes + (rest > 0), 0
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}" if name == "lsf" else f"{hours:02d}:{minutes:02d}:{rest:02d}"


def seconds_of(walltime: object, name: str) -> float | None:
    """Read a walltime as a batch system does; None where it is not a time, such as "UNLIMITED".

    Examples
    --------
    >>> seconds_of("1-12:00:00", "slurm"), seconds_of("90", "slurm"), seconds_of("01:30", "lsf")
    (129600, 5400, 5400)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(walltime))
    if not found:
        return None
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    units: tuple[int, ...] = (3600, 60, 1)
    if days is None and len(numbers) < len(units):
        units = SYSTEMS[name].short[2 - len(numbers)]
    return 86400 * int(days or 0) + sum(number * unit for number, unit in zip(numbers, units, strict=False))


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """Make a folder for what jobs say, in the user's home, which the machines of a cluster share; kept if it failed."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    folder = state / "melzarr" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing is in it
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _remove_keys(cluster: Any) -> None:
    """Remove the certificates that were written for workers; dask_jobqueue leaves it to Python's end, which may not."""
    for name, file in vars(cluster).items():
        if name.startswith("_job_") and hasattr(file, "close"):
            file.close()
