"""Whatever command is killed, wherever: the old place stays whole, and run again it ends in the same bytes.

Each command runs undisturbed first, which says how many changes it makes to files; then it is ended before one of them.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import n_changes, run
from processes import digests

from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.zarr_store.reader import Store, open_store

pytestmark = pytest.mark.slow

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
"""
BUILD = ("--n-windows", "60", "--tracks-per-shard", "1", "--workers")


@dataclass(frozen=True)
class Scene:
    """What a test has at hand."""

    music: Path
    store: Store
    recipe: Path
    folder: Path
    trained: Callable[[], Path]

    def of_some(self, name: str, *numbers: int) -> Path:
        """Make a store of some of the tracks."""
        path = self.folder / name
        derive([TrackSelection(self.store, np.array(numbers))], path, self.store.attributes, tracks_per_shard=1)
        return path


@dataclass(frozen=True)
class Case:
    """A command that goes on where it was stopped.

    `words` makes what it needs in a folder, and gives the command and those that come after it; `made` is what they
    make there.
    """

    words: Callable[[Scene], list[list[object]]]
    made: str

    def facts(self, folder: Path) -> dict[str, Any]:
        """What must be the same each time."""
        path = folder / self.made
        return digests(path) if path.is_dir() else {"": path.read_bytes()} if path.exists() else {}


class Training(Case):
    """A training, which notes also how long it took."""

    def facts(self, folder: Path) -> dict[str, Any]:
        from melzarr.model.run_directory import Run

        run = Run(folder / self.made)
        if not run.is_finished:
            return {}
        weights = [weight.tobytes() for weight in run.model().get_weights()]
        return {"weights": weights, "answers": (run.path / "answers.csv").read_bytes(), "metrics": run.metrics}


def features(workers: int, scene: Scene) -> list[list[object]]:
    return [["features", scene.music, "s.zarr", *BUILD, workers]]


def parts(scene: Scene) -> list[list[object]]:
    run(scene.folder, ["job-array", "init", scene.music, "s.zarr", *BUILD[:-1]])
    return [["job-array", "part", "1/1", "s.zarr", "--workers", 0], ["job-array", "finish", "s.zarr"]]


def finish(scene: Scene) -> list[list[object]]:
    part, end = parts(scene)
    run(scene.folder, part)
    return [end]


def append(scene: Scene) -> list[list[object]]:
    return [["append", scene.of_some("s.zarr", *range(5)), scene.music, "--workers", 0]]


def merge(scene: Scene) -> list[list[object]]:
    return [["merge", scene.of_some("a.zarr", 0), scene.of_some("b.zarr", *range(1, 12)), "s.zarr"]]


def share(name: str, scene: Scene) -> list[list[object]]:
    return [["share", scene.of_some("music.zarr", *range(12)), name]]


def replaced(scene: Scene) -> list[list[object]]:
    scene.of_some("s.zarr", *range(5))
    return [["features", scene.music, "s.zarr", *BUILD, 0, "--force"]]


def train(scene: Scene) -> list[list[object]]:
    splits = {"00000": "train", "00003": "valid", "00005": "test"}
    rows = [f"{label}/{label}.{number}.wav,{label},{split}"
            for label in ("bells", "drums") for number, split in splits.items()]  # fmt: skip
    manifest = scene.folder / "tracks.csv"
    manifest.write_text("\n".join(["path,label,split", *rows]))
    for label in ("bells", "drums"):
        (scene.folder / label).symlink_to(scene.music / label)
    run(scene.folder, ["features", manifest, "s.zarr", *BUILD, 0])
    return [["train", "s.zarr", "--recipe", scene.recipe, "--run", "run", "--seed", 3]]


def train_folds(scene: Scene) -> list[list[object]]:
    scene.of_some("s.zarr", *range(12))
    return [["train", "s.zarr", "--recipe", scene.recipe, "--run", "run", "--seed", 3, "--folds", 2]]


def share_run(scene: Scene) -> list[list[object]]:
    return [["share", scene.trained(), "genres"]]


