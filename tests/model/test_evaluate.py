"""How good a model is, counted once more by hand, and that a figure says what it is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from older_store import made_older

keras = pytest.importorskip("keras", reason="the training extra is not installed")
pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.model import evaluate as room  # noqa: E402
from melzarr.model import intervals  # noqa: E402
from melzarr.model.evaluate import (  # noqa: E402
    Answers,
    answer,
    evaluate,
    probabilities,
    track_classes,
    track_scores,
)
from melzarr.model.evaluation_protocol import make_protocol  # noqa: E402
from melzarr.model.judged import judged  # noqa: E402
from melzarr.model.messages import metrics_lines  # noqa: E402
from melzarr.model.metrics import difference, metrics  # noqa: E402
from melzarr.model.run_directory import Run  # noqa: E402
from melzarr.model.selection import select  # noqa: E402
from melzarr.model.song_model import SongModel  # noqa: E402
from melzarr.model.track_summary import track_summary  # noqa: E402
from melzarr.pipeline.errors import RunError, StoreError  # noqa: E402
from melzarr.pipeline.spec import FeatureSpec  # noqa: E402
from melzarr.pipeline.zarr_store.reader import Store  # noqa: E402

LABELS = ["blues", "disco", "metal", "pop"]


def metrics_of(answers: Answers, seed: int = 0) -> dict[str, Any]:
    """Metrics of tracks that are in no groups."""
    return metrics(answers, LABELS, answers.numbers, seed)


def answers_of(rows: list[tuple[int, int, int, int, int]]) -> Answers:
    """Answers from (label, right, n_windows, by_mean, by_vote) of each track."""
    shares = np.full(len(rows), 0.5)
    return Answers(np.arange(len(rows)), *np.array(rows, np.intp).T, shares, shares)


@pytest.fixture(autouse=True)
def few_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw fewer times than a training does, for its figures are compared with those of one in one test alone."""
    if "trained" not in request.fixturenames:
        monkeypatch.setattr(intervals, "DRAWS", 100)


CLASSES = st.integers(0, len(LABELS) - 1)
ROWS = st.lists(
    st.integers(1, 50).flatmap(lambda n: st.tuples(CLASSES, st.integers(0, n), st.just(n), CLASSES, CLASSES)),
    min_size=1, max_size=40,
)  # fmt: skip


# Figures --------------------------------------------------------------------------------------------------------------


@given(ROWS)
@example([(0, 5, 5, 0, 0)])
@example([(0, 0, 5, 1, 2), (1, 0, 5, 0, 2)])
def test_figures_are_those_of_counting(rows: list[tuple[int, int, int, int, int]]) -> None:
    found = metrics_of(answers_of(rows))
    n = len(rows)
    confusion = [[sum(r[0] == true and r[3] == answered for r in rows) for answered in range(4)] for true in range(4)]
    assert found["confusion"] == confusion
    assert found["labels"] == LABELS
    assert found["n_tracks"] == found["n_groups"] == n
    assert found["n_windows"] == sum(row[2] for row in rows)
    assert found["window_accuracy"]["value"] == pytest.approx(sum(r[1] for r in rows) / sum(r[2] for r in rows))
    assert found["track_accuracy"]["value"] == pytest.approx(sum(confusion[k][k] for k in range(4)) / n)
    assert found["track_accuracy_by_vote"]["value"] == pytest.approx(sum(row[4] == row[0] for row in rows) / n)
    there = [k for k in range(4) if sum(confusion[k])]
    recall = {LABELS[k]: confusion[k][k] / sum(confusion[k]) for k in there}
    assert found["recall"] == pytest.approx(recall)
    answered = [sum(confusion[true][k] for true in range(4)) for k in range(4)]
    f1 = [2 * confusion[k][k] / (sum(confusion[k]) + answered[k]) for k in there]
    assert found["macro_f1"]["value"] == pytest.approx(np.mean(f1))
    json.dumps(found, allow_nan=False)


