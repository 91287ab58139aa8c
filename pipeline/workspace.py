"""Work in progress: it lies beside its store under another name, and becomes the store in one atomic step."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from pipeline.chunk import shard_name
from pipeline.errors import BuildError
from pipeline.files import sha256_of, sync, write_whole
from pipeline.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder in which a store is built.

    Parameters
    ----------
    target : Path
        Where the store will be.

    Notes
    -----
    ``music.zarr.building/`` holds ``shards/`` (what workers have written), ``receipts/`` (one a shard, written after
    it), ``store/`` (what the client has settled there, later all of the store), and ``lock``, held while a build
    lives, with ``owner.json``, which says by whom. A file ``published`` says that the store has left it, and that the
    rest may go.

    A worker names a shard by its content, and only the client that holds the lock moves it into ``store/``. So a
    worker of another build, dead to all but itself, can write what it likes: nobody looks for it there.
    """

    target: Path

    @property
    def root(self) -> Path:
        """Folder of the work in progress."""
        return self.target.with_name(f"{self.target.name}.building")

    @property
    def store(self) -> Path:
        """Folder that becomes the store."""
        return self.root / "store"

    def shard(self, index: int) -> Path:
        """File of a shard in the store to be."""
        return self.store / shard_name(index)

    def written(self, receipt: Receipt) -> Path:
        """File of a shard as a worker writes it, named by its content."""
        return self.root / "shards" / f"{receipt.index:07d}.{receipt.sha256}"

    def receipt(self, index: int) -> Path:
        """File of a shard's receipt."""
        return self.root / "receipts" / f"{index:07d}.json"

    def write(self, parts: Iterable[bytes], receipt: Receipt) -> None:
        """Keep a shard and, once it is whole, its receipt; where the build is over, there is nobody to keep it for."""
        if not self.root.is_dir():
            raise BuildError(f"the build of {self.target} is over")
        write_whole(self.written(receipt), *parts)
        write_whole(self.receipt(receipt.index), receipt.to_json())

    def settle(self, receipt: Receipt) -> None:
        """Move a shard that was written to its place in the store to be; one that is there already stays."""
        shard = self.shard(receipt.index)
        shard.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self.written(receipt).replace(shard)

    def drop(self, receipt: Receipt) -> None:
        """Remove a shard that cannot be kept."""
        for path in self._places(receipt):
            path.unlink(missing_ok=True)

    def _places(self, receipt: Receipt) -> tuple[Path, Path]:
        """Where the file of a shard can be, before it is settled and afterwards."""
        return self.written(receipt), self.shard(receipt.index)

    def n_receipts(self) -> int:
        """How many shards an earlier run has finished."""
        return sum(1 for _ in self.root.glob("receipts/*.json"))

    def read_receipt(self, index: int) -> Receipt | None:
        """Return the receipt that an earlier run left of a shard, if there is one that can be read."""
        try:
            return Receipt.from_json(self.receipt(index).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def holds(self, receipt: Receipt) -> bool:
        """Whether the bytes of a shard are those of its receipt."""
        return any(path.is_file() and sha256_of(path) == receipt.sha256 for path in self._places(receipt))

    def has(self, receipt: Receipt) -> bool:
        """Whether the file of a shard is there in the size of its receipt; a look, where `holds` reads all of it."""
        return receipt.n_bytes in {_size(os.fspath(path)) for path in self._places(receipt)}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for one build; a dead build's lock is free.

        Raises
        ------
        BuildError
            Where another build holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path, owner = self.root / "lock", self.root / "owner.json"
        lock = filelock.FileLock(path, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            who = json.loads(owner.read_text()) if owner.exists() else {}
            raise BuildError(
                f"{self.target} is being built by process {who.get('pid', '?')} on {who.get('host', '?')}; wait for "
                f"it, or end it and run again"
            ) from error
        try:
            self._clear_spent()
            write_whole(owner, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            yield
        finally:
            lock.release()

    def missing(self, sizes: Iterable[int]) -> list[int]:
        """Numbers of the shards whose files are not there in the sizes that are given, one a shard in order."""
        return [index for index, size in enumerate(sizes) if _size(f"{self.store}/{shard_name(index)}") != size]

    def sweep(self, n_shards: int) -> None:
        """Remove from the store to be whatever is no shard of the plan, and have the disk hold the shards' folders.

        What is removed are leftovers of other plans and of kills.
        """
        _sweep(str(self.store), "", frozenset(map(shard_name, range(n_shards))))

    def publish(self) -> None:
        """Make the work in progress the store, in one step, and remove what is left."""
        if self.target.exists():
            _exchange(self.store, self.target)
        else:
            self.store.rename(self.target)
        sync(self.target.parent)  # before the receipts go, from which it could be done again
        self.spent.touch()
        self.discard()

    @property
    def spent(self) -> Path:
        """File that says that the store has been published, should a kill fall before the rest is removed."""
        return self.root / "published"

    def tidy(self) -> None:
        """Remove what a kill after publishing has left; a build that lives, or that can go on, is left alone."""
        if self.spent.exists():
            with self.locked():
                self.discard()

    def _clear_spent(self) -> None:
        """Forget a build that has been published, so that none of it is taken for the work of the next one."""
        if self.spent.exists():
            for name in ("shards", "store", "receipts", "replaced"):
                shutil.rmtree(self.root / name, ignore_errors=True)
            self.spent.unlink()

    def discard(self) -> None:
        """Remove what is left of a build; what cannot go (a lock that is held, on NFS) is left for the next one."""
        shutil.rmtree(self.root, ignore_errors=True)


def _size(path: str) -> int | None:
    """Size of a file; None where there is no file."""
    try:
        facts = os.stat(path)  # noqa: PTH116  (asked for each of perhaps a hundred thousand shards)
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _sweep(folder: str, prefix: str, expected: frozenset[str]) -> bool:
    """Keep the expected files below a folder, and the folders that hold them; return whether there are any."""
    kept = False
    with os.scandir(folder) as found:
        entries = list(found)  # before any is removed
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if _sweep(entry.path, f"{name}/", expected):
                kept = True
            else:
                Path(entry).rmdir()
        elif name in expected:
            kept = True
        else:
            Path(entry).unlink()
    if kept:
        sync(folder)
    return kept


def _exchange(first: Path, second: Path) -> None:
    """Exchange two folders in one step where the system can, else in two."""
    if not _renamed_by_exchange(first, second):
        aside = first.with_name("replaced")
        shutil.rmtree(aside, ignore_errors=True)  # left where a build was killed between the two steps
        second.rename(aside)
        first.rename(second)


def _renamed_by_exchange(first: Path, second: Path) -> bool:
    """Exchange two folders by the system's own call; False where system or file system has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
        failed = libc.renameat2(here, a, here, b, exchange)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(a, b, 2)  # RENAME_SWAP of renamex_np(2)
    else:
        return False
    if failed and ctypes.get_errno() not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))
    return not failed
