"""Compare the versions of melzarr's features and of libraries on all workers with those of this process."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import distributed

from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.versions import differing, versions

IMPORT = "import melzarr.pipeline.builder.worker"
NAMED = 3  # workers that an error names; the others are counted


def require_same_versions(client: distributed.Client) -> None:
    """Raise a BuildError if a worker or the scheduler has other versions than this process.

    Parameters
    ----------
    client : distributed.Client
        Client of the scheduler.

    Raises
    ------
    BuildError
        If a worker, or the scheduler, lacks a library or has another version of one.
    """
    require_on_scheduler(client)
    # First without melzarr: if a worker cannot unpickle a function, the type of the error is lost.
    found = client.run(exec, IMPORT, on_error="return")
    if able := [address for address, error in found.items() if error is None]:
        found |= client.run(versions, workers=able, on_error="return")
    if wrong := differences(found, versions()):
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise BuildError(f"{'; '.join(wrong[:NAMED])}{more}. Install the same versions everywhere")


def require_on_scheduler(client: distributed.Client) -> None:
    """Raise a BuildError if the scheduler lacks melzarr or its libraries, which it imports to unpickle tasks."""
    try:
        client.run_on_scheduler(exec, IMPORT)
    except ImportError as error:
        where, version = client.scheduler_info()["address"], importlib.metadata.version("melzarr")
        raise BuildError(
            f"the scheduler at {where} has no {error.name}; it needs what the workers need: install melzarr=={version} "
            f"there, and start it again"
        ) from error


def differences(found: Mapping[str, Any], expected: Mapping[str, str]) -> list[str]:
    """Describe the versions in which workers differ from the expected ones.

    Parameters
    ----------
    found : mapping of str to (dict or Exception)
        Versions of each worker by its address, or the exception raised by the query.
    expected : mapping of str to str
        The correct versions.

    Returns
    -------
    list of str
        One clause per worker that differs.
    """
    wrong = []
    for address, there in sorted(found.items()):
        if isinstance(there, importlib.metadata.PackageNotFoundError | ImportError):
            wrong.append(f"the worker {address} has no {there.name}")
        elif isinstance(there, BaseException):
            wrong.append(f"the worker {address} cannot report its versions ({type(there).__name__}: {there})")
        elif there != expected:
            names = differing(there, expected)
            listed = ", ".join(f"{name} {there.get(name)}, here {expected.get(name)}" for name in names)
            wrong.append(f"the worker {address} has {listed}")
    return wrong
