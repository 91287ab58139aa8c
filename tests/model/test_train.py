"""A store and a recipe become a run: what is kept of it, when it ends, and what cannot be trained."""

from __future__ import annotations

import csv
import gc
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import wait_for

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.model import run_pictures
from melzarr.model import train as room
from melzarr.model.evaluation_protocol import make_protocol
from melzarr.model.plots import draw_confusion
from melzarr.model.run_directory import Run
from melzarr.model.selection import label_names, select
from melzarr.model.song_model import SongModel
from melzarr.model.track_summary import track_summaries
from melzarr.model.train import train, windows_per_epoch
from melzarr.model.train_summary import train_summary_network
from melzarr.model.training_recipe import SummaryRecipe, TrainRecipe
from melzarr.pipeline.builder.feedback import Feedback
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import RunError, StoreError
from melzarr.pipeline.zarr_store.reader import Store, open_store

SEED = 3  # that of the run `trained`


# What is kept ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_trained_again(
    tiny: Store, quick: TrainRecipe, own_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_fit", lambda *_: pytest.fail("it was trained"))
    before = {path: path.stat().st_mtime_ns for path in own_run.path.rglob("*") if path.name != ".lock"}
    assert train(tiny, quick, make_protocol(tiny, "track"), own_run, seed=SEED) == own_run.metrics
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_recipe_or_seed_is_refused_in_a_runs_folder(tiny: Store, quick: TrainRecipe, own_run: Run) -> None:
    protocol = make_protocol(tiny, "track")
    with pytest.raises(
        RunError, match="contains a run with another seed; choose another folder with --run, or replace"
    ):
        train(tiny, quick, protocol, own_run, seed=SEED + 1)
    with pytest.raises(RunError, match="contains a run with another recipe;"):
        train(tiny, replace(quick, epochs=4), protocol, own_run, seed=SEED)


def test_a_finished_run_has_its_files_and_no_other(trained: Run) -> None:
    names = sorted(path.relative_to(trained.path).as_posix() for path in trained.path.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith((".lock", "tensorboard/"))] == [
        "answers.csv", "config.json", "confusion.png", "history.csv", "history.png", "metrics.json", "model.keras",
        "network.png", "trained-on.txt",
    ]  # fmt: skip
    for picture in trained.path.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_its_answers_are_those_that_its_figures_count(tiny: Store, trained: Run) -> None:
    with trained.answers_file.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = dict(zip(tiny.values("track").tolist(), tiny.values("label").tolist(), strict=True))
    for part in ("valid", "test"):
        given = [row for row in rows if row["split"] == part]
        figures = trained.metrics[part]
        assert len({row["track"] for row in given}) == len(given) == figures["n_tracks"]
        counted = Counter((row["label"], row["answer"]) for row in given)
        names = figures["labels"]
        assert figures["confusion"] == [[counted[true, answer] for answer in names] for true in names]
        for row in given:
            assert row["label"] == labels[row["track"]]
            of_answer, of_label = (float(row[f"probability_of_{name}"]) for name in ("answer", "label"))
            assert of_label <= of_answer <= 1
            assert of_answer >= 1 / len(names)
            assert of_label == of_answer if row["answer"] == row["label"] else of_label + of_answer <= 1.000002
    assert len(rows) == trained.metrics["valid"]["n_tracks"] + trained.metrics["test"]["n_tracks"]


def test_its_configuration_says_what_the_weights_depend_on(tiny: Store, quick: TrainRecipe, trained: Run) -> None:
    config = json.loads(trained.config_file.read_text())
    assert config["store"] == {"uuid": tiny.attributes["uuid"], "title": "Two styles"}
    assert config["recipe"] == quick.to_dict()
    assert config["spec"] == tiny.spec.to_dict()
    assert config["labels"] == ["bells", "drums"]
    assert (config["protocol"]["name"], config["seed"]) == ("track", SEED)
    assert config["versions"].keys() >= {"melzarr", "keras", "tensorflow"}


def of_windows(progress: Callable[[int], object]) -> Feedback:
    """Count the windows of the training."""
    return Feedback(counting=lambda _, what, *__: nullcontext(progress if what == "train" else abs))


@pytest.mark.usefixtures("light")
def test_each_epoch_counts_its_windows_and_the_rate_ends_at_nothing(
    tiny: Store, quick: TrainRecipe, tmp_path: Path
) -> None:
    counted: list[int] = []
    recipe, protocol = replace(quick, batch_size=13, windows_per_track=11), make_protocol(tiny, "track")
    train(tiny, recipe, protocol, Run(tmp_path / "run"), feedback=of_windows(counted.append))
    assert windows_per_epoch(recipe, protocol) == 5 * 11
    assert counted == [0, *[13, 13, 13, 13, 3] * 3]
    assert windows_per_epoch(replace(recipe, windows_per_track=0), protocol) == 5 * 24
    history = Run(tmp_path / "run").history()
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-10)


def interrupt(_: int) -> None:
    raise InterruptedError


