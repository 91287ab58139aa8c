"""Choose the number of jobs of a batch system, and detect jobs that never become workers."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed.core import Status
from distributed.deploy.adaptive import Adaptive

from melzarr.pipeline.errors import BuildError

UNFINISHED = {"queued", "no-worker", "processing", "waiting"}
LOOK = 10.0  # seconds between queries of the queue
LONGEST_PAUSE = 600.0  # maximum seconds between attempts, if jobs are refused or end before they work
ROUNDS = 3  # rounds of jobs that all ended before they worked, after which the build gives up
SAY = 60.0  # minimum seconds between two messages about the queue
NOBODY = "No unfinished job"  # error message of LSF if there is no job


class Scaler(Adaptive):
    """Request one worker per unfinished shard, up to a maximum, and detect jobs that never became workers.

    Dask's own rule measures work in seconds, so it requests only a few workers for shards that take less than a second.
    Dask does not notice a job that ends before its worker has connected to the scheduler, and waits for it forever;
    this class notices that the job is missing from the queue.

    Parameters
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        Cluster of the jobs.
    listing : tuple of str
        Command that lists the user's jobs, as in `batch_systems.System`.
    title : str
        Name of the batch system in messages.
    logs : Path
        Folder of the jobs' logs.
    say : callable
        Called with a message for the user who waits.
    **options
        Minimum and maximum number of workers, as in Dask's `Adaptive`.
    """

    def __init__(
        self,
        cluster: Any,
        *,
        listing: tuple[str, ...],
        title: str,
        logs: Path,
        say: Callable[[str], None],
        **options: Any,
    ) -> None:
        self.jobs = cluster  # its class has no type annotations
        self.listing, self.title, self.logs, self.say = listing, title, logs, say
        self.hopeless = ""  # why waiting is useless, if it is
        self._worked: set[str] = set()  # jobs that have become workers
        self._rounds = 0  # rounds of jobs that were refused or ended, since the last new worker
        self._look_at = self._pause_until = self._said_at = 0.0
        self._queue, self._said = "", ""
        super().__init__(cluster, interval="1s", **options)

    async def target(self) -> int:
        """Return the number of unfinished shards."""
        return sum(task.state in UNFINISHED for task in self.jobs.scheduler.tasks.values())

    async def scale_up(self, n: Any) -> None:
        """Request jobs, and wait for the answer of the batch system."""
        self.jobs.scale(n)
        await self.jobs

    async def adapt(self) -> None:
        """Check the existing jobs, then request more or give some back."""
        now = time.monotonic()
        self._welcome()
        if now >= self._look_at:
            self._look_at = now + LOOK
            await self._miss()
        if now < self._pause_until:
            return
        try:
            await super().adapt()
        except Exception as error:  # noqa: BLE001  (the user has to read any error)
            self._refused(error)

    def watch(self) -> None:
        """Report what the build waits for; called while no shard ends.

        Raises
        ------
        BuildError
            If jobs are refused, or repeatedly end before they work.
        """
        if self.hopeless:
            raise BuildError(self.hopeless)
        now = time.monotonic()
        if self._queue and self._queue != self._said and not self.observed and now >= self._said_at + SAY:
            self._said, self._said_at = self._queue, now
            self.say(self._queue)

    def _welcome(self) -> None:
        """Record which jobs have become workers."""
        jobs = self.jobs.workers
        came = {jobs[name].job_id for name in self._names()} - self._worked
        if came:
            self._worked |= came
            self._rounds = 0

    def _names(self) -> set[str]:
        """Return the jobs whose workers are connected; if a job has several, they have its name and a number."""
        observed = {str(name) for name in self.observed}
        return (observed | {name.rpartition("-")[0] for name in observed}) & set(self.jobs.workers)

    async def _miss(self) -> None:
        """Find jobs that left the queue and never worked, and forget them, so that new jobs replace them."""
        asked = {name: job for name, job in self.jobs.workers.items() if job.job_id}
        waiting = [job.job_id for job in asked.values() if job.job_id not in self._worked]
        self._queue = ""
        if not waiting or (queue := await self._listed()) is None:
            return
        remark = next((queue[number] for number in waiting if queue.get(number)), "")
        here = sum(number in queue for number in waiting)
        if here:
            self._queue = f"waiting for {self.title}: {here} jobs without a worker yet{remark and f' ({remark})'}"
        gone = {name: job for name, job in asked.items() if job.job_id in set(waiting) - queue.keys()}
        self._welcome()  # workers that connected while the queue was read
        gone = {name: job for name, job in gone.items() if job.job_id not in self._worked}
        for name, job in gone.items():
            self._forget(name, job)
        if gone:
            last = max((job.job_id for job in gone.values()), key=int)
            self._round(
                f"{len(gone)} jobs of {self.title} ended before they became workers, {ROUNDS} times in a row. "
                f"{self._log(last)}. Fix the cause (the Python interpreter, the network interface and similar settings "
                f"are in Dask's configuration, jobqueue), then run the same command again"
            )

    async def _listed(self) -> dict[str, str] | None:
        """Return the jobs in the queue by number, with the rest of their lines; None if they cannot be listed."""
        job = next(iter(self.jobs.workers.values()), None)
        if job is None or not shutil.which(self.listing[0]):
            return None
        try:
            return listed(await job._call(list(self.listing)))  # noqa: SLF001  (as dask_jobqueue calls sbatch)
        except (RuntimeError, OSError) as error:
            return {} if NOBODY in str(error) else None

    def _forget(self, name: str, job: Any) -> None:
        self.jobs.workers.pop(name, None)
        job.status = Status.closed

    def _refused(self, error: Exception) -> None:
        """Forget the jobs that were not accepted; give up if there are no others and none ever worked."""
        for name, job in list(self.jobs.workers.items()):
            if job.job_id is None:
                self._forget(name, job)
                self.jobs.worker_spec.pop(name, None)
        sentence = f"{self.title} refuses a job: {words(error)}"
        if self.jobs.workers:
            self.say(f"{sentence}; continuing with {len(self.jobs.workers)} jobs")
        elif not self._worked:
            self._rounds = ROUNDS
        self._round(f"{sentence}. Fix this in Dask's configuration (jobqueue), then run the same command again")

    def _round(self, sentence: str) -> None:
        """Count a failed attempt, and wait before the next, longer each time."""
        self._rounds += 1
        self._pause_until = time.monotonic() + min(LOOK * 2**self._rounds, LONGEST_PAUSE)
        if self._rounds >= ROUNDS and not self._names() and not self.hopeless:
            self.hopeless = sentence

    def _log(self, number: str) -> str:
        """Return a sentence with the path of a job's log and its last lines."""
        for path in sorted(self.logs.glob(f"*{number}*")):
            if lines := path.read_text(errors="replace").strip().splitlines()[-2:]:
                return f"The log of {number} is {path} and ends: {' / '.join(line.strip() for line in lines)[-500:]}"
        return f"Job {number} has left no log in {self.logs}: its machine may not have that folder"


def listed(text: str) -> dict[str, str]:
    """Parse a listing of jobs.

    Parameters
    ----------
    text : str
        Lines that begin with the number of a job; other lines are ignored.

    Returns
    -------
    dict of str to str
        The rest of each line, by job number.
    """
    found = (re.match(r"\s*(\d+)\S*\s*(.*)", line) for line in text.splitlines())
    return {match[1]: match[2].strip() for match in found if match}


def words(error: Exception) -> str:
    """Return the error output of a failed command, without the text that dask_jobqueue adds."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} was not found; run this on a machine that can submit jobs"
    _, _, said = str(error).partition("stderr:\n")
    return " ".join((said or str(error)).split()) or type(error).__name__
