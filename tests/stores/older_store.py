"""Make a store what an earlier version would have written."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import zarr

from melzarr.pipeline.sources.tracks import TEXT
from melzarr.pipeline.zarr_store.layout import ADDED, OLDER_DIGESTS
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.shard import shard_name


def made_older(store: Store, schema: int, audio: Path) -> Store:
    """Rewrite a store in an older schema: with SHA-256, and in schema 3 without the columns that were added since.

    Parameters
    ----------
    store : Store
        The store; it is changed.
    schema : {3, 4}
        The schema.
    audio : Path
        Folder of its audio files.
    """
    path, uuid = Path(store.address), store.attributes["uuid"]
    sources = [audio / source if digest else None for source, digest in
               zip(store.values("source"), store.values("source_blake3"), strict=True)]  # fmt: skip
    shards = [path / shard_name(index) for index in range(len(store.values("receipts/blake3")))]
    metadata = json.loads((path / "zarr.json").read_text().replace("source_blake3", "source_sha256"))
    arrays = metadata["consolidated_metadata"]["metadata"]
    (path / "mel/zarr.json").write_text((path / "mel/zarr.json").read_text().replace("source_blake3", "source_sha256"))
    for (name, was), files in zip(OLDER_DIGESTS.items(), (sources, shards), strict=True):
        (path / name).rename(path / was)
        arrays[was] = arrays.pop(was if name == "source_blake3" else name)
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() if file else "" for file in files]
        zarr.open_array(path / was)[:] = np.array(digests, TEXT)
    for name in ADDED if schema == 3 else ():
        shutil.rmtree(path / name)
        del arrays[name]
    metadata["attributes"]["schema_version"] = schema
    (path / "zarr.json").write_text(json.dumps(metadata))
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace(uuid, open_store(path).content_uuid()))
    return open_store(path)
