"""Work in progress: it lies beside its store under another name, and becomes the store in one step."""

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

BUILT = ".built.json"  # ending of the note beside a store of how fast it was built
PUBLISHED = "published"  # file that says that the store is there, and that the rest may go
REMOVING = "removing"  # file that says that the store is on its way out
DERIVED = "derived.json"  # what is being made there of other stores, and of which
PLAN = "plan.json"  # what the parts of a build make; written by its first stage
PLAN_DIGITS = 16  # of a plan's digest, in the names of its receipts
RECEIPT = re.compile(r"receipts/(?P<index>[0-9]{7})(\.[0-9a-f]{16})?\.json")
LATE = re.compile(r"shards/|receipts/\.?[0-9]{7}\.[0-9a-f]{16}\.")  # a part's files, with those that are being written
NOT_WRITTEN = "its bytes are not those that were written"


class Workspace(ABC):
    """The tree of files in which a store is built.

    Parameters
    ----------
    target : Directory
        Where the store will be.
    plan_id : str
        Plan of which receipts are read and written; empty for a build in one piece.

    Attributes
    ----------
    root : Directory
        ``music.zarr.building``, beside the store. It holds ``shards/`` (what workers have written), ``receipts/`` (one
        per shard and plan, written after it), and a lock, held while a build lives. A file ``published`` says that the
        store is there, and that the rest may go.
    store : Directory
        Where shards are moved when all are there.

    Notes
    -----
    A worker names a shard by its content, and only the client that holds the lock moves it into the store. So a worker
    of another build, dead to all but itself, can write what it likes: nobody looks for it there. A receipt is named by
    its plan, so that a late part of an older plan does not replace one of the current plan.
    """

    def __init__(self, target: Directory, plan_id: str = "") -> None:
        self.target, self.plan_id = target, plan_id
        self.root = target.sibling(f"{target.name}.building")
        self.store = self._store()
        self._n_holds, self._is_over = 0, False  # of the lock, by this process

    # What workers do.

    @staticmethod
    def written(index: int, sha256: str) -> str:
        """Name of a shard as a worker writes it: by its content."""
        return f"shards/{index:07d}.{sha256}"

    def receipt(self, index: int) -> str:
        """Name of a shard's receipt."""
        plan = f".{self.plan_id[:PLAN_DIGITS]}" if self.plan_id else ""
        return f"receipts/{index:07d}{plan}.json"

    def write(self, parts: Iterable[bytes], receipt: Receipt) -> None:
        """Keep a shard and, once it is whole, its receipt; where the build is over, there is nobody to keep it for."""
        if not self.root.exists():
            raise BuildError(f"the build of {self.target} is over")
        self.root.write(self.written(receipt.index, receipt.sha256), *parts)
        self.keep(receipt)

    def keep(self, receipt: Receipt) -> None:
        """Write a receipt down."""
        self.root.write(self.receipt(receipt.index), receipt.to_json())

    def read_receipt(self, index: int) -> Receipt | None:
        """Return the receipt that an earlier run left of a shard, if there is one that can be read."""
        try:
            return Receipt.from_json(self.root.read(self.receipt(index)))
        except (FileNotFoundError, ValueError):
            return None

    def holds(self, receipt: Receipt) -> bool:
        """Whether the bytes of a shard are those of its receipt."""
        return any(directory.size(name) == receipt.n_bytes and directory.sha256(name) == receipt.sha256
                   for directory, name in self._places(receipt))  # fmt: skip

    def copy_shard(self, receipt: Receipt, directory: Directory, name: str) -> None:
        """Keep a shard of another store as it is, and its receipt.

        Parameters
        ----------
        receipt : Receipt
            The shard's; its number is the one that it will have here.
        directory : Directory
            The other store.
        name : str
            The shard's file in it.

        Raises
        ------
        ValueError
            Where the bytes are not those of the receipt.
        """
        data = directory.read(name)
        if hashlib.sha256(data).hexdigest() != receipt.sha256:
            raise ValueError(NOT_WRITTEN)
        self.write([data], receipt)

    def forget(self) -> None:
        """Remove the shards and receipts of an earlier run that was to make another store."""
        for folder in map(self.root.child, ("receipts", "shards")):
            folder.remove([name for name, _ in folder.files()])

    def drop(self, receipt: Receipt) -> None:
        """Remove a shard that cannot be kept."""
        self.root.remove([self.written(receipt.index, receipt.sha256)])

    # What the client does.

    def adopt_receipts(self) -> None:
        """Rename the receipts of other plans to this one's, so that their shards can be kept.

        A receipt of this plan is not replaced. Call it with the lock held, before workers start.
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
        """How many shards an earlier run has finished."""
        return sum(name.endswith(".json") for name, _ in self.root.child("receipts").files())

    def has(self, receipt: Receipt) -> bool:
        """Whether the file of a shard is there in the size of its receipt; a look, where `holds` reads all of it."""
        return any(directory.size(name) == receipt.n_bytes for directory, name in self._places(receipt))

    def _places(self, receipt: Receipt) -> Iterator[tuple[Directory, str]]:
        """Where the file of a shard can be, before it is settled and afterwards."""
        yield self.root, self.written(receipt.index, receipt.sha256)
        yield self.store, shard_name(receipt.index)

    def missing(self, digests: Sequence[str], sizes: Sequence[int]) -> list[int]:
        """Numbers of the shards whose files are not there in their sizes; the size is -1 where none was made."""
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
        """Move all shards to their places in the store, and see that they are there; those that were there stay."""

        def move(index: int) -> None:
            self._require_hold()
            with suppress(FileNotFoundError):
                self.root.move(self.written(index, digests[index]), shard_name(index), self.store)

        with ThreadPoolExecutor(self.root.io_threads) as pool:
            for _ in pool.map(move, range(len(digests))):
                pass
        self.require_settled(sizes)

    def require_settled(self, sizes: Sequence[int]) -> None:
        """Raise a BuildError if a shard is not in its place in the store, in its size."""
        found = self._settled()
        if lost := [index for index, size in enumerate(sizes) if found.get(shard_name(index)) != size]:
            raise BuildError(
                f"{len(lost)} of {len(sizes)} shards did not come to {self.store}, the first is {shard_name(lost[0])}; "
                f"run the same command again"
            )

    def _settled(self) -> dict[str, int]:
        """Sizes of the shards that are in the store, by their names there."""
        return {f"{SHARDS}/{name}": size for name, size in self.store.child(SHARDS).files()}

    @abstractmethod
    def _require_hold(self) -> None:
        """Raise a BuildError where the lock was lost."""

    @contextmanager
    def publishing(
        self,
        digests: Sequence[str],
        sizes: Sequence[int],
        *,
        replace: bool = False,
        check: Callable[[Directory], object] = lambda _: None,
    ) -> Iterator[Path]:
        """Let a store appear.

        Parameters
        ----------
        digests : sequence of str
            SHA-256 of all shards, in order; they are moved into the store, and whatever else is there removed.
        sizes : sequence of int
            Bytes of their files.
        replace : bool
            Whether a store that is there is replaced.
        check : callable
            Called with the store once it is there; raises if it does not open, and then the workspace stays.

        Yields
        ------
        Path
            A folder for all of the store but its shards. At the end of the block the store is there, and the rest of
            the workspace is removed.
        """
        with self._appearing(digests, sizes, replace) as folder:
            yield folder
        check(self.target)
        self.root.write(PUBLISHED)
        self.discard()

    def probe(self) -> None:  # noqa: B027  (in an object store, taking the lock shows it)
        """Raise a CallError or BuildError if the store could not appear in its place, before anything is computed."""

    def refuse_occupied(self, replace: bool) -> None:
        """Raise a BuildError where something is in the store's place that is not to be replaced."""
        if self.occupied() and not replace:
            raise BuildError(
                f"{self.target} has appeared meanwhile; look at it, and replace it with --force if you like"
            )

    def cleanup_after_crash(self, published: Iterable[Receipt] = ()) -> None:
        """Remove what a kill after publishing has left; a build that lives, or that can go on, is left alone.

        Parameters
        ----------
        published : iterable of Receipt
            All receipts of the finished store: a workspace that has the very same is what is left of that store.
        """
        self.clear_trash()
        if self.root.size(REMOVING) is not None:
            self.remove_store()
        if self.is_spent or self.is_left_of(published) or self._is_of_late_parts():
            with self.locked():
                self.discard()

    def _is_of_late_parts(self) -> bool:
        """Whether it holds nothing but what parts have written after their plan was finished."""
        n_files = 0
        for name, _ in self.root.files():
            if not LATE.match(name):
                return False
            n_files += 1
        return n_files > 0

    def is_left_of(self, published: Iterable[Receipt]) -> bool:
        """Whether the receipts are those of a finished store, each of them, and no stage of a build is to come."""
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
        """Raise a BuildError if the plan that is written down is not this one.

        A build in one piece has no plan there: it holds the lock while its workers write.
        """
        if not self.plan_id:
            return
        try:
            same = self.root.sha256(PLAN) == self.plan_id
        except FileNotFoundError:
            same = False
        if not same:
            raise BuildError(
                f"the plan of {self.target} is another one since this part began, or is finished; begin the part again"
            )

    def has_made(self, note: bytes) -> bool:
        """Whether the store that is there was made from a note, by a run that was ended before it had tidied up.

        Parameters
        ----------
        note : bytes
            As `DERIVED` holds it.
        """
        if not self.occupied():
            return False
        return self._discarded(DERIVED) == note or (self.is_spent and self.notes(note))

    def notes(self, note: bytes) -> bool:
        """Whether what is made here is what a note says."""
        try:
            return self.root.read(DERIVED) == note
        except FileNotFoundError:
            return False

    def remove_store(self) -> None:
        """Remove the finished store; a kill leaves it as it was, or what `cleanup_after_crash` removes."""
        with self.locked():
            self.root.write(REMOVING)
            self._remove_target()
            self.discard()

    @abstractmethod
    def _remove_target(self) -> None: ...

    @abstractmethod
    def finish_interrupted_publish(self) -> None:
        """See that a store is there, after a kill in the last step of one that was to take its place."""

    @property
    def is_spent(self) -> bool:
        """Whether the store was published, and a kill fell before the rest was removed."""
        return self.root.size(PUBLISHED) is not None

    @abstractmethod
    def _store(self) -> Directory: ...

    @abstractmethod
    def _appearing(
        self, digests: Sequence[str], sizes: Sequence[int], replace: bool
    ) -> AbstractContextManager[Path]: ...

    def refuse_foreign(self) -> None:  # noqa: B027  (in an object store there are neither links nor owners)
        """Raise a BuildError if the workspace, or a part of it, is a link or another user's."""

    def _discarded(self, name: str) -> bytes | None:  # noqa: ARG002
        """Read a file of a workspace that was being removed."""
        return None

    def clear_trash(self) -> None:  # noqa: B027  (in an object store files go one by one)
        """Remove what a kill has left of a workspace that was being removed."""

    @abstractmethod
    def occupied(self) -> bool:
        """Whether something is where the store will be, that is not of this build."""

    @abstractmethod
    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Put a shard of the finished store where a worker looks for one of an earlier run, and its receipt."""

    @abstractmethod
    def preview(self, folder: Path, digests: Sequence[str]) -> Directory:
        """Give the store as it will be, to read, while it is being published.

        Parameters
        ----------
        folder : Path
            The folder that `publishing` gave, once it holds all of the store but its shards.
        digests : sequence of str
            SHA-256 of all shards, in order.
        """

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for one build; a dead build's lock is free. Who holds it already may hold it once more.

        Raises
        ------
        BuildError
            Where another build holds it.
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
        """Remove what is left of a build; if it is held for more than that, at the end of it all."""
        if self._n_holds > 1:
            self.root.write(PUBLISHED)
            self._is_over = True
        else:
            self._discard()

    @abstractmethod
    def _lock(self) -> AbstractContextManager[None]:
        """Hold the workspace, which this process does not hold yet."""

    @abstractmethod
    def _discard(self) -> None: ...
