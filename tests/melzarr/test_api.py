"""The Python interface: what a notebook calls, on a disk, in an archive and in an object store."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import digests

import melzarr
from melzarr.pipeline.clusters.task_runner import OnDask
from melzarr.pipeline.storage.object_store import ObjectStoreDirectory
from melzarr.pipeline.zarr_store.reader import Store as OpenedStore

SMALL = {"n_windows": 60, "tracks_per_shard": 5}  # the spec of `finished`, and its shards
# The drums are so few that none is in the valid split.
pytestmark = pytest.mark.filterwarnings("ignore:label drums has no valid track")
DOCS = Path(__file__).parents[2] / "docs/api.md"


def test_its_page_names_what_it_exports_and_nothing_else() -> None:
    named = re.findall(r"^### melzarr\.(\w+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(melzarr.__all__) == sorted(dir(melzarr))
    assert [name for name in melzarr.__all__ if not (getattr(melzarr, name).__doc__ or "").strip()] == []
    with pytest.raises(AttributeError, match="module 'melzarr' has no attribute 'nothing'"):
        melzarr.nothing  # noqa: B018


def test_to_import_it_loads_neither_dask_nor_tensorflow() -> None:
    code = (
        "import sys, melzarr; melzarr.FeatureSpec, melzarr.open; "
        "print(sorted({'dask', 'distributed', 'tensorflow', 'keras', 'numba', 'click'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() in {"[]", "['click']"}


def test_a_build_gives_the_bytes_of_the_command_line_and_is_opened_the_next_time(
    music: Path, tmp_path: Path, finished: OpenedStore
) -> None:
    for where in (tmp_path / "s.zarr", str(tmp_path / "s.zarr")):
        store = melzarr.build(music, where, workers=0, progress=False, **SMALL)
        assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    assert (len(store), store.address, store.spec.n_windows) == (12, str(tmp_path / "s.zarr"), 60)
    assert store.attributes["uuid"] == finished.attributes["uuid"]
    assert repr(store) == f"<melzarr.Store {tmp_path / 's.zarr'}: mel 12 × 60 × 5 × 128 float32, power>"
    with pytest.raises(
        melzarr.MelzarrError, match=r"(?s)is finished, but differs from what would be built now.*with force=True: the"
    ):
        melzarr.build(music, where, workers=0, n_mels=64, **SMALL)
    assert melzarr.build(music, where, workers=0, n_mels=64, force=True, **SMALL).spec.n_mels == 64
    with pytest.raises(melzarr.MelzarrError, match=r"n_mel is not a field of a spec; use .*n_mels"):
        melzarr.build(music, where, n_mel=64)


def test_a_build_warns_where_it_is_called_of_splits_without_a_track_and_of_timings_that_are_lost(
    music: Path, tmp_path: Path
) -> None:
    (tmp_path / "s.zarr.built.json").mkdir()  # in the way of the timings
    with pytest.warns(UserWarning, match=r"label drums has no|timings of the build") as warned:
        store = melzarr.build(music, tmp_path / "s.zarr", workers=0, **SMALL)
    first, second = (str(warning.message) for warning in warned)
    assert first.startswith("label drums has no valid track: give more tracks")
    assert "could not be written beside the store as s.zarr.built.json" in second
    assert {warning.filename for warning in warned} == {__file__}
    assert len(store) == 12


def test_it_runs_on_a_client_that_is_there_and_leaves_it(
    music: Path, tmp_path: Path, one_worker: OnDask, finished: OpenedStore
) -> None:
    melzarr.build(music, tmp_path / "s.zarr", cluster=one_worker.client, progress=True, **SMALL)
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    assert one_worker.client.submit(sum, [1, 2]).result() == 3


def test_windows_and_tracks_are_as_xarray_and_pandas_have_them(finished: OpenedStore) -> None:
    store = melzarr.open(finished.directory.path)
    np.testing.assert_array_equal(store.mel.values, finished.mel[:])
    assert store.mel.dims == ("track", "window", "frame", "band")
    assert store.tracks.index.name == "track"
    assert store.tracks["status"].value_counts().to_dict() == {"ok": 9, "short": 1, "silent": 1, "failed": 1}
    assert {"label", "split", "group", "error", "source", "duration"} <= set(store.tracks.columns)
    assert melzarr.open(store) is store


@pytest.mark.slow
def test_a_store_is_verified_reported_and_shared(own_store: OpenedStore, music: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store = melzarr.open(own_store.directory.path)
    verdict = store.verify(music, sample=1, progress=False)
    assert (verdict.problems, verdict.n_sampled, verdict.n_sources) == ([], 1, 12)
    page = store.report(tmp_path / "page", progress=False)
    assert page == tmp_path / "page/report.html"
    share = store.share(str(tmp_path / "small.zarr.zip"), labels=["bells"], scale="db", title="bells", progress=False)
    assert (set(share.tracks["label"]), share.spec.scale) == ({"bells"}, "db")
    assert share.verify().problems == []
    np.testing.assert_array_equal(share.mel.shape, (6, 60, 5, 128))
    with pytest.raises(melzarr.MelzarrError, match="give source too"):
        store.verify(sample=1)


def test_a_store_grows_and_stores_are_joined(music: Path, tmp_path: Path, finished: OpenedStore) -> None:
    for name, label in (("a", "bells"), ("b", "drums")):
        shutil.copytree(music / label, tmp_path / name / label)
        with pytest.warns(UserWarning, match=f"all tracks have one label, '{label}'"):
            melzarr.build(tmp_path / name, tmp_path / f"{name}.zarr", workers=0, **SMALL)
    both = melzarr.merge([tmp_path / "a.zarr", melzarr.open(tmp_path / "b.zarr")], tmp_path / "c.zarr")
    again = melzarr.merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "c.zarr")  # up to date
    assert again.attributes == both.attributes
    with pytest.raises(melzarr.MelzarrError, match=r"is not the merge of these stores.*replace it with force=True"):
        melzarr.merge([tmp_path / "b.zarr", tmp_path / "a.zarr"], tmp_path / "c.zarr")
    grown = melzarr.append(tmp_path / "a.zarr", music, workers=0)
    for store in (both, grown, melzarr.append(grown, music)):
        assert len(store) == 12
        assert store.verify(music).problems == []
        np.testing.assert_array_equal(store.mel.values, finished.mel[:])
    with pytest.raises(melzarr.MelzarrError, match="two or more stores"):
        melzarr.merge([both], tmp_path / "d.zarr")


def test_how_a_source_is_listed_are_keywords_and_what_is_said_of_it_are_warnings(
    music: Path, tmp_path: Path, finished: OpenedStore
) -> None:
    rows = [f"{path.relative_to(music)};{path.parent.name}" for path in sorted(music.glob("*/*.wav"))]
    (tmp_path / "lists").mkdir()
    manifest = tmp_path / "lists/tracks.txt"
    manifest.write_text("\n".join(["File;Genre", rows[0].replace("/", "\\"), *rows[1:]]), encoding="utf-16")
    listed = {"path_column": "file", "label_column": "genre", "audio_root": music}
    found = melzarr.scan(manifest, progress=False, **listed, **SMALL)
    assert found.problems[0].startswith("paths taken with slashes in place of backslashes: 1")
    with pytest.warns(UserWarning, match="paths taken with slashes in place of backslashes: 1"):
        store = melzarr.build(manifest, tmp_path / "s.zarr", workers=0, **listed, **SMALL)
    assert digests(tmp_path / "s.zarr") == digests(finished.directory.path)
    assert melzarr.build(manifest, tmp_path / "s.zarr", workers=0, **listed, **SMALL).address == store.address
    with pytest.warns(UserWarning, match="paths taken with slashes"):
        assert len(melzarr.append(store, manifest, workers=0, **listed)) == 12
    (tmp_path / "linked").mkdir()
    for label in ("bells", "drums"):
        (tmp_path / "linked" / label).symlink_to(music / label)
    with pytest.raises(melzarr.MelzarrError, match=r"links to folders left out: 2 \(bells/, drums/\)"):
        melzarr.scan(tmp_path / "linked")
    assert len(melzarr.append(store, tmp_path / "linked", workers=0, follow_links=True)) == 12


def test_in_an_object_store(bucket: ObjectStoreDirectory, music: Path, finished: OpenedStore) -> None:
    store = melzarr.build(music, f"{bucket}/s.zarr", workers=0, **SMALL)
    assert store.address == f"{bucket}/s.zarr"
    np.testing.assert_array_equal(melzarr.open(store.address).mel[3].values, finished.mel[3])


def test_one_file_becomes_what_a_store_holds_of_it(music: Path, finished: OpenedStore) -> None:
    spec = melzarr.FeatureSpec(n_windows=60)
    windows, receipt = melzarr.extract(str(music / "bells/bells.00000.wav"), spec)
    np.testing.assert_array_equal(windows, finished.mel[0])
    assert receipt.status == "ok"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 22050).astype(np.float32)
    assert melzarr.mel_windows(samples, spec).shape == (spec.valid_windows(22050), 5, 128)


def test_a_source_is_scanned(music: Path) -> None:
    found = melzarr.scan(music, workers=2, **SMALL)
    assert (found.n_problems, set(found.labels)) == (3, {"bells", "drums"})
