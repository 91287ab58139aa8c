"""A folder for the caches of libraries, for a user who has no home that can be written to, as in a container."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def has_home() -> bool:
    """Return whether this user has a home folder that can be written to."""
    try:
        return os.access(Path.home(), os.W_OK | os.X_OK)
    except RuntimeError:  # HOME is unset, and the system does not know the user
        return False


@functools.cache
def private_cache() -> Path:
    """Return a temporary folder that only this user can use; it is kept for the user's next process.

    A cache can contain code that is executed. If another user has made a folder of that name, or can write to it, this
    process uses a new one.
    """
    folder = Path(tempfile.gettempdir(), f"melzarr-cache-{os.geteuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077:
        return folder
    made = tempfile.mkdtemp(prefix="melzarr-cache-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)
