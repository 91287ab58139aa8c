"""Run a build in jobs of a batch system (Slurm, PBS, SGE, LSF), by default one single-threaded worker per job."""

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
from melzarr.pipeline.defaults import MAX_JOBS
from melzarr.pipeline.errors import CallError
from melzarr.pipeline.worker_processes import ENVIRONMENT

HOST = "127.0.0.1"  # the dashboard is served on this machine only: it admits anyone who can connect
DASHBOARD = f"{HOST}:0"
MARGIN = 120  # seconds between the latest end of a worker and its walltime; a fifth of the walltime if that is less
STAGGER = 300  # seconds to either side over which workers' ends are spread; a tenth of the walltime if that is less


USER = "USER"  # placeholder for the user's name, which is looked up only for the systems that need it


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """A batch system.

    Parameters
    ----------
    title : str
        Name of the system in messages.
    cluster : str
        Name of its class in dask_jobqueue.
    listing : tuple of str
        Command that lists the user's jobs, queued and running. Each line begins with the number of a job.
    short : tuple of (tuple of int, tuple of int), in s
        Units of the numbers of a walltime with one colon, and of a walltime without a colon.
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
def batch(name: str, request: Resources) -> Iterator[Cluster]:
    """Run workers in jobs of a batch system, as many as there is work for; all jobs are cancelled on exit.

    Dask's configuration (``jobqueue.slurm`` and so on) overrides the presets here, and options override both. Client,
    scheduler and workers use TLS, with certificates that are made for this build unless the configuration names some:
    without TLS, other users of a cluster's network could run their code on the workers.
    """
    if request.workers == 0:
        raise CallError(f"--workers 0 computes in this process; leave out --cluster {name}, or request workers")
    system = SYSTEMS[name]
    cluster_class = _cluster_class(name)
    n_workers = MAX_JOBS if request.workers is None else request.workers
    # A shard may lose its worker three times, which is Dask's default: jobs are preempted by the dozen, and only a
    # shard that ends workers repeatedly is worth the minutes that its tracks take one by one.
    with _folder(name) as folder, quiet(), orderly_end(on_sigterm=True) as held:
        settings = job_settings(name, request, dask.config.get(f"jobqueue.{name}"), folder)
        if settings["scheduler_options"]["dashboard_address"] == DASHBOARD:
            held.enter_context(dask.config.set({"distributed.dashboard.link": f"http://{HOST}:{{port}}/status"}))
        held.enter_context(dask.config.set(http_settings(dashboard=request.dashboard)))
        cluster = cluster_class(**settings, security=security(), silence_logs=SILENT)
        held.callback(_remove_keys, cluster)
        held.enter_context(cluster)
        client = held.enter_context(distributed.Client(cluster, set_as_default=False))
        logs = Path(settings["log_directory"])
        listing = tuple(getpass.getuser() if word == USER else word for word in system.listing)
        watched = {"listing": listing, "title": system.title, "logs": logs, "say": request.say}
        scaler = cluster.adapt(Adaptive=Scaler, minimum=0, maximum=n_workers, **watched)
        request.say(f"at most {n_workers} workers in jobs of {system.title}, whose logs are in {logs}")
        yield Cluster(client, n_workers, scaler.watch)


def _cluster_class(name: str) -> Any:
    """Import a batch system's class, and undo its module's handler of Ctrl-C, which exits at once with code 0."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        return getattr(importlib.import_module("dask_jobqueue"), SYSTEMS[name].cluster)
    except ImportError as error:
        raise need("cluster", f"--cluster {name}", error) from error
    finally:
        signal.signal(signal.SIGINT, ctrl_c)


def job_settings(name: str, request: Resources, configured: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arguments of a batch system's cluster class, which describe the jobs.

    Parameters
    ----------
    name : str
        The batch system.
    request : Resources
        What the build needs, and the user's options.
    configured : mapping
        The batch system's section of Dask's configuration.
    folder : Path
        Folder for logs and certificates, if nothing else is configured.

    Returns
    -------
    dict
        Keyword arguments of the class in dask_jobqueue.

    Raises
    ------
    CallError
        If a job has too little memory for a shard.
    """
    cores = configured.get("cores") or 1
    processes = configured.get("processes") or cores
    least = processes * (cores // processes * request.worker_bytes + NANNY_BYTES)
    memory = request.memory or (parse_bytes(configured["memory"]) if configured.get("memory") else least)
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
            "export PYTHONSAFEPATH=1",  # do not import from the folder in which a job happens to run
            *(f"export {variable}={value}" for variable, value in ENVIRONMENT.items()),
            *(configured.get("job-script-prologue") or ()),
        ],
        "log_directory": configured.get("log-directory") or str(folder),
        "shared_temp_directory": configured.get("shared-temp-directory") or str(folder),
        "scheduler_options": {
            "dashboard": request.dashboard,
            "dashboard_address": DASHBOARD,
            **(configured.get("scheduler-options") or {}),
        },
    }
    if configured.get("name") in {None, "dask-worker"}:  # dask_jobqueue's preset
        settings["job_name"] = "melzarr"
    if request.walltime:
        settings["walltime"] = as_walltime(request.walltime, name)
    if seconds := seconds_of(settings.get("walltime") or configured.get("walltime"), name):
        settings["worker_extra_args"] += lifetime(seconds)
    settings["worker_extra_args"] += configured.get("worker-extra-args") or []  # the last value of an option wins
    return settings


def lifetime(walltime: float) -> list[str]:
    """Return options with which a worker finishes its shard and ends before its job; workers end at different times.

    Parameters
    ----------
    walltime : float, in s
        Walltime of the worker's job.
    """
    stagger = min(STAGGER, walltime / 10)
    least = walltime - min(MARGIN, walltime / 5) - stagger
    return ["--lifetime", f"{least:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]


def as_walltime(seconds: float, name: str) -> str:
    """Format a time as a batch system expects it, such as "01:30:00"."""
    minutes, rest = divmod(round(seconds), 60)
    if name == "lsf":  # LSF has no seconds
        minutes, rest = minutes + (rest > 0), 0
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}" if name == "lsf" else f"{hours:02d}:{minutes:02d}:{rest:02d}"


def seconds_of(walltime: object, name: str) -> float | None:
    """Parse a walltime, in s, as a batch system does; return None if it is not a time, such as "UNLIMITED".

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
    """Make a folder for logs in the user's home, which the machines of a cluster share; keep it after a failure."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    folder = state / "melzarr" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if it is empty
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _remove_keys(cluster: Any) -> None:
    """Remove the certificates written for workers; dask_jobqueue leaves this to Python's exit, which may not do it."""
    for name, file in vars(cluster).items():
        if name.startswith("_job_") and hasattr(file, "close"):
            file.close()
