"""A run is a folder in which every file is whole or absent, and nothing in it is trusted or executed."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the training extra is not installed")

import keras  # noqa: E402

from melzarr.model.run_directory import Run  # noqa: E402
from melzarr.pipeline.errors import RunError  # noqa: E402
from melzarr.pipeline.report.run_files import read_answers  # noqa: E402
from melzarr.pipeline.spec import FeatureSpec  # noqa: E402

CONFIG: dict[str, Any] = {
    "store": {"uuid": "0-0", "title": "Two styles"}, "spec": FeatureSpec(n_windows=7).to_dict(),
    "labels": ["bells", "drums"], "recipe": {"epochs": 4}, "protocol": {"name": "track", "words": "…"}, "seed": 1,
}  # fmt: skip
NAMES = ("epoch", "loss", "accuracy", "valid_accuracy", "learning_rate", "seconds")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has begun."""
    run = Run(tmp_path / "run")
    run.start(CONFIG)
    return run


def model_of(value: float) -> keras.Model:
    """A model whose one weight says which it is."""
    windows = keras.Input(FeatureSpec().shape[1:])
    genre = keras.layers.Dense(2, use_bias=False)(keras.layers.Flatten()(windows))
    model = keras.Model(windows, genre)
    model.set_weights([np.full((640, 2), value)])
    model.compile(keras.optimizers.AdamW(), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def weight(model: keras.Model) -> float:
    return float(model.get_weights()[0][0, 0])


def figures(accuracies: list[float]) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    return [
        dict(zip(NAMES, (epoch, rng.random(), rng.random(), accuracy, 1e-3 / 3, 0.5), strict=True))
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


def train_epochs(run: Run, accuracies: list[float]) -> list[dict[str, float]]:
    history = figures(accuracies)
    for done in range(1, len(history) + 1):
        run.keep_epoch(model_of(done), history[:done])
    return history


# Where it may begin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_run_begins_in_a_new_or_an_empty_folder(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run")
    run.start(CONFIG)
    assert run.config == CONFIG
    assert (run.labels, run.spec) == (["bells", "drums"], FeatureSpec(n_windows=7))
    assert not run.is_finished


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    for place in ("thesis", "thesis/chapter.txt"):
        with pytest.raises(RunError, match=f"{place} exists and is not a melzarr run; choose another folder with --ru"):
            Run(tmp_path / place).start(CONFIG, replace=replace)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"


def test_the_same_run_goes_on(run: Run) -> None:
    history = train_epochs(run, [0.5, 0.6])
    run.start(CONFIG)
    assert run.history() == history


def test_another_run_is_refused_by_what_differs_and_replaced_only_if_asked(run: Run) -> None:
    train_epochs(run, [0.5])
    run.finish({"test": {}})
    other = {**CONFIG, "seed": 2, "protocol": {"name": "window", "words": "…"}}
    with pytest.raises(
        RunError, match=r"contains a run with another protocol, seed; choose another folder with --run, or"
    ):
        run.start(other)
    assert run.config == CONFIG
    (run.path / "notes.txt").write_text("mine")
    run.start(other, replace=True)
    assert run.config == other
    assert run.history() == []
    assert not run.is_finished
    assert not run.model_file.exists()
    assert not list(run.path.glob("tensorboard/*"))
    assert (run.path / "notes.txt").read_text() == "mine"


def test_members_of_a_run_that_is_replaced_leave_no_folders(run: Run) -> None:
    for number in range(1, 6):
        member = run.member(number)
        with member.locked():
            member.start(CONFIG)
            train_epochs(member, [0.5])
    (run.member(2).path / "notes.txt").write_text("mine")
    shutil.rmtree(run.member(4).path)  # as a kill leaves the folder of a member that is being removed
    run.member(4).path.mkdir()
    (run.member(4).path / ".lock").touch()
    (run.path / "fold-6").symlink_to(run.path.parent)
    (run.path / "fold-7").mkdir()
    (run.path / "fold-7/notes.txt").write_text("mine")
    run.start({**CONFIG, "folds": 3}, replace=True)
    assert {path.name for path in run.path.iterdir()} == {"config.json", "fold-2", "fold-6", "fold-7"}
    assert [path.name for path in run.member(2).path.iterdir()] == ["notes.txt"]


# Its history, its models ----------------------------------------------------------------------------------------------


def test_a_history_comes_back_to_the_last_bit(run: Run) -> None:
    history = train_epochs(run, [1 / 3, 0.1 + 0.2])
    assert run.history() == history
    assert run.history_file.read_text().splitlines()[0] == ",".join(NAMES)


def test_the_report_reads_the_answers_as_they_were(run: Run) -> None:
    answers = [("test", "=a,1", "bells", "drums", 0.75, 0.25), ("valid", "'b", "drums", "drums", 1.0, 1.0)]
    run.keep_answers(answers)
    assert list(read_answers(run.answers_file)) == answers


def test_the_model_is_that_of_the_last_epoch(run: Run) -> None:
    history, used = figures([0.2, 0.8, 0.5]), []
    for done in (1, 2, 3):
        run.keep_epoch(model_of(done), history[:done])
        used.append(weight(run.model()))
    assert used == [1, 2, 3]


def test_the_state_to_go_on_from_is_the_last_one_and_goes_when_the_run_is_finished(run: Run) -> None:
    train_epochs(run, [0.9, 0.5, 0.4])
    assert weight(run.last_state()) == 3
    assert run.last_state().optimizer is not None
    assert [path.name for path in run.path.glob("checkpoint*")] == ["checkpoint-0003.keras"]
    run.finish({"test": {"n_tracks": 3}})
    assert run.is_finished
    assert run.metrics == {"test": {"n_tracks": 3}}
    assert not list(run.path.glob("**/*checkpoint*"))
    assert not list(run.path.glob("**/*.part*"))


def test_tensorboard_reads_the_same_history(run: Run) -> None:
    history = train_epochs(run, [0.1, 0.7, 0.4])
    run.keep_epoch(model_of(3), history)  # an epoch that was stopped before it was done comes again
    events = []
    for path in sorted(run.tensorboard.iterdir()):
        assert "tfevents" in path.name
        records = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
        assert [record.file_version for record in records][:1] == ["brain.Event:2"]
        events += records[1:]
    told = {event.step: {value.tag: value.simple_value for value in event.summary.value} for event in events}
    assert len(events) == len(told) == 3
    for epoch, row in enumerate(history, start=1):
        assert told[epoch] == {name: np.float32(value) for name, value in row.items()}


# What cannot be trusted -----------------------------------------------------------------------------------------------


def test_what_is_not_there_is_said_with_what_makes_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "none")
    with pytest.raises(RunError, match=r"none does not exist; make one with: melzarr train STORE --run .*none"):
        run.config  # noqa: B018
    run.path.mkdir()
    for wanted, name in [(lambda: run.config, "config.json"), (lambda: run.metrics, "metrics.json"),
                         (run.model, "model.keras")]:  # fmt: skip
        with pytest.raises(RunError, match=rf"none .*no {name}; make one with: melzarr train STORE --run .*none"):
            wanted()
    assert run.history() == []


DAMAGE = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("content", [*DAMAGE, b"{}", json.dumps({**CONFIG, "spec": "x"}).encode()])
def test_a_damaged_configuration_is_a_sentence(run: Run, content: bytes) -> None:
    run.config_file.write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json .*damaged, train again with --force"):
        run.spec  # noqa: B018


@pytest.mark.parametrize("content", [*DAMAGE, b"{}"])
def test_a_run_with_a_damaged_configuration_can_be_replaced_as_the_sentence_says(run: Run, content: bytes) -> None:
    run.config_file.write_bytes(content)
    with pytest.raises(RunError):
        run.start(CONFIG)
    run.start(CONFIG, replace=True)
    assert run.config == CONFIG


@pytest.mark.parametrize("content", DAMAGE)
def test_damaged_figures_are_a_sentence(run: Run, content: bytes) -> None:
    run.metrics_file.write_bytes(content)
    with pytest.raises(RunError, match=r"metrics\.json .*damaged, train again with --force"):
        run.metrics  # noqa: B018


HEAD = ",".join(NAMES).encode()


@pytest.mark.parametrize(
    "content",
    [
        HEAD + b"\n1,2,x,4,5,6\n",
        HEAD + b"\n1,2,3\n",
        HEAD + b"\n1,2,3,4,5,6,7\n",
        HEAD + b"\n\xff",
        b"epoch,loss\n1,2\n",
    ],
    ids=["a word", "too few", "too many", "no text", "other figures"],
)
def test_a_damaged_history_is_a_sentence(run: Run, content: bytes) -> None:
    run.history_file.write_bytes(content)
    with pytest.raises(RunError, match=r"history\.csv .*train again with --force"):
        run.history()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def changed(data: bytes, member: str, change: Callable[[bytes], bytes]) -> bytes:
    """A model's archive with a change in one of its files."""
    there, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in there.namelist():
            archive.writestr(name, change(there.read(name)) if name == member else there.read(name))
    return out.getvalue()


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no archive": lambda _: b"la la la",
    "cut off": lambda data: data[: len(data) // 2],
    "one bit of a weight": lambda data: flipped(data, data.index(np.float32(0.712).tobytes())),
    "no JSON": lambda data: changed(data, "config.json", lambda _: b"{"),
    "another JSON": lambda data: changed(data, "config.json", lambda _: b"[]"),
    "no layers": lambda data: changed(data, "config.json", lambda text: text.replace(b'"layers"', b'"player"')),
    "an unknown layer": lambda data: changed(data, "config.json", lambda text: text.replace(b'"Dense"', b'"Thick"')),
    "an unknown type": lambda data: changed(
        data, "config.json", lambda text: b'"ETypePolicy"'.join(text.rsplit(b'"DTypePolicy"', 1))
    ),
    "half the weights": lambda data: changed(data, "model.weights.h5", lambda weights: weights[:2000]),
    "a broken index": lambda data: changed(data, "model.weights.h5", lambda weights: weights.replace(b"TREE", b"TREF")),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_model_is_a_sentence(run: Run, damage: str) -> None:
    run.keep_epoch(model_of(0.712), figures([0.5]))
    run.model_file.write_bytes(DAMAGED[damage](run.model_file.read_bytes()))
    with pytest.raises(RunError, match=r"model\.keras is not a model that can be opened safely \(.+\)"):
        run.model()


@pytest.mark.parametrize(
    ("entry", "value"),
    [("store", {}), ("store", {"uuid": 1}), ("protocol", {"name": "track"}), ("protocol", {"name": [], "words": ""}),
     ("labels", ["bells", 2]), ("labels", ["bells", "bells"]), ("seed", -1), ("seed", "1"), ("versions", [])],
)  # fmt: skip
def test_an_entry_of_the_configuration_that_is_wrong_is_named(run: Run, entry: str, value: Any) -> None:
    run.config_file.write_text(json.dumps({**CONFIG, entry: value}))
    with pytest.raises(RunError, match=rf"config\.json is not the configuration of a run \({entry}.*train again with"):
        run.config  # noqa: B018


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"labels": ["bells"]},
            r"shape \(5, 128\) to 2 labels, but .*config\.json has windows of \(5, 128\) and 1 label",
        ),
        ({"spec": {"n_mels": 64}}, r"shape \(5, 128\) to 2 labels, but .* has windows of \(5, 64\) and 2 labels"),
    ],
)
def test_a_model_of_another_run_is_a_sentence(run: Run, config: dict[str, Any], said: str) -> None:
    run.keep_epoch(model_of(1), figures([0.5]))
    run.config_file.write_text(json.dumps({**CONFIG, **config}))
    with pytest.raises(RunError, match=rf"model\.keras maps windows of {said}; one of them is of another run: train"):
        run.model()


