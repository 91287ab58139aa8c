"""A manifest is read as people and their programs write it, or refused with the row and the cause."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from melzarr.pipeline.errors import CatalogError, StorageError
from melzarr.pipeline.sources.catalog import Catalog, read_catalog
from melzarr.pipeline.sources.path_forms import SAMPLE
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory

NFC, NFD = "caf\u00e9.wav", "cafe\u0301.wav"


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def facts(catalog: Catalog) -> list[tuple[str, str]]:
    return [(track.source, track.label) for track in catalog.tracks]


# Formats --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.txt", "m.TXT"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_the_delimiter_and_the_encoding_are_found(tmp_path: Path, name: str, delimiter: str, encoding: str) -> None:
    rows = [["path", "title", "label"], ["a.wav", "Hello, Dolly; 1\t2", "jazz"], ["é.wav", "", "blues"]]
    quoted = "\r\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    assert facts(read_catalog(written(tmp_path / name, quoted, encoding))) == [("a.wav", "jazz"), ("é.wav", "blues")]


@pytest.mark.parametrize("header", ["PATH,Label", " path , label ", "Label,Path"])
def test_names_of_columns_are_in_any_case_with_spaces_around(tmp_path: Path, header: str) -> None:
    cells = "jazz,a.wav" if header.startswith("L") else "a.wav,jazz"
    assert facts(read_catalog(written(tmp_path / "m.csv", f"{header}\n{cells}\n"))) == [("a.wav", "jazz")]


def test_other_columns_are_named_by_options(tmp_path: Path) -> None:
    path = written(tmp_path / "m.csv", "File,Genre,path\na.wav,jazz,x\n")
    assert facts(read_catalog(path, path_column="file", label_column=" genre")) == [("a.wav", "jazz")]
    with pytest.raises(CatalogError, match=r"has no column 'label', only File, Genre, path; add it.* --label-column"):
        read_catalog(path)
    with pytest.raises(CatalogError, match=r"has no column 'style', only .*; add it, or name another with --label-"):
        read_catalog(path, label_column="style")


def test_json_lines_may_lack_what_a_row_does_not_have(tmp_path: Path) -> None:
    rows = [{"path": "a.wav", "label": "jazz"}, {"label": 7, "group": "g", "path": "b.wav"}]
    catalog = read_catalog(written(tmp_path / "m.jsonl", "\n\n".join(map(json.dumps, rows))))
    assert [(track.source, track.label, track.group) for track in catalog.tracks] == [
        ("a.wav", "jazz", "a"),
        ("b.wav", "7", "g"),
    ]


def test_parquet_columns_that_are_not_used_are_not_read(tmp_path: Path) -> None:
    table = pa.table({"path": ["a.wav"], "extra": [[1, 2]], "label": ["jazz"], "year": [1.0]})
    parquet.write_table(table.rename_columns(["path", "x", "label", "x"]), tmp_path / "m.parquet")
    assert facts(read_catalog(tmp_path / "m.parquet")) == [("a.wav", "jazz")]


def test_rows_without_text_are_skipped_and_missing_cells_are_empty(tmp_path: Path) -> None:
    catalog = read_catalog(written(tmp_path / "m.csv", "path;label;group\n;;\na.wav;jazz\n\n ; ;\n"))
    assert [(track.source, track.group) for track in catalog.tracks] == [("a.wav", "a")]


def test_a_missing_group_is_no_group(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["a.wav", "b.wav"], "label": "jazz", "group": [1.0, math.nan]})
    parquet.write_table(pa.Table.from_pandas(table), tmp_path / "m.parquet")
    assert [track.group for track in read_catalog(tmp_path / "m.parquet").tracks] == ["1.0", "b"]
    written(tmp_path / "m.jsonl", table.to_json(orient="records", lines=True))
    assert [track.group for track in read_catalog(tmp_path / "m.jsonl").tracks] == ["1.0", "b"]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=12)
# Without what a spreadsheet takes for a formula: an apostrophe before that is removed from delimited text alone.
CELLS = NAMES.map(str.strip).filter(lambda text: text and text.lower() != "nan" and text[0] not in "'=+-@\t~")


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([0, 1]),
    columns=st.permutations(["Path", " label", "GROUP "]),
)
def test_a_table_in_any_dialect_and_encoding_gives_the_same_catalog(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], delimiter: str, encoding: str,
    line_end: str, quoting: Any, columns: list[str],
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("m")
    table = pd.DataFrame(
        [(f"{n}/x{path.replace('/', '_').replace(chr(92), '_')}", *rest) for n, (path, *rest) in enumerate(rows)],
        columns=["Path", " label", "GROUP "],
    )[columns]
    table.to_csv(
        folder / "m.txt", sep=delimiter, encoding=encoding, lineterminator=line_end, quoting=quoting, index=False
    )
    table.to_parquet(folder / "m.parquet")
    written(folder / "m.jsonl", table.to_json(orient="records", lines=True, force_ascii=False), encoding)
    catalogs = [read_catalog(folder / f"m.{kind}") for kind in ("txt", "parquet", "jsonl")]
    assert sorted(track.label for track in catalogs[0].tracks) == sorted(label for _, label, _ in rows)
    assert catalogs[0] == catalogs[1] == catalogs[2]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,title,label\na,One,x\nb,Hello, Dolly,y\n", "row 2: 4 cells, but the header has 3; put .* comma in"),
        ("path;label\na;x;\n", "row 1: 3 cells, but the header has 2; put .* semicolon into quotes"),
        ("path,label,label\na,x,y\n", r"has 2 columns 'label' \('label', 'label'\); rename all but one"),
        ("path,Label,label \na,x,y\n", r"has 2 columns 'label' \('Label', 'label '\); rename all but one"),
        ("path,label\na,x\nb,nan\n", "row 2: path 'b', label 'nan'; every row needs both, and NaN is none"),
        ('path,label\na,"x\nb,y\n', "row 1 is not CSV: unexpected end of data; put cells with quotes"),
        ("", "has no column 'path', only none; add it"),
    ],
)  # fmt: skip
def test_text_is_refused_with_row_and_cause(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CatalogError, match=rf"m\.csv,? {said}"):
        read_catalog(written(tmp_path / "m.csv", text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"path": "a", "label": "x"}\n{"path": "b", "label": NaN}', "row 2: path 'b', label nan; every row"),
        ('{"path": "a", "label": "x"}\n{"path": "b"}', "row 2: path 'b', label None; every row needs both"),
        ('{"path": "a", "label": ["x"]}', "row 1: label is a list or an object; give one text or number in each cell"),
        ('{"path": {"a": 1}, "label": "x"}', "row 1: path is a list or an object"),
        ('{"path": "a", "label": "x", "label": "y"}', r"row 1 has 2 columns 'label' \('label', 'label'\); rename"),
        ('{"path": "a", "label": "x"}\n{"path": ', "row 2 is not a JSON object: .*; write one object on each line"),
        ('["a", "x"]', "row 1 is not a JSON object: it is no object; write one object on each line"),
        ('{"path": "a", "label": "\\ud800"}', "row 1 is not a JSON object: .*surrogates not allowed"),
        (f'{{"path": "a", "label": {"[" * 100_000}', "row 1 is not a JSON object: .*; write one object on each line"),
    ],
    ids=range(9),
)  # fmt: skip
def test_json_is_refused_with_row_and_cause(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CatalogError, match=rf"m\.jsonl, {said}"):
        read_catalog(written(tmp_path / "m.jsonl", text))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([["x"], ["y"]], "row 1: label is a list or an object"),
        ([{"a": 1}, {"a": 2}], "row 1: label is a list or an object"),
        ([b"x", b"y"], "row 1: label is bytes; give one text"),
        ([1.0, math.nan], "row 2: path 'b.wav', label nan; every row needs both, and NaN is none"),
    ],
)
def test_parquet_is_refused_with_row_and_cause(tmp_path: Path, labels: list[Any], said: str) -> None:
    parquet.write_table(pa.table({"path": ["a.wav", "b.wav"], "label": labels}), tmp_path / "m.parquet")
    with pytest.raises(CatalogError, match=rf"m\.parquet, {said}"):
        read_catalog(tmp_path / "m.parquet")


def test_columns_doubled_in_parquet_are_refused(tmp_path: Path) -> None:
    table = pa.table({"a": ["x"], "b": ["y"], "path": ["a.wav"]}).rename_columns(["label", "label", "path"])
    parquet.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(CatalogError, match=r"m\.parquet has 2 columns 'label'"):
        read_catalog(tmp_path / "m.parquet")


# Forms of paths -------------------------------------------------------------------------------------------------------


def listed(folder: Path, *paths: str) -> Path:
    rows = [{"path": path, "label": label} for path, label in zip(paths, ["jazz", "rock"] * len(paths), strict=False)]
    return written(folder / "m.jsonl", "\n".join(map(json.dumps, rows)))


def made(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def sources(catalog: Catalog) -> list[str]:
    return [track.source for track in catalog.tracks]


SLASHES = "slashes in place of backslashes"
SPACES = "paths taken without the spaces around them"
UNICODE = "in another Unicode form, in which the file exists"


@pytest.mark.parametrize(
    ("path", "found", "said"),
    [
        ("a\\t.wav", "a/t.wav", rf"paths taken with {SLASHES}: 1, such as 'a\\t.wav' in row 1"),
        (" a.wav\t", "a.wav", rf"{SPACES}: 1, such as ' a.wav\t' in row 1"),
        (NFC, NFD, rf"paths taken {UNICODE}: 1, such as 'caf\xe9.wav' in row 1"),
        (NFD, NFC, rf"paths taken {UNICODE}: 1, such as 'cafe\u0301.wav' in row 1"),
        (f"é/{NFC}", f"é/{NFD}", rf"paths taken {UNICODE}: 1, such as '\xe9/caf\xe9.wav' in row 1"),
    ],
)
def test_a_path_in_another_form_is_taken_and_said(tmp_path: Path, path: str, found: str, said: str) -> None:
    made(tmp_path, found, "plain.wav")
    catalog = read_catalog(listed(tmp_path, path, "plain.wav"))
    assert sources(catalog) == sorted([found, "plain.wav"])
    assert catalog.findings == (said,)


@pytest.mark.parametrize("path", ["a\\t.wav", " a.wav", NFC, NFD, "~/a.wav", "C:\\a.wav"])
def test_a_path_whose_file_exists_as_it_is_written_is_taken_as_written(tmp_path: Path, path: str) -> None:
    made(tmp_path, path, "a/t.wav", "a.wav", NFC, NFD, "plain.wav")
    catalog = read_catalog(listed(tmp_path, path, "plain.wav"))
    assert path in sources(catalog)
    assert catalog.findings == ()


def test_several_forms_of_one_path_are_counted_each(tmp_path: Path) -> None:
    made(tmp_path, f"a/{NFD}", "a/b.wav")
    catalog = read_catalog(listed(tmp_path, f" a\\{NFC}", "a\\b.wav"))
    assert sources(catalog) == ["a/b.wav", f"a/{NFD}"]
    assert [finding.partition(", such as")[0] for finding in catalog.findings] == [
        "paths taken without the spaces around them: 1",
        "paths taken with slashes in place of backslashes: 2",
        "paths taken in another Unicode form, in which the file exists: 1",
    ]


def test_a_path_with_two_other_forms_is_not_guessed(tmp_path: Path) -> None:
    half = "cafe\u0301/caf\u00e9.wav"
    made(tmp_path, unicodedata.normalize("NFC", half), unicodedata.normalize("NFD", half), "plain.wav")
    (tmp_path / unicodedata.normalize("NFD", half)).parent.joinpath(NFC).unlink(missing_ok=True)
    catalog = read_catalog(listed(tmp_path, half, "plain.wav"))
    assert half in sources(catalog)
    assert catalog.findings[0].startswith(
        "paths not found, whose files exist in several other Unicode forms: 1, such as"
    )


def test_a_missing_file_has_its_plain_path(tmp_path: Path) -> None:
    assert sources(read_catalog(listed(tmp_path, "a\\b.wav ", NFC))) == ["a/b.wav", NFC]


def test_spaces_around_labels_and_groups_are_said(tmp_path: Path) -> None:
    catalog = read_catalog(written(tmp_path / "m.csv", "path, label, group\na.wav, rock, g\nb.wav,jazz,g \n"))
    assert [(track.label, track.group) for track in catalog.tracks] == [("rock", "g"), ("jazz", "g")]
    assert catalog.findings == ("cells taken without the spaces around them: 3, such as ' rock' in row 1",)


def test_the_home_folder_is_taken_only_if_it_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "home/music/a.wav")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    catalog = read_catalog(listed(tmp_path, "~/music/a.wav"))
    assert sources(catalog) == ["home/music/a.wav"]
    assert catalog.findings[0] == (
        "paths taken below the home folder, which ~ stands for: 1, such as '~/music/a.wav' in row 1"
    )
    monkeypatch.setenv("HOME", "/elsewhere")
    with pytest.raises(
        CatalogError, match=r"row 1: '~/music/a\.wav' is outside the manifest's folder; put the manifest"
    ):
        read_catalog(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    "path", ["..\\a.wav", " ../a.wav", "\\\\server\\a.wav", "C:\\a.wav", "c:/a.wav", "é/../../a.wav"]
)
def test_no_form_of_a_path_leads_outside(tmp_path: Path, path: str) -> None:
    made(tmp_path, "a.wav")
    (tmp_path / "in").mkdir()
    with pytest.raises(CatalogError, match=r"row 1: .* is outside the manifest's folder; put the manifest above"):
        read_catalog(listed(tmp_path / "in", path))


# The folder of the audio ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [str, Path, LocalDirectory])
def test_paths_are_relative_to_the_audio_root(tmp_path: Path, form: Callable[[Any], Any]) -> None:
    made(tmp_path, "audio/jazz/a.wav", "audio/b.wav", "lists/x")
    manifest = listed(tmp_path / "lists", "jazz/a.wav", f"{tmp_path}/audio/b.wav")
    catalog = read_catalog(manifest, audio_root=form(tmp_path / "audio"))
    assert catalog.root.folder == tmp_path / "audio"
    assert sources(catalog) == ["b.wav", "jazz/a.wav"]
    with pytest.raises(
        CatalogError, match=r"row 2: '.*/audio/b.wav' is outside the manifest's folder; .* --audio-root"
    ):
        read_catalog(manifest)


def test_an_audio_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="nowhere, the --audio-root, is not a folder; give the folder of the audio"):
        read_catalog(listed(tmp_path, "a.wav"), audio_root=tmp_path / "nowhere")


def test_nothing_outside_the_audio_root_is_read(tmp_path: Path) -> None:
    made(tmp_path, "audio/a.wav", "b.wav")
    with pytest.raises(
        CatalogError, match=r"row 1: '\.\./b\.wav' is outside .*/audio, the --audio-root; give a folder"
    ):
        read_catalog(listed(tmp_path, "../b.wav"), audio_root=tmp_path / "audio")


# Object stores --------------------------------------------------------------------------------------------------------


class Remote(LocalDirectory):
    """A folder that has no path here, and counts the looks into it."""

    looks: ClassVar[list[str]] = []
    refuses = False
    folder = None  # type: ignore[assignment]

    def sibling(self, name: str) -> Directory:
        return Remote(self.path.parent / name)

    def size(self, name: str) -> int | None:
        self.looks.append(name)
        if self.refuses and name != "m.jsonl":
            raise StorageError("the bucket does not tell")
        return super().size(name)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(Remote, "looks", found)
    return found


N = 3 * SAMPLE


def remote(folder: Path, *paths: str) -> Catalog:
    return read_catalog(Remote(listed(folder, *paths)))


def test_plain_paths_are_not_looked_for(tmp_path: Path, looks: list[str]) -> None:
    assert len(remote(tmp_path, *(f"曲/{n}.wav" for n in range(N))).tracks) == N
    assert looks == ["m.jsonl"]


@pytest.mark.parametrize(("path", "file"), [("a\\é{}", "a/é{}"), ("é{}", "e\u0301{}"), ("é{}", "é{}")])
def test_a_sample_decides_the_form_of_all_paths(tmp_path: Path, looks: list[str], path: str, file: str) -> None:
    made(tmp_path, *(file.format(n) for n in range(N)))
    assert set(sources(remote(tmp_path, *(path.format(n) for n in range(N))))) == {file.format(n) for n in range(N)}
    assert len(looks) < 5 * SAMPLE


def test_if_the_sample_does_not_agree_paths_are_plain(tmp_path: Path) -> None:
    made(tmp_path, NFC, "e\u0301.wav")
    found = sources(remote(tmp_path, NFC, "é.wav", *(f"é\\{n}.wav" for n in range(N))))
    assert {NFC, "e\u0301.wav", "é/0.wav", f"é/{N - 1}.wav"} <= set(found)


def test_a_bucket_that_does_not_tell_is_asked_once(
    tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Remote, "refuses", True)
    assert sources(remote(tmp_path, "a\\b.wav", NFC, "~/c.wav")) == ["a/b.wav", NFC, "~/c.wav"]
    assert set(looks) == {"m.jsonl", "a\\b.wav", "a/b.wav"}


# Cases from the field -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    if not (shared / "field-cases").is_dir():
        pytest.skip("cases from the field are not beside this copy (../shared/field-cases)")
    return shared / "field-cases"


@pytest.mark.parametrize(("name", "n_tracks"), [("backslash", 2), ("nfc", 2), ("semicolon", 1), ("spaces", 3)])
def test_paths_from_the_field_are_taken(cases: Path, name: str, n_tracks: int) -> None:
    catalog = read_catalog(cases / f"manifest-paths/{name}.csv")
    assert len(catalog.tracks) == n_tracks
    assert all(catalog.root.size(track.source) for track in catalog.tracks)
    assert {track.label for track in catalog.tracks} <= {"rock", "jazz"}


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("double-header", r"has 2 columns 'label' \('label', 'label'\); rename all but one"),
        ("unquoted-comma", "row 2: 4 cells, but the header has 3"),
    ],
)
def test_tables_from_the_field_are_refused(cases: Path, case: str, said: str) -> None:
    with pytest.raises(CatalogError, match=said):
        read_catalog(cases / f"manifest-{case}/m.csv")
