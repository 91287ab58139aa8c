"""A shared run is a model that explains itself, opens in plain Keras, and is used as the run that it came from."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from nginx import Nginx, program

import melzarr
from melzarr.cli import main
from melzarr.model.messages import spread_line
from melzarr.model.predict import predict
from melzarr.model.run_directory import Run
from melzarr.model.share_run import RunShareOptions, share_run
from melzarr.model.shared_run import files_of_run, opened_run
from melzarr.pipeline.errors import BuildError, CallError, MelzarrError, RunError, StorageError
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.report.run_files import ahead_words
from melzarr.pipeline.share.dataset_card import escape
from melzarr.pipeline.storage.atomic import write_whole
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.zarr_store.reader import Store

if TYPE_CHECKING:
    from melzarr.pipeline.storage.object_store import ObjectStoreDirectory

FILES = {
    "README.md", "SHA256SUMS", "config.json", "metrics.json", "history.csv", "model.keras", "trained-on.txt",
    "history.png", "confusion.png", "network.png",
}  # fmt: skip
GIVEN = RunShareOptions(title="Bells or drums", licence="CC0-1.0", author="A. Nother", published="2026-11-23")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tf2onnx", "onnx", "onnxruntime")),
    reason="tf2onnx and onnxruntime are not here: pip install 'melzarr[onnx]' onnxruntime",
)


class Stopped(BaseException):
    """What a test stops a share by."""


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name, _ in LocalDirectory(folder).files()}


def share(run: Run, target: Path, options: RunShareOptions = GIVEN, **how: Any) -> dict[str, Any]:
    return share_run(run, open_directory(target), options, **how)


@pytest.fixture(scope="module")
def shared_run(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the tests, shared as a folder; not to be changed."""
    target = tmp_path_factory.mktemp("share") / "genres"
    share(trained, target)
    return target


