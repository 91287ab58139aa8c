"""How many jobs a batch system is asked for, and what becomes of those that never work."""

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
LOOK = 10.0  # seconds between looks at the queue
LONGEST_PAUSE = 600.0  # seconds between attempts, where jobs are refused or end before they work
ROUNDS = 3  # of jobs that all ended before they worked, after which there is no hope
SAY = 60.0  # seconds at least between two lines about the queue
NOBODY = "No unfinished job"  # what LSF says, as an error, where there is no job


class Scaler(Adaptive):
    """Has one worker for each shard that is not done, up to a number, and finds the jobs that became no worker.

    Dask's own rule counts how much work there is in seconds, and so never asks for more than a few workers for shards
    that take less than one. A job that ends before its worker has reached the scheduler is unknown to Dask, which
    waits for it for ever; here it is missed in the queue.

    Parameters
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        The jobs.
    listing : tuple of str
        Command that lists the user's jobs, as in `jobqueue.System`.
    title : str
        How a person calls the batch system.
    logs : Path
        Folder of the jobs' logs.
    say : callable
        Told what a person who waits would like to know.
    **options
        How many workers there are at the least and at the most, as Dask has it.
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
        self.jobs = cluster  # of a class that has no types
        self.listing, self.title, self.logs, self.say = listing, title, logs, say
        self.hopeless = ""  # why there is no use in waiting
        self._worked: set[str] = set()  # jobs that have become workers
        self._rounds = 0  # of jobs that were refused or ended, since a worker came
        self._look_at = self._pause_until = self._said_at = 0.0
        self._queue, self._said = "", ""
        super().__init__(cluster, interval="1s", **options)

    async def target(self) -> int:
        """Count the shards that are not done."""
        return sum(task.state in UNFINISHED for task in self.jobs.scheduler.tasks.values())

    async def scale_up(self, n: Any) -> None:
        """Ask for jobs, and hear what the batch system says to that."""
        self.jobs.scale(n)
        await self.jobs

    async def adapt(self) -> None:
        """Look after the jobs that there are, then ask for more or give some back."""
        now = time.monotonic()
        self._welcome()
        if now >= self._look_at:
            self._look_at = now + LOOK
            await self._miss()
        if now < self._pause_until:
            return
        try:
            await super().adapt()
        except Exception as error:  # noqa: BLE001  (whatever it is, a person has to read it)
            self._refused(error)

    def watch(self) -> None:
        """Say what is waited for; called while no shard ends.

        Raises
        ------
        BuildError
            Where jobs are refused, or end again and again before they work.
        """
        if self.hopeless:
            raise BuildError(self.hopeless)
        now = time.monotonic()
        if self._queue and self._queue != self._said and not self.observed and now >= self._said_at + SAY:
            self._said, self._said_at = self._queue, now
            self.say(self._queue)

    def _welcome(self) -> None:
        """Remember which jobs have become workers."""
        jobs = self.jobs.workers
        came = {jobs[name].job_id for name in self._names()} - self._worked
        if came:
            self._worked |= came
            self._rounds = 0

    def _names(self) -> set[str]:
        """Jobs whose workers are there; those of a job that has several are called like it, with a number."""
        observed = {str(name) for name in self.observed}
        return (observed | {name.rpartition("-")[0] for name in observed}) & set(self.jobs.workers)

    async def _miss(self) -> None:
        """Find the jobs that are no longer in the queue and have never worked, and forget them: others take over."""
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
        self._welcome()  # those that came while the queue was read
        gone = {name: job for name, job in gone.items() if job.job_id not in self._worked}
        for name, job in gone.items():
            self._forget(name, job)
        if gone:
            last = max((job.job_id for job in gone.values()), key=int)
            self._round(
                f"{len(gone)} jobs of {self.title} ended before they became workers, {ROUNDS} times in a row. "
                f"{self._log(last)}. Mend that (python, network interface and the like are set in Dask's "
                f"configuration, jobqueue), then run the same command again"
            )

    async def _listed(self) -> dict[str, str] | None:
        """Jobs in the queue by their numbers, with what else is said of them; None where nobody can say."""
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
        """Take back what was asked for in vain; give up where there is nothing else to hope for."""
        for name, job in list(self.jobs.workers.items()):
            if job.job_id is None:
                self._forget(name, job)
                self.jobs.worker_spec.pop(name, None)
        sentence = f"{self.title} refuses a job: {words(error)}"
        if self.jobs.workers:
            self.say(f"{sentence}; going on with {len(self.jobs.workers)} jobs")
        elif not self._worked:
            self._rounds = ROUNDS
        self._round(f"{sentence}. Mend that in Dask's configuration (jobqueue), then run the same command again")

    def _round(self, sentence: str) -> None:
        """Count an attempt that failed, and wait before the next, longer each time."""
        self._rounds += 1
        self._pause_until = time.monotonic() + min(LOOK * 2**self._rounds, LONGEST_PAUSE)
        if self._rounds >= ROUNDS and not self._names() and not self.hopeless:
            self.hopeless = sentence

    def _log(self, number: str) -> str:
        """Say where the log of a job is, and how it ends."""
        for path in sorted(self.logs.glob(f"*{number}*")):
            if lines := path.read_text(errors="replace").strip().splitlines()[-2:]:
                return f"The log of {number} is {path} and ends: {' / '.join(line.strip() for line in lines)[-500:]}"
        return f"Job {number} has left no log in {self.logs}: its machine may not have that folder"


def listed(text: str) -> dict[str, str]:
    """Read a listing of jobs.

    Parameters
    ----------
    text : str
        Lines that begin with a job's number; others are passed over.

    Returns
    -------
    dict of str to str
        By number, the rest of the line.
    """
    found = (re.match(r"\s*(\d+)\S*\s*(.*)", line) for line in text.splitlines())
    return {match[1]: match[2].strip() for match in found if match}


def words(error: Exception) -> str:
    """Return what a command has said that failed, without what dask_jobqueue says around it."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not there; run this on a machine from which jobs are submitted"
    _, _, said = str(error).partition("stderr:\n")
    return " ".join((said or str(error)).split()) or type(error).__name__
