"""Training and using a network from the command line, as a person and as a script do it."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from click.testing import CliRunner, Result

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.cli import main
from melzarr.model.run_directory import Run
from melzarr.model.tensorflow_setup import load_tensorflow
from melzarr.pipeline.zarr_store.reader import Store

COMMANDS = ["fetch", "scan", "features", "inspect", "verify", "train", "evaluate", "predict", "reproduce"]
# Without what its user may have set for TensorFlow, so that it prints what it prints by itself.
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_"))}


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def process(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=False, cwd=cwd, env=PLAIN, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


MAIN = "from melzarr.cli import main; main()"


@pytest.fixture
def songs(music: Path, tmp_path: Path) -> list[Path]:
    """Two songs, and between them one that is none."""
    (tmp_path / "noise.mp3").write_text("la la la")
    return [music / "bells/bells.00005.wav", tmp_path / "noise.mp3", music / "drums/drums.00005.wav"]


# Without TensorFlow ---------------------------------------------------------------------------------------------------


def test_help_lists_all_commands_in_the_order_of_the_work_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, atexit\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib', 'librosa', 'zarr', 'distributed'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & sys.modules.keys())))\n" + MAIN
    )
    shown = process(code, "--help", cwd=tmp_path).stdout
    places = [shown.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert shown.endswith("heavy: []\n")


HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "{missing}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize(
    "words", [("train", "s.zarr"), ("evaluate", "run", "s.zarr"), ("predict", "run", "a.mp3"), ("reproduce", "s.zarr")]
)
def test_where_tensorflow_is_not_installed_a_sentence_says_how_to_get_it(tmp_path: Path, words: tuple[str]) -> None:
    done = process(HIDDEN.format(missing="tensorflow") + MAIN, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"melzarr {words[0]}: tensorflow is not installed, and training and using a network need it; "
        "pip install 'melzarr[train]'\n"
    )


def test_a_store_is_made_where_tensorflow_is_not_installed(music: Path, tmp_path: Path) -> None:
    words = ["features", music, "s.zarr", "--workers", 0, "--n-windows", 2]
    done = process(HIDDEN.format(missing="tensorflow") + MAIN, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.zarr/zarr.json").is_file()


# Train, evaluate, predict ---------------------------------------------------------------------------------------------


def test_train_says_how_it_goes_what_was_made_and_what_comes_next(
    tiny: Store, quick_file: Path, tmp_path: Path
) -> None:
    words = ["train", tiny.directory.path, "--recipe", quick_file, "--run", tmp_path / "my run", "--epochs", 2]
    result = melzarr(*words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert f"{tmp_path / 'my run'}: recipe {quick_file}; split by track: nothing of a test track" in result.stdout
    assert [line.partition(":")[0] for line in lines if line.startswith("epoch")] == ["epoch 1 of 2", "epoch 2 of 2"]
    metrics = Run(tmp_path / "my run").metrics
    for part in ("valid", "test"):
        n_tracks, n_windows = (metrics[part][name] for name in ("n_tracks", "n_windows"))
        assert f"\n{part}: {n_tracks} tracks, {n_windows} windows; split by track" in result.stdout
    (pictures,) = (line.removeprefix("pictures: ").split(", ") for line in lines if line.startswith("pictures: "))
    assert [Path(name).name for name in pictures] == ["confusion.png", "history.png", "network.png"]
    assert all(Path(name).is_file() for name in pictures)
    next_one = shlex.split(lines[-1].removeprefix("next: melzarr "))
    assert lines[-1].startswith("next: melzarr evaluate ")
    evaluated = melzarr(*next_one)
    assert evaluated.exit_code == 0, evaluated.output
    assert f"{metrics['test']['track_accuracy']['value']:.3f}" in evaluated.output
    again = melzarr(*words)
    assert again.exit_code == 0
    assert "already finished, and kept" in again.output


@pytest.mark.usefixtures("light")
def test_by_default_a_run_is_named_by_its_store_recipe_and_protocol(
    tiny: Store, quick_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = melzarr(
        "train", tiny.directory.path, "--recipe", quick_file, "--protocol", "other", "--epochs", 1, "--seed", 9
    )
    assert result.exit_code == 0, result.output
    config = Run(tmp_path / "runs/tiny-quick-other").config
    assert (config["protocol"]["name"], config["seed"], config["recipe"]["epochs"]) == ("other", 9, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_force_begins_anew(tiny: Store, quick_file: Path, tmp_path: Path) -> None:
    words = ["train", tiny.directory.path, "--recipe", quick_file, "--run", tmp_path / "run", "--epochs", 1]
    assert melzarr(*words).exit_code == 0
    refused = melzarr(*words, "--seed", 1)
    assert refused.exit_code == 1
    assert "contains a run with another seed" in refused.output
    assert "--force" in refused.output
    forced = melzarr(*words, "--seed", 1, "--force")
    assert forced.exit_code == 0
    assert "continuing" not in forced.stdout
    assert "epoch 1 of 1" in forced.stdout
    assert Run(tmp_path / "run").config["seed"] == 1


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("damaged", ["config.json", "history.csv", "model.keras"])
def test_a_damaged_run_is_a_sentence_and_trained_again_by_force(
    tiny: Store, quick_file: Path, own_run: Run, damaged: str
) -> None:
    (own_run.path / damaged).write_bytes(b"\xff")
    words = ["train", tiny.directory.path, "--recipe", quick_file, "--run", own_run.path, "--epochs", 1]
    refused = melzarr(*words)
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert isinstance(refused.exception, SystemExit)
    result = melzarr(*words, "--force")
    assert result.exit_code == 0, result.output
    assert Run(own_run.path).is_finished


def test_evaluate_says_the_same_to_a_person_and_to_a_script(tiny: Store, trained: Run) -> None:
    said = melzarr("evaluate", trained.path, tiny.directory.path, "--split", "valid").stdout
    facts = json.loads(melzarr("evaluate", trained.path, tiny.directory.path, "--split", "valid", "--json").stdout)
    assert facts["split"] == "valid"
    assert {name: facts[name] for name in trained.metrics["valid"]} == trained.metrics["valid"]
    for name in ("window_accuracy", "track_accuracy", "track_accuracy_by_vote"):
        figure = facts[name]
        assert f"{figure['value']:.3f}" in said
        assert f"{figure['low']:.3f} to {figure['high']:.3f}" in said
    for label in ("bells", "drums"):
        assert re.search(rf"^  {label} +\d+ +{facts['recall'][label]:.2f}", said, re.MULTILINE)
    assert "next: melzarr predict" in said


def test_a_run_that_is_not_finished_is_used_but_not_in_silence(tiny: Store, own_run: Run, songs: list[Path]) -> None:
    own_run.metrics_file.unlink()
    own_run.history_file.write_text("".join(own_run.history_file.read_text().splitlines(keepends=True)[:2]))
    said = f"{own_run.path} is not finished: 1 of 3 epochs; continue with melzarr train"
    evaluated = melzarr("evaluate", own_run.path, tiny.directory, "--json")
    assert evaluated.stderr.splitlines()[0] == said
    assert json.loads(evaluated.stdout)["finished"] is False
    assert melzarr("predict", own_run.path, songs[0]).stderr.splitlines()[0] == said


@pytest.mark.slow
def test_tensorflow_says_nothing_to_who_evaluates(tiny: Store, trained: Run, tmp_path: Path) -> None:
    done = process(MAIN, "evaluate", trained.path, tiny.directory.path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_tracks"] == trained.metrics["test"]["n_tracks"]
    assert [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("evaluate:")] == []


def test_tensorflows_warnings_to_programmers_are_not_shown() -> None:
    load_tensorflow()
    assert not logging.getLogger("tensorflow").isEnabledFor(logging.WARNING)


def test_predict_answers_for_good_songs_and_ends_with_1_for_a_broken_one(trained: Run, songs: list[Path]) -> None:
    result = melzarr("predict", trained.path, *songs, "--top", 1)
    assert result.exit_code == 1
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    for line, song in zip(lines, (songs[0], songs[2]), strict=True):
        assert re.fullmatch(rf"{song}: (bells|drums) [01]\.\d\d  \(\d+% of 73 windows vote (bells|drums)\)", line)
    assert f"{songs[1]}: libsndfile finds no audio in the file" in result.stderr
    assert melzarr("predict", trained.path, songs[0]).exit_code == 0


def test_predict_gives_a_script_all_songs_and_draws_those_that_it_heard(
    trained: Run, songs: list[Path], tmp_path: Path
) -> None:
    result = melzarr("predict", trained.path, *songs, "--json", "--plot", tmp_path / "songs.png")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [(song["path"], song["status"]) for song in found] == [
        (str(songs[0]), "ok"), (str(songs[1]), "failed"), (str(songs[2]), "ok"),
    ]  # fmt: skip
    assert "libsndfile finds no audio" in found[1]["error"]
    for song in (found[0], found[2]):
        assert song["genre"] == max(song["probabilities"], key=song["probabilities"].__getitem__)
        assert sum(song["probabilities"].values()) == pytest.approx(1)
        assert song["n_windows"] == 73  # 3 s
    assert (tmp_path / "songs.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_song_is_heard_whatever_its_format(trained: Run, songs: list[Path], tmp_path: Path) -> None:
    sound, rate = soundfile.read(songs[0])
    answers: list[Any] = []
    for name in ("song.flac", "song.ogg", "song.mp3"):
        soundfile.write(tmp_path / name, sound, rate)
        answers += json.loads(melzarr("predict", trained.path, tmp_path / name, "--json").stdout)
    assert [song["status"] for song in answers] == ["ok"] * 3
    assert len({song["genre"] for song in answers}) == 1


def test_a_picture_of_no_song_is_a_sentence(trained: Run, songs: list[Path], tmp_path: Path) -> None:
    result = melzarr("predict", trained.path, songs[1], "--plot", tmp_path / "songs.png")
    assert result.exit_code == 1
    assert "none of the songs could be used, so there is nothing to draw" in result.output


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "none.zarr"], 1, "melzarr train: there is no store at none.zarr"),
        (["train", "STORE", "--recipe", "articel"], 2, "no training recipe 'articel': use article or default"),
        (["train", "STORE", "--protocol", "tracks"], 2, "has no protocol 'tracks'; use one of track, even"),
        (["train", "STORE", "--protocol", "half"], 1, "no ok track is in the split 'test'"),
        (["train", "STORE", "--epochs", "0"], 2, "'--epochs'"),
        (["train", "STORE", "--memory", "lots"], 2, "lots"),
        (
            ["evaluate", "none", "STORE"],
            1,
            "none does not exist; make one with: melzarr train STORE",
        ),
        (["evaluate", "RUN", "none.zarr"], 1, "there is no store at none.zarr"),
        (["evaluate", "RUN", "STORE", "--split", "dev"], 2, "'dev' is not one of 'train', 'valid', 'test'"),
        (["predict", "none", "song.mp3"], 1, "melzarr predict: none does not exist; make one with"),
        (["predict", "RUN"], 2, "SONG"),
        (["predict", "RUN", "SONG", "--plot", "songs.foo"], 1, "songs.foo is not a supported image format"),
        (["reproduce", "none.zarr"], 1, "there is no store at none.zarr"),
    ],
)
def test_errors_are_sentences_with_exit_codes(
    tiny: Store, trained: Run, songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str],
    code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    known = {"STORE": tiny.directory.path, "RUN": trained.path, "SONG": songs[0]}
    result = melzarr(*(known.get(word, word) for word in words))
    assert result.exit_code == code, result.output
    assert said in result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("light")
def test_a_training_that_is_interrupted_says_that_it_can_go_on(
    tiny: Store, quick_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from melzarr.model import train as room

    words = ["train", tiny.directory.path, "--recipe", quick_file, "--run", tmp_path / "run"]
    with monkeypatch.context() as patch:
        calls, original = iter(range(10)), room._epoch
        patch.setattr(room, "_epoch", lambda *a: original(*a) if next(calls) < 1 else interrupt())
        stopped = melzarr(*words)
    assert stopped.exit_code == 1
    assert (
        "melzarr train: stopped; what was finished is kept, so run the same command again to continue" in stopped.output
    )
    again = melzarr(*words)
    assert again.exit_code == 0, again.output
    assert "continuing after epoch 1" in again.stdout
    assert re.findall(r"^epoch (\d) of 3", again.stdout, re.MULTILINE) == ["2", "3"]


def interrupt() -> None:
    raise KeyboardInterrupt
