"""Open a run where it is: the folder of a training, or a shared one in a folder, a zip archive or an object store."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from melzarr.model.run_directory import MODEL, TRAINED, Run
from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.errors import RunError, StorageError, StoreError
from melzarr.pipeline.report import run_files
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.storage.remote_zip import RemoteZipDirectory
from melzarr.pipeline.storage.zip import ZipDirectory
from melzarr.pipeline.zarr_store.companion_files import CARD, CHECKSUMS, read_checksums

ZIP: Final = ".zip"  # ending of a shared run in one file
REQUIRED: Final = (run_files.CONFIG, run_files.METRICS, MODEL)  # without which a run is of no use
USED: Final = (*REQUIRED, run_files.HISTORY, TRAINED)


@contextmanager
def opened_run(where: str | Path | Directory, feedback: Feedback = SILENT) -> Iterator[Run]:
    """Provide a run within a `with` block.

    Parameters
    ----------
    where : str, Path or Directory
        A folder, a ``NAME.zip``, or an address of either in an object store or on a web server. What is not a folder on
        this machine is copied to a temporary one, and compared with its checksums.
    feedback : Feedback
        Shows that it is copied.

    Raises
    ------
    RunError
        If there is no shared run, or a file of it is damaged.
    """
    directory = files_of_run(where)
    if directory.folder is not None:
        yield Run(directory.folder)
        return
    with tempfile.TemporaryDirectory(prefix="melzarr-run-") as folder:
        with feedback.counting(None, f"copy {directory}"):
            _fetch(directory, Path(folder))
        yield Run(Path(folder), shared_as=str(directory))


def checksums_of_run(directory: Directory) -> dict[str, str]:
    """Return the SHA-256 of each file of a shared run, by name; nothing if the directory is not one."""
    try:
        listed = read_checksums(directory.read(CHECKSUMS))
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError, StoreError):
        return {}
    return listed if {CARD, *REQUIRED} <= listed.keys() else {}


def files_of_run(where: str | Path | Directory) -> Directory:
    """Return the directory of the files of a run, which is in an archive if its name ends in ``.zip``."""
    directory = open_directory(where)
    if not directory.name.endswith(ZIP) or isinstance(directory, ZipDirectory):
        return directory
    if directory.folder is None:
        return RemoteZipDirectory(directory.sibling(""), directory.name)
    return directory if directory.folder.is_dir() else ZipDirectory(directory.folder)


def _fetch(directory: Directory, folder: Path) -> None:
    """Copy what is used of a shared run, and compare it with its checksums."""
    try:
        listed = read_checksums(directory.read(CHECKSUMS))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{directory} is not a shared run, it has no {CHECKSUMS}; make one with: melzarr share RUN DEST"
        ) from error
    except ValueError as error:
        raise RunError(f"{directory}: {error}; copy or share the run again") from error
    if missing := [name for name in REQUIRED if name not in listed]:
        raise RunError(
            f"{directory} is not a shared run, {CHECKSUMS} lists no {missing[0]}; make one with: melzarr share RUN DEST"
        )
    for name in USED:
        if name in listed:
            data = directory.read(name)
            if hashlib.sha256(data).hexdigest() != listed[name]:
                raise RunError(f"{name} of {directory} is not the file that {CHECKSUMS} lists; copy or share it again")
            (folder / name).write_bytes(data)