@pytest.mark.parametrize("name", ["track", "window", "other"])
def test_the_front_end_has_the_levels_of_the_windows_that_are_trained_on(
    tiny: Store, quick: TrainRecipe, light: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    protocol = make_protocol(tiny, name, seed=2)
    with pytest.raises(InterruptedError):
        train(tiny, quick, protocol, Run(tmp_path / "run"), feedback=of_windows(interrupt))
    chosen = protocol.part("train")
    levels = 10 * np.log10(np.maximum(tiny.mel[:][chosen.tracks][chosen.windows].astype(np.float64), 1e-10))
    # Levels are of single precision in the store's statistics and ours.
    np.testing.assert_allclose(light[0]["mean_db"], levels.mean(axis=(0, 1)), rtol=0, atol=3e-5)
    np.testing.assert_allclose(light[0]["std_db"], levels.std(axis=(0, 1)), rtol=0, atol=3e-5)


@pytest.mark.usefixtures("light")
def test_two_trainings_never_share_a_folder(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with (
        run.locked(),
        pytest.raises(RunError, match=r"run is being trained by another process; wait for it, or choose"),
    ):
        train(tiny, quick, make_protocol(tiny, "track"), run)
    assert [path.name for path in run.path.iterdir()] == [".lock"]


# When it ends ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """The function that says which validation accuracy each epoch will find."""

    def script(values: list[float]) -> None:
        coming: Iterator[float] = iter(values)
        original = room.answer

        class Scripted:
            window_accuracy = property(lambda _: next(coming))

        def answer(model: Any, store: Store, selection: Any, *rest: Any) -> Any:
            return original(model, store, selection, *rest) if selection.windows.all() else Scripted()

        monkeypatch.setattr(room, "answer", answer)

    return script


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("patience", "found", "n_epochs"),
    [
        (2, [0.5, 0.6, 0.6, 0.5, 0.9], 4),
        (2, [0.5, 0.4, 0.6, 0.5, 0.7], 5),
        (0, [0.5, 0.9, 0.4, 0.9, 0.1], 5),
    ],
    ids=["the first of equals", "a late one", "no patience"],
)
def test_it_stops_after_so_many_epochs_without_a_better_accuracy_and_keeps_the_last(
    tiny: Store, quick: TrainRecipe, accuracies, tmp_path: Path, patience: int, found: list[float],
    n_epochs: int,
) -> None:  # fmt: skip
    accuracies(found)
    run, weights = Run(tmp_path / "run"), []

    def remember(_: str) -> None:
        weights.append(run.last_state().get_weights())

    train(tiny, replace(quick, epochs=5, patience=patience), make_protocol(tiny, "track"), run,
          feedback=Feedback(say=remember))  # fmt: skip
    assert [row["valid_accuracy"] for row in run.history()] == found[:n_epochs]
    kept = run.model().get_weights()
    same = [all(np.array_equal(a, b) for a, b in zip(kept, epoch, strict=False)) for epoch in weights]
    assert same == [epoch == n_epochs for epoch in range(1, n_epochs + 1)]


@pytest.mark.usefixtures("light")
def test_a_training_that_diverges_is_a_sentence(tiny: Store, tmp_path: Path) -> None:
    recipe = TrainRecipe(frontend="none", optimizer="adadelta", learning_rate=1e38, batch_size=16, epochs=2)
    with pytest.raises(RunError, match="the loss is not a finite number after epoch 1; use a smaller learning_rate"):
        train(tiny, recipe, make_protocol(tiny, "track"), Run(tmp_path / "run"))
    assert Run(tmp_path / "run").history() == []


# What cannot be trained -----------------------------------------------------------------------------------------------


def test_a_part_without_tracks_is_said_before_anything_is_written(
    tiny: Store, quick: TrainRecipe, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="no ok track is in the split 'test'"):
        train(tiny, quick, make_protocol(tiny, "half"), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_one_label_is_nothing_to_tell_apart(own_music: Path, quick: TrainRecipe, tmp_path: Path, plan_of) -> None:
    for path in (own_music / "drums").iterdir():
        path.unlink()
    catalog, plan = plan_of(own_music, n_windows=2)
    build(plan, catalog, tmp_path / "bells.zarr", InProcess())
    store = open_store(tmp_path / "bells.zarr")
    with pytest.raises(RunError, match="has only one label, 'bells', so there is nothing to classify; give"):
        train(store, quick, make_protocol(store, "track"), Run(tmp_path / "run"))


def test_one_label_that_can_be_learnt_is_nothing_to_tell_apart(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    protocol = make_protocol(tiny, "track")
    train_part, names = protocol.parts["train"], label_names(tiny)
    drums = train_part.take(np.flatnonzero(train_part.labels == names.index("drums")))
    protocol = replace(protocol, parts={**protocol.parts, "train": drums})
    assert protocol.remarks(names) == [
        f"label bells has no track to train on, but some in the {part} split, which the model cannot classify correctly"
        for part in ("valid", "test")
    ]
    with pytest.raises(RunError, match="all tracks to train on have the label 'drums', so there is nothing to"):
        train(tiny, quick, protocol, Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_was_trained_on_is_kept(tiny: Store, trained: Run) -> None:
    tracks = make_protocol(tiny, "track").part("train").tracks
    assert trained.trained_on() == set(tiny.values("source_blake3")[tracks])


@pytest.mark.usefixtures("light")
def test_a_training_leaves_no_threads(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    train(tiny, quick, make_protocol(tiny, "track"), Run(tmp_path / "run"))
    gc.collect()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("melzarr-loader")])


def test_what_is_no_run_is_left_as_it_was(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    for place in ("thesis", "thesis/chapter.txt"):
        with pytest.raises(RunError, match=f"{place} exists and is not a melzarr run; choose another folder"):
            train(tiny, quick, make_protocol(tiny, "track"), Run(tmp_path / place), replace=True)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.usefixtures("light")
def test_a_track_that_is_damaged_ends_a_training_with_a_sentence(renamed, quick: TrainRecipe, tmp_path: Path) -> None:
    store = renamed("tiny", "other")
    shard = store.directory.path / "mel/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"track 0 cannot be read \(.+\); see: melzarr verify .*tiny\.zarr"):
        train(store, quick, make_protocol(store, "track"), Run(tmp_path / "run"))
    assert Run(tmp_path / "run").history() == []


# Pictures -------------------------------------------------------------------------------------------------------------


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def confusion_of(labels: list[str]) -> dict[str, object]:
    n = len(labels)
    return {
        "labels": labels, "n_tracks": 4 * n - 1,
        "confusion": (np.eye(n, dtype=int) * 3 + np.eye(n, k=1, dtype=int)).tolist(),
        "track_accuracy": {"value": 0.75, "low": 0.7, "high": 0.8},
    }  # fmt: skip


@pytest.mark.parametrize("label", ["cash$_$money", "$\\frac{", "a" * 500, "b\n\x1b[31m"])
def test_a_label_is_drawn_as_text_and_is_no_mathematics(label: str, tmp_path: Path) -> None:
    draw_confusion(confusion_of([label, "rock"]), "by track", tmp_path / "confusion.png")
    assert max(size_of(tmp_path / "confusion.png")) < 2000


def test_the_confusion_of_many_labels_is_a_list_of_bounded_size(tmp_path: Path) -> None:
    draw_confusion(confusion_of([f"artist {n}" for n in range(2000)]), "by track", tmp_path / "confusion.png")
    assert max(size_of(tmp_path / "confusion.png")) < 2000


def test_a_picture_that_fails_is_a_remark_and_the_figures_are_there(
    own_run: Run, tiny: Store, quick: TrainRecipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no")

    (own_run.path / "confusion.png").unlink()
    monkeypatch.setattr(run_pictures, "draw_confusion", fail)
    found = train(tiny, quick, make_protocol(tiny, "track"), own_run, seed=SEED)
    assert found == own_run.metrics
    assert "confusion.png could not be drawn (ValueError: no)" in caplog.text
    monkeypatch.undo()
    train(tiny, quick, make_protocol(tiny, "track"), own_run, seed=SEED)
    assert (own_run.path / "confusion.png").is_file()


@pytest.mark.usefixtures("light")
def test_a_split_by_windows_has_no_second_opinion(tiny: Store, two_opinions: TrainRecipe, tmp_path: Path) -> None:
    run, said = Run(tmp_path / "run"), list[str]()
    train(tiny, two_opinions, make_protocol(tiny, "window"), run, feedback=Feedback(say=said.append))
    assert SongModel.of(run.model()).second is None
    assert "track_accuracy_of_summary" not in run.metrics["test"]
    assert [line for line in said if "a track's summary is of all its windows" in line]


def test_small_networks_learn_what_the_summaries_of_tracks_tell_apart(tiny: Store) -> None:
    recipe = SummaryRecipe(
        members=3, units=16, learning_rate=0.01, weight_decay=0.01, batch_size=4, epochs=20, weight=0.5
    )
    selection = select(tiny, "train")
    done: list[int] = []
    feedback = Feedback(counting=lambda *_: nullcontext(done.append))
    model = train_summary_network(tiny, selection, recipe, 2, SEED, feedback)
    summaries = track_summaries(tiny, selection.tracks)
    found = np.asarray(model(summaries))
    assert found.argmax(axis=1).tolist() == selection.labels.tolist()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert sum(done) == len(selection.tracks) + recipe.epochs
    diverging = replace(recipe, learning_rate=1.0, weight_decay=100.0, epochs=100)
    with pytest.raises(RunError, match="the loss on summaries is not a finite number; use a smaller learning_rate or"):
        train_summary_network(tiny, selection, diverging, 2, SEED, Feedback())
    again = train_summary_network(tiny, selection, recipe, 2, SEED, Feedback())
    pairs = zip(model.get_weights(), again.get_weights(), strict=True)
    assert all(one.tobytes() == other.tobytes() for one, other in pairs)
