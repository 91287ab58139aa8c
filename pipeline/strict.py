"""What zarr reads a store through: it fills in what is absent, and a store leaves nothing out."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from zarr.storage import WrapperStore

from pipeline.tree import Tree

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class Strict(WrapperStore[Any]):
    """A tree as zarr reads it, in which a chunk that is missing is an error.

    Parameters
    ----------
    tree : Tree
        Where the store lies.
    """

    def __init__(self, tree: Tree, store: Any = None) -> None:
        super().__init__(store or tree.for_zarr())
        self.tree = tree

    def _with_store(self, store: Any) -> Strict:
        return Strict(self.tree, store)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a file, or a part of it.

        Raises
        ------
        FileNotFoundError
            Where it holds values and is not there.
        """
        found: Buffer | None = None
        is_chunk = "/c/" in key
        if not (is_chunk and self.tree.folder and self.tree.size(key) is None):  # a named pipe would block for ever
            with self.tree.telling(key):
                found = await self._store.get(key, prototype, byte_range)
        if found is None and is_chunk:
            raise FileNotFoundError(errno.ENOENT, "it is missing", f"{self.tree}/{key}")
        return found
