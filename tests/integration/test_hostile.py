"""What others may have written: stores that claim what cannot be, and a tree of audio that is up to no good."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import xarray as xr
import zarr
from click.testing import CliRunner

from melzarr.cli import main
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.features.audio import Audio, read_audio
from melzarr.pipeline.features.extract import featurise
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.shard_receipt import STATUSES, BandSums, Receipt
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store, open_store

SPEC = FeatureSpec(n_windows=60)
MEMORY = 4 << 30  # bytes of addresses that a command may take for a store of a few hundred kB
Edit = Callable[[dict[str, Any]], object]


def edit(path: Path, change: Edit) -> None:
    """Change a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_array(store: Path, name: str, change: Edit) -> None:
    """Change the metadata of an array, wherever they are."""
    edit(store / name / "zarr.json", change)
    edit(store / "zarr.json", lambda root: change(root["consolidated_metadata"]["metadata"][name]))


def shaped(size: int, *names: str) -> Callable[[Path], None]:
    """Have some arrays claim another number of tracks."""

    def change(store: Path) -> None:
        for name in names:
            edit_array(store, name, lambda array: array["shape"].__setitem__(0, size))

    return change


def attribute(name: str, value: object) -> Callable[[Path], None]:
    return lambda store: edit(store / "zarr.json", lambda root: root["attributes"].__setitem__(name, value))


def in_spec(**values: object) -> Callable[[Path], None]:
    return lambda store: edit(store / "zarr.json", lambda root: root["attributes"]["spec"].update(values))


def of_label(change: Edit) -> Callable[[Path], None]:
    return lambda store: edit_array(store, "label", change)


TRACK_ARRAYS = ("mel", "track", "label", "split", "group", "status", "error", "n_windows", "source", "source_blake3",
                "source_rate", "source_channels", "duration", "peak", "clipped")  # fmt: skip
CLAIMS = {
    "tracks": (shaped(10**12, *TRACK_ARRAYS), "does not have the files for them"),
    "windows of all": (shaped(10**12, "mel"), "does not have the files for them"),
    "tracks of one": (shaped(10**9, "label"), "label has the shape"),
    "spec": (in_spec(n_windows=10**9), "a chunk holds 2.1"),
    "other spec": (in_spec(n_windows=61), "mel has the shape"),
    "frame": (in_spec(n_fft=1 << 40, pad_mode="constant"), "n_fft=1099511627776 is more than"),
    "kind of spec": (attribute("spec", [1]), "its attribute spec is [1]"),
    "no licence": (attribute("licence", None), "its attribute licence is None"),
    "origin": (attribute("recipe", {"origin": ["a"]}), "recipe contain ['a']"),
    "version": (attribute("versions", {"numpy": 2}), "recipe contain 2"),
    "shares": (attribute("split", {"method": "hash", "valid": "lots"}), "its split contains 'lots'"),
    "merged": (attribute("recipe", {"merged": 5}), "what it was merged from is 5"),
    "merged of": (attribute("split", {"method": "merged", "of": [{"method": 3}]}), "recipe contain 3"),
    "surrogate": (attribute("title", "\ud800"), "surrogates not allowed"),
    "type": (of_label(lambda array: array.update(data_type="int32", fill_value=0)), "label"),
    "chunk": (of_label(lambda a: a["chunk_grid"]["configuration"].update(chunk_shape=[10**10])), "label has chunks"),
    "pickle": (of_label(lambda a: a["codecs"].insert(0, {"name": "numcodecs.pickle"})), "numcodecs.pickle"),
}


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.timeout(120)
def test_a_store_that_claims_what_cannot_be_is_refused_before_anything_is_read(name: str, own_store: Store) -> None:
    change, said = CLAIMS[name]
    change(own_store.directory.path)
    with pytest.raises(StoreError) as caught:
        open_store(own_store.directory.path)
    assert said in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of a process' addresses is Linux's")
@pytest.mark.timeout(120)
def test_inspecting_it_takes_no_memory(own_store: Store) -> None:
    shaped(10**11, *TRACK_ARRAYS)(own_store.directory.path)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("melzarr")), "inspect", str(own_store.directory.path)],
        capture_output=True, text=True, check=False, timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "it declares 100000000000 tracks" in done.stderr


@pytest.mark.parametrize("name", ["label", "split", "n_windows", "mean_db", "receipts/blake3"])
def test_a_chunk_that_is_gone_is_no_empty_one(name: str, own_store: Store) -> None:
    shutil.rmtree(own_store.directory.path / name / "c")
    with pytest.raises(StoreError, match=f"{name}/c/0.* is missing"):
        open_store(own_store.directory.path).values(name)
    assert verify(open_store(own_store.directory.path)).problems


def test_what_would_steer_a_terminal_is_written_out(own_store: Store) -> None:
    attribute("title", "music\x1b[2J\x1b]0;owned\x07\n\u202emoc")(own_store.directory.path)
    result = CliRunner().invoke(main, ["inspect", str(own_store.directory.path)])
    assert result.exit_code == 0, result.output
    assert r"music\x1b[2J\x1b]0;owned\x07\n\u202emoc" in result.output


@pytest.mark.parametrize("digest", ["/../../../precious", "", "A" * 64, "0" * 63 + "\n"])
def test_a_receipt_that_names_another_file_is_refused_and_nothing_is_kept(
    digest: str, own_store: Store, music: Path, plan_of
) -> None:
    precious = own_store.directory.path.parent / "precious"
    precious.write_text("mine")
    zarr.open_array(own_store.directory.path / "receipts/blake3")[0] = digest
    with pytest.raises(StoreError, match="is not a digest"):
        list(open_store(own_store.directory.path).receipts())
    with pytest.raises(ValueError, match="is not a digest"):
        Receipt(index=0, key="", blake3=digest, n_bytes=1, tracks=(), sums=BandSums(count=0, level=(), square=()))
    catalog, plan = plan_of(music)
    assert build(plan, catalog, own_store.directory.path, InProcess(), replace=True).n_reused == 0
    assert precious.read_text() == "mine"
    assert not verify(open_store(own_store.directory.path)).problems


