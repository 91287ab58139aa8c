"""Compare the versions of melzarr and its libraries on all workers with those here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import distributed

from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.versions import versions

IMPORT = "import melzarr.pipeline.builder.worker"
NAMED = 3  # workers that are named before the rest is only counted


def require_same_versions(client: distributed.Client) -> None:
    """Compare what computes on every worker with what is here.

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
    # First without melzarr: what a worker cannot unpickle comes back without its type.
    found = client.run(exec, IMPORT, on_error="return")
    if able := [address for address, error in found.items() if error is None]:
        found |= client.run(versions, workers=able, on_error="return")
    if wrong := differences(found, versions()):
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise BuildError(f"{'; '.join(wrong[:NAMED])}{more}. Install the same everywhere")


def require_on_scheduler(client: distributed.Client) -> None:
    """Raise a BuildError if the scheduler lacks melzarr or a library of it: it unpickles tasks, and so imports them."""
    try:
        client.run_on_scheduler(exec, IMPORT)
    except ImportError as error:
        where, version = client.scheduler_info()["address"], importlib.metadata.version("melzarr")
        raise BuildError(
            f"the scheduler at {where} has no {error.name}; it needs what the workers need: install melzarr=={version} "
            f"there, and start it again"
        ) from error


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
