"""Compute one track in a subprocess, so that a crash or a hang of the decoder fails only that track.

This is done for the tracks of a shard whose workers have died.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.features.extract import failed, featurise, one_thread
from melzarr.pipeline.shard_receipt import TrackReceipt
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import source_digest
from melzarr.pipeline.storage.local import LocalDirectory

TRACK_SECONDS = 120  # time limit for one track, which normally takes hundredths of a second
REMEDY = "the file is damaged or hostile: convert it to WAV or FLAC, or leave it out"


def featurise_apart(path: Path, spec: FeatureSpec, end: float = math.nan) -> tuple[npt.NDArray[Any], TrackReceipt]:
    """Run `extract.featurise` in a subprocess, which may crash or hang.

    Parameters
    ----------
    path : Path
        The audio file.
    spec : FeatureSpec
        Features to compute.
    end : float, in s
        As for `featurise`.

    Returns
    -------
    windows : np.ndarray [shape=(n_valid_windows, n_frames, n_mels), dtype=spec.dtype]
        The valid windows; none if the process crashed or took too long.
    receipt : TrackReceipt
        Status of the track, its error and facts about the file.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({"path": os.fspath(path), "spec": spec.to_dict(), "end": end}))
        try:
            # -P: import nothing from the folder in which the worker happens to run.
            done = subprocess.run(
                [sys.executable, "-P", "-m", "melzarr.pipeline.features.decoder_subprocess", name],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                timeout=TRACK_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return _lost(path, spec, end, f"it was not decoded within {TRACK_SECONDS} s; {REMEDY}")
        if done.returncode < 0:
            return _lost(path, spec, end, f"its decoder crashed ({signal.Signals(-done.returncode).name}); {REMEDY}")
        if done.returncode:
            raise RuntimeError(f"a process for {path.name} failed: {done.stderr.decode(errors='replace')[-2000:]}")
        windows = np.load(folder / "windows.npy", allow_pickle=False)
        return windows, TrackReceipt(**json.loads((folder / "receipt.json").read_bytes()))


def _lost(path: Path, spec: FeatureSpec, end: float, remark: str) -> tuple[npt.NDArray[Any], TrackReceipt]:
    digest = source_digest(LocalDirectory(path.parent), path.name)
    return np.empty((0, *spec.shape[1:]), spec.dtype), failed(remark, digest, spec, end)


def main(folder: Path) -> None:
    """Compute the track of a job that `featurise_apart` wrote to a folder."""
    job = json.loads((folder / "job.json").read_bytes())
    with one_thread():
        windows, receipt = featurise(Path(job["path"]), FeatureSpec.from_dict(job["spec"]), end=job["end"])
    np.save(folder / "windows.npy", windows)
    (folder / "receipt.json").write_text(json.dumps(dataclasses.asdict(receipt)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
