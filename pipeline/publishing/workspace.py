"""The workspace: a directory next to the store, in which it is built and from which it is published in one step."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.shard import SHARDS, shard_name

BUILT = ".built.json"  # suffix of a file next to the store with the build's timings
PUBLISHED = "published"  # marker file: the store is published, and the rest can be removed
REMOVING = "removing"  # marker file: the store is being removed
DERIVED = "derived.json"  # what is being derived here, and from which stores
PLAN = "plan.json"  # what a job array's parts compute; written by its first stage
PLAN_DIGITS = 16  # digits of a plan's digest in the names of its receipts
RECEIPT = re.compile(r"receipts/(?P<index>[0-9]{7})(\.[0-9a-f]{16})?\.json")
LATE = re.compile(r"shards/|receipts/\.?[0-9]{7}\.[0-9a-f]{16}\.")  # a part's files, complete or being written
NOT_WRITTEN = "its bytes are not those that were written"


class Workspace(ABC):
    """The directory in which a store is built.

    Parameters
    ----------
    target : Directory
        Where the store will be published.
    plan_id : str
        Plan whose receipts are read and written; empty for a build in one piece.

    Attributes
    ----------
    root : Directory
        ``music.zarr.building``, next to the store. It contains ``shards/`` (written by workers), ``receipts/`` (one per
        shard and plan, written after the shard), and a lock, which is held while a build runs. A file ``published``
        means that the store is published and the rest can be removed.
    store : Directory
        Where shards are moved once all are there.

    Notes
    -----
    A worker names a shard by its content, and only the client that holds the lock moves it into the store. It does not
    matter what a stray worker of an abandoned build still writes, because those names are not looked up. A receipt is
    named by its plan, so that a late part of an older plan does not replace a receipt of the current plan.
    """

    def __init__(self, target: Directory, plan_id: str = "") -> None:
        self.target, self.plan_id = target, plan_id
        self.root = target.sibling(f"{target.name}.building")
        self.store = self._store()
        self._n_holds, self._is_over = 0, False  # of the lock in this process

    # What workers do.

    @staticmethod
    def written(index: int, sha256: str) -> str:
        """Return the name under which a worker writes a shard: it contains the digest of its content."""
        return f"shards/{index:07d}.{sha256}"

    def receipt(self, index: int) -> str:
        """Return the name of a shard's receipt."""
        plan = f".{self.plan_id[:PLAN_DIGITS]}" if self.plan_id else ""
        return f"receipts/{index:07d}{plan}.json"

    def write(self, parts: Iterable[bytes], receipt: Receipt) -> None:
        """Write a shard, then its receipt; raise a BuildError if the build is over."""
        if not self.root.exists():
            raise BuildError(f"the build of {self.target} is over")
        self.root.write(self.written(receipt.index, receipt.sha256), *parts)
        self.keep(receipt)

    def keep(self, receipt: Receipt) -> None:
        """Write a receipt."""
        self.root.write(self.receipt(receipt.index), receipt.to_json())

    def read_receipt(self, index: int) -> Receipt | None:
        """Return the receipt of a shard from an earlier run; None if it is missing or unreadable."""
        try:
            return Receipt.from_json(self.root.read(self.receipt(index)))
        except (FileNotFoundError, ValueError):
            return None

    def holds(self, receipt: Receipt) -> bool:
        """Return whether a shard's size and SHA-256 match its receipt."""
        return any(directory.size(name) == receipt.n_bytes and directory.sha256(name) == receipt.sha256
                   for directory, name in self._places(receipt))  # fmt: skip

    def copy_shard(self, receipt: Receipt, directory: Directory, name: str) -> None:
        """Copy a shard of another store unchanged, and write its receipt.

        Parameters
        ----------
        receipt : Receipt
            Receipt of the shard, with its number in the new store.
        directory : Directory
            The other store.
        name : str
            Path of the shard in it.

        Raises
        ------
        ValueError
            If the bytes do not match the receipt.
        """
        data = directory.read(name)
        if hashlib.sha256(data).hexdigest() != receipt.sha256:
            raise ValueError(NOT_WRITTEN)
        self.write([data], receipt)

    def forget(self) -> None:
        """Remove the shards and receipts of an earlier run that built another store."""
        for folder in map(self.root.child, ("receipts", "shards")):
            folder.remove([name for name, _ in folder.files()])

    def drop(self, receipt: Receipt) -> None:
        """Remove a shard that cannot be kept."""
        self.root.remove([self.written(receipt.index, receipt.sha256)])

    # What the client does.

    def adopt_receipts(self) -> None:
        """Rename receipts of other plans to names of this plan, so that their shards can be kept.

        Receipts of this plan are not replaced. Call this with the lock held, before workers start.
        """
        names = {f"receipts/{name}" for name, _ in self.root.child("receipts").files()}

        def adopt(name: str) -> None:
            found = RECEIPT.fullmatch(name)
            if not found or name == (new := self.receipt(int(found["index"]))):
                return
            if new in names:
                self.root.remove([name])
            else:
                self.root.move(name, new)

        with ThreadPoolExecutor(self.root.io_threads) as pool:
            for _ in pool.map(adopt, names):
                pass

    def n_receipts(self) -> int:
        """Return the number of shards that an earlier run finished."""
        return sum(name.endswith(".json") for name, _ in self.root.child("receipts").files())

    def has(self, receipt: Receipt) -> bool:
        """Return whether a shard's file exists in the size of its receipt; unlike `holds`, this does not read it."""
        return any(directory.size(name) == receipt.n_bytes for directory, name in self._places(receipt))

    def _places(self, receipt: Receipt) -> Iterator[tuple[Directory, str]]:
        """Yield where the file of a shard can be: in the workspace, or moved to the store."""
        yield self.root, self.written(receipt.index, receipt.sha256)
        yield self.store, shard_name(receipt.index)

    def missing(self, digests: Sequence[str], sizes: Sequence[int]) -> list[int]:
        """Return the numbers of shards that are missing or have another size; a size of -1 means not built."""
        found = {f"shards/{name}": size for name, size in self.root.child("shards").files()}
        lacking = [
            index
            for index, (sha256, size) in enumerate(zip(digests, sizes, strict=True))
            if size < 0 or found.get(self.written(index, sha256)) != size
        ]
        if not lacking:
            return []
        settled = self._settled()
        return [index for index in lacking if settled.get(shard_name(index), -2) != sizes[index]]

    def move_shards(self, digests: Sequence[str], sizes: Sequence[int]) -> None:
        """Move all shards into the store, and check that they are there; shards that are already there stay."""

        def move(index: int) -> None:
            self._require_hold()
            with suppress(FileNotFoundError):
                self.root.move(self.written(index, digests[index]), shard_name(index), self.store)

        with ThreadPoolExecutor(self.root.io_threads) as pool:
            for _ in pool.map(move, range(len(digests))):
                pass
        self.require_settled(sizes)

    def require_settled(self, sizes: Sequence[int]) -> None:
        """Raise a BuildError if a shard is not in the store in its size."""
        found = self._settled()
        if lost := [index for index, size in enumerate(sizes) if found.get(shard_name(index)) != size]:
            raise BuildError(
                f"{len(lost)} of {len(sizes)} shards did not arrive in {self.store}, the first is "
                f"{shard_name(lost[0])}; run the same command again"
            )

    def _settled(self) -> dict[str, int]:
        """Return the sizes of the shards that are in the store, by name."""
        return {f"{SHARDS}/{name}": size for name, size in self.store.child(SHARDS).files()}

    @abstractmethod
    def _require_hold(self) -> None:
        """Raise a BuildError if the lock was lost."""

    @contextmanager
    def publishing(
        self,
        digests: Sequence[str],
        sizes: Sequence[int],
        *,
        replace: bool = False,
        check: Callable[[Directory], object] = lambda _: None,
    ) -> Iterator[Path]:
        """Publish the store.

        Parameters
        ----------
        digests : sequence of str
            SHA-256 of all shards, in order; they are moved into the store, and everything else there is removed.
        sizes : sequence of int
            Sizes of their files, in bytes.
        replace : bool
            Whether an existing store is replaced.
        check : callable
            Called with the published store; if it raises, because the store does not open, the workspace is kept.

        Yields
        ------
        Path
            A folder for everything of the store except its shards. At the end of the block, the store is published
            and the workspace is removed.
        """
        with self._appearing(digests, sizes, replace) as folder:
            yield folder
        check(self.target)
        self.root.write(PUBLISHED)
        self.discard()

    def probe(self) -> None:  # noqa: B027  (in an object store, taking the lock tests it)
        """Raise a CallError or BuildError if the store could not be published; called before anything is computed."""

    def refuse_occupied(self, replace: bool) -> None:
        """Raise a BuildError if the target is occupied and `replace` is False."""
        if self.occupied() and not replace:
            raise BuildError(
                f"{self.target} was created by another process in the meantime; check it, and replace it with --force "
                f"if you want"
            )

    def cleanup_after_crash(self, published: Iterable[Receipt] = ()) -> None:
        """Remove what a kill after publishing left; a build that runs or can be resumed is not touched.

        Parameters
        ----------
        published : iterable of Receipt
            All receipts of the finished store: a workspace with the same receipts is a leftover of that store.
        """
        self.clear_trash()
        if self.root.size(REMOVING) is not None:
            self.remove_store()
        if self.is_spent or self.is_left_of(published) or self._is_of_late_parts():
            with self.locked():
                self.discard()

    def _is_of_late_parts(self) -> bool:
        """Return whether all files are from job-array parts that wrote after their plan was finished."""
        n_files = 0
        for name, _ in self.root.files():
            if not LATE.match(name):
                return False
            n_files += 1
        return n_files > 0

    def is_left_of(self, published: Iterable[Receipt]) -> bool:
        """Return whether all receipts are those of a finished store, and no job array is in progress."""
        if self.root.size(PLAN) is not None:
            return False
        n_same = 0
        for receipt in published:
            earlier = self.read_receipt(receipt.index)
            if earlier is None or (earlier.key, earlier.sha256) != (receipt.key, receipt.sha256):
                return False
            n_same += 1
        return n_same > 0 and n_same == self.n_receipts()

    def require_plan(self) -> None:
        """Raise a BuildError if the plan in the workspace is not this one.

        A build in one piece has no plan in the workspace: it holds the lock while its workers write.
        """
        if not self.plan_id:
            return
        try:
            same = self.root.sha256(PLAN) == self.plan_id
        except FileNotFoundError:
            same = False
        if not same:
            raise BuildError(
                f"the plan of {self.target} was replaced or finished after this part began; run the part again"
            )

    def has_made(self, note: bytes) -> bool:
        """Return whether the existing store was built for a note, by a run that was killed before it cleaned up.

        Parameters
        ----------
        note : bytes
            Content of the file `DERIVED`.
        """
        if not self.occupied():
            return False
        return self._discarded(DERIVED) == note or (self.is_spent and self.notes(note))

    def notes(self, note: bytes) -> bool:
        """Return whether the workspace's file `DERIVED` contains this note."""
        try:
            return self.root.read(DERIVED) == note
        except FileNotFoundError:
            return False

    def remove_store(self) -> None:
        """Remove the finished store; after a kill, it is intact or `cleanup_after_crash` removes the rest."""
        with self.locked():
            self.root.write(REMOVING)
            self._remove_target()
            self.discard()

    @abstractmethod
    def _remove_target(self) -> None: ...

    @abstractmethod
    def finish_interrupted_publish(self) -> None:
        """Make sure that a store is there after a kill in the last step of replacing it."""

    @property
    def is_spent(self) -> bool:
        """Whether the store was published, but a kill left the workspace."""
        return self.root.size(PUBLISHED) is not None

    @abstractmethod
    def _store(self) -> Directory: ...

    @abstractmethod
    def _appearing(
        self, digests: Sequence[str], sizes: Sequence[int], replace: bool
    ) -> AbstractContextManager[Path]: ...

    def refuse_foreign(self) -> None:  # noqa: B027  (in an object store there are neither links nor owners)
        """Raise a BuildError if the workspace, or a folder in it, is a link or belongs to another user."""

    def _discarded(self, name: str) -> bytes | None:  # noqa: ARG002
        """Read a file of a workspace whose removal was interrupted; None if there is none."""
        return None

    def clear_trash(self) -> None:  # noqa: B027  (an object store removes files one by one)
        """Remove the rest of a workspace whose removal was interrupted."""

    @abstractmethod
    def occupied(self) -> bool:
        """Return whether the target has anything that is not from this build."""

    @abstractmethod
    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Offer a shard of the finished store, with its receipt, to workers as one of an earlier run."""

    @abstractmethod
    def preview(self, folder: Path, digests: Sequence[str]) -> Directory:
        """Return a readable view of the complete store while it is being published.

        Parameters
        ----------
        folder : Path
            The folder from `publishing`, after everything except the shards is written to it.
        digests : sequence of str
            SHA-256 of all shards, in order.
        """

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for one build; the lock is reentrant, and a dead build does not keep it.

        Raises
        ------
        BuildError
            If another build holds it.
        """
        if self._n_holds:
            self._n_holds += 1
            try:
                yield
            finally:
                self._n_holds -= 1
            return
        with self._lock():
            self._n_holds, self._is_over = 1, False
            try:
                yield
            finally:
                self._n_holds = 0
                if self._is_over:
                    self._discard()

    def discard(self) -> None:
        """Remove the workspace; if an outer block holds the lock too, do so at the end of that block."""
        if self._n_holds > 1:
            self.root.write(PUBLISHED)
            self._is_over = True
        else:
            self._discard()

    @abstractmethod
    def _lock(self) -> AbstractContextManager[None]:
        """Take the lock, which this process does not hold yet, until the end of the block."""

    @abstractmethod
    def _discard(self) -> None: ...
