"""The audio folder of a dataset: what it was made from, and who may write to it."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from melzarr.pipeline.errors import FetchError
from melzarr.pipeline.sources.dataset_recipe import Recipe
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.lock_holder import read_fields

bar = functools.partial(tqdm, disable=None)  # on stderr, and only if that is a terminal
MARKER = ".made.json"  # records what the audio folder was made from; hidden, so that no catalog lists it


@dataclass(frozen=True, slots=True)
class Fetched:
    """Result of `fetch`.

    Parameters
    ----------
    audio : Path
        Folder that holds the audio, as ``label/file``.
    n_tracks : int
        Number of tracks in it.
    made : bool
        Whether anything was done; false if all audio was there already.
    note : str
        A remark for the user, such as how the tracks differ from the recipe; may be empty.
    """

    audio: Path
    n_tracks: int
    made: bool
    note: str = ""


def read_marker(audio: Path) -> dict[str, Any]:
    """Read what an audio folder was made from; empty if that is not recorded."""
    try:
        return read_fields((audio / MARKER).read_bytes())
    except OSError:
        return {}


def write_marker(audio: Path, made_with: dict[str, Any]) -> None:
    """Record what an audio folder was made from."""
    write_whole(audio / MARKER, json.dumps(made_with).encode())


@contextlib.contextmanager
def alone(recipe: Recipe) -> Iterator[None]:
    """Raise a FetchError if another process is fetching the dataset; else lock it."""
    try:
        with FileLock(recipe.folder / ".fetch.lock", timeout=0):
            yield
    except Timeout as error:
        raise FetchError(f"{recipe.folder} is being fetched by another process; wait until it ends") from error


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Re-raise errors of the file system with a readable message."""
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{error.filename or folder}: {error.strerror or error}; make room, or make {folder} writable, and run "
            f"again: what was finished is kept"
        ) from error
