"""End commands right before each of their changes to files, run them again, and compare with undisturbed ones.

    python tests/torture/sweep.py --minutes 60 --json sweep.json

A scene is a command and what goes on after it was ended. It is run once undisturbed, which says how many changes it
makes; then once for each of them, killed before it, or stopped there while other commands run, as a worker that comes
late or as the first of two commands at once. In the end the store must have the bytes that it has undisturbed, and
nothing may lie beside it. A store that was there before must in between be the old one or the new one.

Commands run in forks of this process, which has imported all that they need, so that a point takes half a second.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
from killing import changes
from processes import digests

from melzarr.cli import main as command
from melzarr.pipeline.builder import job_array, run_build  # noqa: F401  (once, and not in each fork)
from melzarr.pipeline.derive import append  # noqa: F401  (likewise)
from melzarr.pipeline.features.kernel_cache import compiled_kernel
from melzarr.pipeline.inspection import verify  # noqa: F401  (likewise)
from melzarr.pipeline.share import write_share  # noqa: F401  (likewise)
from melzarr.pipeline.sources import demo_music

SMALL = ("--n-windows", "4", "--tracks-per-shard", "2")
HERE = (*SMALL, "--workers", "0")
OTHER = (*SMALL, "--n-mels", "64")
PATIENCE = 120  # seconds that a command may take
STOPPED = 1000
LEFT = (".building", ".appended", ".trash", ".part")
Words = tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What is ended, and what comes before and after.

    Parameters
    ----------
    before : tuple of commands
        They make what it needs.
    struck : command
        The one that is ended.
    after : tuple of commands
        They come after it, each to its end; by default the same again.
    made : str
        The store.
    is_late : bool
        Whether it is stopped rather than killed, and goes on when the others have ended.
    last : tuple of commands
        They come when it has ended, where it was stopped.
    """

    before: tuple[Words, ...]
    struck: Words
    after: tuple[Words, ...] = ()
    made: str = "s.zarr"
    is_late: bool = False
    last: tuple[Words, ...] = ()


BUILD: Words = ("features", "music", "s.zarr", *HERE)
FORCE: Words = (*BUILD, "--force")
OLD: Words = ("features", "music", "s.zarr", *OTHER, "--workers", "0")
INIT: Words = ("job-array", "init", "music", "s.zarr", *SMALL)
PART: Words = ("job-array", "part", "1/1", "s.zarr", "--workers", "0")
FINISH: Words = ("job-array", "finish", "s.zarr")
INIT_OTHER: Words = ("job-array", "init", "music", "s.zarr", *OTHER)
YOUNG: Words = ("features", "young", "s.zarr", *HERE)
APPEND: Words = ("append", "s.zarr", "music", "--workers", "0")
HALVES: tuple[Words, ...] = (("features", "young", "a.zarr", *HERE), ("features", "late", "b.zarr", *HERE))
MERGE: Words = ("merge", "a.zarr", "b.zarr", "s.zarr")
WHOLE: Words = ("features", "music", "m.zarr", *HERE)
SCENES = {
    "fresh build": Scene((), BUILD),
    "build that replaces": Scene((OLD,), FORCE),
    "build that replaces, some shards kept": Scene((YOUNG,), FORCE),
    "build of another spec was killed": Scene((), OLD, (BUILD,)),
    "init": Scene((), INIT, (INIT, PART, FINISH)),
    "init over the work of another spec": Scene((INIT_OTHER, PART), INIT, (INIT, PART, FINISH)),
    "part": Scene((INIT,), PART, (PART, FINISH)),
    "finish": Scene((INIT, PART), FINISH),
    "append": Scene((YOUNG,), APPEND),
    "merge": Scene(HALVES, MERGE),
    "share": Scene((WHOLE,), ("share", "m.zarr", "s.zarr")),
    "share as an archive": Scene((WHOLE,), ("share", "m.zarr", "s.zarr.zip"), made="s.zarr.zip"),
    "share that replaces": Scene((WHOLE, ("share", "m.zarr", "s.zarr", "--label", "bells")),
                                 ("share", "m.zarr", "s.zarr", "--force")),
    # A late part can write the shard that it was at: the next command that looks at the store removes it.
    "part of an older plan goes on": Scene((INIT_OTHER,), PART, (INIT, PART, FINISH), is_late=True, last=(FINISH,)),
    "part of an older plan goes on before finish": Scene((INIT_OTHER,), PART, (INIT, PART), is_late=True,
                                                         last=(FINISH,)),
    "two builds at once": Scene((), BUILD, (BUILD,), is_late=True, last=(BUILD,)),
    "two appends at once": Scene((YOUNG,), APPEND, (APPEND,), is_late=True, last=(APPEND,)),
    "a build while an append runs": Scene((YOUNG,), APPEND, (FORCE,), is_late=True, last=(APPEND,)),
    "two shares at once": Scene((WHOLE,), ("share", "m.zarr", "s.zarr"), (("share", "m.zarr", "s.zarr"),), is_late=True,
                                last=(("share", "m.zarr", "s.zarr", "--force"),)),
}  # fmt: skip


