"""The code of this process brought to the workers that have none, and its versions compared on all of them."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import distributed
from distributed.diagnostics.plugin import SchedulerUploadFile, UploadFile

from pipeline.errors import BuildError
from pipeline.versions import versions

PACKAGES = ("pipeline", "model")
NAMED = 3  # workers that are named before the rest is only counted
EPOCH = (1980, 1, 1, 0, 0, 0)  # what a zip archive can say of time at the least: the same code is the same archive

# Dask sends a module's source to every worker that is there or comes later, and imports it. This one holds an archive,
# and unpacks it where there is no melzarr yet: into files, since a store's versions are digests of source files. The
# processes that a worker starts find it by PYTHONPATH.
UNPACK = '''\
"""melzarr {version}, unpacked where it is not installed."""

import base64, importlib, importlib.util, io, os, pathlib, sys, zipfile

ARCHIVE = "{archive}"

if importlib.util.find_spec("pipeline") is None:
    folder = pathlib.Path(__file__).resolve().with_suffix("")
    zipfile.ZipFile(io.BytesIO(base64.b64decode(ARCHIVE))).extractall(folder)
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))
    importlib.invalidate_caches()
'''


def archive() -> bytes:
    """Zip the source of this melzarr's packages, with the metadata that says its version.

    Returns
    -------
    bytes
        The archive; the same files make the same bytes.

    Raises
    ------
    BuildError
        Where there is no source to be found, as in an application that was frozen.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in sorted(_sources()):
            packed.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
        names = set(packed.namelist())
    if missing := {f"{package}/__init__.py" for package in PACKAGES} - names:
        raise BuildError(
            f"there is no source of melzarr to send to the workers ({', '.join(sorted(missing))} is missing); install "
            f"melzarr as a wheel, here or on the workers"
        )
    return made.getvalue()


def _sources() -> Iterator[tuple[str, bytes]]:
    """All files of the packages, wherever they are installed, and the metadata, by their names in the archive."""
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        for root in map(Path, (found and found.submodule_search_locations) or ()):
            for path in root.rglob("*"):
                inside = path.relative_to(root)
                if path.is_file() and "__pycache__" not in inside.parts:
                    yield f"{package}/{inside.as_posix()}", path.read_bytes()
    melzarr = importlib.metadata.distribution("melzarr")
    yield f"melzarr-{melzarr.version}.dist-info/METADATA", (melzarr.read_text("METADATA") or "").encode()


def module() -> tuple[str, str]:
    """Write the module that unpacks this melzarr.

    Returns
    -------
    name : str
        Its name, which says what is in it.
    source : str
        Its source.
    """
    packed = archive()
    name = f"melzarr_{hashlib.sha256(packed).hexdigest()[:12]}"
    text = UNPACK.format(version=importlib.metadata.version("melzarr"), archive=base64.b64encode(packed).decode())
    return name, text


def ship(client: distributed.Client) -> None:
    """Bring this melzarr to the scheduler and to all its workers, also those to come, where they have none.

    Parameters
    ----------
    client : distributed.Client
        Client of the scheduler.

    Raises
    ------
    BuildError
        Where it cannot be brought.
    """
    name, source = module()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.py"
        path.write_text(source)
        scheduler, worker = SchedulerUploadFile(str(path)), UploadFile(str(path))
    try:
        # By the same name every time, so that a scheduler that sees many builds has it once.
        client.register_plugin(scheduler, name=f"{name}-scheduler")
        client.register_plugin(worker, name=name)
    except Exception as error:
        raise BuildError(
            f"melzarr cannot be sent to the workers ({type(error).__name__}: {error}); install it there"
        ) from error


def require_same_versions(client: distributed.Client) -> None:
    """Compare what computes on every worker with what is here.

    Parameters
    ----------
    client : distributed.Client
        Client of the scheduler.

    Raises
    ------
    BuildError
        Where a worker, or the scheduler, lacks a library or has another version of one.
    """
    where = client.scheduler_info()["address"]
    try:
        client.run_on_scheduler(exec, "import pipeline.worker")  # it reads what it passes on
    except ImportError as error:
        raise BuildError(
            f"the scheduler at {where} has no {error.name}; it needs what melzarr needs: "
            f"pip install melzarr there, and start it again"
        ) from error
    if wrong := differences(client.run(versions, on_error="return"), versions()):
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise BuildError(
            f"{'; '.join(wrong[:NAMED])}{more}. Install the same everywhere; what an earlier build "
            f"has sent to a worker goes when it is started again"
        )


def differences(found: Mapping[str, Any], expected: Mapping[str, str]) -> list[str]:
    """Say of each worker in which versions it differs.

    Parameters
    ----------
    found : mapping of str to (dict or Exception)
        By the worker's address, its versions, or what came of asking for them.
    expected : mapping of str to str
        Versions that are right.

    Returns
    -------
    list of str
        A clause for each worker that is not right.
    """
    wrong = []
    for address, there in sorted(found.items()):
        if isinstance(there, importlib.metadata.PackageNotFoundError | ImportError):
            wrong.append(f"the worker {address} has no {there.name}")
        elif isinstance(there, BaseException):
            wrong.append(f"the worker {address} cannot say its versions ({type(there).__name__}: {there})")
        elif there != expected:
            names = sorted(name for name in there.keys() | expected.keys() if there.get(name) != expected.get(name))
            listed = ", ".join(f"{name} {there.get(name)}, here {expected.get(name)}" for name in names)
            wrong.append(f"the worker {address} has {listed}")
    return wrong
