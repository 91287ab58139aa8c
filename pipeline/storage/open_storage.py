"""Open the directory at a path or an address: a folder, a zip archive or an object store."""

from __future__ import annotations

import os
import re
from pathlib import Path

from melzarr.pipeline.errors import CallError
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.remote_zip import RemoteZipDirectory
from melzarr.pipeline.storage.zip import ZipDirectory

SCHEMES = ("s3", "gs", "az", "https", "http")
ZIP_SUFFIX = ".zarr.zip"  # suffix of a store in one file


def open_directory(where: str | Path | Directory) -> Directory:
    """Return the directory at a path or an address.

    Parameters
    ----------
    where : str, Path or Directory
        A path of a folder or of a ``.zarr.zip`` file; or ``s3://BUCKET/…``, ``gs://…``, ``az://…``, ``https://…``.

    Raises
    ------
    CallError
        If the address is invalid, contains a password, is of an unknown kind, or needs obstore, which is not installed.
    """
    if not isinstance(where, str | Path):
        return where
    scheme, found, _ = str(where).partition("://")
    if isinstance(where, Path) or not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return _on_disk(Path(where))
    if scheme not in SCHEMES:
        raise CallError(
            f"{where}: use a path, or an address that begins with {', '.join(f'{known}://' for known in SCHEMES)}"
        )
    try:
        from melzarr.pipeline.storage.object_store import ObjectStoreDirectory  # noqa: PLC0415  (an optional dependency: most stores are on a disk)
    except ImportError as error:
        raise CallError(f"{where} needs obstore; pip install 'melzarr[object-store]'") from error

    return ObjectStoreDirectory.at(where)


def in_archive(directory: Directory) -> Directory:
    """Return the archive at the address of a directory, if its name is that of one and it is there, to read it."""
    if isinstance(directory, ZipDirectory) or directory.folder or not directory.name.endswith(ZIP_SUFFIX):
        return directory
    holder = directory.sibling("")
    return directory if holder.size(directory.name) is None else RemoteZipDirectory(holder, directory.name)


def _on_disk(path: Path) -> Directory:
    """Return a zip archive if the name ends in `ZIP_SUFFIX` and it is not a folder, otherwise a folder."""
    is_folder = os.path.isdir(path)  # noqa: PTH112  (Path.is_dir raises if the folder above may not be read)
    return ZipDirectory(path) if path.name.endswith(ZIP_SUFFIX) and not is_folder else LocalDirectory(path)
