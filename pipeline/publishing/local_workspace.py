"""A store that is built on a disk: it appears by one rename."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.publishing.workspace import BUILT, DERIVED, NOT_WRITTEN, Workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.atomic import naming, remove_parts, require_own_folder, sha256_of, sync
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.zarr_store.shard import shard_name

ASIDE = "replaced"  # folder of a store whose place another one takes
SPLITS = ("store", "shards", "receipts", ASIDE)  # folders of a workspace
PRIVATE = 0o700  # mode of a workspace: nobody else may put anything into it


class LocalWorkspace(Workspace):
    """A workspace in a folder; ``store/`` in it becomes the store. ``owner.json`` says by whom it was last held."""

    def _store(self) -> Directory:
        return self.root.child("store")

    @property
    def folder(self) -> Path:
        """The folder."""
        return _folder(self.root)

    def occupied(self) -> bool:
        """Whether there is anything."""
        return self.target.exists()

    def refuse_foreign(self) -> None:
        """Raise a BuildError if the workspace, or a folder in it, is a link or another user's."""
        for folder in (self.folder, *(self.folder / name for name in SPLITS)):
            require_own_folder(folder)

    def probe(self) -> None:
        """Raise a CallError or BuildError if the store could not get its name."""
        folder = self.folder.absolute().parent
        while not folder.exists():
            folder = folder.parent
        name, limit = self._longest_name(), os.pathconf(folder, "PC_NAME_MAX")
        if 0 < limit < len(os.fsencode(name)):
            raise CallError(
                f"{self.target.name:.40}… is too long a name: files beside it, such as {name[-24:]!r}, would have "
                f"{len(os.fsencode(name))} bytes of the {limit} that {folder} allows; name a shorter one"
            )
        if not folder.is_dir():
            raise BuildError(f"{folder} is no folder, so nothing can be put into it; name another place")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BuildError(
                f"{self.target} cannot be made, for {folder} may not be written to; allow it, or name another place"
            )
        target = self.target.folder
        if target and target.is_dir() and target.stat().st_dev != folder.stat().st_dev:
            raise BuildError(f"{target} is a disk of its own, which cannot be replaced; name a folder on it")

    def _longest_name(self) -> str:
        """Longest name of a file or folder that is made beside the store."""
        return self._trash.name

    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Link a shard of the finished store, or copy it where the file system has no links."""
        published = _folder(self.target) / shard_name(receipt.index)
        shard = self.folder / self.written(receipt.index, receipt.sha256)
        earlier = self.read_receipt(receipt.index)
        if not published.exists() or (earlier and self.has(earlier)):
            return
        if not _linked(published, shard):
            shutil.copyfile(published, shard)
        self.keep(receipt)

    def copy_shard(self, receipt: Receipt, directory: Directory, name: str) -> None:
        """Link the shard where the store is replaced that it is of, else copy it.

        Two stores that stay have no file in common: who changes the owner or the rights of one would change the
        other's too.
        """
        shard = self.folder / self.written(receipt.index, receipt.sha256)
        if not (self.may_link(directory) and _linked(_folder(directory) / name, shard)):
            super().copy_shard(receipt, directory, name)
        elif sha256_of(shard) == receipt.sha256:
            self.keep(receipt)
        else:
            shard.unlink()
            raise ValueError(NOT_WRITTEN)

    def may_link(self, directory: Directory) -> bool:
        """Whether a file of another store may be this one's too."""
        return directory == self.target

    def preview(self, folder: Path, digests: Sequence[str]) -> Directory:  # noqa: ARG002  (they are in their places)
        """Give the folder, in which the shards lie already."""
        return LocalDirectory(folder)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the workspace by a lock of the file system, which a dead process lets go."""
        self.refuse_foreign()
        self.folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        self.refuse_foreign()  # once more, for it may have come in between
        lock = filelock.FileLock(self.folder / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            try:
                who = json.loads(self.root.read("owner.json"))
            except (FileNotFoundError, ValueError):
                who = {}
            raise BuildError(
                f"{self.target} is being built by process {who.get('pid', '?')} on {who.get('host', '?')}; wait for "
                f"it, or end it and run again"
            ) from error
        try:
            with naming(self.folder):
                self._clear_spent()
                self.root.write("owner.json", json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                yield
        finally:
            if self.folder.is_dir() and {path.name for path in self.folder.iterdir()} <= {"lock", "owner.json"}:
                self._discard()  # nothing was begun
            lock.release()

    def _require_hold(self) -> None:
        """Do nothing: a file system takes a lock from nobody who lives."""

    def _clear_spent(self) -> None:
        """Forget a build that has been published, so that none of it is taken for the work of the next one."""
        if self.is_spent:
            for name in ("shards", "store", "receipts", ASIDE):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            self.root.remove(["published"])

    @contextmanager
    def _appearing(self, digests: Sequence[str], sizes: Sequence[int], replace: bool) -> Iterator[Path]:
        store = _folder(self.store)
        store.mkdir(exist_ok=True)
        expected = frozenset(map(shard_name, range(len(digests))))
        sweep(store, expected)  # first, or a shard could be moved to where a link leads
        self.move_shards(digests, sizes)
        sweep(store, expected)
        yield store
        self.refuse_occupied(replace)
        self.require_settled(sizes)  # once more, at the last moment
        self._put(store)
        sync(self.folder.parent)  # before the receipts go, from which it could be done again

    def _put(self, store: Path) -> None:
        """Have the finished store be where it belongs, in one step."""
        target = _folder(self.target)
        if target.exists():
            _exchange(store, target)
        else:
            store.rename(target)

    def _remove_target(self) -> None:
        target, aside = _folder(self.target), self.folder / ASIDE
        shutil.rmtree(aside, ignore_errors=True)
        if target.exists():
            target.rename(aside)

    def finish_interrupted_publish(self) -> None:
        """Put back what was put aside where a system exchanges folders in two steps."""
        if not self.target.exists() and (self.folder / ASIDE).exists():
            with self.locked():
                if not self.target.exists() and (self.folder / ASIDE).exists():
                    (self.folder / ASIDE).rename(_folder(self.target))

    def _discard(self) -> None:
        """Remove what is left of a build; what cannot go (a lock that is held, on NFS) is left for the next one.

        It is renamed first, so that what a kill leaves of it is never taken for work.
        """
        self.clear_trash()
        try:
            self.folder.rename(self._trash)
        except FileNotFoundError:
            return
        except OSError:  # something of somebody else's is in the way
            _remove(self.folder)
        self.clear_trash()

    def clear_trash(self) -> None:
        """Remove what kills have left of a workspace that was being removed, and of the note beside its store."""
        _remove(self._trash, last=DERIVED)
        remove_parts(self.folder.with_name(f"{self.target.name}{BUILT}"))

    def _discarded(self, name: str) -> bytes | None:
        try:
            require_own_folder(self._trash)
            return (self._trash / name).read_bytes()
        except (FileNotFoundError, BuildError):
            return None

    @property
    def _trash(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.trash")


def _remove(folder: Path, last: str = "") -> None:
    """Remove a folder of one's own and all in it; a link and the folder of another user are left.

    The file `last` goes last, for it says what the others were.
    """
    with suppress(BuildError):
        require_own_folder(folder)
        if last and (folder / last).is_file():
            sweep(folder, frozenset({last}))
        shutil.rmtree(folder, ignore_errors=True)


def _folder(directory: Directory) -> Path:
    assert isinstance(directory, LocalDirectory)  # noqa: S101  (by whom it was made)
    return directory.path


def _linked(path: Path, name: Path) -> bool:
    """Give a file a second name where that can be; a link to it is not followed, for it may be a tool's own file."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    try:
        if not path.is_symlink():
            os.link(path, name)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, a file system without links, a file of another user's
        return False
    return name.exists()


