"""Baselines: those of scikit-learn by hand, on the run's own split, and whether a network is ahead of them."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the training extra is not installed")
from sklearn.dummy import DummyClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from melzarr.cli import main
from melzarr.model import baselines as room
from melzarr.model.baselines import Baseline, baselines, compare, require_learnt
from melzarr.model.evaluate import Answers, evaluate
from melzarr.model.evaluation_protocol import make_protocol
from melzarr.model.judged import train_split
from melzarr.model.metrics import metrics
from melzarr.model.run_directory import Run
from melzarr.model.selection import Selection, select
from melzarr.model.track_summary import track_summaries
from melzarr.model.train import train
from melzarr.model.training_recipe import TrainRecipe
from melzarr.pipeline.builder.feedback import Feedback
from melzarr.pipeline.errors import RunError
from melzarr.pipeline.report.run_files import ahead_words
from melzarr.pipeline.zarr_store.reader import Store

LABELS = ["bells", "drums"]


def relabelled(selection: Selection, labels: list[int]) -> Selection:
    return Selection(selection.tracks, np.array(labels, np.int32), selection.windows)


def test_they_answer_as_scikit_learn_does_on_the_summaries(tiny: Store) -> None:
    train, judged, warned = select(tiny, "train"), np.arange(tiny.n_tracks)[tiny.values("status") == "ok"], []
    majority, svm = baselines(tiny, train, judged, LABELS, Feedback(warn=warned.append))
    learnt, there = (track_summaries(tiny, numbers) for numbers in (train.tracks, judged))
    scaler = StandardScaler().fit(learnt)
    expected = SVC(C=10, gamma="scale").fit(scaler.transform(learnt), train.labels).predict(scaler.transform(there))
    assert svm.answers.tolist() == expected.tolist()
    assert set(svm.answers.tolist()) == {0, 1}
    most = DummyClassifier(strategy="most_frequent").fit(learnt, train.labels).predict(there)
    assert majority.answers.tolist() == most.tolist()
    assert majority.words == "majority class (bells)"


def test_an_svm_is_trained_on_a_bounded_number_of_tracks_and_says_so(
    tiny: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_TRAINED", 4)
    train, read = select(tiny, "train"), []
    monkeypatch.setattr(room, "track_summaries", lambda *words: read.append(words[1]) or track_summaries(*words))
    found = [baselines(tiny, train, train.tracks, LABELS)[1] for _ in range(2)]
    assert read[0].size == 4
    assert set(read[0]) < set(train.tracks)
    assert found[0].words == "SVM on the summary of a track, trained on 4 of 5 tracks"
    assert found[0].answers.tolist() == found[1].answers.tolist()
    monkeypatch.setattr(room, "MAX_TRAINED", 2)
    baselines(tiny, train, train.tracks, LABELS)
    assert set(train.labels[np.isin(train.tracks, read[-2])]) == {0, 1}  # however few, of each label


def test_progress_counts_each_track_that_is_read_and_each_that_is_classified(tiny: Store) -> None:
    steps: dict[str, tuple[int, list[int]]] = {}

    @contextmanager
    def counting(total: int, what: str):
        steps[what] = total, []
        yield steps[what][1].append

    baselines(tiny, select(tiny, "train"), select(tiny, "test").tracks, LABELS, Feedback(counting=counting))
    ((total, told),) = steps.values()
    assert sum(told) == total


def test_one_label_to_train_on_is_a_sentence(tiny: Store) -> None:
    train = relabelled(select(tiny, "train"), [1] * 5)
    with pytest.raises(RunError, match="all tracks to train a baseline on have the label 'drums'"):
        baselines(tiny, train, train.tracks, LABELS)


def test_a_label_that_was_not_trained_on_is_a_sentence(tiny: Store) -> None:
    train = select(tiny, "train")
    labels = ["bells", "drums", "wind"]
    assert require_learnt(tiny, train, train, labels) == ""
    said = require_learnt(tiny, train, relabelled(train, [0, 1, 2, 2, 0]), labels)
    assert said.endswith("no track to train on has the label wind, so neither network nor baseline can name it")
    with pytest.raises(
        RunError, match=r"has a label of the tracks to judge \(wind\).*give each label tracks of several"
    ):
        require_learnt(tiny, train, relabelled(train, [2] * 5), labels)


# Ahead or not ---------------------------------------------------------------------------------------------------------


def compared(n_network: int, n_baseline: int, n_tracks: int = 100, n_groups: int = 100) -> dict[str, Any]:
    """Compare a network that is right for the first tracks with a baseline that is right for the first tracks."""
    true, places = np.zeros(n_tracks, np.intp), np.arange(n_tracks)
    network, baseline = (np.where(places < n, 0, 1) for n in (n_network, n_baseline))
    return compare([Baseline("svm", "SVM", baseline)], true, network, places * n_groups // n_tracks)["svm"]


@pytest.mark.parametrize(
    ("n_network", "n_baseline", "said"),
    [
        (80, 60, r"the network is ahead of the SVM by 0\.200 \(0\.1\d\d to 0\.2\d\d\)"),
        (60, 80, r"the network loses to the SVM by 0\.200 \(0\.1\d\d to 0\.2\d\d\)"),
        (62, 60, r"the network is ahead of the SVM by 0\.020 \(-0\.0\d\d to 0\.0\d\d\), which may be chance"),
        (60, 62, r"the network is behind the SVM by 0\.020 \(-0\.0\d\d to 0\.0\d\d\), which may be chance"),
        (60, 60, r"the network is level with the SVM \(-0\.0\d\d to 0\.0\d\d\)"),
    ],
)
def test_a_sentence_says_whether_the_network_is_ahead(n_network: int, n_baseline: int, said: str) -> None:
    assert re.fullmatch(said, ahead_words(compared(n_network, n_baseline)))


def test_tracks_of_few_groups_may_be_ahead_by_chance() -> None:
    assert compared(80, 60)["ahead"]["low"] > 0
    assert compared(80, 60, n_groups=5)["ahead"]["low"] < 0


def test_its_accuracy_has_the_interval_of_a_network_with_the_same_answers(tiny: Store, trained: Run) -> None:
    found = evaluate(trained, tiny, "train", with_baselines=True)
    assert set(found["baselines"]) == {"majority", "svm"}
    svm = found["baselines"]["svm"]
    assert svm["track_accuracy"]["value"] == 1
    assert found["track_accuracy"]["value"] - svm["ahead"]["value"] == pytest.approx(1)
    train = select(tiny, "train")
    ones = np.ones(5)
    answers = Answers(
        train.tracks, train.labels, *ones.astype(int)[None].repeat(2, 0), train.labels, train.labels, ones, ones
    )
    same = metrics(answers, LABELS, train.tracks)
    assert svm["track_accuracy"] == same["track_accuracy"]
    assert svm["macro_f1"] == same["macro_f1"]


# With a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["track", "other"])
def test_they_are_trained_on_the_train_split_of_the_run(tiny: Store, own_run: Run, name: str) -> None:
    own_run.config_file.write_text(json.dumps({**own_run.config, "protocol": {"name": name, "words": ""}}))
    found, expected = train_split(own_run, tiny), make_protocol(tiny, name).part("train")
    assert found.tracks.tolist() == expected.tracks.tolist()


def test_of_another_store_or_a_split_by_window_a_sentence_says_why_not(
    tiny: Store, finished: Store, own_run: Run
) -> None:
    with pytest.raises(RunError, match=r"is not the store that .* was trained on.*give that store"):
        evaluate(own_run, finished, "train", with_trained=True, with_baselines=True)
    own_run.config_file.write_text(json.dumps({**own_run.config, "protocol": {"name": "window", "words": ""}}))
    with pytest.raises(RunError, match=r"was split by window.*give a run with another protocol"):
        evaluate(own_run, tiny, with_baselines=True)


def test_the_command_shows_them_beside_the_network(tiny: Store, trained: Run) -> None:
    words = ["evaluate", str(trained.path), str(tiny.directory.path), "--baselines"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    for said in ("  majority class (bells) ", "  SVM on the summary of a track ", "the network is "):
        assert said in shown.stdout
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert set(found["baselines"]["svm"]) == {"words", "track_accuracy", "macro_f1", "ahead"}
    assert "baselines" not in json.loads(CliRunner().invoke(main, [*words[:-1], "--json"]).stdout)


def test_a_training_keeps_those_of_its_test_split(trained: Run) -> None:
    assert set(trained.metrics["test"]["baselines"]) == {"majority", "svm"}
    assert "baselines" not in trained.metrics["valid"]


@pytest.mark.usefixtures("light")
def test_a_split_by_window_has_none(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    found = train(tiny, replace(quick, epochs=1), make_protocol(tiny, "window"), Run(tmp_path / "run"))
    assert "baselines" not in found["test"]


def test_a_store_whose_labels_have_one_group_each_is_not_judged(renamed, own_run: Run) -> None:
    store: Store = renamed("albums")
    folder = Path(store.directory.path)
    labels = zarr.open_array(folder / "label")
    there = store.values("split")
    labels[:] = np.where(there == "test", "drums", "bells").astype(labels.dtype)
    zarr.open_array(folder / "group")[:] = store.values("label").astype(labels.dtype)
    with pytest.raises(RunError, match=r"no track to train on has a label of the tracks to judge \(drums\)"):
        evaluate(own_run, store, with_baselines=True)
