"""The bytes of mel shards and of the demo's audio are those that are written down, on every Python, with all libraries.

If a test fails, what is computed has changed. If that was intended, raise `FEATURES_VERSION`, add the new digests under
the new number, and note in CHANGELOG.md that older stores need to be built again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from processes import digests

from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.sources.dataset_recipe import Synthesis, find_recipe
from melzarr.pipeline.sources.fetch_dataset import fetch
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.versions import FEATURES_VERSION, versions
from melzarr.pipeline.zarr_store.reader import open_store

SHARD = "mel/c/0/0/0/0"
SPEC = FeatureSpec(n_windows=24)  # 1.02 s
EXACT = dict.fromkeys((1, 2), "e1cdf2592a5f7095b3a59d392f7af96e64bc2f7d5b2197a7273619e68829dabd")  # by FEATURES_VERSION
FACTS = {2: "f690dc58ceee56ad876aa240ddba61f2eb0a59cef5de75d8d7637fe92c04c9be"}
OF_THE_DEMO = "92e4d5a648c969548f88c2f21beee78606568fc498e03aa87495c41eb8a2c0fc"  # the first track of each style
RESAMPLED = dict.fromkeys((1, 2), "73b419435e68dc40e896f6b1bdcebcd3b1e1d4838e65abee1a21de991badb20c")


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


def facts(target: Path) -> str:
    """Digest of what a store says of each of its tracks; whole numbers and halves alone, which no library rounds."""
    store = open_store(target)
    names = ("status", "error", "n_windows", "source_rate", "source_channels", "duration", "peak", "decoder")
    return hashlib.sha256(json.dumps([store.values(name).tolist() for name in names]).encode()).hexdigest()


def test_of_files_in_the_rate_of_the_spec(tmp_path: Path) -> None:
    music = tmp_path / "music"
    for label in ("a", "b"):
        (music / label).mkdir(parents=True)
    soundfile.write(music / "a/0.wav", tones(30_000, 100, 33), 22050, subtype="PCM_16")
    soundfile.write(music / "a/1.flac", np.stack([tones(26_000, 50), tones(26_000, 7, 400)], axis=1), 22050)
    soundfile.write(music / "b/2.wav", tones(9_000, 300), 22050, subtype="PCM_16")  # short
    soundfile.write(music / "b/3.wav", np.zeros(30_000, np.int16), 22050, subtype="PCM_16")  # silent
    (music / "b/4.wav").write_text("la la la")  # failed
    assert shard(music, tmp_path / "s.zarr") == EXACT[FEATURES_VERSION]
    assert facts(tmp_path / "s.zarr") == FACTS[FEATURES_VERSION]


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="soxr rounds otherwise on other processors")
def test_of_files_in_other_rates(tmp_path: Path) -> None:
    music = tmp_path / "music"
    (music / "a").mkdir(parents=True)
    soundfile.write(music / "a/0.flac", tones(60_000, 200, 66), 44100)
    soundfile.write(music / "a/1.wav", tones(60_000, 200, 66), 48000, subtype="PCM_16")
    soundfile.write(music / "a/2.wav", tones(12_000, 40), 8000, subtype="PCM_16")
    assert shard(music, tmp_path / "s.zarr") == RESAMPLED[FEATURES_VERSION]


# The demo -------------------------------------------------------------------------------------------------------------

DATASETS = Path(__file__).parents[2] / "datasets"


def of_the_demo() -> str:
    """Digest of the demo's first tracks, one of each style."""
    samples = [
        demo_music.synthesise(style, 0, seed=2017, sample_rate=22050, seconds=30.0) for style in demo_music.STYLES
    ]
    return hashlib.sha256(np.stack(samples).tobytes()).hexdigest()


def test_of_the_first_tracks_of_the_demo() -> None:
    assert of_the_demo() == OF_THE_DEMO


def test_they_do_not_depend_on_what_the_processor_can() -> None:
    """Numpy leaves out vector instructions, and so computes sines, powers and sums in other ways."""
    program = "import test_golden; print(test_golden.of_the_demo())"
    without = {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX2 FMA3", "PYTHONWARNINGS": "ignore"}
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **without, "PYTHONPATH": paths}
    )
    assert done.stdout.strip() == OF_THE_DEMO


@pytest.mark.slow
def test_of_all_audio_of_the_demo(tmp_path: Path) -> None:
    """A recipe that names its digest has it looked at when its audio is made."""
    recipe = find_recipe("demo", DATASETS)
    assert isinstance(recipe.source, Synthesis)
    assert recipe.source.sha256
    assert fetch(dataclasses.replace(recipe, folder=tmp_path)).note == "made 1000 tracks"
    shutil.rmtree(tmp_path)  # 1.3 GB
