"""The workspace: a directory next to the store, in which it is built and from which it is published in one step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from melzarr.pipeline.errors import BuildError
from melzarr.pipeline.publishing.staging import LATE, PLAN, Staging
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.shard import shard_name

BUILT = ".built.json"  # suffix of a file next to the store with the build's timings
PUBLISHED = "published"  # marker file: the store is published, and the rest can be removed
REMOVING = "removing"  # marker file: the store is being removed
DERIVED = "derived.json"  # what is being derived here, and from which stores


class Workspace(Staging):
    """The directory in which a store is built, with the steps that publish it.

    Its shards and receipts, and its parameters, are those of `Staging`.
    """

    def move_shards(self, digests: Sequence[str], sizes: Sequence[int]) -> None:
        """Move all shards into the store, and check that they are there; shards that are already there stay."""

        def move(index: int) -> None:
            self._require_hold()
            with suppress(FileNotFoundError):
                self.root.move(self.written(index, digests[index]), shard_name(index), self.store)

        self._for_each(move, range(len(digests)))
        self.require_settled(sizes)

    def require_settled(self, sizes: Sequence[int]) -> None:
        """Raise a BuildError if a shard is not in the store in its size."""
        found = self._settled()
        if lost := [index for index, size in enumerate(sizes) if found.get(shard_name(index)) != size]:
            raise BuildError(
                f"{len(lost)} of {len(sizes)} shards did not arrive in {self.store}, the first is "
                f"{shard_name(lost[0])}; run the same command again"
            )

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
            BLAKE3 of all shards, in order; they are moved into the store, and everything else there is removed.
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

    def probe(self) -> None:
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
            if earlier is None or (earlier.key, earlier.blake3) != (receipt.key, receipt.blake3):
                return False
            n_same += 1
        return n_same > 0 and n_same == self.n_receipts()

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
    def _appearing(
        self, digests: Sequence[str], sizes: Sequence[int], replace: bool
    ) -> AbstractContextManager[Path]: ...

    def refuse_foreign(self) -> None:
        """Raise a BuildError if the workspace, or a folder in it, is a link or belongs to another user."""

    def _discarded(self, name: str) -> bytes | None:  # noqa: ARG002
        """Read a file of a workspace whose removal was interrupted; None if there is none."""
        return None

    def clear_trash(self) -> None:
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
            BLAKE3 of all shards, in order.
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
