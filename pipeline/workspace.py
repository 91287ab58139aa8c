"""Work in progress: it lies beside its store under another name, and becomes the store in one step."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pipeline.chunk import SHARDS, shard_name
from pipeline.errors import BuildError
from pipeline.receipt import Receipt
from pipeline.tree import Tree

PUBLISHED = "published"  # file that says that the store is there, and that the rest may go
REMOVING = "removing"  # file that says that the store is on its way out
NOT_WRITTEN = "its bytes are not those that were written"


class Workspace(ABC):
    """The tree of files in which a store is built.

    Parameters
    ----------
    target : Tree
        Where the store will be.

    Attributes
    ----------
    root : Tree
        ``music.zarr.building``, beside the store. It holds ``shards/`` (what workers have written), ``receipts/`` (one
        a shard, written after it), and a lock, held while a build lives. A file ``published`` says that the store is
        there, and that the rest may go.
    store : Tree
        Where shards are moved when all are there.

    Notes
    -----
    A worker names a shard by its content, and only the client that holds the lock moves it into the store. So a worker
    of another build, dead to all but itself, can write what it likes: nobody looks for it there.
    """

    def __init__(self, target: Tree) -> None:
        self.target = target
        self.root = target.beside(f"{target.name}.building")
        self.store = self._store()

    # What workers do.

    @staticmethod
    def written(index: int, sha256: str) -> str:
        """Name of a shard as a worker writes it: by its content."""
        return f"shards/{index:07d}.{sha256}"

    @staticmethod
    def receipt(index: int) -> str:
        """Name of a shard's receipt."""
        return f"receipts/{index:07d}.json"

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
        return any(tree.size(name) == receipt.n_bytes and tree.sha256(name) == receipt.sha256
                   for tree, name in self._places(receipt))  # fmt: skip

    def take(self, receipt: Receipt, tree: Tree, name: str) -> None:
        """Keep a shard of another store as it is, and its receipt.

        Parameters
        ----------
        receipt : Receipt
            The shard's; its number is the one that it will have here.
        tree : Tree
            The other store.
        name : str
            The shard's file in it.

        Raises
        ------
        ValueError
            Where the bytes are not those of the receipt.
        """
        data = tree.read(name)
        if hashlib.sha256(data).hexdigest() != receipt.sha256:
            raise ValueError(NOT_WRITTEN)
        self.write([data], receipt)

    def forget(self) -> None:
        """Remove the shards and receipts of an earlier run that was to make another store."""
        for folder in map(self.root.below, ("receipts", "shards")):
            folder.remove([name for name, _ in folder.files()])

    def drop(self, receipt: Receipt) -> None:
        """Remove a shard that cannot be kept."""
        self.root.remove([self.written(receipt.index, receipt.sha256)])

    # What the client does.

    def n_receipts(self) -> int:
        """How many shards an earlier run has finished."""
        return sum(name.endswith(".json") for name, _ in self.root.below("receipts").files())

    def has(self, receipt: Receipt) -> bool:
        """Whether the file of a shard is there in the size of its receipt; a look, where `holds` reads all of it."""
        return any(tree.size(name) == receipt.n_bytes for tree, name in self._places(receipt))

    def _places(self, receipt: Receipt) -> Iterator[tuple[Tree, str]]:
        """Where the file of a shard can be, before it is settled and afterwards."""
        yield self.root, self.written(receipt.index, receipt.sha256)
        yield self.store, shard_name(receipt.index)

    def missing(self, digests: Sequence[str], sizes: Sequence[int]) -> list[int]:
        """Numbers of the shards whose files are not there in their sizes; the size is -1 where none was made."""
        found = {f"shards/{name}": size for name, size in self.root.below("shards").files()}
        lacking = [
            index
            for index, (sha256, size) in enumerate(zip(digests, sizes, strict=True))
            if size < 0 or found.get(self.written(index, sha256)) != size
        ]
        if not lacking:
            return []
        settled = self._settled()
        return [index for index in lacking if settled.get(shard_name(index), -2) != sizes[index]]

    def settle(self, digests: Sequence[str], sizes: Sequence[int]) -> None:
        """Move all shards to their places in the store, and see that they are there; those that were there stay."""

        def move(index: int) -> None:
            self._require_hold()
            with suppress(FileNotFoundError):
                self.root.move(self.written(index, digests[index]), shard_name(index), self.store)

        with ThreadPoolExecutor(self.root.readers) as pool:
            for _ in pool.map(move, range(len(digests))):
                pass
        found = self._settled()
        if lost := [index for index, size in enumerate(sizes) if found.get(shard_name(index)) != size]:
            raise BuildError(
                f"{len(lost)} of {len(sizes)} shards did not come to {self.store}, the first is {shard_name(lost[0])}; "
                f"run the same command again"
            )

    def _settled(self) -> dict[str, int]:
        """Sizes of the shards that are in the store, by their names there."""
        return {f"{SHARDS}/{name}": size for name, size in self.store.below(SHARDS).files()}

    @abstractmethod
    def _require_hold(self) -> None:
        """Raise a BuildError where the lock was lost."""

    @contextmanager
    def publishing(self, digests: Sequence[str], sizes: Sequence[int], *, replace: bool = False) -> Iterator[Path]:
        """Let a store appear.

        Parameters
        ----------
        digests : sequence of str
            SHA-256 of all shards, in order; they are moved into the store, and whatever else is there removed.
        sizes : sequence of int
            Bytes of their files.
        replace : bool
            Whether a store that is there is replaced.

        Yields
        ------
        Path
            A folder for all of the store but its shards. At the end of the block the store is there, and the rest of
            the workspace is removed.
        """
        with self._appearing(digests, sizes, replace) as folder:
            yield folder
        self.root.write(PUBLISHED)
        self.discard()

    def refuse_occupied(self, replace: bool) -> None:
        """Raise a BuildError where something is in the store's place that is not to be replaced."""
        if self.occupied() and not replace:
            raise BuildError(
                f"{self.target} has appeared meanwhile; look at it, and replace it with --force if you like"
            )

    def tidy(self, first: Receipt | None = None) -> None:
        """Remove what a kill after publishing has left; a build that lives, or that can go on, is left alone.

        Parameters
        ----------
        first : Receipt, optional
            Of the finished store's first shard: a workspace that has the same is what is left of that store.
        """
        if self.root.size(REMOVING) is not None:
            self.remove_store()
        earlier = self.read_receipt(0)
        if self.is_spent or (first and earlier and (first.key, first.sha256) == (earlier.key, earlier.sha256)):
            with self.locked():
                self.discard()

    def remove_store(self) -> None:
        """Remove the finished store; a kill leaves it as it was, or what `tidy` removes."""
        with self.locked():
            self.root.write(REMOVING)
            self._remove_target()
            self.discard()

    @abstractmethod
    def _remove_target(self) -> None: ...

    @abstractmethod
    def recover(self) -> None:
        """See that a store is there, after a kill in the last step of one that was to take its place."""

    @property
    def is_spent(self) -> bool:
        """Whether the store was published, and a kill fell before the rest was removed."""
        return self.root.size(PUBLISHED) is not None

    @abstractmethod
    def _store(self) -> Tree: ...

    @abstractmethod
    def _appearing(
        self, digests: Sequence[str], sizes: Sequence[int], replace: bool
    ) -> AbstractContextManager[Path]: ...

    @abstractmethod
    def occupied(self) -> bool:
        """Whether something is where the store will be, that is not of this build."""

    @abstractmethod
    def offer(self, receipt: Receipt) -> None:
        """Put a shard of the finished store where a worker looks for one of an earlier run, and its receipt."""

    @abstractmethod
    def preview(self, folder: Path, digests: Sequence[str]) -> Tree:
        """Give the store as it will be, to read, while it is being published.

        Parameters
        ----------
        folder : Path
            The folder that `publishing` gave, once it holds all of the store but its shards.
        digests : sequence of str
            SHA-256 of all shards, in order.
        """

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Hold the workspace for one build; a dead build's lock is free.

        Raises
        ------
        BuildError
            Where another build holds it.
        """

    @abstractmethod
    def discard(self) -> None:
        """Remove what is left of a build."""
