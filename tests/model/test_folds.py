"""Group folds: how a store is divided, what is judged by whom, and what cannot be divided."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.cli import main
from melzarr.model import train_folds as room
from melzarr.model.evaluate import evaluate
from melzarr.model.evaluation_protocol import make_protocol
from melzarr.model.folds import fold_parts, parse_fold
from melzarr.model.judged import judged
from melzarr.model.predict import predict
from melzarr.model.run_directory import Run
from melzarr.model.song_model import SongModel
from melzarr.model.train_by_name import train_by_name
from melzarr.model.train_folds import train_folds
from melzarr.model.training_recipe import TrainRecipe
from melzarr.pipeline.errors import CallError, CatalogError, RunError, StoreError
from melzarr.pipeline.report.run_reader import read_run
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store

SEED = 3


class Table:
    """The columns of a store, in so far as folds need them."""

    address, spec = "some.zarr", FeatureSpec()

    def __init__(self, labels: list[str], groups: list[str], failed: tuple[int, ...] = ()) -> None:
        self.n_tracks = len(labels)
        status = ["failed" if number in failed else "ok" for number in range(len(labels))]
        self.columns = {"label": labels, "group": groups, "status": status}

    def values(self, name: str) -> np.ndarray:
        return np.array(self.columns[name], object)

    def column(self, name: str) -> np.ndarray:
        return np.array(self.columns[name], np.dtypes.StringDType())


def random_table(seed: int) -> Table:
    """Sixty tracks of three labels in about twenty groups, some of which have tracks of several labels."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(20, size=60)
    labels = np.where(rng.random(60) < 0.2, rng.integers(3, size=60), groups % 3)
    return Table([f"label{one}" for one in labels], [f"group{one}" for one in groups], failed=(4, 17))


# The division ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_folds", [2, 5])
def test_each_ok_track_is_judged_once_and_no_group_is_on_two_sides(seed: int, n_folds: int) -> None:
    table = random_table(seed)
    folds = np.array(fold_parts(table, n_folds, seed))
    ok, groups = table.values("status") == "ok", table.values("group")
    np.testing.assert_array_equal((folds == "test").sum(axis=0), ok)
    for parts in folds:
        assert set(parts[~ok]) == {"unused"}
        assert set(parts[ok]) == {"train", "valid", "test"}
        for group in set(groups):
            assert len(set(parts[ok & (groups == group)])) <= 1
        labels = table.values("label")
        assert set(labels[parts == "train"]) == set(labels[ok & (parts != "test")])
        assert (parts == "valid").sum() < 0.2 * (parts == "train").sum()
    np.testing.assert_array_equal(folds, fold_parts(table, n_folds, seed))  # the same seed gives the same


def test_labels_are_divided_as_evenly_as_their_groups_allow() -> None:
    table = Table(["a"] * 50 + ["b"] * 100, [f"group{number // 2}" for number in range(150)])
    labels = table.values("label")
    for parts in fold_parts(table, 5, 0):
        judged_ = labels[parts == "test"]
        assert ((judged_ == "a").sum(), (judged_ == "b").sum()) == (10, 20)


def test_a_label_of_two_groups_is_trained_on_if_one_of_them_is_judged() -> None:
    table = Table(["rare"] * 2 + ["common"] * 38, [f"group{number}" for number in range(40)])
    for parts in fold_parts(table, 5, 0):
        assert "valid" not in parts[:2]
        assert "train" in parts[:2]


@pytest.mark.parametrize(
    ("labels", "groups", "said"),
    [
        (["a", "b"] * 6, ["one", "two"] * 6, "the ok tracks are in 2 groups, too few for 5 folds; use fewer folds, or"),
        (["a", "b"] * 6, ["same"] * 12, "the ok tracks are in 1 group, too few for 5 folds; give more groups"),
        (list("abcdef") * 3, list("uvwxyz") * 3, "each label is one group, so no fold could train on a label that it"),
        (list("abc") * 3, list("123456789"), "no label has more than 3 ok tracks, too few for 5 folds; use fewer"),
    ],
)
def test_what_cannot_be_divided_is_a_sentence(labels: list[str], groups: list[str], said: str) -> None:
    with pytest.raises(CatalogError, match=f"some.zarr: {said}"):
        fold_parts(Table(labels, groups), 5, 0)