def test_no_class_is_loaded_but_those_of_its_own_models(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes by which Keras' safe mode was bypassed: each loads or calls something that the file names."""
    run.keep_epoch(model_of(1), figures([0.5]))
    data = run.model_file.read_bytes()
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("Keras has read it"))
    for module, name, said in [
        ("keras.layers", "TFSMLayer", "TFSMLayer"),
        ("keras.models", "function", "function"),
        ("os", "Dense", r"os\.Dense"),
        ("kerasy", "Dense", r"kerasy\.Dense"),
    ]:
        other = {"module": module, "class_name": name, "config": {}}
        run.model_file.write_bytes(
            changed(
                data, "config.json", lambda text, other=other: json.dumps({**json.loads(text), "x": [other]}).encode()
            )
        )
        with pytest.raises(RunError, match=rf"can be opened safely \(it contains {said}\)"):
            run.model()


def test_a_model_that_brings_code_is_refused_and_the_code_not_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "was here"
    monkeypatch.setenv("TRACE", str(trace))
    code = keras.layers.Lambda(lambda x: __import__("os").mkdir(__import__("os").environ["TRACE"]) or x)
    keras.Sequential([keras.Input((1,)), code]).save(run.model_file)
    trace.rmdir()
    keras.saving.load_model(run.model_file, safe_mode=False)
    trace.rmdir()  # which is there: the model does bring code that runs
    with pytest.raises(RunError, match=r"model\.keras is not a model that can be opened safely"):
        run.model()
    assert not trace.exists()
