"""Run the lines that a share's card gives to open it, as who gets it does: with nothing but xarray and zarr.

python tests/open_share.py demo-share demo.zarr.zip
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any


def card(share: Path) -> str:
    """Text of the card of a folder or an archive."""
    if share.is_dir():
        return (share / "README.md").read_text(encoding="utf-8")
    with zipfile.ZipFile(share) as archive:
        return archive.read("README.md").decode()


def main(paths: list[str]) -> None:
    """Open each share, beside which the lines are run."""
    for path in map(Path, paths):
        code = re.search("```python\n(.*?)```", card(path), re.DOTALL)
        assert code, f"the card of {path} has no lines of Python"
        os.chdir(path.resolve().parent)
        found: dict[str, Any] = {}
        exec(code[1], found)  # noqa: S102  (the card that melzarr has just written)
        assert found["windows"].shape == found["dataset"].mel.shape[1:]
        assert not any(name.split(".")[0] in {"melzarr", "dask", "numba"} for name in sys.modules)
        print(f"{path} opens in Python {sys.version_info[0]}.{sys.version_info[1]}: {dict(found['dataset'].sizes)}")


main(sys.argv[1:])
