"""Build a store as one zip archive, and publish it by one rename of the archive."""

from __future__ import annotations

from pathlib import Path

from melzarr.pipeline.publishing.local_workspace import LocalWorkspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.atomic import remove_parts, write_whole
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.zip import ZipDirectory, pack_folder
from melzarr.pipeline.zarr_store.companion_files import checksum_lines


class ZipWorkspace(LocalWorkspace):
    """A workspace in a folder next to the archive, packed from ``store/`` in it: a build takes twice the space.

    The digest ``NAME.zarr.zip.sha256`` is written next to the archive.
    """

    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Do nothing: a shard in an archive cannot be linked, and copying it takes as long as computing it."""

    def may_link(self, directory: Directory) -> bool:
        """Return whether a directory is local: the archive gets a copy of the bytes of a linked file."""
        return isinstance(directory, LocalDirectory)

    def _longest_name(self) -> str:
        return f".{digest_file(Path(self.target.name)).name}.{'0' * 16}.part"  # while the digest is written

    def _put(self, store: Path) -> None:
        assert isinstance(self.target, ZipDirectory)  # noqa: S101  (see `open_workspace`)
        archive = self.folder / "archive"
        archive.unlink(missing_ok=True)  # left by a kill, or a link
        digests = {self.target.name: pack_folder(store, archive)}
        # The digest is written first. After a kill in between, the next run writes both again, so they match soon.
        digest = digest_file(self.target.path)
        remove_parts(digest)  # left by a kill
        write_whole(digest, checksum_lines(digests))
        archive.replace(self.target.path)


def digest_file(path: Path) -> Path:
    """Return the path of an archive's digest file, with which users check a download before they open it."""
    return path.with_name(f"{path.name}.sha256")
