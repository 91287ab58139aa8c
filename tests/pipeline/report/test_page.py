"""The page: what it says, that it is whole, safe and always the same, and the files that it is made from."""

import base64
import functools
import io
import json
import re
import sys
from dataclasses import astuple, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import plain_charts
import pytest
from click.testing import CliRunner, Result
from faulty_store import HOSTILE, RATE, Song, make_store, song, write_run
from PIL import Image

from melzarr.cli import main
from melzarr.pipeline.builder.build_timings import Built, read_built, write_built
from melzarr.pipeline.builder.run_build import Summary
from melzarr.pipeline.errors import MelzarrError, RunError
from melzarr.pipeline.inspection.quality import QualityReport, find
from melzarr.pipeline.inspection.track_statistics import COLUMNS
from melzarr.pipeline.report.page import MAX_CELLS, PAGE, charts, file_name
from melzarr.pipeline.report.page import write_report as draw_report
from melzarr.pipeline.report.page_text import MINUS, TEXT, clean
from melzarr.pipeline.report.run_reader import WORST, read_run
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.zarr_store.reader import Store, open_store

ROOT = Path(__file__).parents[3]
write_report = functools.partial(draw_report, draw=plain_charts)
SMALL = ["--workers", "0", "--n-windows", "60", "--tracks-per-shard", "5"]


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def found(faulty: Store) -> QualityReport:
    return find(faulty)


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said, self._open = "", []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.said = re.sub(r"\s+", " ", self.said)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.said += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(faulty: Store, found: QualityReport, tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("page")
    draw_report(faulty, found, folder)
    return Page(folder / PAGE)


# What it says ---------------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_found(page: Page, found: QualityReport, faulty: Store) -> None:
    for fault in found.faults():
        assert fault in page.said
    for words in (
        faulty.attributes["uuid"],
        "drums has none in test",
        "track-011", "finds no audio",
        "track-014", "track-015", "track-008",
        "peak below \u221240 dB", "more than 0.01 % of the samples", "within 3.2 dB", "Pairs of 0.78",
        "numba", "hop_length",
    ):  # fmt: skip
        assert words in page.said
    cells = re.findall(r"<th scope=\"row\">bells</th>(.*?)</tr>", page.html, re.DOTALL)[0]
    counts = [int(n) for n in re.findall(r">([0-9,]+)<", cells)]
    place = found.labels.index("bells")
    by_split, by_status = found.counts[place].sum(axis=1), found.counts[place].sum(axis=0)
    assert counts == [found.counts[place].sum(), *by_split, *by_status]


def test_the_page_stands_by_itself(page: Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "srcset", "href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(
                ("#", "data:image/png;base64,", "data:image/svg+xml;base64,")
            )
    assert not page.all("script")
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert "http" not in re.sub(r"http-equiv", "", re.sub(r"base64,[^\"]+", "", page.html))


def test_pictures_are_whole_and_lie_beside_the_page(faulty: Store, found: QualityReport, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", faulty)
    first, *pictures = draw_report(faulty, found, tmp_path / "a", run, pictures="images")
    assert first == tmp_path / "a" / PAGE
    assert sorted((tmp_path / "a/images").iterdir()) == sorted(pictures)
    held = {
        base64.b64decode(data)
        for data in re.findall(r"data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)", first.read_text(encoding="utf-8"))
    }
    assert {path.read_bytes() for path in pictures} == held
    assert len([path for path in pictures if path.suffix == ".svg"]) == 3 + 1 + 2  # labels, durations, curves
    for path in pictures:
        data = path.read_bytes()
        assert b"Software" not in data
        assert b"atplotlib v" not in data
        if path.suffix == ".png":
            Image.open(io.BytesIO(data)).verify()
        else:
            assert ET.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  (our own)


def test_every_colour_of_a_chart_has_one_in_the_dark(found: QualityReport) -> None:
    drawn = charts.draw_spectra(found.bands, found.mean_db[:1], found.all_db, (-80, 0))[0].decode()
    rules, used = drawn[: drawn.index("</style>")], set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawn))
    assert used == set(re.findall(r'\[style\*="(.*?)"\]', rules)) & used
    assert len(used) > 4
    for light, dark in zip(astuple(charts.LIGHT), astuple(charts.DARK), strict=True):
        assert f'[style*="fill: {light}"]{{fill:{dark}!important}}' in rules


