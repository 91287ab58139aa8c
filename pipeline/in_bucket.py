"""A store that is built in an object store: its metadata are written last, so what opens is complete."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.bucket import BucketTree
from pipeline.chunk import shard_name
from pipeline.errors import BuildError, CallError
from pipeline.files import files_below
from pipeline.lease import Lease
from pipeline.preview import Preview
from pipeline.receipt import Receipt
from pipeline.tree import DiskTree, Tree
from pipeline.workspace import PUBLISHED, Workspace

METADATA = "zarr.json"  # of the group: without it nothing opens
BEGUN = "publishing"


class BucketWorkspace(Workspace):
    """A workspace under a prefix. Shards are moved to the store's own place, under which nothing opens meanwhile."""

    def __init__(self, target: Tree) -> None:
        if not target.can_list:
            raise CallError(
                f"{target} can be read, not written; build the store in a folder, or at s3://, gs:// or az://"
            )
        if not urlsplit(str(target)).path:
            raise CallError(f"{target} is a whole bucket; name a store in it, such as {target}/music.zarr")
        super().__init__(target)
        self._lease = Lease(_bucket(self.root), "lock", str(target))

    def _store(self) -> Tree:
        return self.target

    def occupied(self) -> bool:
        """Whether a store is there, or anything that no build has left that was stopped when it published."""
        return self.target.size(METADATA) is not None or (self.target.exists() and self.root.size(BEGUN) is None)

    def offer(self, receipt: Receipt) -> None:
        """Write the receipt down: a worker finds the shard where it is."""
        if self.read_receipt(receipt.index) is None:
            self.keep(receipt)

    def preview(self, folder: Path, digests: Sequence[str]) -> Tree:
        """Give what is in the folder, with the shards where they lie: as they were written, or settled before."""
        written = {f"shards/{name}" for name, _ in self.root.below("shards").files()}

        def place(index: int) -> tuple[Tree, str]:
            name = self.written(index, digests[index])
            return (self.root, name) if name in written else (self.target, shard_name(index))

        return Preview(self.target, DiskTree(folder), len(digests), place)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace by a file that is written again and again."""
        with self._lease.held():
            if self.is_spent:
                self._clear()
            yield

    def _clear(self) -> None:
        """Forget a build that has been published, so that none of it is taken for the work of the next one."""
        self.root.remove(name for name, _ in list(self.root.files()) if name not in {"lock", PUBLISHED})
        self.root.remove([PUBLISHED])  # last, since it says that the rest may go

    @contextmanager
    def _appearing(self, digests: Sequence[str], sizes: Sequence[int], replace: bool) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="melzarr-") as name:
            folder = Path(name)
            yield folder  # before anything is changed, for it can fail
            self._lease.require()
            self.refuse_occupied(replace)
            self.root.write(BEGUN)  # from here on the store's place holds something, which is this build's
            if replace:
                self.target.remove([METADATA])
            self.settle(digests, sizes)
            self._lease.require()
            expected = set(map(shard_name, range(len(digests))))
            self.target.remove([name for name, _ in self.target.files() if name not in expected])
            names = [name for name, _ in files_below(folder) if name != METADATA]
            with ThreadPoolExecutor(self.target.readers) as pool:
                for _ in pool.map(lambda name: self._upload(folder, name), names):
                    pass
            self._lease.require()
            self._appear((folder / METADATA).read_bytes())

    def _upload(self, folder: Path, name: str) -> None:
        self._require_hold()
        self.target.write(name, (folder / name).read_bytes())

    def _require_hold(self) -> None:
        """See that nobody has taken over since this process was last heard of."""
        self._lease.require_lately()

    def _appear(self, metadata: bytes) -> None:
        try:
            _bucket(self.target).exchange(METADATA, metadata, None)
        except FileExistsError as error:
            if self.target.read(METADATA) != metadata:  # else it was written, and the answer lost
                raise BuildError(f"{self.target} has appeared meanwhile; look at it, and build another") from error

    def discard(self) -> None:
        """Remove what is left of a build but its lock, which goes when it is let go."""
        self._clear()


def _bucket(tree: Tree) -> BucketTree:
    assert isinstance(tree, BucketTree)  # noqa: S101  (by whom it was made)
    return tree
