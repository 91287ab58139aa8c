"""The recipes over group folds: the report has the pooled figures of the runs, and of the same baselines."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.cli import main
from melzarr.model.run_directory import Run
from melzarr.pipeline.zarr_store.reader import Store


def test_the_report_has_each_recipe_each_opinion_alone_and_baselines(
    tiny: Store,
    light,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    words = ["reproduce", str(tiny.directory.path), "--folds", "2", "--epochs", "1", "--folder", str(tmp_path / "runs")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'runs/report.md'}"
    text = (tmp_path / "runs/report.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    default, article = (Run(tmp_path / f"runs/{recipe}-folds-2").metrics["test"] for recipe in ("default", "article"))
    expected = {
        "recipe default": default["track_accuracy"],
        "recipe default, its windows alone": default["track_accuracy_of_windows"],
        "recipe default, its summary of a track alone": default["track_accuracy_of_summary"],
        "recipe article": article["track_accuracy"],
        **{baseline["words"]: baseline["track_accuracy"] for baseline in default["baselines"].values()},
    }
    figures = {
        of: f"{of_all['value']:.3f} {of_all['low']:.3f} to {of_all['high']:.3f}" for of, of_all in expected.items()
    }
    assert {of: f"{right} {interval}" for of, right, interval in lines} == figures
    assert text.count("- **default**: the network is ") == text.count("- **article**: the network is ") == 2
    again = CliRunner().invoke(main, words)  # trains nothing
    assert again.output.count("already finished, and kept") == 2
    assert (tmp_path / "runs/report.md").read_text(encoding="utf-8") == text