@pytest.mark.parametrize(
    ("name", "fold"),
    [("fold-1-of-5", (1, 5)), ("fold-5-of-5", (5, 5)), ("fold-6-of-5", None), ("fold-0-of-5", None),
     ("fold-1-of-1", None), ("fold-one-of-5", None), ("track", None)],
)  # fmt: skip
def test_a_fold_has_a_name(name: str, fold: tuple[int, int] | None) -> None:
    assert parse_fold(name) == fold


# A run over folds -----------------------------------------------------------------------------------------------------


def test_every_track_is_judged_by_the_member_that_has_not_heard_it(tiny: Store, folded: Run) -> None:
    with folded.answers_file.open(newline="", encoding="utf-8") as file:
        rows = {row["track"]: row for row in csv.DictReader(file)}
    names, digests = tiny.values("track"), tiny.values("source_blake3")
    ok = np.flatnonzero(tiny.values("status") == "ok")
    assert set(rows) == set(names[ok])
    for number in (1, 2):
        member = folded.member(number)
        judges = np.flatnonzero(fold_parts(tiny, 2, SEED)[number - 1] == "test")
        assert not set(digests[judges]) & member.trained_on()
        model = member.model()
        for track in judges:
            row, whole = rows[names[track]], np.asarray(model(tiny.mel[int(track)]))[0]
            assert row["answer"] == folded.labels[int(whole.argmax())]
            assert float(row["probability_of_answer"]) == pytest.approx(whole.max(), abs=1e-4)
    test = folded.metrics["test"]
    n_right = sum(row["label"] == row["answer"] for row in rows.values())
    assert test["n_tracks"] == len(ok) == np.sum(test["confusion"])
    assert test["track_accuracy"]["value"] == n_right / len(ok) == np.trace(test["confusion"]) / len(ok)
    folds = folded.metrics["folds"]
    assert sum(fold["n_tracks"] * fold["track_accuracy"] for fold in folds) == pytest.approx(n_right)
    assert [fold["track_accuracy"] for fold in folds] == [
        folded.member(number).metrics["test"]["track_accuracy"]["value"] for number in (1, 2)
    ]


def test_its_model_is_the_mean_of_its_members_log_probabilities(tiny: Store, folded: Run) -> None:
    windows = tiny.mel[0]
    members = [np.asarray(folded.member(number).model()(windows), np.float64)[0] for number in (1, 2)]
    expected = np.exp(np.log(members).mean(axis=0))
    model = folded.model()
    np.testing.assert_allclose(np.asarray(model(windows))[0], expected / expected.sum(), atol=1e-5)
    assert SongModel.of(model).second is not None


def test_it_predicts_as_any_run(folded: Run, music: Path) -> None:
    song = predict(folded.model(), folded.spec, tuple(folded.labels), music / "bells/bells.00005.wav")
    assert song.genre in folded.labels
    assert song.summary is not None


def test_members_that_have_heard_the_tracks_of_a_store_do_not_judge_them(
    tiny: Store, finished: Store, folded: Run, tmp_path: Path
) -> None:
    with pytest.raises(
        RunError, match=r"is the mean of 2 members, each of which has heard what another judges, .*fold-1"
    ):
        evaluate(folded, tiny)
    shared = Run(shutil.copytree(folded.path, tmp_path / "shared", ignore=shutil.ignore_patterns("fold-*")))
    # A share has no member that could be named.
    with pytest.raises(RunError, match=r"its figures are in its metrics.json; give another store$"):
        evaluate(shared, tiny)
    # The member alone has a part that it has not heard.
    found = judged(folded.member(2), tiny)
    assert found.selection.tracks.tolist() == np.flatnonzero(fold_parts(tiny, 2, SEED)[1] == "test").tolist()
    # Of another store, the files that any member has heard are known.
    heard = frozenset[str]().union(*(folded.member(number).trained_on() for number in (1, 2)))
    assert folded.trained_on() == heard
    found = judged(folded, finished, "train", with_trained=True)
    assert found.n_trained == len(set(finished.values("source_blake3")[found.selection.tracks]) & heard) > 0


