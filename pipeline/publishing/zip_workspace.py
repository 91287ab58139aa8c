"""A store that is built to be one zip archive: it appears by one rename of the archive."""

from __future__ import annotations

from pathlib import Path

from melzarr.pipeline.publishing.local_workspace import LocalWorkspace
from melzarr.pipeline.shard_receipt import Receipt
from melzarr.pipeline.storage.atomic import sha256_of, write_whole
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.zip import ZipDirectory, pack_folder
from melzarr.pipeline.zarr_store.companion_files import checksum_lines


class ZipWorkspace(LocalWorkspace):
    """A workspace in a folder beside the archive; ``store/`` in it is what is packed, so it takes its size twice.

    Beside the archive comes ``NAME.zarr.zip.sha256``.
    """

    def reuse_published_shard(self, receipt: Receipt) -> None:
        """Offer nothing: a shard in an archive cannot be linked, and to copy one takes as long as to make it."""

    def may_link(self, directory: Directory) -> bool:
        """Any file on a disk: it goes into the archive by its bytes."""
        return isinstance(directory, LocalDirectory)

    def _longest_name(self) -> str:
        return f".{digest_file(Path(self.target.name)).name}.{'0' * 16}.part"  # while it is written

    def _put(self, store: Path) -> None:
        assert isinstance(self.target, ZipDirectory)  # noqa: S101  (by whom it was made)
        archive = self.folder / "archive"
        archive.unlink(missing_ok=True)  # left by a kill, or a link
        pack_folder(store, archive)
        # First, for a kill in between is followed by the same again: no archive has another one's digest for long.
        digests = {self.target.name: sha256_of(archive)}
        write_whole(digest_file(self.target.path), checksum_lines(digests))
        archive.replace(self.target.path)


def digest_file(path: Path) -> Path:
    """File beside an archive that has its digest, for who downloads it and checks it before it is opened."""
    return path.with_name(f"{path.name}.sha256")