def share_run_again(scene: Scene) -> list[list[object]]:
    run(scene.folder, ["share", scene.trained(), "genres", "--licence", "cc0-1.0"])
    return [["share", scene.trained(), "genres", "--force"]]


def fetch(scene: Scene) -> list[list[object]]:
    recipe = scene.folder / "datasets/tiny/recipe.toml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE)
    return [["fetch", "tiny", "--datasets", "datasets"]]


CASES = {
    "features": Case(functools.partial(features, 0), "s.zarr"),
    "features on two workers": Case(functools.partial(features, 2), "s.zarr"),
    "features --force": Case(replaced, "s.zarr"),
    "job-array part": Case(parts, "s.zarr"),
    "job-array finish": Case(finish, "s.zarr"),
    "append": Case(append, "s.zarr"),
    "merge": Case(merge, "s.zarr"),
    "share": Case(functools.partial(share, "shared"), "shared"),
    "share as an archive": Case(functools.partial(share, "shared.zarr.zip"), "shared.zarr.zip"),
    "train": Training(train, "run"),
    "train --folds": Training(train_folds, "run"),
    "share of a run": Case(share_run, "genres"),
    "share of a run --force": Case(share_run_again, "genres"),
    "fetch": Case(fetch, "datasets/tiny/audio"),
}
STRUCK = [(0.3, signal.SIGKILL), (0.7, signal.SIGKILL), (0.97, signal.SIGKILL), (0.7, signal.SIGINT)]


@pytest.fixture(scope="module")
def scene_in(music: Path, finished: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Scene]:
    recipe = tmp_path_factory.mktemp("recipe") / "quick.toml"
    settings = ('frontend = "db"', 'optimizer = "adamw"', "learning_rate = 1e-3", "batch_size = 16", "epochs = 2")
    recipe.write_text("\n".join([*settings, "windows_per_track = 16"]))

    @functools.cache
    def trained() -> Path:
        folder = tmp_path_factory.mktemp("trained")
        n_changes(run(folder, *train(scene(folder))))
        return folder / "run"

    def scene(folder: Path) -> Scene:
        return Scene(music, finished, recipe, folder, trained)

    return scene


@pytest.fixture(scope="module")
def undisturbed(scene_in, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[int, dict[str, Any]]]:
    """The function that runs a command once, and says how many changes it made and what came of it."""

    @functools.cache
    def once(name: str) -> tuple[int, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("undisturbed")
        first, *rest = CASES[name].words(scene_in(folder))
        number = n_changes(run(folder, first))
        for words in rest:
            n_changes(run(folder, words))
        return number, CASES[name].facts(folder)

    return once


@pytest.mark.parametrize(("place", "sent"), STRUCK, ids=[f"{sent.name} at {place:.0%}" for place, sent in STRUCK])
@pytest.mark.parametrize("name", CASES)
def test_it_goes_on_and_ends_in_the_same_bytes(
    name: str, place: float, sent: signal.Signals, scene_in, undisturbed, tmp_path: Path
) -> None:
    case, (number, expected) = CASES[name], undisturbed(name)
    first, *rest = case.words(scene_in(tmp_path))
    before = case.facts(tmp_path)
    struck = run(tmp_path, first, max(1, round(place * number)), sent)
    if sent == signal.SIGKILL:
        assert struck.returncode == -signal.SIGKILL, struck.stderr
    else:
        assert struck.returncode in {0, 1}, struck.stderr
        assert "Traceback" not in struck.stderr
    if case.made in {"s.zarr", "genres"}:
        assert case.facts(tmp_path) in (before, expected)
    again = run(tmp_path, first)
    assert again.returncode == 0, again.stdout + again.stderr
    for words in rest:
        n_changes(run(tmp_path, words))
    assert case.facts(tmp_path) == expected
    if case.made.endswith((".zarr", ".zip", "shared")):
        assert verify(open_store(tmp_path / case.made)).problems == []
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith((".building", ".trash", ".appended"))]