def test_baselines_are_judged_over_the_same_folds(tiny: Store, folded: Run) -> None:
    labels, right = np.unique(tiny.values("label"), return_inverse=True)[1], []
    for number in (1, 2):
        parts = fold_parts(tiny, 2, SEED)[number - 1]
        most = int(np.bincount(labels[parts == "train"], minlength=2).argmax())
        right += (labels[parts == "test"] == most).tolist()
    test = folded.metrics["test"]
    majority = test["baselines"]["majority"]
    assert majority["words"] == "majority class of each fold"
    assert majority["track_accuracy"]["value"] == np.mean(right)
    assert majority["ahead"]["value"] == pytest.approx(test["track_accuracy"]["value"] - np.mean(right))
    assert set(test["baselines"]) == {"majority", "svm"}
    assert "baselines" not in folded.member(1).metrics["test"]  # they are pooled as the answers are


def test_the_report_shows_its_figures_and_misses_no_history(folded: Run) -> None:
    training = read_run(folded.path)
    assert training.notes == ()
    assert training.parts["test"].n_tracks == folded.metrics["test"]["n_tracks"]
    told = {words for words, *_ in training.parts["test"].accuracies}
    assert {"tracks, by both opinions", "tracks, by their windows alone", "tracks, by their summary alone"} <= told
    assert "tracks, by mean log-probability" not in told


class Stopped(BaseException):
    """What a test stops a training by."""


def stop(*_: Any, **__: Any) -> None:
    raise Stopped


