"""The bytes of mel shards are those that are written down, on every Python and with every generation of the libraries.

Where a test fails, what is computed has changed: if it was meant to, write down the new digest, and note in
CHANGELOG.md that older stores are to be built again.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from processes import digests

from pipeline.build import build
from pipeline.catalog import read_catalog
from pipeline.cluster import InProcess
from pipeline.plan import make_plan
from pipeline.spec import FeatureSpec
from pipeline.versions import versions

SHARD = "mel/c/0/0/0/0"
SPEC = FeatureSpec(n_windows=24)  # 1.02 s
EXACT = "e1cdf2592a5f7095b3a59d392f7af96e64bc2f7d5b2197a7273619e68829dabd"
RESAMPLED = "73b419435e68dc40e896f6b1bdcebcd3b1e1d4838e65abee1a21de991badb20c"


def tones(n_samples: int, *periods: int) -> npt.NDArray[np.int16]:
    """Triangles of some periods, and a little noise: whole numbers alone, which no library rounds."""
    time = np.arange(n_samples, dtype=np.int64)
    sum_of = sum(abs(8000 * (time % period) // period - 4000) - 2000 for period in periods)
    noise = np.cumsum((time * 1_103_515_245 + 12_345) >> 16 & 0xFF) % 512 - 256
    return (sum_of + noise).astype(np.int16)


def shard(music: Path, target: Path) -> str:
    """Digest of the first shard of a store of some music."""
    catalog = read_catalog(music)
    build(make_plan(SPEC, catalog.tracks, versions(), 8), catalog, target, InProcess())
    return digests(target)[SHARD]


def test_of_files_in_the_rate_of_the_spec(tmp_path: Path) -> None:
    music = tmp_path / "music"
    for label in ("a", "b"):
        (music / label).mkdir(parents=True)
    soundfile.write(music / "a/0.wav", tones(30_000, 100, 33), 22050, subtype="PCM_16")
    soundfile.write(music / "a/1.flac", np.stack([tones(26_000, 50), tones(26_000, 7, 400)], axis=1), 22050)
    soundfile.write(music / "b/2.wav", tones(9_000, 300), 22050, subtype="PCM_16")  # short
    soundfile.write(music / "b/3.wav", np.zeros(30_000, np.int16), 22050, subtype="PCM_16")  # silent
    (music / "b/4.wav").write_text("la la la")  # failed
    assert shard(music, tmp_path / "s.zarr") == EXACT


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="soxr rounds otherwise on other processors")
def test_of_files_in_other_rates(tmp_path: Path) -> None:
    music = tmp_path / "music"
    (music / "a").mkdir(parents=True)
    soundfile.write(music / "a/0.flac", tones(60_000, 200, 66), 44100)
    soundfile.write(music / "a/1.wav", tones(60_000, 200, 66), 48000, subtype="PCM_16")
    soundfile.write(music / "a/2.wav", tones(12_000, 40), 8000, subtype="PCM_16")
    assert shard(music, tmp_path / "s.zarr") == RESAMPLED
