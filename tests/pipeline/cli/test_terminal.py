"""What a person sees: text of others that steers nothing, on streams that are closed, read in part, or of 1987."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from processes import command

from melzarr.cli import main
from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.cli.terminal import steady_streams
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.untrusted_text import as_was, harmless, printable
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.tracks_table import tracks_csv

SMALL = ("--n-windows", "60", "--tracks-per-shard", "5", "--workers", "0")


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell, in which M is melzarr."""
    return subprocess.run(
        ["/bin/bash", "-c", line.replace("M ", f"{command()[0]} ", 1)], cwd=cwd, check=False, capture_output=True,
        timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


# Streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["| head -0", "<&- >&- 2>&-"])
def test_the_work_is_done_whoever_reads(own_music: Path, tmp_path: Path, ending: str) -> None:
    done = shell(f"set -o pipefail; M features music s.zarr {' '.join(SMALL)} {ending}", tmp_path)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert verify(open_store(tmp_path / "s.zarr"), own_music).problems == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["music", "s.zarr", "s.zarr.built.json"]


def test_a_terminal_of_an_old_encoding_gets_what_it_can_show(own_music: Path, tmp_path: Path) -> None:
    (own_music / "drums").rename(own_music / "♫ Trommeln Ωμέγα")
    line = f"M features music s.zarr {' '.join(SMALL)} && {command()[0]} inspect ☃.zarr"
    done = shell(line, tmp_path, PYTHONIOENCODING="latin-1")
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False), done.stderr
    assert b"\\u266b Trommeln" in done.stdout
    assert b"there is no store at \\u2603.zarr" in done.stderr


def test_errors_steer_no_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        command("inspect", "\x1b[2J\x1b]0;owned\x07.zarr"), cwd=tmp_path, check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert b"\x1b" not in done.stderr
    assert rb"there is no store at \x1b[2J\x1b]0;owned\x07.zarr" in done.stderr


# Links that lead to themselves ----------------------------------------------------------------------------------------


def test_a_link_that_leads_to_itself_is_a_sentence(
    own_music: Path, finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (own_music / "bells/loop.wav").symlink_to("loop.wav")
    (own_music / "bells/loop").symlink_to("../bells")
    for words in (
        ("features", "loop", "s.zarr", *SMALL),
        ("features", "music", "loop", *SMALL),
        ("inspect", "loop"),
        ("share", finished.directory, "loop"),
        ("append", "loop", "music"),
        ("merge", finished.directory, finished.directory, "loop"),
        ("report", "loop"),
        ("report", finished.directory, "--to", "loop"),
        ("train", finished.directory, "--protocol", "window", "--run", "loop"),
    ):
        done = melzarr(*words)
        assert done.exit_code in {1, 2}, (words, done.output)
        assert isinstance(done.exception, SystemExit), (words, done.exception)
        assert "loop" in done.stderr
    assert melzarr("features", "music", "s.zarr", *SMALL).exit_code == 0
    store = open_store(tmp_path / "s.zarr")
    assert dict(zip(store.values("track"), store.values("status"), strict=True))["bells/loop"] == "failed"
    assert os.path.lexists("loop")


# Text -----------------------------------------------------------------------------------------------------------------


@given(st.text("'=+-@\t\r ab", max_size=6) | st.text(max_size=20))
def test_a_cell_is_no_formula_and_is_read_as_it_was(cell: str) -> None:
    written = harmless(cell)
    assert as_was(written) == cell
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r"))


@given(st.text(max_size=50))
def test_what_is_shown_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()


def test_a_table_of_tracks_runs_nothing_and_is_a_manifest_that_gives_the_same_tracks(
    music: Path, tmp_path: Path
) -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'=quoted", "'plain", "plain"]
    rows = [["path", "label", "id", "group", "split"]]
    for number, name in enumerate(names):
        (tmp_path / name.replace("/", "_")).symlink_to(music / f"bells/bells.0000{number % 6}.wav")
        rows.append([harmless(name.replace("/", "_")), harmless(name), harmless(f"{name}{number}"), "", "train"])
    with (tmp_path / "tracks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    catalog = read_catalog(tmp_path / "tracks.csv")
    assert sorted(track.label for track in catalog.tracks) == sorted(names)
    plan = make_plan(FeatureSpec(n_windows=2), catalog.tracks, versions(), 5)
    build(plan, catalog, tmp_path / "s.zarr", InProcess())
    store = open_store(tmp_path / "s.zarr")
    assert sorted(store.values("label")) == sorted(names)
    table = list(csv.DictReader(io.StringIO(b"".join(tracks_csv(store)).decode())))
    for column in ("track", "label", "group", "source"):
        assert not [row[column] for row in table if row[column].startswith(("=", "+", "-", "@"))]
        assert [as_was(row[column]) for row in table] == store.values(column).tolist()
    assert all(float(row["duration"]) > 0 for row in table if row["status"] == "ok")


def test_streams_that_were_replaced_stay_so() -> None:
    before = sys.stdout
    steady_streams()
    assert sys.stdout is before