@pytest.mark.usefixtures("light")
def test_wherever_it_is_stopped_it_goes_on_to_the_same(
    tiny: Store, quick: TrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, undisturbed, run = replace(quick, epochs=1), Run(tmp_path / "undisturbed"), Run(tmp_path / "run")
    train_folds(tiny, recipe, 2, undisturbed, seed=SEED)
    original = room.train
    second = {"train": lambda *a, **k: stop() if a[3].path.name == "fold-2" else original(*a, **k)}
    for n_done, stops in enumerate((second, {"joined_members": stop}, {"answer_rows": stop}), start=1):
        with monkeypatch.context() as patch:
            for name, stopping in stops.items():
                patch.setattr(room, name, stopping)
            with pytest.raises(Stopped):
                train_folds(tiny, recipe, 2, run, seed=SEED)
        assert not run.is_finished
        how = f"{min(n_done, 2)} of 2 folds; continue with melzarr train --folds 2"
        assert run.unfinished() == f"{run.path} is not finished: {how}"
    assert train_folds(tiny, recipe, 2, run, seed=SEED) == undisturbed.metrics
    pairs = zip(run.model().get_weights(), undisturbed.model().get_weights(), strict=True)
    assert all(one.tobytes() == other.tobytes() for one, other in pairs)
    assert run.answers_file.read_bytes() == undisturbed.answers_file.read_bytes()
    assert sorted(path.name for path in run.path.rglob("*")) == sorted(p.name for p in undisturbed.path.rglob("*"))


@pytest.mark.usefixtures("light")
def test_of_the_articles_network_alone_the_mean_is_a_network_of_windows(
    tiny: Store, quick: TrainRecipe, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    train_folds(tiny, replace(quick, epochs=1), 2, run, seed=SEED)
    windows = tiny.mel[0]
    members = [np.asarray(run.member(number).model()(windows), np.float64) for number in (1, 2)]
    expected = np.sqrt(members[0] * members[1])
    found = np.asarray(run.model()(windows))
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    assert "track_accuracy_of_summary" not in run.metrics["test"]
    # Another training in the folder removes the members too.
    with pytest.raises(RunError, match="contains a run with another"):
        train_folds(tiny, replace(quick, epochs=1), 3, run, seed=SEED)
    run.start({**run.config, "folds": 0}, replace=True)
    assert not list(run.path.rglob("*.keras"))
    assert not run.member(1).path.exists()


@pytest.mark.usefixtures("light")
def test_a_copy_of_a_member_is_left_if_the_run_is_replaced(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train_folds(tiny, replace(quick, epochs=1), 2, run, seed=SEED)
    kept = Run(Path(shutil.copytree(run.member(1).path, run.path / "fold-1-of-mine")))
    run.start(run.config, replace=True)
    assert not run.member(1).path.exists()
    assert kept.is_finished


@pytest.mark.parametrize(
    ("labels", "groups", "said"),
    [
        ("bbba", "2111", "no ok track is in the split 'valid', only in train, test; give more tracks, or groups"),
        ("bbab", "3412", r"fold-1-of-2: all tracks to train on have the label 'b', so there is nothing to"),
    ],
)
def test_folds_that_cannot_be_trained_are_a_sentence_before_the_first_training(
    quick: TrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str, groups: str, said: str
) -> None:
    run = Run(tmp_path / "run")
    monkeypatch.setattr(room, "train", None)
    with pytest.raises((RunError, StoreError), match=said):
        train_folds(Table(list(labels), list(groups)), quick, 2, run, seed=SEED)
    assert not run.path.exists()


def test_pictures_that_a_kill_prevented_are_drawn_by_the_same_command(
    tiny: Store, two_opinions: TrainRecipe, folded: Run, tmp_path: Path
) -> None:
    run = Run(Path(shutil.copytree(folded.path, tmp_path / "run")))
    pictures = {path.name: path.read_bytes() for path in run.path.glob("*.png")}
    assert pictures.keys() == {"confusion.png", "network.png"}
    for name in pictures:
        (run.path / name).unlink()
    assert train_folds(tiny, two_opinions, 2, run, seed=SEED) == run.metrics
    assert {path.name: path.read_bytes() for path in run.path.glob("*.png")} == pictures


# By name --------------------------------------------------------------------------------------------------------------


def test_folds_and_a_protocol_are_not_given_together(tiny: Store, quick_file: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(CallError, match="folds=3 divide the store themselves; leave out protocol='window', or folds"):
        train_by_name(tiny, run, recipe=str(quick_file), protocol="window", folds=3)
    with pytest.raises(CallError, match="folds=1 is too few; use 2 or more"):
        train_by_name(tiny, run, recipe=str(quick_file), folds=1)
    with pytest.raises(CatalogError, match=r"the ok tracks are in \d groups, too few for 50 folds"):
        train_by_name(tiny, run, recipe=str(quick_file), folds=50)
    assert not run.path.exists()


@pytest.mark.usefixtures("light")
def test_the_command_shows_the_pooled_figures_the_spread_and_the_confusion(
    tiny: Store, quick_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", str(tiny.directory.path), "--recipe", str(quick_file), "--epochs", "1", "--folds", "2"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    run = Run(Path("runs/tiny-quick-folds-2"))
    test = run.metrics["test"]
    assert f"test: {test['n_tracks']} tracks, {test['n_windows']} windows; 2 folds: each track is judged" in done.stdout
    shares = [f"{fold['track_accuracy']:.3f}" for fold in run.metrics["folds"]]
    assert f"right tracks of each fold: {', '.join(shares)}; standard deviation " in done.stdout
    assert "taken for" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("next: melzarr predict runs/tiny-quick-folds-2 ")
    again = CliRunner().invoke(main, words)
    assert "already finished, and kept" in again.stdout
    assert json.loads(run.config_file.read_text())["folds"] == 2
    assert make_protocol(tiny, "fold-2-of-2").words.startswith("fold 2 of 2: nothing of the group of a test track")
