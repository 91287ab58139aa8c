"""A lock in an object store: a file that whoever holds it rewrites, so that it can be seen to live."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from melzarr.pipeline.errors import BuildError, StorageError
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory, Version

BEAT = 5.0  # seconds from one writing to the next
SILENCE = 20.0  # seconds without one, after which the holder is dead: three may fail

logger = logging.getLogger(__name__)


class Lease:
    """A lock that is held as long as its file is as it was last written.

    Parameters
    ----------
    directory : ObjectStoreDirectory
        Where the file lies.
    name : str
        Its name.
    what : str
        What is held, for errors.

    Notes
    -----
    No clock is compared with another one: who wants a lock that another has watches whether it changes. Each writing
    is on the condition that the file is as it was, so of two who take a dead one's lock one succeeds. A service that
    knows of no conditions gives no lock.
    """

    def __init__(self, directory: ObjectStoreDirectory, name: str, what: str) -> None:
        self.directory, self.name, self.what = directory, name, what
        self._token, self._beats = secrets.token_hex(8), 0
        self._version: Version | None = None
        self._over, self._writing, self._lost = threading.Event(), threading.Lock(), ""
        self._heard = (0.0, 0.0)  # when it was last written, by two clocks: one stands still while a machine sleeps

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for the length of a block.

        Raises
        ------
        BuildError
            Where somebody else holds it.
        """
        self._over, self._lost = threading.Event(), ""
        self._take()
        beating = threading.Thread(target=self._beat, name="melzarr-lease", daemon=True)
        beating.start()
        try:
            yield
        finally:
            self._over.set()
            beating.join()
            with suppress(StorageError):  # it then goes by itself, for it is not written any more
                self._write()  # or who was asleep would remove the lock of who has taken over
                if not self._lost:
                    self.directory.remove([self.name])

    def require(self) -> None:
        """See that the lock is still held.

        Raises
        ------
        BuildError
            Where another has taken it, since this process did not write for so long.
        """
        self._write()
        if self._lost:
            raise BuildError(self._lost)

    def require_lately(self) -> None:
        """See the same, but ask the server only where it was not written for two beats."""
        now = time.monotonic(), time.time()
        if self._lost or max(after - before for after, before in zip(now, self._heard, strict=True)) > 2 * BEAT:
            self.require()

    def _take(self) -> None:
        try:
            self._exchange(None)
        except FileExistsError:
            self._take_over()

    def _exchange(self, version: Version | None) -> None:
        """Write the file where it is as it was, and remember when."""
        self._version = self.directory.exchange(self.name, self._content(), version)
        self._heard = time.monotonic(), time.time()

    def _take_over(self) -> None:
        """Wait whether the holder lives, and take its place where it does not."""
        data, version = self._look()
        logger.warning("%s was being built by %s; waiting %.0f s whether it still is", self.what, _who(data), SILENCE)
        end = time.monotonic() + SILENCE
        while time.monotonic() < end:
            time.sleep(1)
            if self._look()[1] != version:
                raise BuildError(f"{self.what} is being built by {_who(data)}; wait for it, or end it and run again")
        try:
            self._exchange(version)
        except FileExistsError as error:
            raise BuildError(f"{self.what} is being built by somebody else since just now; wait for it") from error

    def _look(self) -> tuple[bytes, Version | None]:
        try:
            return self.directory.version_of(self.name)
        except FileNotFoundError:
            return b"", None

    def _content(self) -> bytes:
        self._beats += 1  # the version of a file is often the digest of what it holds
        who = {"pid": os.getpid(), "host": socket.gethostname(), "token": self._token, "beat": self._beats}
        return json.dumps(who).encode()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(StorageError):  # the server is away: the next one may do
                self._write()

    def _write(self) -> None:
        with self._writing:
            if self._lost or not self._version:
                return
            try:
                self._exchange(self._version)
            except FileExistsError:
                self._adopt()

    def _adopt(self) -> None:
        """Go on where the file is of this lease's own last writing, whose answer was lost; else the lock is."""
        data, version = self._look()
        if _fields(data).get("token") == self._token:
            self._version = version
        else:
            self._lost = f"{self.what} was taken over by {_who(data)}, since this process was not heard of for long"


def _fields(data: bytes) -> dict[str, object]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _who(data: bytes) -> str:
    who = _fields(data)
    return f"process {who.get('pid', '?')} on {who.get('host', '?')}"