@settings(max_examples=20)
@given(ROWS)
def test_an_interval_contains_its_value_and_is_that_of_its_seed(rows: list[tuple[int, int, int, int, int]]) -> None:
    found, again, other = (metrics_of(answers_of(rows), seed) for seed in (0, 0, 1))
    assert found == again
    for name in ("window_accuracy", "track_accuracy", "track_accuracy_by_vote", "macro_f1"):
        assert 0 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1
        assert other[name]["value"] == found[name]["value"]


def random_answers(n: int, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    true, n_windows = rng.integers(4, size=n), rng.integers(20, 60, size=n)
    right = rng.binomial(n_windows, rng.uniform(0.2, 0.9, n))
    by_mean = np.where(rng.random(n) < 0.6, true, rng.integers(4, size=n))
    shares = rng.random(n)
    return Answers(np.arange(n), true, right, n_windows, by_mean, by_mean, shares, shares)


def test_an_interval_of_sixteen_times_the_tracks_is_a_quarter_as_wide() -> None:
    few = random_answers(20)
    names = [name for name in Answers.__dataclass_fields__ if name not in {"numbers", "alone"}]
    many = replace(few, numbers=np.arange(320), **{name: np.tile(getattr(few, name), 16) for name in names})
    for name in ("window_accuracy", "track_accuracy"):
        small, large = (metrics_of(answers)[name] for answers in (few, many))
        assert large["value"] == pytest.approx(small["value"])
        ratio = (small["high"] - small["low"]) / (large["high"] - large["low"])
        assert ratio == pytest.approx(4, rel=0.25)  # of twenty tracks an accuracy is a multiple of 0.05


def test_another_seed_draws_other_tracks() -> None:
    one, other = (metrics_of(random_answers(40), seed)["window_accuracy"] for seed in (0, 1))
    assert one != other


def test_intervals_are_over_groups_if_there_are_some() -> None:
    answers = random_answers(60)
    answers = replace(answers, by_mean=np.where(np.arange(60) // 6 % 2, answers.labels, (answers.labels + 1) % 4))
    groups = np.array([f"album {number // 6}" for number in range(60)])
    alone, together = metrics_of(answers), metrics(answers, LABELS, groups)
    assert (together["n_tracks"], together["n_groups"]) == (60, 10)
    for name in ("track_accuracy", "macro_f1"):
        wide, narrow = ({end: found[name][end] for end in ("low", "high")} for found in (together, alone))
        assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])
        assert together[name]["value"] == alone[name]["value"]
    assert {name: together[name] for name in ("recall", "confusion")} == {
        name: alone[name] for name in ("recall", "confusion")
    }


def test_names_of_groups_do_not_matter() -> None:
    answers = random_answers(30)
    found = [
        metrics(answers, LABELS, np.array(names)[np.arange(30) % 7]) for names in (list("abcdefg"), list("gbdcafe"))
    ]
    assert found[0] == found[1]


def test_a_difference_is_that_of_two_accuracies() -> None:
    answers = random_answers(40)
    other = np.zeros(40, np.intp)
    found = difference(answers.labels, answers.by_mean, other, np.arange(40) // 2)
    expected = np.mean(answers.by_mean == answers.labels) - np.mean(answers.labels == 0)
    assert found["value"] == pytest.approx(expected)
    assert found["low"] < found["value"] < found["high"]


# A track from its windows ---------------------------------------------------------------------------------------------


def table(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_a_track_is_what_its_windows_say_together_or_what_most_of_them_say() -> None:
    sure_once = table([0.98, 0.02], [0.4, 0.6], [0.4, 0.6])
    assert track_classes(sure_once) == (0, 1)


def test_of_equal_votes_the_larger_mean_decides() -> None:
    assert track_classes(table([0.6, 0.4, 0.0], [0.1, 0.9, 0.0])) == (1, 1)
    assert track_classes(table([0.4, 0.6, 0.0], [0.9, 0.1, 0.0])) == (0, 0)
    assert track_classes(table([0.5, 0.5])) in {(0, 0), (0, 1)}
    one_vote_each = table([0.5, 0.3, 0.2], [0.25, 0.4, 0.35], [0.28, 0.32, 0.4])
    mean = np.log(one_vote_each.astype(np.float64)).mean(axis=0)
    assert track_classes(one_vote_each) == (int(mean.argmax()), int(mean.argmax()))


def test_a_window_that_excludes_a_class_does_not_decide_alone() -> None:
    windows = np.tile(table([0.9, 0.1]), (60, 1))
    windows[17] = [0.0, 1.0]
    mean, votes = track_scores(windows)
    assert np.isfinite(mean).all()
    assert votes.tolist() == [59, 1]
    assert track_classes(windows) == (0, 0)
    assert np.isfinite(track_scores(table([0.0, 1.0]))[0]).all()


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 99))
def test_scores_are_the_mean_of_logarithms_and_the_count_of_windows(n: int, n_classes: int, seed: int) -> None:
    given_ = np.random.default_rng(seed).dirichlet(np.ones(n_classes), n).astype(np.float32)
    mean, votes = track_scores(given_)
    expected = [sum(np.log(max(float(row[k]), 1e-12)) for row in given_) / n for k in range(n_classes)]
    np.testing.assert_allclose(mean, expected, rtol=1e-5)  # logarithms of single precision
    assert votes.tolist() == [sum(int(row.argmax()) == k for row in given_) for k in range(n_classes)]
    assert votes[track_classes(given_)[1]] == votes.max()


# A model's answers ----------------------------------------------------------------------------------------------------


def by_hand(model: keras.Model, store: Store, part: str) -> list[tuple[Any, ...]]:
    """Answers for whole tracks from plain zarr and keras' own predict."""
    group, rows = zarr.open_group(store.directory.path, mode="r"), []
    for number in range(store.n_tracks):
        if group["split"][number] == part and group["status"][number] == "ok":
            found = model.predict(group["mel"][number], verbose=0).astype(np.float64)
            label = ["bells", "drums"].index(str(group["label"][number]))
            right = int((found.argmax(axis=1) == label).sum())
            rows.append((number, label, right, len(found), int(np.log(found).mean(axis=0).argmax())))
    return rows


def test_answers_are_those_of_the_model_for_every_window(tiny: Store, trained: Run) -> None:
    model, told = trained.model(), []
    found = answer(model, tiny, select(tiny, "train"), told.append)
    rows = zip(found.numbers, found.labels, found.right, found.n_windows, found.by_mean, strict=True)
    assert [tuple(map(int, row)) for row in rows] == by_hand(model, tiny, "train")
    assert told == [1] * 5


def test_two_opinions_are_those_of_the_saved_model_for_all_windows_of_each_track(tiny: Store, joined: Run) -> None:
    model, labels = joined.model(), ["bells", "drums"]
    song, group = SongModel.of(model), zarr.open_group(tiny.directory.path, mode="r")
    found = answer(model, tiny, select(tiny, "train"))
    for place, number in enumerate(found.numbers):
        mel = group["mel"][int(number)]
        whole = np.asarray(model(mel), np.float64)[0]
        summary = track_summary(10 * np.log10(np.maximum(mel[:, 2].astype(np.float64), 1e-10)))
        windows = np.asarray(song.windows(mel), np.float64)
        assert found.by_mean[place] == whole.argmax()
        assert found.right[place] == (windows.argmax(axis=1) == found.labels[place]).sum()
        assert found.alone["windows"][place] == np.log(windows).mean(axis=0).argmax()
        assert found.alone["summary"][place] == np.asarray(song.second.summary(summary[None]))[0].argmax()
        # Levels of single precision in another order.
        assert found.of_label[place] == pytest.approx(whole[found.labels[place]], abs=1e-4)
    figures = metrics(found, labels, found.numbers)
    for name in ("windows", "summary"):
        assert figures[f"track_accuracy_of_{name}"]["value"] == (found.alone[name] == found.labels).mean()


def test_only_selected_windows_are_answered(tiny: Store, trained: Run) -> None:
    selection = select(tiny, "train")
    chosen = selection.windows.copy()
    chosen[0] = chosen[1, 4:] = False
    found = answer(trained.model(), tiny, replace(selection, windows=chosen))
    assert found.n_windows.tolist() == [4, 24, 24, 24]
    assert found.numbers.tolist() == selection.tracks[1:].tolist()


def test_windows_are_given_to_a_model_in_blocks(tiny: Store, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK_BYTES", 7 * 5 * 128 * 4)
    model, windows = trained.model(), tiny.mel[0]
    found = probabilities(model, windows)
    assert (found.shape, found.dtype) == ((24, 2), np.float32)
    # Sums of single precision in another order.
    np.testing.assert_allclose(found, model.predict(windows, verbose=0), rtol=0, atol=1e-5)


def test_an_evaluation_gives_the_figures_that_the_training_wrote(tiny: Store, trained: Run) -> None:
    for part in ("valid", "test"):
        found = evaluate(trained, tiny, part, with_baselines=part == "test")
        written = json.loads(trained.metrics_file.read_text())
        assert {name: found[name] for name in written[part]} == written[part]
        assert found["protocol"] == written["protocol"]
        assert (found["split"], found["run"], found["store"]) == (part, str(trained.path), str(tiny.directory.path))


def test_tracks_of_one_group_in_a_store_are_drawn_together_and_said_to_be(renamed, trained: Run) -> None:
    store = renamed("grouped")
    zarr.open_array(store.directory.path / "group")[:] = "one album"
    found, alone = (evaluate(trained, opened, "train") for opened in (store, renamed("apart")))
    assert (found["n_tracks"], found["n_groups"], alone["n_groups"]) == (5, 1, 5)
    accuracy, of_tracks = found["track_accuracy"], alone["track_accuracy"]
    assert accuracy["high"] - accuracy["low"] > of_tracks["high"] - of_tracks["low"]
    said = metrics_lines("train", found["protocol"], found)[0]
    assert said.startswith("train: 5 tracks, 120 windows; split by group: ")
    assert said.endswith("; intervals over 1 group")
    assert "intervals over" not in metrics_lines("train", alone["protocol"], alone)[0]


# Which protocol -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["window", "other"])
def test_on_its_own_store_a_model_is_judged_by_the_protocol_of_its_run(tiny: Store, own_run: Run, name: str) -> None:
    own = make_protocol(tiny, name, seed=8)
    config = {**own_run.config, "protocol": {"name": name, "words": own.words}, "seed": 8}
    own_run.config_file.write_text(json.dumps(config))
    for part in ("train", "valid", "test"):
        found = judged(own_run, tiny, part)
        np.testing.assert_array_equal(found.selection.tracks, own.part(part).tracks)
        np.testing.assert_array_equal(found.selection.windows, own.part(part).windows)
        said = "; the model was trained on this split" if part == "train" else ""
        assert (found.protocol, found.words) == (name, own.words + said)


def test_on_another_store_tracks_that_it_was_trained_on_are_left_out_unless_asked(
    tiny: Store, finished: Store, trained: Run
) -> None:
    assert finished.spec.n_windows != trained.spec.n_windows
    learnt = set(tiny.values("source_blake3")[select(tiny, "train").tracks])  # both stores are of the same files
    tracks = select(finished, "train").tracks
    seen = np.array([digest in learnt for digest in finished.values("source_blake3")[tracks]])
    assert 0 < seen.sum() < seen.size
    found, asked = judged(trained, finished, "train"), judged(trained, finished, "train", with_trained=True)
    start = f"the train split of another store; the model was trained on {seen.sum()} of its {seen.size} tracks, which "
    assert (found.words, asked.words) == (f"{start}are left out", f"{start}count")
    assert found.selection.tracks.tolist() == tracks[~seen].tolist()
    assert asked.selection.tracks.tolist() == tracks.tolist()
    assert found.n_trained == asked.n_trained == seen.sum()
    figures = evaluate(trained, finished, "train", with_trained=True)
    assert (figures["n_tracks"], figures["trained_on"], figures["finished"]) == (seen.size, seen.sum(), True)
    assert figures["protocol"] == {"name": "track", "words": asked.words}


def test_a_store_all_of_which_was_trained_on_is_not_judged_unless_asked(tiny: Store, renamed, own_run: Run) -> None:
    titled = renamed("titled")  # as a share of another title: the same files, and another UUID
    config = {**own_run.config, "store": {**own_run.config["store"], "uuid": "another"}}
    own_run.config_file.write_text(json.dumps(config))
    own_run.trained_file.unlink()
    own_run.keep_trained(tiny.values("source_blake3"))  # as of a training by windows
    with pytest.raises(RunError, match=r"was trained on all \d tracks of the test split of .*--with-trained"):
        evaluate(own_run, titled)
    assert evaluate(own_run, titled, with_trained=True)["trained_on"] == select(titled, "test").tracks.size


def test_of_a_run_without_a_list_it_says_that_it_does_not_know(finished: Store, own_run: Run) -> None:
    own_run.trained_file.unlink()
    found = judged(own_run, finished, "train")
    assert found.words == "the train split of another store; whether the model was trained on its tracks is not known"
    assert found.n_trained is None
    own_run.trained_file.write_bytes(b"\xff")
    with pytest.raises(RunError, match="cannot be read"):
        judged(own_run, finished, "train")


def test_a_run_from_before_knows_its_files_by_their_sha256(
    finished: Store, own_store: Store, music: Path, own_run: Run
) -> None:
    older = made_older(own_store, 4, music)
    heard = older.values("source_blake3")[select(older, "train").tracks[:2]]
    own_run.trained_file.write_text("\n".join(digest.removeprefix("sha256:") for digest in heard))
    assert judged(own_run, older, "train").n_trained == 2
    found = judged(own_run, finished, "train")  # of the same files, by their BLAKE3
    assert found.words == "the train split of another store; whether the model was trained on its tracks is not known"
    assert found.n_trained is None


def test_a_track_whose_digest_is_of_another_kind_is_counted_as_not_known(own_store: Store, trained: Run) -> None:
    tracks = select(own_store, "train").tracks
    zarr.open_array(own_store.directory.path / "source_blake3")[int(tracks[0])] = f"sha256:{'5a' * 32}"
    assert judged(trained, own_store, "train").words.endswith("; of 1 this is not known")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n_mels": 64}, "n_mels 64 instead of 128"),
        ({"scale": "db", "dtype": "float16"}, "scale db instead of power;"),
        ({"fmin": 50, "fmax": 8000}, "fmin 50.0 instead of 0.0, fmax 8000.0 instead of None;"),
        ({"mel_scale": "htk", "norm": "none"}, "mel_scale htk instead of slaney, norm none instead of slaney;"),
        (
            {"sample_rate": 16000, "pad_mode": "edge"},
            "sample_rate 16000 instead of 22050, pad_mode edge instead of reflect;",
        ),
    ],
)
def test_a_store_of_other_features_is_refused_by_what_differs(
    finished: Store, trained: Run, fields: dict[str, Any], said: str
) -> None:
    other = replace(finished, spec=FeatureSpec(**{"n_windows": 60, **fields}))
    with pytest.raises(RunError, match=f"has other features than the model of .*trained: {said}"):
        judged(trained, other)


@pytest.mark.parametrize("labels", [["bells", "drone"], ["bells", "drums", "wind"], ["drums", "bells"]])
def test_a_store_of_other_labels_is_refused(tiny: Store, own_run: Run, labels: list[str]) -> None:
    own_run.config_file.write_text(json.dumps({**own_run.config, "labels": labels}))
    with pytest.raises(RunError, match=f"has the labels bells, drums and the model of .* {', '.join(labels)}; they"):
        judged(own_run, tiny)


def test_a_part_that_the_protocol_lacks_is_a_sentence(finished: Store, trained: Run) -> None:
    protocol = make_protocol(finished, "track")
    missing = next(part for part in ("valid", "test") if part not in protocol.parts)
    with pytest.raises(StoreError, match=f"no ok track is in the split '{missing}', only in train"):
        evaluate(trained, finished, missing)
