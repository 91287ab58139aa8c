"""A lock in an object store: a file that its holder rewrites regularly, to show that the holder is alive."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from melzarr.pipeline.errors import BuildError, StorageError
from melzarr.pipeline.storage.lock_holder import name_holder, read_fields, this_process
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory, Version

BEAT = 5.0  # seconds between two writes
SILENCE = 20.0  # seconds without a write after which the holder counts as dead: three writes may fail

logger = logging.getLogger(__name__)


class Lease:
    """A lock that is held as long as its file is unchanged since the holder's last write.

    Parameters
    ----------
    directory : ObjectStoreDirectory
        Directory of the lock file.
    name : str
        Name of the lock file.
    what : str
        What the lock protects, for error messages.

    Notes
    -----
    Clocks of different machines are not compared: a process that wants a held lock watches whether its file changes.
    Each write is conditional on an unchanged file, so if two processes take the lock of a dead holder, one succeeds. A
    service without conditional writes provides no lock.
    """

    def __init__(self, directory: ObjectStoreDirectory, name: str, what: str) -> None:
        self.directory, self.name, self.what = directory, name, what
        self._token, self._beats = secrets.token_hex(8), 0
        self._version: Version | None = None
        self._over, self._writing, self._lost = threading.Event(), threading.Lock(), ""
        self._heard = (0.0, 0.0)  # time of the last write, by two clocks: one stops while a machine sleeps

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within a `with` block.

        Raises
        ------
        BuildError
            If another process holds it.
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
            with suppress(StorageError):  # the lock then expires, because it is no longer written
                self._write()  # detects a takeover: a holder that was asleep must not remove the new holder's lock
                if not self._lost:
                    self.directory.remove([self.name])

    def require(self) -> None:
        """Raise BuildError if the lock is no longer held.

        Raises
        ------
        BuildError
            If another process has taken the lock, because this one did not write for too long.
        """
        self._write()
        if self._lost:
            raise BuildError(self._lost)

    def require_lately(self) -> None:
        """Do the same as `require`, but ask the server only if the last write is more than two beats old."""
        now = time.monotonic(), time.time()
        if self._lost or max(after - before for after, before in zip(now, self._heard, strict=True)) > 2 * BEAT:
            self.require()

    def _take(self) -> None:
        try:
            self._exchange(None)
        except FileExistsError:
            self._take_over()

    def _exchange(self, version: Version | None) -> None:
        """Write the file if it is still at `version`, and record the time."""
        self._version = self.directory.exchange(self.name, self._content(), version)
        self._heard = time.monotonic(), time.time()

    def _take_over(self) -> None:
        """Wait to see whether the holder is alive, and take the lock if it is not."""
        data, version = self._look()
        logger.warning(
            "%s is locked by %s; waiting %.0f s to see whether that is still running",
            self.what,
            name_holder(data),
            SILENCE,
        )
        end = time.monotonic() + SILENCE
        while time.monotonic() < end:
            time.sleep(1)
            if self._look()[1] != version:
                raise BuildError(
                    f"{self.what} is being built by {name_holder(data)}; wait for it, or end it and run again"
                )
        try:
            self._exchange(version)
        except FileExistsError as error:
            raise BuildError(
                f"{self.what} is being built by another process, which has just started; wait for it"
            ) from error

    def _look(self) -> tuple[bytes, Version | None]:
        try:
            return self.directory.version_of(self.name)
        except FileNotFoundError:
            return b"", None

    def _content(self) -> bytes:
        self._beats += 1  # the version of a file is often a digest of its contents, so each write must differ
        return json.dumps({**this_process(), "token": self._token, "beat": self._beats}).encode()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(StorageError):  # the server is unavailable: the next write may succeed
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
        """Continue if the file is this lease's last write, whose response was lost; otherwise mark the lock as lost."""
        data, version = self._look()
        if read_fields(data).get("token") == self._token:
            self._version = version
        else:
            self._lost = (
                f"{self.what} was taken over by {name_holder(data)}, because this process did not renew its lock "
                f"for a long time"
            )