def lines_of(folder: Path) -> list[str]:
    return re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def open_as_its_card_says(folder: Path, music: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run each line of Python of a card beside a song, and return the names."""
    shutil.copy(music / "bells/bells.00000.wav", folder.parent / "song.mp3")
    monkeypatch.chdir(folder.parent)
    names: dict[str, Any] = {}
    for lines in lines_of(folder):
        exec(lines, names)  # noqa: S102  (our own)
    return names


def test_it_has_what_is_needed_to_use_it_and_no_more(trained: Run, shared_run: Path) -> None:
    assert files(shared_run).keys() == FILES
    listed = dict(line.split("  ")[::-1] for line in (shared_run / "SHA256SUMS").read_text().splitlines())
    assert listed == {
        name: hashlib.sha256(data).hexdigest() for name, data in files(shared_run).items() if name != "SHA256SUMS"
    }
    for name in ("config.json", "metrics.json", "history.csv", "trained-on.txt"):
        assert (shared_run / name).read_bytes() == (trained.path / name).read_bytes()
    assert (shared_run / "model.keras").stat().st_size < 0.5 * trained.model_file.stat().st_size  # no optimizer in it


def test_it_is_the_same_each_time_and_an_archive_holds_the_same(trained: Run, shared_run: Path, tmp_path: Path) -> None:
    share(trained, tmp_path / "again/genres")
    assert files(tmp_path / "again/genres") == files(shared_run)
    steps: list[str] = []
    found = share(trained, tmp_path / "genres.zip", step=lambda name, _: steps.append(name))
    assert steps == ["read the model", "publish"]
    with zipfile.ZipFile(tmp_path / "genres.zip") as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    assert {name for name in inside if inside[name] != files(shared_run)[name]} == {"README.md", "SHA256SUMS"}
    digest = hashlib.sha256((tmp_path / "genres.zip").read_bytes()).hexdigest()
    assert found["sha256"] == digest
    assert (tmp_path / "genres.zip.sha256").read_text() == f"{digest}  genres.zip\n"
    assert {path.name for path in tmp_path.iterdir()} == {"again", "genres.zip", "genres.zip.sha256"}


def test_nothing_of_this_machine_is_in_it(trained: Run, tiny: Store, shared_run: Path, music: Path) -> None:
    places = {trained.path.parent, tiny.directory.path.parent, shared_run.parent, music.parent, Path.home(), Path.cwd()}
    names = {str(place) for place in places} - {"/"}
    names |= {name for name in (socket.gethostname(), os.environ.get("USER", "")) if len(name) > 5}
    everything = files(shared_run)
    with zipfile.ZipFile(shared_run / "model.keras") as archive:
        everything |= {name: archive.read(name) for name in archive.namelist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert "date_saved" not in json.loads(everything["metadata.json"])
    for file, data in everything.items():
        assert not [name for name in names if name.encode() in data], file


def test_the_head_of_its_card_is_what_hugging_face_reads(trained: Run, shared_run: Path) -> None:
    _, head, text = (shared_run / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert (facts["library_name"], facts["pipeline_tag"], facts["license"]) == (
        "keras",
        "audio-classification",
        "cc0-1.0",
    )
    test, _ = facts["model-index"][0]["results"]
    assert test["dataset"]["revision"] == trained.config["store"]["uuid"]
    assert test["dataset"]["split"] == "test"
    metric = next(metric for metric in test["metrics"] if metric["name"].startswith("tracks, by mean"))
    figure = trained.metrics["test"]["track_accuracy"]
    assert metric["type"] == "accuracy"
    assert metric["value"] == round(figure["value"], 4)
    assert f"95 %: {figure['low']:.3f} to {figure['high']:.3f}" in metric["name"]
    assert text.lstrip().startswith("# Bells or drums\n")


def test_its_card_says_how_good_it_is_and_what_it_must_not_be_used_for(trained: Run, shared_run: Path) -> None:
    text = " ".join((shared_run / "README.md").read_text().replace("\\.", ".").split())
    figure = trained.metrics["test"]["track_accuracy"]
    for said in (
        f"| {figure['value']:.3f} | tracks, by mean log-probability | {figure['low']:.3f} to {figure['high']:.3f} |",
        trained.config["protocol"]["words"], trained.config["store"]["uuid"], "bells, drums",
        "## What it must not be used for", "CC0-1.0", "A. Nother. Bells or drums (2026).",
        f"{escape(ahead_words(trained.metrics['test']['baselines']['svm']))}.".replace("\\.", "."),
    ):  # fmt: skip
        assert said in text, said
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (shared_run / picture).is_file()
    assert "This protocol leaks" not in text


def test_without_what_was_not_given_it_says_so(trained: Run, tmp_path: Path) -> None:
    share(trained, tmp_path / "genres", RunShareOptions())
    _, head, text = (tmp_path / "genres/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["license_name"] == "not stated"
    assert text.lstrip().startswith("# Genres of Two styles\n")


def test_the_lines_of_its_card_answer_as_melzarr_does(
    trained: Run, shared_run: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(shared_run, tmp_path / "genres"))
    names = open_as_its_card_says(folder, music, monkeypatch)
    expected = predict(trained.model(), trained.spec, tuple(trained.labels), music / "bells/bells.00000.wav")
    np.testing.assert_allclose(names["of_windows"], expected.probabilities, atol=1e-4)
    np.testing.assert_allclose(names["probabilities"], expected.song_probabilities, atol=1e-4)
    assert names["genre"] == expected.genre


@pytest.mark.parametrize("kind", ["joined", "folded"])
def test_the_card_of_a_model_of_whole_songs_gives_it_all_windows(
    kind: str, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    share(run, tmp_path / "genres")
    names = open_as_its_card_says(tmp_path / "genres", music, monkeypatch)
    expected = predict(run.model(), run.spec, tuple(run.labels), music / "bells/bells.00000.wav")
    np.testing.assert_allclose(names["probabilities"], expected.song_probabilities, atol=1e-4)
    assert "of_windows" not in names


def test_the_card_of_a_run_over_folds_says_what_was_tested_and_what_not(folded: Run, tmp_path: Path) -> None:
    share(folded, tmp_path / "genres")
    _, head, text = (tmp_path / "genres/README.md").read_text().split("---\n", 2)
    (result,) = yaml.safe_load(head)["model-index"][0]["results"]
    assert "split" not in result["dataset"]  # it is all tracks
    text, test = " ".join(text.replace("\\", "").split()), folded.metrics["test"]
    assert f"{test['n_tracks']} tracks and {test['n_windows']} windows, each judged by one of 2 members" in text
    assert spread_line(folded.metrics["folds"]).capitalize() in text
    assert "The network here is the mean of the 2 members. It was not tested itself" in text


def test_its_card_is_right_for_any_name_and_title(
    trained: Run, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = 'our "best" genres\N{GUITAR}'
    share(trained, tmp_path / name, dataclasses.replace(GIVEN, licence='"\N{GUITAR}\x7f\u2028 \\ly', title=name))
    _, head, text = (tmp_path / name / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["license_name"] == '"\N{GUITAR}\x7f\u2028 \\ly'
    assert facts["model-index"][0]["name"] == name
    assert open_as_its_card_says(tmp_path / name, music, monkeypatch)["genre"] in {"bells", "drums"}
    (line,) = re.findall("`(cd .* SHA256SUMS)`", text)
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)  # noqa: S602  (our own)


@needs_onnx
def test_as_onnx_each_window_has_the_probabilities_of_keras(
    trained: Run, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(trained, tmp_path / "genres", RunShareOptions(onnx=True))
    names = open_as_its_card_says(tmp_path / "genres", music, monkeypatch)
    np.testing.assert_allclose(names["same"], names["of_windows"], atol=1e-5)
    np.testing.assert_allclose(
        names["session"].run(None, {"windows": names["windows"][:1]})[0], names["of_windows"][:1], atol=1e-5
    )


@needs_onnx
@pytest.mark.parametrize("kind", ["joined", "folded"])
def test_as_onnx_a_model_of_whole_songs_has_the_probabilities_of_keras(
    kind: str, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    share(run, tmp_path / "genres", RunShareOptions(onnx=True))
    names = open_as_its_card_says(tmp_path / "genres", music, monkeypatch)
    np.testing.assert_allclose(names["same"][0], names["probabilities"], atol=1e-5)
    for n_windows in (1, 2, 3):
        windows = names["windows"][:n_windows]
        same = names["session"].run(None, {"windows": windows})[0]
        np.testing.assert_allclose(same, names["model"].predict_on_batch(windows), atol=1e-5)
    share(run, tmp_path / "again", RunShareOptions(onnx=True))
    assert (tmp_path / "again/model.onnx").read_bytes() == (tmp_path / "genres/model.onnx").read_bytes()


def test_onnx_without_what_exports_it_is_a_sentence(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melzarr.model.onnx_export.find_spec", lambda _: None)
    with pytest.raises(
        MelzarrError, match=r"ONNX needs tf2onnx, which is not installed; pip install 'melzarr\[onnx\]'"
    ):
        share(trained, tmp_path / "genres", RunShareOptions(onnx=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["genres", "genres.zip"])
def test_it_is_used_as_the_run_is(trained: Run, tiny: Store, music: Path, tmp_path: Path, name: str) -> None:
    share(trained, tmp_path / name)
    made, own = melzarr.Run(tmp_path / name), melzarr.Run(trained.path)
    song = music / "drums/drums.00000.wav"
    np.testing.assert_array_equal(made.predict(song).probabilities, own.predict(song).probabilities)
    address = str(tiny.directory)
    assert made.evaluate(address) == {**own.evaluate(address), "run": str(tmp_path / name)}
    assert (made.metrics, made.history) == (own.metrics, own.history)


def test_in_an_object_store_it_is_used_as_the_run_is(
    trained: Run, shared_run: Path, music: Path, tmp_path: Path, bucket: ObjectStoreDirectory
) -> None:
    bucket.remove([".keep"])
    share_run(trained, bucket.child("genres"), GIVEN)
    assert {name: bucket.child("genres").read(name) for name in FILES} == files(shared_run)
    share(trained, tmp_path / "genres.zip")
    bucket.write("genres.zip", (tmp_path / "genres.zip").read_bytes())
    song = music / "drums/drums.00000.wav"
    expected = melzarr.Run(trained.path).predict(song).probabilities
    for name in ("genres", "genres.zip"):
        np.testing.assert_array_equal(melzarr.Run(f"{bucket}/{name}").predict(song).probabilities, expected)
    with pytest.raises(BuildError, match="--force"):
        share_run(trained, bucket.child("genres"), GIVEN)
    share_run(trained, bucket.child("genres"), RunShareOptions(), replace=True)
    assert b"not stated" in bucket.child("genres").read("README.md")


@pytest.fixture(params=["http", "https"])
def web(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    """A web server that gives what the test has in its folder ``web``."""
    if program() is None:
        pytest.skip("nginx is not here: apt-get install nginx-light")
    (tmp_path / "web").mkdir()
    server = Nginx(tmp_path / "web", tmp_path / "nginx", is_secure=request.param == "https")
    if request.param == "https":
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    yield server
    server.stop()


def test_on_the_web_it_is_used_as_the_run_is(
    trained: Run, shared_run: Path, music: Path, tmp_path: Path, web: Nginx
) -> None:
    shutil.copytree(shared_run, tmp_path / "web/genres")
    share(trained, tmp_path / "web/genres.zip")
    song = music / "drums/drums.00000.wav"
    expected = melzarr.Run(trained.path).predict(song)
    for name in ("genres", "genres.zip"):
        found = melzarr.Run(f"{web.url}/{name}").predict(song)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    done = command("predict", f"{web.url}/genres.zip", song, "--json")
    assert json.loads(done.stdout)[0]["genre"] == expected.genre
    with pytest.raises(RunError, match=f"{web.url}/none is not a shared run, it has no SHA256SUMS"):
        melzarr.Run(f"{web.url}/none").predict(song)
    with pytest.raises(CallError, match="can be read but not written; use a folder, or an address at s3://"):
        share_run(trained, open_directory(f"{web.url}/new"), GIVEN)


@pytest.mark.parametrize("web", ["https"], indirect=True)
def test_a_certificate_that_is_not_trusted_is_said(web: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(StorageError, match=r"certificate is not trusted \(\w+\); .* set SSL_CERT_FILE"):
        melzarr.Run(f"{web.url}/genres").predict("song.wav")


def test_in_an_object_store_it_is_incomplete_until_its_checksums_are_there(
    trained: Run, bucket: ObjectStoreDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Stopped

    bucket.remove([".keep"])
    for replace in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr("melzarr.pipeline.publishing.object_workspace.ObjectWorkspace._appear", stop)
            with pytest.raises(Stopped):
                share_run(trained, bucket.child("genres"), GIVEN, replace=replace)
        with pytest.raises(RunError, match="has no SHA256SUMS"), opened_run(bucket.child("genres")):
            pass
        share_run(trained, bucket.child("genres"), GIVEN, replace=replace)
        assert {name for name, _ in bucket.files()} == {f"genres/{name}" for name in FILES}


def test_a_damaged_copy_is_found_before_it_is_used(trained: Run, tmp_path: Path) -> None:
    share(trained, tmp_path / "genres.zip")
    with zipfile.ZipFile(tmp_path / "genres.zip") as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
        for name, data in inside.items():
            archive.writestr(name, data + b" " if name == "config.json" else data)
    with (
        pytest.raises(RunError, match=r"config\.json of .*changed\.zip is not the file that SHA256SUMS lists"),
        opened_run(tmp_path / "changed.zip"),
    ):
        pass
    for names, said in (((), "has no SHA256SUMS"), (("SHA256SUMS",), "lists no config.json")):
        with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
            archive.writestr("a", b"")
            for name in names:
                archive.writestr(name, f"{'0' * 64}  a\n")
        with pytest.raises(RunError, match=f"is not a shared run, .*{said}"), opened_run(tmp_path / "none.zip"):
            pass


def test_what_is_there_is_replaced_only_if_it_is_a_shared_run_and_nothing_else(trained: Run, tmp_path: Path) -> None:
    share(trained, tmp_path / "genres")
    with pytest.raises(BuildError, match=r"already exists; .* --force"):
        share(trained, tmp_path / "genres")
    share(trained, tmp_path / "genres", RunShareOptions(), replace=True)
    assert "not stated" in (tmp_path / "genres/README.md").read_text()
    (tmp_path / "genres/.git").mkdir()
    (tmp_path / "genres/.git/HEAD").write_text("mine")
    before = files(tmp_path / "genres")
    with pytest.raises(BuildError, match=r"contains \.git/HEAD"):
        share(trained, tmp_path / "genres", replace=True)
    assert files(tmp_path / "genres") == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    (tmp_path / "mine.zip").write_text("mine")
    for name in ("notes", "mine.zip"):
        with pytest.raises(BuildError, match="is not a melzarr shared run"):
            share(trained, tmp_path / name, replace=True)
    with pytest.raises(CallError, match=r"is inside .*, which must be kept"):
        share(trained, trained.path / "genres")
    with pytest.raises(CallError, match="is one file, and Hugging Face reads a folder"):
        share(trained, tmp_path / "hub.zip", RunShareOptions(for_hub=True))
    assert {path.name for path in tmp_path.iterdir()} == {"genres", "notes", "mine.zip"}


@pytest.mark.parametrize("name", ["genres", "genres.zip"])
def test_what_a_killed_share_left_goes_with_the_next_one(trained: Run, tmp_path: Path, name: str) -> None:
    for rest in ("building", "building.trash"):
        write_whole(tmp_path / f"{name}.{rest}/store/model.keras", b"half of it")
    share(trained, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} <= {name, "genres.zip.sha256"}
    with opened_run(tmp_path / name) as run:
        assert run.is_finished


def stop_after_it_appeared(run: Run, target: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share a run, and stop before the parent folder is synced, or while what is left is removed."""

    def stop(path: Path, **_: str) -> None:
        if path.exists():
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(f"melzarr.pipeline.publishing.local_workspace.{step}", stop)
        with pytest.raises(Stopped):
            share(run, target)
    assert len(list(target.parent.glob(f"{target.name}.building*"))) == 1


@pytest.mark.parametrize("step", ["sync", "_remove"])
@pytest.mark.parametrize("name", ["genres", "genres.zip"])
def test_stopped_after_it_appeared_it_is_finished_by_the_same_command(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    stop_after_it_appeared(trained, tmp_path / name, step, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("melzarr.model.share_run.model_card", None)  # nothing is made again
        found = share(trained, tmp_path / name)
    assert found == share(trained, tmp_path / name, replace=True)
    assert {path.name for path in tmp_path.iterdir()} <= {name, "genres.zip.sha256"}


def test_stopped_after_it_appeared_it_is_not_taken_for_another(
    trained: Run, own_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after_it_appeared(trained, tmp_path / "genres", "sync", monkeypatch)
    own_run.metrics_file.write_text(json.dumps({**own_run.metrics, "more": 1}))
    for other, options in ((trained, RunShareOptions()), (own_run, GIVEN)):
        with pytest.raises(BuildError, match="already exists"):
            share(other, tmp_path / "genres", options)


@pytest.mark.parametrize("name", ["genres", "genres.zip"])
def test_of_two_at_once_one_is_refused(trained: Run, tmp_path: Path, name: str) -> None:
    share(trained, tmp_path / name)
    with (
        open_workspace(files_of_run(tmp_path / name)).locked(),
        pytest.raises(BuildError, match=f"{name} is being built by process {os.getpid()} on .*; wait for it"),
    ):
        share(trained, tmp_path / name, RunShareOptions(), replace=True)
    with opened_run(tmp_path / name) as run:
        assert run.is_finished


def test_one_that_fails_leaves_nothing(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("melzarr.model.share_run.model_card", fail)
    with pytest.raises(OSError, match="no space left"):
        share(trained, tmp_path / "genres")
    assert not list(tmp_path.iterdir())


def test_one_that_is_interrupted_says_that_it_begins_again(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("melzarr.model.share_run.model_card", interrupt)
        stopped = command("share", trained.path, tmp_path / "genres")
    assert stopped.exit_code == 1
    assert "melzarr share: stopped; a run is shared as a whole, so run the same command again" in stopped.stderr
    assert not list(tmp_path.iterdir())
    assert command("share", trained.path, tmp_path / "genres").exit_code == 0


def test_an_archive_is_replaced_too(trained: Run, tmp_path: Path) -> None:
    for replace in (False, True):
        share(trained, tmp_path / "genres.zip", replace=replace)
    with pytest.raises(BuildError, match="already exists"):
        share(trained, tmp_path / "genres.zip")
    with opened_run(tmp_path / "genres.zip") as run:
        assert run.is_finished


def test_a_message_about_an_archive_names_the_archive(
    trained: Run, tiny: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(trained, tmp_path / "genres.zip")
    other = dataclasses.replace(trained.spec, n_mels=7)
    monkeypatch.setattr(Run, "spec", other)
    with pytest.raises(RunError, match=rf"than the model of {tmp_path}/genres\.zip: n_mels"):
        melzarr.Run(tmp_path / "genres.zip").evaluate(str(tiny.directory))


def test_an_unfinished_run_is_not_shared(own_run: Run, tmp_path: Path) -> None:
    own_run.metrics_file.unlink()
    with pytest.raises(
        RunError, match="is not finished: 3 of 3 epochs; continue with melzarr train, and share it then"
    ):
        share(own_run, tmp_path / "genres")


def test_for_the_hub_it_says_which_files_are_large(trained: Run, tmp_path: Path) -> None:
    share(trained, tmp_path / "hub", RunShareOptions(for_hub=True))
    assert files(tmp_path / "hub").keys() == FILES | {".gitattributes"}
    assert "*.keras filter=lfs" in (tmp_path / "hub/.gitattributes").read_text()
    share(trained, tmp_path / "hub", RunShareOptions(for_hub=True), replace=True)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_decides_by_what_it_is_given(trained: Run, tiny: Store, music: Path, tmp_path: Path) -> None:
    done = command("share", trained.path, tmp_path / "genres.zip", "--licence", "cc0-1.0")
    assert done.exit_code == 0, done.output
    assert re.search(r"shared .*trained as .*genres\.zip: 10 files", done.stdout)
    assert "not given: --author, --published" in done.stdout
    assert f"next: melzarr predict {tmp_path}/genres.zip song.mp3" in done.stdout
    done = command("share", trained.path, tmp_path / "genres", "--json")
    assert json.loads(done.stdout)["files"] == len(FILES)
    done = command("predict", tmp_path / "genres.zip", music / "bells/bells.00000.wav", "--json")
    assert json.loads(done.stdout)[0]["genre"] in {"bells", "drums"}
    done = command("evaluate", tmp_path / "genres.zip", tiny.directory, "--json")
    assert json.loads(done.stdout)["run"] == str(tmp_path / "genres.zip")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["RUN", "x", "--label", "bells"], "is a run, and --label is about the windows of a store"),
        (["RUN", "x", "--arrays"], "is a run, and --arrays"),
        (["STORE", "x", "--onnx"], "is not a run, and ONNX is a form of its network"),
        (["MUSIC", "x"], "is neither a store nor a run"),
        (["none", "x"], "there is no store at"),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    trained: Run, tiny: Store, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"RUN": trained.path, "STORE": tiny.directory, "MUSIC": music}
    done = command("share", *(places.get(word, word) for word in given))
    assert done.exit_code in {1, 2}
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_its_card_needs_nothing_of_melzarr(shared_run: Path) -> None:
    assert "melzarr" not in "".join(lines_of(shared_run))
    assert "melzarr" in sys.modules  # so the lines are also run in an environment without it: tests/open_share.py


def test_a_run_without_a_history_and_with_a_recipe_in_parts_has_a_card(own_run: Run, tmp_path: Path) -> None:
    own_run.history_file.unlink()
    config = json.loads(own_run.config_file.read_text())
    config["recipe"] |= {"summary": {"units": 256, "weight": 0.5}, "other": None}
    own_run.config_file.write_text(json.dumps(config))
    share(own_run, tmp_path / "genres")
    text = (tmp_path / "genres/README.md").read_text().replace("\\", "")
    assert "summary (units 256, weight 0.5); seed 3.\n" in text
    assert "| `metrics.json` | its figures |" in text
    assert "history.csv" not in text
