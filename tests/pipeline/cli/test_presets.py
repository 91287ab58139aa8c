"""A preset sets the spec, in place of a recipe's; options change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from click.testing import CliRunner, Result

import melzarr as door
from melzarr.cli import main
from melzarr.pipeline.builder.up_to_date import changes
from melzarr.pipeline.cli.inputs import LISTING, prepare
from melzarr.pipeline.cli.options import SPEC_HELP
from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.sources.dataset_recipe import find_recipe
from melzarr.pipeline.sources.fetch_dataset import fetch
from melzarr.pipeline.spec import PRESETS, FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store, open_store
from tests.conftest import Planner

RECIPE = """
name = "tiny"
title = "Tiny"
licence = "CC0-1.0"
origin = "Synthesised."
labels = ["drums", "bells"]
tracks_per_label = 1
[source]
kind = "synthesis"
seed = 1
sample_rate = 8000
seconds = 0.5
[spec]
n_mels = 24
n_windows = 5
"""


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", [["features"], ["scan"], ["job-array", "init"]])
def test_help_lists_the_presets_with_their_origins(command: list[str]) -> None:
    said = " ".join(melzarr(*command, "--help").output.split())
    assert "--preset [article|musicnn|panns|whisper]" in said
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.origin}." in said


def test_a_start_is_a_number_or_the_middle(music: Path, tmp_path: Path) -> None:
    for start, spec, status in (("middle", "middle", "ok"), ("0.25", 0.25, "ok"), ("2", 2.0, "short")):
        options = ["--workers", 0, "--n-windows", 5, "--start", start]
        result = melzarr("features", music, tmp_path / f"{start}.zarr", *options)
        assert result.exit_code == 0, result.output
        store = open_store(tmp_path / f"{start}.zarr")
        assert store.spec.start == spec
        assert store.values("status")[[0, 1]].tolist() == ["ok", status]
    result = melzarr("features", music, tmp_path / "s.zarr", "--start", "end")
    assert result.exit_code == 2
    assert "'end' is not a valid float" in result.output
    assert "--start middle|SECONDS" in melzarr("features", "--help").output


def test_a_store_of_a_preset_and_an_option_is_verified_against_librosa(music: Path, tmp_path: Path) -> None:
    options = ["--preset", "musicnn", "--n-windows", 1]
    result = melzarr("features", music, tmp_path / "s.zarr", "--workers", 0, *options)
    assert result.exit_code == 0, result.output
    dataset = xr.open_zarr(tmp_path / "s.zarr")
    expected = {**FeatureSpec.preset("musicnn").to_dict(), "n_windows": 1}
    assert dataset.attrs["spec"] == expected
    assert dataset.sizes["frame"] == 187
    verdict = melzarr("verify", tmp_path / "s.zarr", "--source", music, "--sample", 4)
    assert verdict.exit_code == 0, verdict.output
    result = melzarr("features", music, tmp_path / "s.zarr", "--workers", 0, *options)
    assert "finished and up to date" in result.output


def test_the_python_interface_takes_a_preset(music: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"preset": "panns", "window": 32000, "fmin": 40, "fmax": 16000, "valid": 0, "test": 0}
    store = door.build(music, tmp_path / "s.zarr", workers=0, **fields)
    assert store.spec == FeatureSpec(
        sample_rate=32000, n_fft=1024, hop_length=320, n_mels=64, fmin=40.0, window=32000, stride=320000, n_windows=1
    )
    assert store.verify(music, sample=2).problems == []
    bands = store.to_xarray().band.values
    assert 40 < bands[0] < bands[-1] < 16000
    with pytest.raises(door.MelzarrError, match="preset='vggish' is unknown; use one of article, musicnn, panns"):
        door.scan(music, preset="vggish")


def test_a_preset_replaces_the_spec_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/recipe.toml").write_text(RECIPE)
    fetch(find_recipe("tiny", tmp_path))
    names = (*SPEC_HELP, "named_split", "valid", "test", "seed", "tracks_per_shard", "preset")
    options = {**dict.fromkeys(names), **LISTING, "datasets": tmp_path}

    def spec(**given: object) -> FeatureSpec:
        return prepare("tiny", options | given)[1].spec

    assert spec() == FeatureSpec(n_mels=24, n_windows=5)
    assert spec(preset="whisper") == FeatureSpec.preset("whisper")
    assert spec(preset="article", n_mels=32) == FeatureSpec(n_mels=32)
    with pytest.raises(SpecError, match=r"fmax=14000\.0 is not a frequency"):
        spec(preset="panns", sample_rate=22050)


def test_a_store_without_the_fields_of_the_bands_is_one_of_their_defaults(
    own_store: Store, music: Path, plan_of: Planner
) -> None:
    path = own_store.directory.path / "zarr.json"
    root = json.loads(path.read_text())
    for name in ("window_function", "fmin", "fmax", "mel_scale", "norm"):
        del root["attributes"]["spec"][name]
    path.write_text(json.dumps(root))
    store = open_store(own_store.directory.path)
    catalog, plan = plan_of(music)
    assert store.spec == plan.spec
    assert store.attributes["spec"] == plan.spec.to_dict()
    assert changes(store, plan, catalog) == []
