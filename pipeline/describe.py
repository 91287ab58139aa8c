"""What a finished store holds, in numbers: shape, size, spec, labels × splits × status, statistics, provenance."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from pipeline.layout import MEL_DIMS
from pipeline.store import Store


def describe(store: Store) -> dict[str, Any]:
    """Describe a store in plain values, ready for JSON.

    Parameters
    ----------
    store : Store
        The store; none of its shards is read.
    """
    attributes, mel = store.attributes, store.mel
    names = ("label", "split", "status")
    counts = Counter(zip(*(store.values(name).tolist() for name in names), strict=True))
    troubled = np.flatnonzero(store.values("status") != "ok")
    sources, statuses, errors = (store.values(name)[troubled].tolist() for name in ("source", "status", "error"))
    return {
        "path": str(store.path),
        "uuid": attributes["uuid"],
        "title": attributes["title"],
        "licence": attributes["licence"],
        "dims": dict(zip(MEL_DIMS, mel.shape, strict=True)),
        "chunks": list(mel.chunks),
        "shards": list(mel.shards or mel.chunks),
        "dtype": str(mel.dtype),
        "bytes": store.n_bytes,
        "bytes_uncompressed": int(np.prod(mel.shape)) * mel.dtype.itemsize,
        "recipe": attributes["recipe"].get("name", ""),
        "origin": attributes["recipe"].get("origin", ""),
        "spec": attributes["spec"],
        "split": attributes["split"],
        "tracks": [dict(zip((*names, "tracks"), (*key, count), strict=True)) for key, count in sorted(counts.items())],
        "valid_windows": int(store.values("n_windows").sum()),
        "mean_db": store.values("mean_db").tolist(),
        "std_db": store.values("std_db").tolist(),
        "troubled": [
            {"source": source, "status": status, "error": error}
            for source, status, error in zip(sources, statuses, errors, strict=True)
        ],
        "versions": attributes["versions"],
    }
