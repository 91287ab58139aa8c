"""A store that is built in an object store: its metadata are written last, so what opens is complete."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

METADATA = "zarr.json"  # of the group: without it nothing opens
BEGUN = "publishing"
DESCRIBED = "described"  # folder of what describes the store that takes another one's place, and a file beside it


class ObjectWorkspace(Workspace):
    """A workspace under a prefix. Shards are moved to the store's own place, under which nothing opens meanwhile."""

    def __init__(self, target: Directory, plan_id: str = "") -> None:
        if not target.can_list:
            raise CallError(
                f"{target} can be read, not written; build the store in a folder, or at s3://, gs:// or az://"
            )
        if not urlsplit(str(target)).path:
            raise CallError(f"{target} is a whole bucket; name a store in it, such as {target}/music.zarr")
        super().__init__(target, plan_id)
        self._lease = Lease(_bucket(self.root), "lock", str(target))

    def _store(self) -> Directory:
        return self.target

    def occupied(self) -> bool:
        """Whether a store is there, or anything that no build has left that was stopped when it published."""
        return self.target.size(METADATA) is not None or (self.target.exists() and self.root.size(BEGUN) is None)

    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Write the receipt down: a worker finds the shard where it is."""
        if self.read_receipt(receipt.index) is None:
            self.keep(receipt)

    def preview(self, folder: Path, digests: Sequence[str]) -> Directory:
        """Give what is in the folder, with the shards where they lie: as they were written, or settled before."""
        written = {f"shards/{name}" for name, _ in self.root.child("shards").files()}

        def place(index: int) -> tuple[Directory, str]:
            name = self.written(index, digests[index])
            return (self.root, name) if name in written else (self.target, shard_name(index))

        return Preview(self.target, LocalDirectory(folder), len(digests), place)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the workspace by a file that is written again and again."""
        with self._lease.held():
            if self.is_spent:
                self._clear()
            yield

    def _clear(self) -> None:
        """Forget a build that has been published, so that none of it is taken for the work of the next one."""
        last = [DERIVED, PUBLISHED]  # since they say what was made, and that the rest may go
        self.root.remove(name for name, _ in list(self.root.files()) if name not in {"lock", *last})
        self.root.remove(last)

    @contextmanager
    def _appearing(self, digests: Sequence[str], sizes: Sequence[int], replace: bool) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="melzarr-") as name:
            folder = Path(name)
            yield folder  # before anything is changed, for it can fail
            self._lease.require()
            self.refuse_occupied(replace)
            if replace:
                self._keep_description(LocalDirectory(folder), digests, sizes)
            self._put(LocalDirectory(folder), digests, sizes, replace)

    def _put(self, described: Directory, digests: Sequence[str], sizes: Sequence[int], replace: bool) -> None:
        """Have the store be where it belongs, and nothing else there."""
        self.root.write(BEGUN)  # from here on the store's place holds something, which is this build's
        if replace:
            self.target.remove([METADATA])
        self.move_shards(digests, sizes)
        self._lease.require()
        expected = set(map(shard_name, range(len(digests))))
        self.target.remove([name for name, _ in self.target.files() if name not in expected])
        self._copy(described, self.target, without=METADATA)
        self._lease.require()
        self._appear(described.read(METADATA))

    def _copy(self, source: Directory, directory: Directory, without: str = "") -> None:
        """Copy all files but one, none of which is large."""

        def copy(name: str) -> None:
            self._require_hold()
            directory.write(name, source.read(name))

        with ThreadPoolExecutor(directory.io_threads) as pool:
            for _ in pool.map(copy, [name for name, _ in source.files() if name != without]):
                pass

    def _keep_description(self, described: Directory, digests: Sequence[str], sizes: Sequence[int]) -> None:
        """Keep what a store is described by: between the one that is replaced and the new one there is none to read."""
        kept = self.root.child(DESCRIBED)
        self.root.remove([f"{DESCRIBED}.json"])
        kept.remove([name for name, _ in kept.files()])
        self._copy(described, kept)
        facts = {"digests": list(digests), "sizes": list(sizes)}
        self.root.write(f"{DESCRIBED}.json", json.dumps(facts).encode())

    def finish_interrupted_publish(self) -> None:
        """Let the store appear that was taking another one's place, where all of it is there."""
        if self.target.size(METADATA) is not None or self.root.size(f"{DESCRIBED}.json") is None:
            return
        with self.locked():
            try:
                facts = json.loads(self.root.read(f"{DESCRIBED}.json"))
            except FileNotFoundError:  # somebody else has done it since
                return
            if not self.missing(facts["digests"], facts["sizes"]):
                self._put(self.root.child(DESCRIBED), facts["digests"], facts["sizes"], replace=False)
                self.root.write(PUBLISHED)
                self.discard()

    def _remove_target(self) -> None:
        self.target.remove([METADATA])
        self.target.remove(name for name, _ in list(self.target.files()))

    def _require_hold(self) -> None:
        """See that nobody has taken over since this process was last heard of."""
        self._lease.require_lately()

    def _appear(self, metadata: bytes) -> None:
        try:
            _bucket(self.target).exchange(METADATA, metadata, None)
        except FileExistsError as error:
            if self.target.read(METADATA) != metadata:  # else it was written, and the answer lost
                raise BuildError(f"{self.target} has appeared meanwhile; look at it, and build another") from error

    def _discard(self) -> None:
        """Remove what is left of a build but its lock, which goes when it is let go."""
        self._clear()


def _bucket(directory: Directory) -> ObjectStoreDirectory:
    assert isinstance(directory, ObjectStoreDirectory)  # noqa: S101  (by whom it was made)
    return directory
