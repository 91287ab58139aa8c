"""Write the tracks of a store as Parquet for Hugging Face: a table per split, with pictures, and windows if wanted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.errors import MelzarrError
from melzarr.pipeline.features.decibels import stored_levels
from melzarr.pipeline.share.track_picture import MAX_COLUMNS, MIN_HEIGHT, draw_track, n_columns
from melzarr.pipeline.sources.split import SPLITS, UNUSED
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.atomic import sync
from melzarr.pipeline.threads import in_order
from melzarr.pipeline.zarr_store.companion_files import TABLES
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.tracks_table import columns

IMAGE: Final = "image"  # column of the pictures
ARRAY: Final = "mel_db"  # column of the windows
# The Hub's viewer reads a row group to show one of its rows, and wants at most 100 MB in it; 100 rows are also what the
# library `datasets` holds in memory of tables with pictures (datasets.config, MAX_ROW_GROUP_SIZE and
# ARROW_RECORD_BATCH_SIZE_FOR_IMAGE_DATASETS). Its largest file is of 500 MB (MAX_SHARD_SIZE). To write nested lists,
# pyarrow takes ten times their size, hence a third of the 100 MB.
GROUP_ROWS: Final = 100
GROUP_BYTES: Final = 32_000_000
FILE_BYTES: Final = 500_000_000
# Pages that end where their content says so, hence a changed dataset uploads only what changed (DEFAULT_CDC_OPTIONS).
PAGES: Final = {"min_chunk_size": 256 << 10, "max_chunk_size": 1 << 20, "norm_level": 0}
KINDS: Final = {str: "string", int: "int64", float: "float64"}

Row = tuple[bytes | None, npt.NDArray[np.float16] | None]


@dataclass(frozen=True, slots=True)
class Table:
    """The files of one split.

    Parameters
    ----------
    split : str
        Name of the split.
    n_rows : int
        Number of its tracks.
    n_bytes : int
        Size of its rows in memory.
    n_file_bytes : int
        Size of its files.
    """

    split: str
    n_rows: int
    n_bytes: int
    n_file_bytes: int


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a share.

    Parameters
    ----------
    splits : tuple of Table
        One per split that has tracks.
    features : mapping of str to mapping
        Columns and their types, as `datasets.Features.to_dict` gives them.
    """

    splits: tuple[Table, ...]
    features: Mapping[str, Mapping[str, Any]]


def require_pyarrow() -> None:
    """Import pyarrow.

    Raises
    ------
    MelzarrError
        If it is not installed.
    """
    try:
        import pyarrow as pa  # noqa: F401, PLC0415  (an extra)
    except ImportError as error:
        raise MelzarrError(
            "a share for Hugging Face needs pyarrow, which is not installed; pip install 'melzarr[parquet]'"
        ) from error


def features_of(labels: Sequence[str], spec: FeatureSpec, *, arrays: bool) -> dict[str, dict[str, Any]]:
    """Return the columns of the tables and their types, in the form of `datasets.Features.to_dict`.

    Parameters
    ----------
    labels : sequence of str
        Names of the classes, in the order of their numbers.
    spec : FeatureSpec
        Spec of the windows.
    arrays : bool
        Whether there is a column of the windows.
    """
    values = {name: {"dtype": KINDS[kind], "_type": "Value"} for name, (kind, _) in columns().items()}
    array = {ARRAY: {"shape": list(spec.shape), "dtype": "float16", "_type": "Array3D"}}
    return {
        "track": values["track"],
        "label": {"names": list(labels), "_type": "ClassLabel"},
        IMAGE: {"_type": "Image"},
        **{name: kind for name, kind in values.items() if name not in {"track", "label"}},
        **(array if arrays else {}),
    }


def write_tables(
    store: Store, folder: Path, *, arrays: bool, progress: Callable[[int], object] = lambda _: None
) -> Tables:
    """Write one table per split, in files ``data/SPLIT-00000-of-00001.parquet``.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Folder in which the folder ``data`` is made.
    arrays : bool
        Whether the tables contain the windows, as levels in dB and float16.
    progress : callable
        Called with the number of tracks written since the last call.

    Returns
    -------
    Tables
        What was written.
    """
    (folder / TABLES).mkdir(exist_ok=True)
    labels, split_of = np.unique(store.column("label")).tolist(), store.column("split")
    features = features_of(labels, store.spec, arrays=arrays)
    group, file = _sizes(store.spec, arrays=arrays)
    written = []
    for split in (*SPLITS, UNUSED):
        numbers = np.flatnonzero(split_of == split)
        parts = [numbers[start : start + file] for start in range(0, len(numbers), file)]
        n_bytes = n_file_bytes = 0
        for place, part in enumerate(parts):
            path = folder / TABLES / f"{split}-{place:05d}-of-{len(parts):05d}.parquet"
            n_bytes += _write(store, path, part, features, group, progress)
            n_file_bytes += path.stat().st_size
        if parts:
            written.append(Table(split, len(numbers), n_bytes, n_file_bytes))
    return Tables(tuple(written), features)