def test_every_picture_is_told_in_words(page: Page) -> None:
    described = [attributes["alt"] for attributes in page.all("img")]
    assert sum(not alt for alt in described) == 1  # the scale of colours, whose ends are written beside it
    assert sum(attributes.get("class") == "chart" for attributes in page.all("img")) == 3 + 1  # labels, durations
    assert any(alt.startswith("Mel spectrogram of the first 2.4 s of track-000: loudest around") for alt in described)
    assert any(alt.startswith("Mean level of bells by frequency: highest at") for alt in described)


def test_mel_pixels_are_the_levels_on_the_fixed_scale() -> None:
    levels = np.array([[-60.0, -15.0, 30.0], [-1000.0, np.nan, 1000.0]])
    image = np.asarray(Image.open(io.BytesIO(charts.mel_pixels(levels))))
    cells = image[:: charts.CELL, :: image.shape[1] // 3]
    assert cells.tolist() == [[0, 0, 255], [0, 128, 255]]  # low bands lie below


# Safe, bounded, the same ----------------------------------------------------------------------------------------------


def test_the_same_store_gives_the_same_bytes(faulty: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_report(faulty, find(faulty), tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]
    assert len(files[0]) > 8


def test_text_of_others_is_shown_as_text_and_bounded(page: Page) -> None:
    assert not page.all("script")
    assert "<script>alert" not in page.html
    assert '<script>alert("1")</script>\'&\\x1b[31m\\u202exxx' in page.said
    assert "\x1b" not in page.html
    assert "\u202e" not in page.html
    assert "x" * TEXT not in page.html


def test_text_is_cleaned_of_what_steers_a_reader() -> None:
    assert clean("a\0b\nc\u2028\ud800é") == "a\\x00b\\nc\\u2028\\ud800é"
    assert clean("y" * 1000) == "y" * TEXT + "…"


@pytest.mark.parametrize("label", ["../../etc/passwd", "a/b\\c", "…", "ÄÖ", "x" * 300, "con\0", ".", "-rf"])
def test_a_label_becomes_a_harmless_file_name(label: str) -> None:
    assert re.fullmatch(r"mel-07[a-z0-9-]{0,40}", file_name("mel", 7, label))


def test_the_page_knows_nothing_of_this_machine(page: Page, faulty: Store) -> None:
    assert str(faulty.directory.folder.parent) not in page.html
    assert "<h1>faulty.zarr</h1>" in page.html


def test_facts_of_others_that_are_hostile_are_shown_as_text(
    faulty: Store, found: QualityReport, tmp_path: Path
) -> None:
    facts = replace(
        found.facts,
        **dict.fromkeys(("title", "licence", "origin", "recipe", "uuid"), HOSTILE),
        split={"method": {HOSTILE: [HOSTILE, None, float("nan")]}},
        versions={HOSTILE: HOSTILE},
    )
    write_report(faulty, replace(found, facts=facts), tmp_path)
    page = Page(tmp_path / PAGE)
    assert not page.all("script")
    assert "\u202e" not in page.html


@pytest.mark.parametrize(
    "songs",
    [
        [Song("a", "train", None)],
        [Song("a", "train", np.zeros(4 * RATE)), Song("b", "train", None)],
        [Song("a", "train", song("bells", 0))],
        [Song("a", "unused", song("bells", 0)[:RATE])],
    ],
    ids=["failed", "silent", "one", "short"],
)
def test_a_page_is_written_of_whatever_there_is(songs: list[Song], tmp_path: Path) -> None:
    store = make_store(tmp_path, songs)
    draw_report(store, find(store), tmp_path / "page")
    said = Page(tmp_path / "page" / PAGE).said
    assert "At a glance" in said
    assert not re.search(r"\b(nan|inf|None|-inf)\b", said)
    assert (tmp_path / "page" / PAGE).stat().st_size < 2_000_000


def test_five_hundred_labels_are_bounded(faulty: Store, found: QualityReport, tmp_path: Path) -> None:
    shown = tuple(f"label {n:03d}" for n in range(100))
    counts = np.ones((100, *found.counts.shape[1:]), np.int64)
    mean = np.tile(found.all_db, (100, 1))
    many = replace(found, labels=shown, n_labels=500, counts=counts, mean_db=mean)
    write_report(faulty, many, tmp_path)
    page = Page(tmp_path / PAGE)
    assert "the 100 labels with the most tracks of 500" in page.said
    assert sum(attributes.get("class") == "chart" for attributes in page.all("img")) == 24 + 1
    assert (tmp_path / PAGE).stat().st_size < 2_000_000


def test_levels_of_many_windows_are_drawn_in_few_columns(tmp_path: Path) -> None:
    store = make_store(tmp_path, [Song("a", "train", song("bells", 0))], stride=40, n_windows=1500)
    (example,) = find(store).examples
    assert example.levels.shape[1] <= COLUMNS


def test_without_matplotlib_it_is_a_sentence(
    faulty: Store, found: QualityReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MelzarrError, match=r"needs matplotlib, which is not installed; pip install 'melzarr\[plot\]'"):
        draw_report(faulty, found, tmp_path)
    assert not list(tmp_path.iterdir())


# How fast it was built ------------------------------------------------------------------------------------------------


def summary_of(store: Store) -> Summary:
    seconds = {"wall": 12.0, "decode": 3.8, "mel": 1.9, "write": 0.95, "fetch": 0.0}
    return Summary(target=store.directory, shape=(19, 60, 5, 128), statuses=None, troubled=(), n_reused=0, outdated=(),
                   seconds=seconds)  # fmt: skip


def test_how_fast_is_noted_beside_the_store_and_told(own_store: Store, tmp_path: Path) -> None:
    assert write_built(own_store, summary_of(own_store), 2) == ""
    assert (tmp_path / "own.zarr.built.json").is_file()
    built = read_built(own_store)
    assert built == Built(
        str(own_store.attributes["uuid"]), 12, 0, 2, 12.0,
        {"fetch": 0.0, "decode": 3.8, "mel": 1.9, "write": 0.95},
    )  # fmt: skip
    write_report(own_store, find(own_store), tmp_path / "page", built=built)
    said = Page(tmp_path / "page" / PAGE).said
    assert "Built in 12.0 s by 2 workers. Work for each track: decode 317 ms, mel 158 ms, write 79 ms." in said


def test_a_build_in_parts_is_told_as_such(own_store: Store, tmp_path: Path) -> None:
    write_built(own_store, summary_of(own_store), None)
    built = read_built(own_store)
    assert built is not None
    assert (built.wall, built.workers) == (None, None)
    write_report(own_store, find(own_store), tmp_path / "page", built=built)
    assert "Built in parts, which ran at different times." in Page(tmp_path / "page" / PAGE).said


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "another"}, {"uuid": None}, {"wall": "fast"}, {"wall": float("inf")}, {"wall": -1}, {"workers": 1.5},
        {"seconds": None}, {"seconds": {"mel": []}}, {"tracks": True}, {"tracks": 10**30},
    ],
)  # fmt: skip
def test_a_note_of_another_store_or_a_damaged_one_is_left_out(own_store: Store, tmp_path: Path, change: dict) -> None:
    write_built(own_store, summary_of(own_store), 2)
    path = tmp_path / "own.zarr.built.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert read_built(own_store) is None
    path.write_text("[" * 100_000)
    assert read_built(own_store) is None


