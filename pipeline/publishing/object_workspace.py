"""Build a store in an object store; its metadata is written last, so a store that opens is complete."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.publishing.unpublished_view import Preview
from melzarr.pipeline.publishing.workspace import DERIVED, PUBLISHED, Workspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.lock import Lease
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.zarr_store.shard import shard_name

BEGUN = "publishing"
DESCRIBED = "described"  # description of a store that replaces another one: a folder, and a .json file


class ObjectWorkspace(Workspace):
    """A workspace under a prefix. Shards are moved to the target, which does not open as a store in the meantime.

    Parameters
    ----------
    target, plan_id
        As for `Staging`.
    entry : str
        File without which the target does not open: it is written last, and removed first.
    """

    def __init__(self, target: Directory, plan_id: str = "", entry: str = "zarr.json") -> None:
        if not target.can_list:
            raise CallError(
                f"{target} can be read but not written; use a folder, or an address at s3://, gs:// or az://"
            )
        if not urlsplit(str(target)).path:
            raise CallError(f"{target} is a whole bucket; give a place in it, such as {target}/music.zarr")
        super().__init__(target, plan_id)
        self.entry = entry
        self._lease = Lease(_bucket(self.root), "lock", str(target))

    def _store(self) -> Directory:
        return self.target

    def occupied(self) -> bool:
        """Return whether the target has a store, or files that are not from an interrupted publish."""
        return self.target.size(self.entry) is not None or (self.target.exists() and self.root.size(BEGUN) is None)

    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Write only the receipt: a worker finds the shard in the target."""
        if self.read_receipt(receipt.index) is None:
            self.keep(receipt)

    def preview(self, folder: Path, digests: Sequence[str]) -> Directory:
        """Return a view of the folder and the shards, whether these are still in the workspace or moved already."""
        written = {f"shards/{name}" for name, _ in self.root.child("shards").files()}

        def place(index: int) -> tuple[Directory, str]:
            name = self.written(index, digests[index])
            return (self.root, name) if name in written else (self.target, shard_name(index))

        return Preview(self.target, LocalDirectory(folder), len(digests), place)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the workspace with a lock file that is rewritten periodically."""
        with self._lease.held():
            if self.is_spent:
                self._clear()
            yield

    def _clear(self) -> None:
        """Remove all files except the lock, so that the next build does not take them for its own work."""
        last = [DERIVED, PUBLISHED]  # they record what was built, and that the rest can be removed
        self.root.remove(name for name, _ in list(self.root.files()) if name not in {"lock", *last})
        self.root.remove(last)

    @contextmanager
    def _appearing(self, digests: Sequence[str], sizes: Sequence[int], replace: bool) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="melzarr-") as name:
            folder = Path(name)
            yield folder  # before anything is changed, because the block can fail
            self._lease.require()
            self.refuse_occupied(replace)
            if replace:
                self._keep_description(LocalDirectory(folder), digests, sizes)
            self._put(LocalDirectory(folder), digests, sizes, replace)

    def _put(self, described: Directory, digests: Sequence[str], sizes: Sequence[int], replace: bool) -> None:
        """Move the store to the target, and remove everything else there."""
        self.root.write(BEGUN)  # from here on, files in the target are from this build
        if replace:
            self.target.remove([self.entry])
        self.move_shards(digests, sizes)
        self._lease.require()
        expected = set(map(shard_name, range(len(digests))))
        self.target.remove([name for name, _ in self.target.files() if name not in expected])
        self._copy(described, self.target, without=self.entry)
        self._lease.require()
        self._appear(described.read(self.entry))

    def _copy(self, source: Directory, directory: Directory, without: str = "") -> None:
        """Copy all files except one; all are small."""

        def copy(name: str) -> None:
            self._require_hold()
            directory.write(name, source.read(name))

        self._for_each(copy, [name for name, _ in source.files() if name != without])

    def _keep_description(self, described: Directory, digests: Sequence[str], sizes: Sequence[int]) -> None:
        """Save the new store's description: if the replacement is interrupted, neither store can be opened."""
        kept = self.root.child(DESCRIBED)
        self.root.remove([f"{DESCRIBED}.json"])
        kept.remove([name for name, _ in kept.files()])
        self._copy(described, kept)
        facts = {"digests": list(digests), "sizes": list(sizes)}
        self.root.write(f"{DESCRIBED}.json", json.dumps(facts).encode())

    def finish_interrupted_publish(self) -> None:
        """Publish a store whose replacement of another one was interrupted, if all its shards are there."""
        if self.target.size(self.entry) is not None or self.root.size(f"{DESCRIBED}.json") is None:
            return
        with self.locked():
            try:
                facts = json.loads(self.root.read(f"{DESCRIBED}.json"))
            except FileNotFoundError:  # another process has finished it since
                return
            if not self.missing(facts["digests"], facts["sizes"]):
                self._put(self.root.child(DESCRIBED), facts["digests"], facts["sizes"], replace=False)
                self.root.write(PUBLISHED)
                self.discard()

    def _remove_target(self) -> None:
        self.target.remove([self.entry])
        self.target.remove(name for name, _ in list(self.target.files()))

    def _require_hold(self) -> None:
        """Raise a BuildError if another process took the lock after this one failed to renew it."""
        self._lease.require_lately()

    def _appear(self, metadata: bytes) -> None:
        try:
            _bucket(self.target).exchange(self.entry, metadata, None)
        except FileExistsError as error:
            if self.target.read(self.entry) != metadata:  # if equal, it was written and the response was lost
                raise BuildError(
                    f"{self.target} was created by another process in the meantime; check it, and build to another path"
                ) from error

    def _discard(self) -> None:
        """Remove the workspace except its lock file, which is removed when the lock is released."""
        self._clear()


def _bucket(directory: Directory) -> ObjectStoreDirectory:
    assert isinstance(directory, ObjectStoreDirectory)  # noqa: S101  (callers pass object stores only)
    return directory
