"""A few rounds of what `make torture` does for as long as it is let."""

from __future__ import annotations

from pathlib import Path

import kills
import mutations
import pytest

from melzarr.pipeline.shard_receipt import STATUSES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str], dict[str, float]]:
    """Music, a folder to work in, the bytes of an undisturbed store, and how long each mode takes."""
    folder = tmp_path_factory.mktemp("torture")
    source = kills.music(folder / "music")
    return source, folder, *kills.undisturbed(source, folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [0, 2, 4])  # in this process, on a local cluster, on a scheduler
def test_a_build_that_is_struck_ends_in_the_same_bytes(number: int, scene) -> None:
    source, folder, expected, longest = scene
    found = kills.one_round(number, source, expected, folder, 0, longest)
    assert not found.fault
    assert found.codes[-1] == 0


def test_mutated_audio_becomes_a_status_and_a_sentence(tmp_path: Path) -> None:
    sources = mutations.originals(tmp_path / "originals", None)
    found = list(mutations.verdicts(150, 0, sources, tmp_path))
    assert [verdict.fault for verdict in found if verdict.fault] == []
    assert {"ok", "short", "failed"} <= {verdict.status for verdict in found} <= set(STATUSES)


def test_what_crashes_or_says_nothing_is_counted() -> None:
    assert mutations.Verdict(0, "a.wav", "it crashed: exit code -11").fault == "it crashed: exit code -11"
    assert mutations.Verdict(0, "a.wav", "failed", "bad").fault == "no sentence: 'bad'"
    assert mutations.Verdict(0, "a.wav", "ok", seconds=99).fault == "99 s"
    assert mutations.Verdict(0, "a.wav", "ok", megabytes=9999).fault == "9999 MB"
    assert not mutations.Verdict(0, "a.wav", "failed", "the file is empty (0 bytes); copy it again").fault
