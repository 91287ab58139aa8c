"""What a folder has that gives no track is said; links to folders are followed if that is asked for, but no circles."""

from __future__ import annotations

from pathlib import Path

import pytest

from melzarr.pipeline.errors import CatalogError
from melzarr.pipeline.sources.catalog import Catalog, read_catalog


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def sources(catalog: Catalog) -> list[str]:
    return [track.source for track in catalog.tracks]


def test_files_left_out_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    files(tmp_path, "blues/a.wav", "jazz/b.wav", *(f"jazz/{n}.txt" for n in range(7)))
    catalog = read_catalog(tmp_path)
    assert catalog.findings == ()
    named = ", ".join(f"jazz/{n}.txt" for n in range(5))
    assert catalog.remarks == [f"files left out, not audio by their extension: 7 ({named}, …)"]


def test_with_links_alone_the_error_says_that_they_are_links(tmp_path: Path) -> None:
    files(tmp_path, "real/a/x.wav", "music/notes.txt")
    (tmp_path / "music/a").symlink_to(tmp_path / "real/a")
    with pytest.raises(
        CatalogError,
        match=r"contains no audio file \(1 other files\); links to folders left out: 1 \(a/\); follow them with "
        r"--follow-links; known extensions: ",
    ):
        read_catalog(tmp_path / "music")
    assert sources(read_catalog(tmp_path / "music", follow_links=True)) == ["a/x.wav"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    music = files(tmp_path / "music", "blues/a.wav", "jazz/b.wav")
    far = files(tmp_path / "far", "deep/c.wav")
    (music / "rock").symlink_to(far)
    (far / "back").symlink_to(far)
    (far / "deep/up").symlink_to(tmp_path)
    (music / "blues/other").symlink_to(music / "jazz")
    (music / "jazz/other").symlink_to(music / "blues")
    catalog = read_catalog(music, follow_links=True)
    assert sources(catalog) == ["blues/a.wav", "blues/other/b.wav", "jazz/b.wav", "jazz/other/a.wav", "rock/deep/c.wav"]
    circles = "blues/other/other/, jazz/other/other/, rock/back/, rock/deep/up/"
    assert catalog.findings == (f"links to a folder that they are in left out: 4 ({circles})",)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["Rock", "rock", "jazz"], "'Rock' (1), 'rock' (1)"),
        (["hip hop", "hiphop", "jazz"], "'hip hop' (1), 'hiphop' (1)"),
        (["caf\u00e9", "cafe\u0301", "Caf\u00e9"], "'Café' (1), 'cafe\\u0301' (1), 'caf\\xe9' (1)"),
    ],
)
def test_labels_that_are_nearly_the_same_are_named(tmp_path: Path, labels: list[str], said: str) -> None:
    files(tmp_path, *(f"{label}/{number}.wav" for number, label in enumerate(labels)))
    assert read_catalog(tmp_path).findings == (
        f"labels that differ only by case, spaces or Unicode form: {said}; if they are one, write them alike",
    )


def test_only_some_groups_of_like_labels_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(f"{n}.wav,l{n}\n{n}b.wav,L{n}\n" for n in range(30)))
    *named, more = read_catalog(tmp_path / "m.csv").findings
    assert len(named) == 20
    assert more == "10 more groups of labels differ only by case, spaces or Unicode form"


def test_a_single_label_is_said(tmp_path: Path) -> None:
    assert read_catalog(files(tmp_path, "jazz/a.wav", "jazz/b.wav")).findings == (
        "all tracks have one label, 'jazz'; to train a network, give tracks of others too",
    )
