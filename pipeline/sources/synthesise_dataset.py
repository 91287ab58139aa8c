"""Synthesise the audio of a dataset, in several processes."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import re
import signal
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from melzarr.pipeline.dask_imports import CPU_COUNT
from melzarr.pipeline.errors import FetchError
from melzarr.pipeline.main_guard import require_main_guard
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.dataset_folder import MARKER, Fetched, alone, bar, read_marker, write_marker, writing
from melzarr.pipeline.sources.dataset_recipe import Recipe, Synthesis
from melzarr.pipeline.storage.digests import digest_of


def synthesise_tracks(recipe: Recipe, source: Synthesis, n_tracks: int, workers: int) -> Fetched:
    """Make missing tracks; remove surplus tracks and tracks that were made with other parameters."""
    wanted = {
        recipe.audio / label / f"{label}.{number:05d}.wav": (label, number)
        for label in recipe.labels
        for number in range(n_tracks)
    }
    parameters = {"seed": source.seed, "sample_rate": source.sample_rate, "seconds": source.seconds}
    made = {**parameters, "version": demo_music.VERSION}
    made_with, present = read_marker(recipe.audio), _synthesised(recipe)
    if present and not made_with:
        raise FetchError(
            f"{recipe.audio} contains files such as {min(present).name} but not {MARKER}, so melzarr did not make "
            f"them and does not change them; move them away and run again"
        )
    kept = present & wanted.keys() if made_with == made else set()
    missing = [path for path in wanted if path not in kept]
    if present == kept and not missing:
        return Fetched(recipe.audio, len(wanted), made=False)
    with writing(recipe.folder), alone(recipe):
        for path in present - kept:
            path.unlink(missing_ok=True)
        for label in recipe.labels:
            (recipe.audio / label).mkdir(parents=True, exist_ok=True)
        write_marker(recipe.audio, made)
        _write_tracks([(path, *wanted[path]) for path in missing], parameters, workers)
        unlike = ""
        if (
            source.sha256
            and n_tracks == recipe.tracks_per_label
            and (sha256 := _digest(recipe.audio, wanted)) != source.sha256
        ):
            unlike = (
                f"; their bytes differ from those of the recipe (sha256 {sha256}, not {source.sha256}), so digests "
                f"and figures differ from those of other users"
            )
    removed = f", removed {len(present - kept)}" if present - kept else ""
    return Fetched(recipe.audio, len(wanted), made=True, note=f"made {len(missing)} tracks{removed}{unlike}")


def _digest(audio: Path, tracks: Iterable[Path]) -> str:
    """Return the digest of the output of ``sha256sum */*.wav`` in an audio folder with only these tracks."""
    paths = sorted(tracks)
    with ThreadPoolExecutor(CPU_COUNT) as pool:
        lines = (
            f"{sha256}  {path.relative_to(audio).as_posix()}\n"
            for path, sha256 in zip(paths, pool.map(lambda path: digest_of(path, hashlib.sha256), paths), strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _synthesised(recipe: Recipe) -> set[Path]:
    """Return files named as synthesised tracks, or as unfinished ones: `write_track` leaves no others incomplete."""
    return {
        path
        for label in recipe.labels
        for path in (recipe.audio / label).glob("*")
        if re.fullmatch(rf"{re.escape(label)}\.\d{{5}}\.wav(\.part)?", path.name)
    }


def _write_tracks(jobs: list[tuple[Path, str, int]], parameters: dict[str, Any], workers: int) -> None:
    """Write tracks in parallel; each is whole or absent, so that the next run continues where this one stops."""
    write = functools.partial(demo_music.write_track, **parameters)
    progress = functools.partial(bar, total=len(jobs), desc="synthesising", unit="track")
    if workers == 0 or not jobs:
        with threadpool_limits(1):
            for job in progress(jobs):
                write(*job)
        return
    require_main_guard()
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    ) as pool:
        try:
            for future in progress(as_completed([pool.submit(write, *job) for job in jobs])):
                future.result()
        except BrokenProcessPool as error:
            raise FetchError(
                "a process that made tracks was killed; run again with fewer workers to continue"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Limit a worker to one thread, and leave Ctrl-C to the main process, which lets workers finish their tracks."""
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
