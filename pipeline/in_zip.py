"""A store that is built to be one zip archive: it appears by one rename of the archive."""

from __future__ import annotations

from pathlib import Path

from pipeline.archive import ZipTree, pack_folder
from pipeline.on_disk import DiskWorkspace
from pipeline.receipt import Receipt
from pipeline.tree import DiskTree, Tree


class ZipWorkspace(DiskWorkspace):
    """A workspace in a folder beside the archive; ``store/`` in it is what is packed, so it takes its size twice."""

    def offer(self, receipt: Receipt) -> None:
        """Offer nothing: a shard in an archive cannot be linked, and to copy one takes as long as to make it."""

    def may_link(self, tree: Tree) -> bool:
        """Any file on a disk: it goes into the archive by its bytes."""
        return isinstance(tree, DiskTree)

    def _put(self, store: Path) -> None:
        assert isinstance(self.target, ZipTree)  # noqa: S101  (by whom it was made)
        archive = self.folder / "archive"
        pack_folder(store, archive)
        archive.replace(self.target.path)
