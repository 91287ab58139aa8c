"""Run the lines that the card of a shared run gives, as who gets it does: with Keras and librosa, without melzarr.

python tests/open_run.py demo-genres song.wav ANSWER.json

ANSWER.json is what `melzarr predict demo-genres song.wav --json` printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def main(share: Path, song: Path, answer: Path) -> None:
    """Run the lines beside a copy of the share and the song, and compare their answer."""
    expected = json.loads(answer.read_text())[0]
    code = re.findall("```python\n(.*?)```", (share / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code, f"the card of {share} has no lines of Python"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(share, Path(folder) / share.name)
        shutil.copy(song, Path(folder) / "song.mp3")
        os.chdir(folder)
        for lines in code:
            exec(lines, found)  # noqa: S102  (the card that melzarr has just written)
        os.chdir("/")
    assert "melzarr" not in sys.modules
    assert found["genre"] == expected["genre"]
    np.testing.assert_allclose(found["probabilities"], list(expected["probabilities"].values()), atol=1e-3)
    if "same" in found:  # of ONNX
        np.testing.assert_allclose(found["same"], found.get("of_windows", found["probabilities"][None]), atol=1e-5)
    print(f"{share} answers {found['genre']} in Python {sys.version_info[0]}.{sys.version_info[1]}")


main(*(Path(path).resolve() for path in sys.argv[1:]))