def _sizes(spec: FeatureSpec, *, arrays: bool) -> tuple[int, int]:
    """Return the number of rows of a row group and of a file, from the most that a row can take."""
    image = min(n_columns(spec), MAX_COLUMNS) * max(spec.n_mels, 2 * MIN_HEIGHT)
    row = 1024 + image + (2 * int(np.prod(spec.shape)) if arrays else 0)
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // row))
    return group, max(1, FILE_BYTES // (row * group)) * group


def _write(
    store: Store,
    path: Path,
    numbers: npt.NDArray[np.intp],
    features: Mapping[str, Mapping[str, Any]],
    group: int,
    progress: Callable[[int], object],
) -> int:
    """Write one file, and return the size of its rows in memory."""
    import pyarrow as pa  # noqa: PLC0415  (an extra, slow to import)
    from pyarrow import parquet  # noqa: PLC0415

    types = {name: _type(feature) for name, feature in features.items()}
    schema = pa.schema(types, {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)})
    packed = {name: f"{name}{'.list.element' * 3 if name == ARRAY else ''}" for name in types if name != IMAGE}
    rows, n_bytes = _rows(store, numbers, arrays=ARRAY in features), 0
    with parquet.ParquetWriter(
        path,
        schema,
        compression={**dict.fromkeys(packed.values(), "zstd"), f"{IMAGE}.bytes": "none", f"{IMAGE}.path": "none"},
        use_dictionary=[leaf for name, leaf in packed.items() if name != ARRAY],
        use_byte_stream_split=[leaf for name, leaf in packed.items() if name == ARRAY],  # an eighth smaller
        write_page_index=True,
        use_content_defined_chunking=PAGES,
    ) as writer:
        for start in range(0, len(numbers), group):
            some = numbers[start : start + group]
            made = []
            for _, row in zip(some, rows, strict=False):
                made.append(row)
                progress(1)
            table = pa.table([_cells(store, name, feature, some, made) for name, feature in features.items()], schema)
            n_bytes += table.nbytes
            writer.write_table(table, row_group_size=group)
        writer.add_key_value_metadata({"content_defined_chunking": json.dumps(PAGES)})
    sync(path)
    return n_bytes


def _rows(store: Store, numbers: npt.NDArray[np.intp], *, arrays: bool) -> Iterator[Row]:
    """Yield the picture of each track, or None if it has no valid window, and its levels in dB if wanted."""
    read, spec = store.reader(), store.spec
    n_valid = store.column("n_windows")

    def row(number: int) -> Row:
        stored = np.empty(spec.shape, spec.dtype)
        read(number, stored)
        image = draw_track(stored, int(n_valid[number]), spec) if n_valid[number] else None
        return image, stored_levels(stored, spec).astype(np.float16) if arrays else None

    return in_order(row, numbers.tolist(), max(os.cpu_count() or 1, store.io_threads))


def _type(feature: Mapping[str, Any]) -> Any:
    """Return the Arrow type of a column, as `datasets` stores it."""
    import pyarrow as pa  # noqa: PLC0415

    match feature["_type"]:
        case "Image":
            return pa.struct({"bytes": pa.binary(), "path": pa.string()})
        case "Array3D":
            return pa.list_(pa.list_(pa.list_(pa.float16())))
        case "ClassLabel":
            return pa.int64()
        case _:
            return {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}[feature["dtype"]]


def _cells(
    store: Store, name: str, feature: Mapping[str, Any], numbers: npt.NDArray[np.intp], rows: Sequence[Row]
) -> Any:
    """Return a column of some tracks; unknown numbers are null."""
    import pyarrow as pa  # noqa: PLC0415

    if name == IMAGE:
        images = [image and {"bytes": image, "path": None} for image, _ in rows]
        return pa.array(images, _type(feature))
    if name == ARRAY:
        values = np.stack([levels for _, levels in rows if levels is not None])
        cells = pa.array(values.reshape(-1))
        for n_items in reversed(values.shape[1:]):
            cells = pa.ListArray.from_arrays(np.arange(0, len(cells) + 1, n_items, dtype=np.int32), cells)
        return cells
    values = store.values(name, slice(int(numbers[0]), int(numbers[-1]) + 1))[numbers - numbers[0]]
    if name == "label":
        return pa.array(np.searchsorted(np.array(feature["names"]), values.astype(str)), pa.int64())
    return pa.array(values.tolist(), _type(feature), from_pandas=True)
