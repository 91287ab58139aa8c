"""What the tests of the network share: a store with named splits, a recipe that takes seconds, one finished run."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from melzarr.model.tensorflow_setup import load_tensorflow
from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import MelzarrError
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.sources.dataset_recipe import read_recipe
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.reader import Store, open_store

if TYPE_CHECKING:
    from melzarr.model.run_directory import Run
    from melzarr.model.training_recipe import TrainRecipe

# As a command loads it: weights are the same bit for bit only with the same settings, in a process of its own too.
with contextlib.suppress(MelzarrError):
    load_tensorflow()

# The track that is too short, the silent one and the one that is no audio are in valid and test.
RECIPE = """
name = "tiny"
title = "Two styles"
licence = "CC0-1.0"
origin = "synthesised"
labels = ["bells", "drums"]
tracks_per_label = 6
[source]
kind = "synthesis"
seed = 1
sample_rate = 22050
seconds = 3.0
[splits.even]
train = {bells = "0,2-3", drums = "0-1"}
valid = {bells = "4", drums = "2-3"}
test = {bells = "1,5", drums = "4-5"}
[splits.other]
train = {bells = "4-5", drums = "3,5"}
valid = {bells = "0", drums = "0"}
test = {bells = "2", drums = "1"}
[splits.half]
train = {bells = "0-3", drums = "0-3"}
valid = {bells = "4", drums = "5"}
"""
SEED = 3
Renamed = Callable[..., Store]


@pytest.fixture(scope="session")
def tiny(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the music with three named splits, of which "even" is its own; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "audio").symlink_to(music)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    catalog = read_catalog(read_recipe(folder / "recipe.toml"), named_split="even")
    plan = make_plan(FeatureSpec(n_windows=24), catalog.tracks, versions(), 5)
    build(plan, catalog, folder / "tiny.zarr", InProcess())
    return open_store(folder / "tiny.zarr")


@pytest.fixture
def renamed(tiny: Store, tmp_path: Path) -> Renamed:
    """The function that copies that store with another name and other splits in its recipe."""

    def rename(name: str, *splits: str) -> Store:
        copy = Path(shutil.copytree(tiny.directory.path, tmp_path / f"{name}.zarr"))
        described = json.loads((copy / "zarr.json").read_text(encoding="utf-8"))
        recipe = described["attributes"]["recipe"]
        recipe.update(name=name, splits={split: recipe["splits"][split] for split in splits})
        (copy / "zarr.json").write_text(json.dumps(described), encoding="utf-8")
        return open_store(copy)

    return rename


@pytest.fixture(scope="session")
def quick() -> TrainRecipe:
    """Three epochs of five batches."""
    from melzarr.model.training_recipe import TrainRecipe

    return TrainRecipe(
        frontend="db", optimizer="adamw", learning_rate=1e-3, weight_decay=0.01, schedule="cosine", batch_size=16,
        epochs=3, windows_per_track=16,
    )  # fmt: skip


@pytest.fixture(scope="session")
def quick_file(quick: TrainRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("recipes") / "quick.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in quick.to_dict().items()))
    return path


@pytest.fixture(scope="session")
def trained(tiny: Store, quick: TrainRecipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the article's network that nothing disturbed; not to be changed."""
    from melzarr.model.evaluation_protocol import make_protocol
    from melzarr.model.run_directory import Run
    from melzarr.model.train import train

    run = Run(tmp_path_factory.mktemp("runs") / "trained")
    train(tiny, quick, make_protocol(tiny, "track"), run, seed=SEED)
    return run


@pytest.fixture(scope="session")
def two_opinions(quick: TrainRecipe) -> TrainRecipe:
    """One epoch, and two small networks of each track's summary."""
    from melzarr.model.training_recipe import SummaryRecipe

    summary = SummaryRecipe(
        members=2, units=8, learning_rate=0.01, weight_decay=0.1, batch_size=2, epochs=4, weight=0.4
    )
    return replace(quick, epochs=1, summary=summary)


@pytest.fixture(scope="session")
def joined(tiny: Store, two_opinions: TrainRecipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with a second opinion; not to be changed."""
    from melzarr.model.evaluation_protocol import make_protocol
    from melzarr.model.run_directory import Run
    from melzarr.model.train import train

    run = Run(tmp_path_factory.mktemp("runs") / "joined")
    train(tiny, two_opinions, make_protocol(tiny, "track"), run, seed=SEED)
    return run


@pytest.fixture(scope="session")
def folded(tiny: Store, two_opinions: TrainRecipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run over two folds; not to be changed."""
    from melzarr.model.run_directory import Run
    from melzarr.model.train_folds import train_folds

    run = Run(tmp_path_factory.mktemp("runs") / "folded")
    train_folds(tiny, two_opinions, 2, run, seed=SEED)
    return run


@pytest.fixture
def own_run(trained: Run, tmp_path: Path) -> Run:
    """A copy of that run which a test may change."""
    from melzarr.model.run_directory import Run

    return Run(Path(shutil.copytree(trained.path, tmp_path / "own")))


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Train one dense layer in place of the article's network, without pictures; the list gets each one's settings."""
    import keras

    from melzarr.model import train as room
    from melzarr.model import train_folds

    made: list[dict[str, Any]] = []

    def network(spec: FeatureSpec, n_classes: int, **settings: Any) -> keras.Model:
        made.append(settings)
        windows = keras.Input(spec.shape[1:])
        x = keras.layers.Flatten()(keras.ops.log(windows + 1e-10))
        x = keras.layers.Dropout(settings["dropout"])(x)
        model = keras.Model(windows, keras.layers.Dense(n_classes, activation="softmax")(x))
        # Fifteen steps take less time than a graph of them.
        model.compile = partial(model.compile, run_eagerly=True)
        return model

    monkeypatch.setattr(room, "network", network)
    monkeypatch.setattr(room, "draw_pictures", lambda *_: None)
    monkeypatch.setattr(train_folds, "draw_pictures", lambda *_: None)
    return made
