"""Run the lines that a share's card gives to open it, as who gets it does: with nothing but xarray and zarr.

The card of a share for Hugging Face has lines for the library `datasets` too.

python tests/open_share.py demo-share demo.zarr.zip
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def card(share: Path) -> str:
    """Text of the card of a folder or an archive."""
    if share.is_dir():
        return (share / "README.md").read_text(encoding="utf-8")
    with zipfile.ZipFile(share) as archive:
        return archive.read("README.md").decode()


def check_tables(found: dict[str, Any]) -> None:
    """Compare the tables of a share for Hugging Face with its store."""
    dataset, tables = found["dataset"], found["tables"]
    for split, table in tables.items():
        assert set(dataset.track.values[dataset.split == split]) == set(table["track"])
        names = table.features["label"].names
        for row, mel in zip(table, table.with_format("numpy")["mel_db"], strict=True):
            track = dataset.sel(track=row["track"])
            assert names[row["label"]] == track.label
            if row["n_windows"]:
                assert row["image"].size == (dataset.sizes["window"], dataset.sizes["band"])
            levels = 10 * np.log10(np.maximum(track.mel.values, 1e-10))
            np.testing.assert_allclose(mel, levels, atol=2**-5)  # half a step of float16
    assert found["label"] in dataset.label
    assert found["levels"].shape == found["windows"].shape


def main(paths: list[str]) -> None:
    """Open each share, beside which the lines are run."""
    for path in map(Path, paths):
        code = re.findall("```python\n(.*?)```", card(path), re.DOTALL)
        assert code, f"the card of {path} has no lines of Python"
        os.chdir(path.resolve().parent)
        found: dict[str, Any] = {}
        for lines in code:
            exec(lines, found)  # noqa: S102  (the card that melzarr has just written)
        assert found["windows"].shape == found["dataset"].mel.shape[1:]
        if "tables" in found:
            check_tables(found)
        assert not any(name.split(".")[0] in {"melzarr", "dask", "numba"} for name in sys.modules)
        print(f"{path} opens in Python {sys.version_info[0]}.{sys.version_info[1]}: {dict(found['dataset'].sizes)}")


main(sys.argv[1:])