def make_music(folder: Path) -> None:
    """Make six short tracks: as a whole, and as two halves of which one comes later in the alphabet."""
    for number in range(6):
        label = "bells" if number < 3 else "drums"
        for name in ("music", "young" if number < 4 else "late"):
            path = folder / name / label / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            demo_music.write_track(path, label, number, seed=0, sample_rate=22050, seconds=0.3)


def fork(folder: Path, words: Words, number: int = 0, sent: signal.Signals = signal.SIGKILL) -> int:
    """Begin a command in a fork of this process; return its process id."""
    pid = os.fork()
    if not pid:
        _run(folder, words, number, sent)
    return pid


def _run(folder: Path, words: Words, number: int, sent: signal.Signals) -> NoReturn:
    code = 1
    try:
        os.chdir(folder)
        said = os.open(folder.parent / "said", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        count, is_change = 0, changes(str(folder))

        def look(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if is_change(event, arguments):
                count += 1
                if count == number:
                    os.kill(os.getpid(), sent)

        sys.addaudithook(look)
        code = command(list(words), standalone_mode=False) or 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stdout.flush()
        (folder.parent / "count").write_text(str(count))
        os._exit(code)


def wait(pid: int, options: int = 0) -> int:
    """Wait for a process; return its exit code, minus the signal that ended it, or `STOPPED` and what stopped it."""
    deadline = time.monotonic() + PATIENCE
    while (found := os.waitpid(pid, options | os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise RuntimeError("a command took too long")
        time.sleep(0.005)
    status = found[1]
    return STOPPED + os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


def finished(folder: Path, words: Words) -> int:
    """Run a command to its end; return its exit code."""
    return wait(fork(folder, words))


def facts(folder: Path, made: str) -> dict[str, str]:
    """Digests of what was made."""
    path = folder / made
    return digests(path) if path.is_dir() else digests_of_file(path) if path.exists() else {}


def digests_of_file(path: Path) -> dict[str, str]:
    """Content of an archive, as the others have it."""
    return {path.name: path.read_bytes().hex()}


def template(scene: Scene, folder: Path, music: Path) -> None:
    """Make what a scene begins with."""
    shutil.copytree(music, folder)
    for words in scene.before:
        assert finished(folder, words) == 0, (folder.parent / "said").read_text()


def point(scene: Scene, start: Path, work: Path, number: int, done: dict[str, str], expected: dict[str, str]) -> str:
    """Run a scene, ended before one change; return what was wrong.

    `done` is what the struck command makes, `expected` what is there in the end.
    """
    shutil.rmtree(work, ignore_errors=True)
    folder = Path(shutil.copytree(start, work / "folder", symlinks=True))
    before = facts(folder, scene.made)
    pid = fork(folder, scene.struck, number, signal.SIGSTOP if scene.is_late else signal.SIGKILL)
    code = wait(pid, os.WUNTRACED)
    if not code:  # threads make a folder once or twice, so that the last changes are not there each time
        return "" if facts(folder, scene.made) == expected else "other bytes without a kill"
    if 0 < code < STOPPED:
        return f"it ended with {code} before it was to be ended"
    if (now := facts(folder, scene.made)) not in (before, done, expected, {}) or (before and not now):
        return "what was there is neither the old nor the new"
    is_done = not scene.is_late and {} != now == done != expected  # then the others come too late, and are refused
    codes = [finished(folder, words) for words in scene.after or (scene.struck,)]
    if scene.is_late:
        os.kill(pid, signal.SIGCONT)
        codes.append(wait(pid))
    last = [finished(folder, words) for words in scene.last]
    if is_done:
        finished(folder, scene.struck)  # what the kill has left goes with a command that is not refused
    # A share that is finished, with all that it leaves removed, is refused when it is made again.
    is_shared = scene.struck[0] == "share" and now == done
    allowed = {0, 1} if scene.is_late or is_shared else {1} if is_done else {0}
    left = [path.name for path in folder.iterdir() if path.name.endswith(LEFT)]
    wrong = {
        "exit codes": not set(codes) <= allowed or any(last),
        "other bytes": facts(folder, scene.made) != (done if is_done else expected),
        f"left: {left}": bool(left),
    }
    return f"{codes + last}: {', '.join(what for what, is_so in wrong.items() if is_so)}" if any(wrong.values()) else ""


def sweep(name: str, folder: Path, music: Path, mine: Callable[[int], bool], until: float) -> tuple[int, list[str]]:
    """Run all points of a scene that are this process's; return how many, and what was wrong."""
    scene, start = SCENES[name], folder / "start/folder"
    start.parent.mkdir(parents=True)
    template(scene, start, music)
    whole = folder / "whole/folder"
    shutil.copytree(start, whole)
    assert finished(whole, scene.struck) == 0, (whole.parent / "said").read_text()
    n_changes, done = int((whole.parent / "count").read_text()), facts(whole, scene.made)
    if scene.after:
        shutil.copytree(start, folder / "undisturbed/folder")
        whole = folder / "undisturbed/folder"
        for words in (*scene.after, *scene.last):
            assert finished(whole, words) in {0, 1}
    expected = facts(whole, scene.made)
    assert expected
    assert finished(whole, ("verify", scene.made)) == 0
    n_points, faults = 0, []
    for number in range(1, n_changes + 1):
        if not mine(number) or time.monotonic() > until:
            continue
        n_points += 1
        if fault := point(scene, start, folder / "work", number, done, expected):
            faults.append(f"{name}, before change {number} of {n_changes}: {fault}")
    return n_points, faults


@click.command()
@click.option("--minutes", default=60.0, help="Time, after which no further point is begun.")
@click.option("--jobs", default=os.cpu_count() or 1, help="Processes side by side.")
@click.option("--scene", "chosen", multiple=True, type=click.Choice(list(SCENES)), help="These alone.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Where figures and faults go.")
def main(minutes: float, jobs: int, chosen: tuple[str, ...], report: Path | None) -> None:
    """Sweep all scenes."""
    until = time.monotonic() + 60 * minutes
    compiled_kernel()
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        root = Path(name)
        make_music(root / "music")
        children = []
        for job in range(jobs):
            if not (pid := os.fork()):
                _job(root, job, jobs, chosen or tuple(SCENES), until)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        found = [json.loads((root / f"{job}.json").read_text()) for job in range(jobs) if not codes[job]]
    points: Counter[str] = Counter()
    for part in found:
        points.update(part["points"])
    faults = [fault for part in found for fault in part["faults"]]
    for scene, count in points.items():
        click.echo(f"{count:6d}  {scene}")
    click.echo(f"{sum(points.values()):6d}  points in all; faults: {len(faults)}")
    for fault in faults:
        click.echo(f"  {fault}")
    if report:
        report.write_text(json.dumps({"points": points, "faults": faults}, indent=2))
    sys.exit(bool(faults) or any(codes))


def _job(root: Path, job: int, jobs: int, chosen: tuple[str, ...], until: float) -> NoReturn:
    code = 1
    try:
        points, faults = {}, []
        for number, scene in enumerate(chosen):
            folder = root / f"job-{job}/{number}"
            points[scene], found = sweep(scene, folder, root / "music", lambda n: n % jobs == job, until)
            faults += found
            for fault in found:
                click.echo(f"job {job}: {fault}", err=True)
            click.echo(f"job {job}: {scene}: {points[scene]} points, {len(found)} faults", err=True)
            shutil.rmtree(folder)
        (root / f"{job}.json").write_text(json.dumps({"points": points, "faults": faults}))
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
