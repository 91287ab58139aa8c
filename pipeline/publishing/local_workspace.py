"""Build a store on a local disk, and publish it by one rename."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
from blake3 import blake3

from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.publishing.staging import checked
from melzarr.pipeline.publishing.workspace import BUILT, DERIVED, Workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.atomic import naming, remove_parts, require_own_folder, sync
from melzarr.pipeline.storage.digests import Hash, digests_of, file_blocks
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.lock_holder import name_holder, this_process
from melzarr.pipeline.zarr_store.shard import shard_name

ASIDE = "replaced"  # folder of a store that is being replaced
FOLDERS = ("store", "shards", "receipts", ASIDE)  # folders of a workspace
PRIVATE = 0o700  # mode of a workspace: other users may not write to it


class LocalWorkspace(Workspace):
    """A workspace in a folder. Its ``store/`` becomes the store; ``owner.json`` names its last lock holder."""

    def _store(self) -> Directory:
        return self.root.child("store")

    @property
    def folder(self) -> Path:
        """Path of the workspace."""
        return _folder(self.root)

    def occupied(self) -> bool:
        """Return whether the target exists."""
        return self.target.exists()

    def refuse_foreign(self) -> None:
        """Raise a BuildError if the workspace, or a folder in it, is a link or belongs to another user."""
        for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
            require_own_folder(folder)

    def probe(self) -> None:
        """Raise a CallError or BuildError if the store could not be created at its target."""
        folder = self.folder.absolute().parent
        while not folder.exists():
            folder = folder.parent
        name, limit = self._longest_name(), os.pathconf(folder, "PC_NAME_MAX")
        if 0 < limit < len(os.fsencode(name)):
            raise CallError(
                f"{self.target.name:.40}… is too long: files beside it, such as {name[-24:]!r}, would have names of "
                f"{len(os.fsencode(name))} bytes, but {folder} allows {limit}; choose a shorter name"
            )
        if not folder.is_dir():
            raise BuildError(f"{folder} is not a folder, so nothing can be written into it; choose another path")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BuildError(
                f"{self.target} cannot be created, because {folder} is not writable; allow it, or choose another path"
            )
        target = self.target.folder
        if target and target.is_dir() and target.stat().st_dev != folder.stat().st_dev:
            raise BuildError(f"{target} is a mount point, which cannot be replaced; choose a folder on it")

    def _longest_name(self) -> str:
        """Return the longest name of all files and folders that are created next to the store."""
        return self._trash.name

    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Hard-link a shard of the finished store, or copy it if it cannot be linked."""
        published = _folder(self.target) / shard_name(receipt.index)
        shard = self.folder / self.written(receipt.index, receipt.blake3)
        earlier = self.read_receipt(receipt.index)
        if not published.exists() or (earlier and self.has(earlier)):
            return
        if not _linked(published, shard):
            shutil.copyfile(published, shard)
        self.keep(receipt)

    def copy_shard(
        self, receipt: Receipt, directory: Directory, name: str, algorithms: Sequence[Hash] = (blake3,)
    ) -> Receipt:
        """Hard-link the shard if its store is the one being replaced, else copy it.

        Two stores that both stay share no file: changing the owner or mode of a file in one would change the other.
        """
        shard = self.folder / self.written(receipt.index, receipt.blake3)
        if not (self.may_link(directory) and _linked(_folder(directory) / name, shard)):
            return super().copy_shard(receipt, directory, name, algorithms)
        try:
            receipt = checked(receipt, digests_of(file_blocks(shard), *algorithms))
        except ValueError:
            shard.unlink()
            raise
        self.keep(receipt)
        return receipt

    def may_link(self, directory: Directory) -> bool:
        """Return whether the new store may share files with another store."""
        return directory == self.target

    def preview(self, folder: Path, digests: Sequence[str]) -> Directory:  # noqa: ARG002  (the shards are moved already)
        """Return the folder, which contains the shards already."""
        return LocalDirectory(folder)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the workspace with a file lock, which the system releases if the process dies."""
        self.refuse_foreign()
        self.folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        self.refuse_foreign()  # again, because a link may have been created in between
        lock = filelock.FileLock(self.folder / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            try:
                holder = name_holder(self.root.read("owner.json"))
            except FileNotFoundError:  # not yet written
                holder = name_holder(b"")
            raise BuildError(
                f"{self.target} is being built by {holder}; wait for it, or end it and run again"
            ) from error
        try:
            with naming(self.folder):
                self._clear_spent()
                self.root.write("owner.json", json.dumps(this_process()).encode())
                yield
        finally:
            if self.folder.is_dir() and {path.name for path in self.folder.iterdir()} <= {"lock", "owner.json"}:
                self._discard()  # nothing was started
            lock.release()

    def _require_hold(self) -> None:
        """Do nothing: a living process does not lose a file lock."""

    def _clear_spent(self) -> None:
        """Remove what is left of a published build, so that the next build does not take it for its own work."""
        if self.is_spent:
            for name in ("shards", "store", "receipts", ASIDE):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            self.root.remove(["published"])

    @contextmanager
    def _appearing(self, digests: Sequence[str], sizes: Sequence[int], replace: bool) -> Iterator[Path]:
        store = _folder(self.store)
        store.mkdir(exist_ok=True)
        expected = frozenset(map(shard_name, range(len(digests))))
        sweep(store, expected)  # first, because a link in the folder could redirect a shard
        self.move_shards(digests, sizes)
        sweep(store, expected)
        yield store
        self.refuse_occupied(replace)
        self.require_settled(sizes)  # again, at the last moment
        self._put(store)
        sync(self.folder.parent)  # before the receipts, which allow a retry, are removed

    def _put(self, store: Path) -> None:
        """Rename the finished store to the target, or exchange the two if a store is there."""
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
        """Restore the old store if a replacement in two steps was interrupted between them."""
        if not self.target.exists() and (self.folder / ASIDE).exists():
            with self.locked():
                if not self.target.exists() and (self.folder / ASIDE).exists():
                    (self.folder / ASIDE).rename(_folder(self.target))

    def _discard(self) -> None:
        """Remove the workspace; what cannot be removed (a held lock on NFS) is left for the next build.

        The folder is renamed first, so that after a kill its rest is never taken for work in progress.
        """
        self.clear_trash()
        try:
            self.folder.rename(self._trash)
        except FileNotFoundError:
            return
        except OSError:  # the new name is taken by a file or folder of another user
            _remove(self.folder)
        self.clear_trash()

    def clear_trash(self) -> None:
        """Remove what killed processes left of a workspace being removed, and of the note next to the store."""
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
    """Remove a folder and its contents, unless it is a link or belongs to another user.

    The file `last` is removed last, because it describes the others.
    """
    with suppress(BuildError):
        require_own_folder(folder)
        if last and (folder / last).is_file():
            sweep(folder, frozenset({last}))
        shutil.rmtree(folder, ignore_errors=True)


def _folder(directory: Directory) -> Path:
    assert isinstance(directory, LocalDirectory)  # noqa: S101  (callers pass local directories only)
    return directory.path


def _linked(path: Path, name: Path) -> bool:
    """Hard-link a file and return whether that worked; a symbolic link, perhaps to a tool's own file, is skipped."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    try:
        if not path.is_symlink():
            os.link(path, name)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, a file system without links, or a file of another user
        return False
    return name.exists()


def sweep(folder: Path, expected: frozenset[str]) -> None:
    """Remove everything below a folder except the expected files and the folders that contain them.

    This removes leftovers of other plans and of killed processes. No link is followed: folders are opened by
    descriptor, and links themselves are removed. Folders that are kept are synced to disk.

    Parameters
    ----------
    folder : Path
        The folder.
    expected : frozenset of str
        Paths relative to the folder, with forward slashes.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        _sweep(descriptor, "", expected)
    finally:
        os.close(descriptor)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _sweep(folder: int, prefix: str, expected: frozenset[str]) -> bool:
    """Sweep one folder, given by its descriptor; return whether anything was kept."""
    kept = False
    with os.scandir(folder) as found:
        entries = list(found)  # list all before removing any
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
    """Exchange two folders in one step if the system supports it, else in two."""
    if not _renamed_by_exchange(first, second):
        aside = first.with_name(ASIDE)
        shutil.rmtree(aside, ignore_errors=True)  # left by a build that was killed between the two steps
        second.rename(aside)
        first.rename(second)


def _renamed_by_exchange(first: Path, second: Path) -> bool:
    """Exchange two folders with a system call; return False if the system or the file system has none."""
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
