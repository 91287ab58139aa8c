"""The article's experiment on a store: every run once, and a report that compares only what can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.cli import main
from melzarr.model import train as train_room
from melzarr.model.evaluate import evaluate
from melzarr.model.evaluation_protocol import make_protocol
from melzarr.model.reproduce import experiments, reproduce
from melzarr.model.run_directory import Run
from melzarr.model.training_recipe import TrainRecipe
from melzarr.pipeline.errors import StoreError
from melzarr.pipeline.report.run_files import ahead_words
from melzarr.pipeline.zarr_store.reader import Store

EXPERIMENTS = [("article", "window"), ("article", "track"), ("default", "track"), ("default", "other")]
FIGURE = r"\d+\.\d % \(\d+\.\d to \d+\.\d\)"


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs and report go, the same for all tests."""
    return tmp_path_factory.mktemp("reproduce") / "runs"


@pytest.fixture
def reported(
    renamed,
    light,  # noqa: ARG001
    folder: Path,
) -> tuple[Store, Result, str]:
    """A store, what its reproduction with one epoch printed, and the report."""
    store = renamed("tiny", "other")
    result = melzarr("reproduce", store.directory.path, "--folder", folder, "--epochs", 1)
    assert result.exit_code == 0, result.output
    return store, result, (folder / "report.md").read_text(encoding="utf-8")


def test_the_experiments_are_the_articles_recipe_beside_the_default_by_each_protocol(
    tiny: Store, finished: Store, renamed
) -> None:
    assert experiments(finished) == EXPERIMENTS[:3]
    assert experiments(renamed("tiny", "other")) == EXPERIMENTS
    assert experiments(tiny) == [*EXPERIMENTS[:3], ("default", "even"), ("default", "other"), ("default", "half")]


def test_the_report_has_a_row_for_each_experiment_with_the_figures_of_its_run(reported, folder: Path) -> None:
    _, result, report = reported
    assert f"report: {folder / 'report.md'}" in result.output
    rows = re.findall(rf"^\| (\w+) \| (\w+) \| ({FIGURE}) \| ({FIGURE}) \| 1 of 1 \|$", report, re.MULTILINE)
    assert [row[:2] for row in rows] == EXPERIMENTS
    for recipe, protocol, of_windows, of_tracks in rows:
        test = Run(folder / f"{recipe}-{protocol}").metrics["test"]
        for told, found in ((of_windows, test["window_accuracy"]), (of_tracks, test["track_accuracy"])):
            expected = [100 * found[name] for name in ("value", "low", "high")]
            assert [float(number) for number in re.findall(r"[\d.]+", told)] == pytest.approx(expected, abs=0.051)


def test_the_report_shows_baselines_of_each_split_by_track_and_whether_a_network_is_ahead(reported) -> None:
    _, _, report = reported
    rows = re.findall(rf"^\| (majority class \(\w+\)|SVM .+) \| (\w+) \| \| ({FIGURE}) \| \|$", report, re.MULTILINE)
    assert [(words.partition(" ")[0], protocol) for words, protocol, _ in rows] == [
        ("majority", "track"), ("SVM", "track"), ("majority", "other"), ("SVM", "other")
    ]  # fmt: skip
    ahead = re.findall(r"^- \*\*([\w-]+)\*\*: the network .* the (majority|SVM) .*\.$", report, re.MULTILINE)
    runs = ["article-track", "default-track", "default-other"]
    assert ahead == [(run, baseline) for run in runs for baseline in ("majority", "SVM")]


def test_the_report_compares_the_answers_that_the_run_gave(reported, folder: Path) -> None:
    store, _, report = reported
    found = evaluate(Run(folder / "default-other"), store, with_baselines=True)
    for baseline in found["baselines"].values():
        assert f"- **default-other**: {ahead_words(baseline)}." in report


@pytest.mark.usefixtures("reported")
def test_each_experiment_is_trained_by_its_recipe_and_protocol(folder: Path) -> None:
    for recipe, protocol in EXPERIMENTS:
        config = Run(folder / f"{recipe}-{protocol}").config
        assert config["protocol"]["name"] == protocol
        assert config["recipe"] == {**TrainRecipe.read(recipe).to_dict(), "epochs": 1}


def test_the_report_says_what_each_protocol_is_and_of_which_store_it_is(reported) -> None:
    store, _, report = reported
    assert report.startswith("# Two styles: the article's experiment\n")
    assert store.attributes["uuid"] in report
    for name in ("track", "window", "other"):
        assert report.count(f"- **{name}**: {make_protocol(store, name).words}.") == 1


def test_the_report_shows_the_pictures_of_each_run(reported, trained: Run) -> None:
    _, _, report = reported
    shown = re.findall(r"!\[.+\]\((.+)\)", report)
    assert all((trained.path / Path(name).name).is_file() for name in shown)
    assert shown == [f"{recipe}-{protocol}/{name}.png" for recipe, protocol in EXPERIMENTS
                     for name in ("history", "confusion")]  # fmt: skip


@pytest.mark.usefixtures("light")
def test_published_figures_are_set_beside_those_of_gtzan_alone(reported, renamed, folder: Path) -> None:
    _, _, report = reported
    apart = "which is not the dataset of this store, so they cannot be compared with the figures above"
    assert apart in report
    of_gtzan = renamed("gtzan", "other")

    def as_before(recipe: str, protocol: str, run: Run) -> Mapping[str, Any]:
        earlier = Run(folder / f"{recipe}-{protocol}")
        run.start(earlier.config)
        return earlier.metrics

    text = reproduce(of_gtzan, folder.parent / "gtzan", as_before).read_text(encoding="utf-8")
    assert apart not in text
    assert "On GTZAN. Each was measured by a different protocol" in text
    for published in ("62 %", "84 %", "77.6 %", "54.1 %"):
        assert published in report
        assert published in text


def test_a_second_call_trains_nothing_and_writes_the_same_report(
    reported, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, report = reported
    monkeypatch.setattr(train_room, "_fit", lambda *_: pytest.fail("it was trained"))
    result = melzarr("reproduce", store.directory.path, "--folder", folder, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert result.output.count("already finished") == 4
    assert (folder / "report.md").read_text(encoding="utf-8") == report


def test_a_part_that_is_missing_is_said_before_hours_of_training(tiny: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="protocol 'half': no ok track is in the split 'test'"):
        reproduce(tiny, tmp_path, lambda *_: pytest.fail("it was trained"))