def test_a_note_that_cannot_be_written_is_said_and_the_build_is_finished(music: Path, tmp_path: Path) -> None:
    (tmp_path / "s.zarr.built.json").mkdir()  # in its way
    result = melzarr("features", music, tmp_path / "s.zarr", *SMALL)
    assert result.exit_code == 0, result.output
    assert "could not be written beside the store as s.zarr.built.json" in result.output
    assert open_store(tmp_path / "s.zarr").n_tracks == 12


def test_a_build_and_the_end_of_one_in_parts_are_noted(music: Path, tmp_path: Path) -> None:
    assert melzarr("features", music, tmp_path / "a.zarr", *SMALL).exit_code == 0
    built = read_built(open_store(tmp_path / "a.zarr"))
    assert built is not None
    assert (built.tracks, built.workers) == (12, 1)
    assert built.wall > 0
    assert built.seconds["mel"] > 0
    melzarr("job-array", "init", music, tmp_path / "b.zarr", *SMALL[2:])
    melzarr("job-array", "part", "1/1", tmp_path / "b.zarr", "--workers", 0)
    assert melzarr("job-array", "finish", tmp_path / "b.zarr").exit_code == 0
    built = read_built(open_store(tmp_path / "b.zarr"))
    assert built is not None
    assert built.wall is None
    assert built.uuid == read_built(open_store(tmp_path / "a.zarr")).uuid


