"""The kernel is compiled once a machine, whoever asks for it, and whatever state the cache is in."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from melzarr.pipeline.features.mel import mel_windows, plain_windows
from melzarr.pipeline.spec import FeatureSpec

SPEC = FeatureSpec(n_windows=9)
WARNINGS = ("-W", "error", "-W", "ignore::ResourceWarning")
CODE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from melzarr.pipeline.features.kernel_cache import compiled_kernel
from melzarr.pipeline.features.mel import mel_windows
from melzarr.pipeline.spec import FeatureSpec
spec = FeatureSpec(n_windows=9)
samples = np.random.default_rng(0).uniform(-1, 1, spec.n_samples).astype(np.float32)
with ThreadPoolExecutor(2) as pool:
    first, second = pool.map(lambda _: mel_windows(samples, spec), range(2))
assert first.tobytes() == second.tobytes()
np.save(sys.argv[1], first)
stats = [function.stats for function in compiled_kernel()]
hits, misses = (sum(sum(getattr(each, name).values()) for each in stats) for name in ("cache_hits", "cache_misses"))
print(hits, misses, stats[0].cache_path)
"""


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    samples = np.random.default_rng(0).uniform(-1, 1, SPEC.n_samples).astype(np.float32)
    mel = mel_windows(samples, SPEC)
    plain = plain_windows(samples, SPEC)
    assert np.abs(mel - plain).max() <= 1e-6 * plain.max()
    return mel


def in_a_process(folder: Path, cache: Path, before: str = "") -> tuple[np.ndarray, str]:
    """Compute windows in a process of its own; return them, and its cache's hits, misses and place."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{len(list(folder.iterdir()))}.npy"
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", before + CODE, out],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.load(out), done.stdout.strip()


@pytest.mark.slow
def test_processes_that_start_at_once_with_an_empty_cache_compile_once(tmp_path: Path, expected: np.ndarray) -> None:
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: in_a_process(tmp_path / str(n), cache), range(4)))
    assert all(mel.tobytes() == expected.tobytes() for mel, _ in results)
    assert sorted(said[:3] for _, said in results) == ["0 2", "2 0", "2 0", "2 0"]


ANYWHERE_BUT_IN_THE_PACKAGES = "UserProvidedCacheLocator,UserWideCacheLocator"
NOWHERE = """
import librosa.filters  # which does need a place
import os
import numba
numba.config.CACHE_LOCATOR_CLASSES = os.environ["NUMBA_CACHE_LOCATOR_CLASSES"] = "ZipCacheLocator"
"""
FULL = """
import librosa.filters
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
"""


@pytest.mark.slow
def test_a_cache_without_a_place_or_on_a_full_disk_or_damaged_breaks_nothing(
    tmp_path: Path, expected: np.ndarray
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    for before in (NOWHERE, FULL):
        mel, said = in_a_process(out, cache, before)
        assert said == "0 2 None"
        assert mel.tobytes() == expected.tobytes()
    assert not list(cache.rglob("*mel_power*.nbc"))
    mel, said = in_a_process(out, cache)
    assert said.startswith(f"0 2 {cache}")
    files = [path for path in cache.rglob("*mel_power*") if path.suffix in {".nbi", ".nbc"}]
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    mel, said = in_a_process(out, cache)
    assert said == "0 2 None"
    assert mel.tobytes() == expected.tobytes()


def test_librosa_gets_a_private_cache_if_neither_home_nor_the_packages_can_be_written_to(tmp_path: Path) -> None:
    code = (
        "from melzarr.pipeline.features.kernel_cache import provide_cache\n"
        "provide_cache()\n"
        "import os, librosa, numpy\n"
        "librosa.zero_crossings(numpy.zeros(9)), librosa.util.localmax(numpy.zeros(9))  # newer versions compile late\n"
        "print(os.environ['NUMBA_CACHE_DIR'])\n"
    )
    nowhere = {"HOME": os.devnull, "TMPDIR": str(tmp_path), "NUMBA_CACHE_LOCATOR_CLASSES": ANYWHERE_BUT_IN_THE_PACKAGES}
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", code], env=kept | nowhere, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.rglob("*.nbi"))


def test_nothing_is_compiled_before_it_is_called() -> None:
    code = (
        "from melzarr.pipeline.features import kernel_cache, mel\n"
        "from melzarr.pipeline.features.kernel import _power, _first_pass\n"
        "assert not _power.overloads and not _first_pass.overloads\n"
        "assert not kernel_cache._compile.cache_info().currsize\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