def wave(rate: int = 22050, seconds: float = 3.0) -> np.ndarray:
    return np.sin(2 * math.pi * 440 * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def hostile_tree(root: Path) -> dict[str, tuple[str, str]]:
    """Make a tree of audio, and return the status of each file, with something that its sentence says."""
    folder, expected = root / "label", {}
    folder.mkdir(parents=True)

    def put(name: str, samples: np.ndarray, status: str = "ok", said: str = "", rate: int = 22050) -> None:
        soundfile.write(folder / name, samples, rate, subtype="DOUBLE", format="WAV")
        expected[f"label/{name}"] = status, said

    names = ["new\nline", "quote\"s and 'more'", "emoji 🎷", "a..", "-rf", "$(reboot)", "%s", "tab\t", "combining é"]
    for name in names:
        put(f"{name}.wav", wave())
    put("square.wav", np.sign(wave()))
    put("constant.wav", np.full(3 * 22050, 0.5))
    put("denormal.wav", np.full(3 * 22050, 1e-310), "silent", "are silent")
    put("loud.wav", wave().astype(float) * 1e30, "failed", "overflow")
    put("nan.wav", np.where(np.arange(3 * 22050) == 40_000, np.nan, wave()), "failed", "is not a finite number")
    put("inf.wav", np.where(np.arange(3 * 22050) == 40_000, np.inf, wave()), "failed", "is not a finite number")
    put("many channels.wav", np.repeat(wave()[:, None], 255, axis=1))
    for rate, said in ((1, "1 Hz is outside"), (10_000_000, "10000000 Hz is outside")):
        put(f"{rate} Hz.wav", wave(), "failed", said, rate)
    header = bytearray((folder / "square.wav").read_bytes())
    header[22:24] = b"\0\0"
    (folder / "no channels.wav").write_bytes(header)
    expected["label/no channels.wav"] = "failed", ""
    header = bytearray((folder / "square.wav").read_bytes())
    place = header.index(b"data") + 4
    header[place : place + 4] = (0x70000000).to_bytes(4, "little")
    (folder / "hours.wav").write_bytes(header[: place + 40_000])
    expected["label/hours.wav"] = "short", "its header promises"
    os.mkfifo(folder / "pipe.wav")
    (folder / "device.wav").symlink_to("/dev/zero")
    (folder / "circle.wav").symlink_to("circle.wav")
    (folder / "outside.wav").symlink_to("/etc/passwd")
    expected |= {f"label/{name}.wav": ("failed", "") for name in ("circle", "outside")}
    (folder / "round").symlink_to(root)
    return expected


@pytest.mark.timeout(300)
def test_a_hostile_tree_is_built_and_each_file_has_its_status_and_sentence(tmp_path: Path) -> None:
    expected = hostile_tree(tmp_path / "music")
    target, arguments = tmp_path / "s.zarr", ["--n-windows", "60", "--workers", "0", "--max-failed", "1"]
    result = CliRunner().invoke(main, ["features", str(tmp_path / "music"), str(target), *arguments])
    assert result.exit_code == 0, result.output
    store = xr.open_zarr(target)
    rows = zip(store.source.values.tolist(), store.status.values.tolist(), store.error.values.tolist(), strict=True)
    found = {source: (status, error) for source, status, error in rows}
    for source, (status, said) in expected.items():
        assert found[source][0] == status, (source, found[source])
        assert said in found[source][1], (source, found[source])
    for source, (status, error) in found.items():
        assert status in STATUSES
        assert (status == "ok") == (not error), source
        assert (source in expected) or status == "failed"
    assert "\n" not in "".join(line for line in result.output.splitlines() if "new" in line)
    CliRunner().invoke(main, ["inspect", str(target)], catch_exceptions=False)


def test_a_file_that_changes_while_it_is_read_is_a_failed_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(), 22050)
    assert featurise(path, SPEC)[1].status == "ok"

    def read_and_changed(*arguments: Any) -> Audio:
        audio = read_audio(*arguments)
        with path.open("ab") as file:
            file.write(b"more")
        return audio

    monkeypatch.setattr("melzarr.pipeline.features.extract.read_audio", read_and_changed)
    windows, receipt = featurise(path, SPEC)
    assert len(windows) == 0
    assert receipt.error == "the file changed while it was read; run again when nothing writes to it"
    assert not receipt.source_blake3  # so that the next run makes it again


def test_a_named_pipe_in_the_place_of_a_chunk_is_no_chunk(own_store: Store) -> None:
    path = own_store.directory.path / "label/c/0"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"label/c/0.* is missing"):
        open_store(own_store.directory).values("label")


def test_a_folder_that_has_something_of_a_store_is_not_replaced_as_one(music: Path, tmp_path: Path) -> None:
    (tmp_path / "docs/mel").mkdir(parents=True)
    (tmp_path / "docs/thesis.txt").write_text("years of work")
    done = CliRunner().invoke(main, ["features", str(music), str(tmp_path / "docs"), "--force"])
    assert done.exit_code == 1
    assert "exists and is not a melzarr store" in done.stderr
    assert (tmp_path / "docs/thesis.txt").read_text() == "years of work"
