"""Shards and receipts of a build in progress, in a directory next to the store."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from blake3 import blake3

from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.digests import Hash, digests_of
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.shard import SHARDS, shard_name

Item = TypeVar("Item")

PLAN = "plan.json"  # what a job array's parts compute; written by its first stage
PLAN_DIGITS = 16  # digits of a plan's digest in the names of its receipts
RECEIPT = re.compile(r"receipts/(?P<index>[0-9]{7})(\.[0-9a-f]{16})?\.json")
LATE = re.compile(r"shards/|receipts/\.?[0-9]{7}\.[0-9a-f]{16}\.")  # a part's files, complete or being written
NOT_WRITTEN = "its bytes are not those that were written"


class Staging(ABC):
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

    @staticmethod
    def written(index: int, digest: str) -> str:
        """Return the name under which a worker writes a shard: it contains the digest of its content."""
        return f"shards/{index:07d}.{digest}"

    def receipt(self, index: int) -> str:
        """Return the name of a shard's receipt."""
        plan = f".{self.plan_id[:PLAN_DIGITS]}" if self.plan_id else ""
        return f"receipts/{index:07d}{plan}.json"

    def write(self, parts: Iterable[bytes], receipt: Receipt) -> None:
        """Write a shard, then its receipt; raise a BuildError if the build is over."""
        if not self.root.exists():
            raise BuildError(f"the build of {self.target} is over")
        self.root.write(self.written(receipt.index, receipt.blake3), *parts)
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
        """Return whether a shard's size and BLAKE3 match its receipt."""
        return any(directory.size(name) == receipt.n_bytes and directory.digest(name) == receipt.blake3
                   for directory, name in self._places(receipt))  # fmt: skip

    def copy_shard(
        self, receipt: Receipt, directory: Directory, name: str, algorithms: Sequence[Hash] = (blake3,)
    ) -> Receipt:
        """Copy a shard of another store unchanged, and write its receipt.

        Parameters
        ----------
        receipt : Receipt
            Receipt of the shard, with its number in the new store.
        directory : Directory
            The other store.
        name : str
            Path of the shard in it.
        algorithms : sequence of Hash
            `blake3`, and SHA-256 if the receipt needs that too.

        Returns
        -------
        Receipt
            The receipt that was written.

        Raises
        ------
        ValueError
            If the bytes do not match the receipt.
        """
        data = directory.read(name)
        receipt = checked(receipt, digests_of([data], *algorithms))
        self.write([data], receipt)
        return receipt

    def forget(self) -> None:
        """Remove the shards and receipts of an earlier run that built another store."""
        for folder in map(self.root.child, ("receipts", "shards")):
            folder.remove([name for name, _ in folder.files()])

    def drop(self, receipt: Receipt) -> None:
        """Remove a shard that cannot be kept."""
        self.root.remove([self.written(receipt.index, receipt.blake3)])

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

        self._for_each(adopt, names)

    def _for_each(self, function: Callable[[Item], object], items: Iterable[Item]) -> None:
        """Call a function that sends small requests for each item, in more threads than are needed to read data."""
        with ThreadPoolExecutor(4 * self.root.io_threads) as pool:
            for _ in pool.map(function, items):
                pass

    def n_receipts(self) -> int:
        """Return the number of shards that an earlier run finished."""
        return sum(name.endswith(".json") for name, _ in self.root.child("receipts").files())

    def has(self, receipt: Receipt) -> bool:
        """Return whether a shard's file exists in the size of its receipt; unlike `holds`, this does not read it."""
        return any(directory.size(name) == receipt.n_bytes for directory, name in self._places(receipt))

    def _places(self, receipt: Receipt) -> Iterator[tuple[Directory, str]]:
        """Yield where the file of a shard can be: in the workspace, or moved to the store."""
        yield self.root, self.written(receipt.index, receipt.blake3)
        yield self.store, shard_name(receipt.index)

    def missing(self, digests: Sequence[str], sizes: Sequence[int]) -> list[int]:
        """Return the numbers of shards that are missing or have another size; a size of -1 means not built."""
        found = {f"shards/{name}": size for name, size in self.root.child("shards").files()}
        lacking = [
            index
            for index, (digest, size) in enumerate(zip(digests, sizes, strict=True))
            if size < 0 or found.get(self.written(index, digest)) != size
        ]
        if not lacking:
            return []
        settled = self._settled()
        return [index for index in lacking if settled.get(shard_name(index), -2) != sizes[index]]

    def _settled(self) -> dict[str, int]:
        """Return the sizes of the shards that are in the store, by name."""
        return {f"{SHARDS}/{name}": size for name, size in self.store.child(SHARDS).files()}

    def require_plan(self) -> None:
        """Raise a BuildError if the plan in the workspace is not this one.

        A build in one piece has no plan in the workspace: it holds the lock while its workers write.
        """
        if not self.plan_id:
            return
        try:
            same = self.root.digest(PLAN) == self.plan_id
        except FileNotFoundError:
            same = False
        if not same:
            raise BuildError(
                f"the plan of {self.target} was replaced or finished after this part began; run the part again"
            )

    @abstractmethod
    def _store(self) -> Directory: ...


def checked(receipt: Receipt, digests: Mapping[str, str]) -> Receipt:
    """Return a receipt with the SHA-256 among the digests, if any; raise a ValueError if the BLAKE3 differs."""
    if digests["blake3"] != receipt.blake3:
        raise ValueError(NOT_WRITTEN)
    return replace(receipt, sha256=digests.get("sha256", ""))