def sweep(folder: Path, expected: frozenset[str]) -> None:
    """Keep the expected files below a folder, and the folders that hold them; remove all else.

    What is removed are leftovers of other plans and of kills. No link is followed: each folder is opened by a
    descriptor, and a link is removed as such. What is kept is synced to the disk.

    Parameters
    ----------
    folder : Path
        The folder.
    expected : frozenset of str
        Paths below it, with forward slashes.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        _sweep(descriptor, "", expected)
    finally:
        os.close(descriptor)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _sweep(folder: int, prefix: str, expected: frozenset[str]) -> bool:
    """Sweep one folder by its descriptor; return whether anything was kept."""
    kept = False
    with os.scandir(folder) as found:
        entries = list(found)  # before any is removed
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            below = os.open(entry.name, _FOLDER, dir_fd=folder)
            try:
                keep = _sweep(below, f"{name}/", expected)
            finally:
                os.close(below)
            if not keep:
                os.rmdir(entry.name, dir_fd=folder)
        else:
            keep = name in expected and entry.is_file(follow_symlinks=False)
            if not keep:
                os.unlink(entry.name, dir_fd=folder)
        kept = kept or keep
    if kept:
        os.fsync(folder)
    return kept


def _exchange(first: Path, second: Path) -> None:
    """Exchange two folders in one step where the system can, else in two."""
    if not _renamed_by_exchange(first, second):
        aside = first.with_name(ASIDE)
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