# With a run -----------------------------------------------------------------------------------------------------------


def told(store: Store, found: QualityReport, run: Path, folder: Path) -> Page:
    write_report(store, found, folder, run)
    return Page(folder / PAGE)


def test_a_run_is_told_with_its_intervals_and_its_worst_tracks(
    faulty: Store, found: QualityReport, tmp_path: Path
) -> None:
    page = told(faulty, found, write_run(tmp_path / "my run", faulty), tmp_path / "page")
    for words in (
        "Run my run. Protocol track: by track.",
        "test tracks, by mean log-probability 50.0 % 25.0 % 75.0 %",
        "The answer is wrong for 2 of 3 tracks that were not trained on.",
        "worst test bells 0.001 drums 0.990 bad valid drums 0.200 bells 0.700",
        "bells 3 2 60 % drums 0 3 100 %",
        "Test: 8 tracks, 100 windows; intervals over 4 groups.",
    ):
        assert words in re.sub(r"<[^>]+>", " ", page.said) or words in spaced(page)
    assert "Another store" not in page.said
    assert any("Accuracy by epoch: in the last 0.600" in (img["alt"] or "") for img in page.all("img"))
    assert {"loss.svg", "accuracy.svg"} <= {path.name for path in (tmp_path / "page").iterdir()}


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        ((-0.04, -0.119, 0.036), f"is behind the SVM by 4.0 % ({MINUS}3.6 % to 11.9 %), which may be chance"),
        ((0.2, 0.1, 0.3), "is ahead of the SVM by 20.0 % (10.0 % to 30.0 %)"),
    ],
)
def test_a_run_is_set_beside_its_baselines(
    faulty: Store, found: QualityReport, tmp_path: Path, ahead: tuple[float, float, float], said: str
) -> None:
    run = write_run(tmp_path / "run", faulty)
    assert "aseline" not in told(faulty, found, run, tmp_path / "older").said
    metrics = json.loads((run / "metrics.json").read_text())
    share = {"value": 0.54, "low": 0.438, "high": 0.636}
    difference = dict(zip(("value", "low", "high"), ahead, strict=True))
    metrics["test"]["baselines"] = {"svm": {"words": "SVM", "track_accuracy": share, "ahead": difference}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = told(faulty, found, run, tmp_path / "page")
    assert "test baseline: SVM 54.0 % 43.8 % 63.6 %" in spaced(page)
    assert f"the network {said}" in spaced(page)
    assert ("Behind a baseline" in page.said) == (ahead[0] < 0)


def spaced(page: Page) -> str:
    """Text of the page, that of neighbouring cells apart."""
    body = re.sub(r"<style>.*?</style>", "", page.html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_answers_of_two_opinions_are_called_so(faulty: Store, found: QualityReport, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", faulty)
    metrics = json.loads((run / "metrics.json").read_text())
    share = metrics["test"]["track_accuracy"]
    metrics["test"] |= {"track_accuracy_of_windows": share, "track_accuracy_of_summary": share}
    (run / "metrics.json").write_text(json.dumps(metrics))
    said = spaced(told(faulty, found, run, tmp_path / "page"))
    for words in (
        "test tracks, by both opinions 50.0 %", "test tracks, by their windows alone 50.0 %",
        "valid tracks, by mean log-probability 50.0 %", "and answer (columns), by both opinions",
    ):  # fmt: skip
        assert words in said


def test_a_run_of_another_store_is_said_so(faulty: Store, found: QualityReport, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", faulty, store={"uuid": "another"})
    assert "This run was trained on a store with another UUID" in told(faulty, found, run, tmp_path / "page").said


def test_an_older_run_and_one_that_is_not_finished_still_give_the_rest(
    faulty: Store, found: QualityReport, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", faulty)
    (run / "answers.csv").unlink()
    said = told(faulty, found, run, tmp_path / "page").said
    assert "answers.csv is missing: it was trained by a version that did not keep the answers for single tracks" in said
    assert "Confusions" in said
    metrics = json.loads((run / "metrics.json").read_text())
    for part in ("valid", "test"):
        del metrics[part]["n_groups"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "Test: 8 tracks, 100 windows." in told(faulty, found, run, tmp_path / "page").said
    (run / "metrics.json").unlink()
    page = told(faulty, found, run, tmp_path / "page")
    assert "metrics.json is missing: it is not finished" in page.said
    assert "How it learnt" in page.said
    (run / "history.csv").unlink()
    assert "no epoch is done" in told(faulty, found, run, tmp_path / "page").said


@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "answers.csv"])
@pytest.mark.parametrize(
    "data", [b"", b"\xff\0", b"[]", b"{}", b'{"test": {"labels": 3}}', b"epoch\nnan\n", b"[" * 99999]
)
def test_a_damaged_file_of_a_run_does_no_harm(faulty: Store, tmp_path: Path, name: str, data: bytes) -> None:
    run = write_run(tmp_path / "run", faulty)
    (run / name).write_bytes(data)
    training = read_run(run)
    assert training.parts == {} if name == "metrics.json" else set(training.parts) == {"valid", "test"}
    assert training.history == [] if name == "history.csv" else len(training.history) == 2


def test_what_is_no_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run, it has no config\.json"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunError, match="it is damaged"):
        read_run(tmp_path)


def test_a_run_of_hostile_text_is_shown_as_text(faulty: Store, found: QualityReport, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", faulty, labels=(HOSTILE, "b"), protocol={"name": HOSTILE, "words": HOSTILE})
    answers = (run / "answers.csv").read_text().replace("worst", '"<img src=x onerror=alert(1)>\u202e"')
    (run / "answers.csv").write_text(answers, encoding="utf-8")
    page = told(faulty, found, run, tmp_path / "page")
    assert not page.all("script")
    assert "onerror=alert(1)" in page.said
    assert "\u202e" not in page.html


def test_many_classes_and_many_wrong_answers_are_bounded(faulty: Store, found: QualityReport, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", faulty, labels=tuple(f"l{n}" for n in range(MAX_CELLS + 1)))
    rows = "".join(f"test,t{n},a,b,0.5,{n / 1000}\n" for n in range(300))
    with (run / "answers.csv").open("a") as file:
        file.write(rows)
    page = told(faulty, found, run, tmp_path / "page")
    assert "The most frequent confusions" in page.said
    assert "l0 l20 2" in spaced(page)
    assert f"… and {302 - WORST} more." in page.said
    assert "t40" in page.said
    assert "t60" not in page.said


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_folder_named_after_the_store_and_says_what_comes_next(
    faulty: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = melzarr("report", faulty.directory)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("made faulty-report/report.html, ")
    assert "  1 track failed\n" in result.output
    assert f"next: melzarr train {faulty.directory}\n" in result.output
    assert (tmp_path / "faulty-report" / PAGE).is_file()


def test_the_command_takes_a_run_and_a_folder(faulty: Store, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", faulty)
    result = melzarr("report", faulty.directory, "--run", run, "--to", tmp_path / "pages/one")
    assert result.exit_code == 0, result.output
    assert "A network trained on it" in Page(tmp_path / "pages/one" / PAGE).said


def test_a_store_in_an_object_store_has_its_note_beside_it_and_its_page_here(
    music: Path, bucket: ObjectStoreDirectory, tmp_path: Path
) -> None:
    where = f"{bucket}/s.zarr"
    assert melzarr("features", music, where, *SMALL).exit_code == 0
    result = melzarr("report", where, "--to", tmp_path)
    assert result.exit_code == 0, result.output
    page = Page(tmp_path / PAGE)
    assert "<h1>s.zarr</h1>" in page.html
    assert "by 1 worker" in page.said
    assert "s3:" not in page.said


def test_the_command_stands_after_verify_and_explains_itself() -> None:
    text = melzarr("--help").output
    places = [text.index(f"\n  {name} ") for name in ("inspect", "verify", "report", "train")]
    assert places == sorted(places)
    assert "Write a page about STORE" in melzarr("report", "--help").output


def test_errors_are_sentences_and_nothing_is_written(own_store: Store, tmp_path: Path) -> None:
    inside = melzarr("report", own_store.directory, "--to", own_store.directory.path / "page")
    assert inside.exit_code == 2
    assert f"is inside the store {own_store.directory}, which it would damage" in inside.output
    no_run = melzarr("report", own_store.directory, "--run", tmp_path, "--to", tmp_path / "page")
    assert no_run.exit_code == 1
    assert "is not a run" in no_run.output
    assert melzarr("report", tmp_path / "none.zarr", "--to", tmp_path / "page").exit_code == 1
    assert not (tmp_path / "page").exists()
