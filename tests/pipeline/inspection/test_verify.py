"""Verification: it passes a sound store, and names the track of a damaged one."""

import errno
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import plain_charts
import pytest
import soundfile
import zarr

from melzarr.pipeline.builder.feedback import Feedback
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.errors import BuildError, MelzarrError
from melzarr.pipeline.features.decibels import as_stored
from melzarr.pipeline.inspection.librosa_reference import MAX_DB, MAX_RELATIVE, distances, librosa_windows
from melzarr.pipeline.inspection.verify import status_problem, verify
from melzarr.pipeline.shard_receipt import STATUSES
from melzarr.pipeline.share.share_options import ShareOptions
from melzarr.pipeline.share.write_share import share
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.zarr_store.layout import statistics
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.shard import shard_name

FIRST_SHARD = [f"bells/bells.0000{number}" for number in range(5)]


def problems(store: Store) -> list[str]:
    return verify(open_store(store.directory.path)).problems


def test_a_sound_store_passes(finished: Store, music: Path) -> None:
    verdict = verify(finished, music, n_samples=12)
    assert verdict.problems == []
    assert verdict.n_tracks == verdict.n_sources == 12
    assert verdict.n_sampled == 11  # the failed track has nothing to compute
    assert verdict.max_relative <= 1e-6
    assert verdict.max_db <= 1e-3


def test_a_flipped_bit_in_a_chunk_is_found_and_its_track_named(own_store: Store) -> None:
    path = own_store.directory.path / shard_name(0)
    data = bytearray(path.read_bytes())
    data[10] ^= 1  # in the first chunk of the shard
    path.write_bytes(data)
    found = problems(own_store)
    assert any(line.startswith("bells/bells.00000: its chunk cannot be decoded") for line in found)
    assert not any("bells.00002" in line for line in found)


def files_of(store: Store) -> list[str]:
    return sorted(
        path.relative_to(store.directory.path).as_posix() for path in store.directory.path.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_any_file_is_found(every: int, own_store: Store, finished: Store) -> None:
    """At the beginning, in the middle or at the end of each second file; or at all three of each."""
    names = files_of(finished)
    assert len(names) > 40
    for number, name in enumerate(names):
        path = own_store.directory.path / name
        whole = path.read_bytes()
        for position in (0, len(whole) // 2, len(whole) - 1)[number % every :: every]:
            data = bytearray(whole)
            data[position] ^= 4
            path.write_bytes(data)
            try:
                found = problems(own_store)
            except MelzarrError as error:  # a store that no longer opens says so in a sentence
                found = [str(error)]
            assert found, f"position {position} of {name}"
        path.write_bytes(whole)
    assert problems(own_store) == []


def test_a_missing_or_truncated_shard_is_found_and_its_tracks_named(own_store: Store) -> None:
    path = own_store.directory.path / shard_name(0)
    path.write_bytes(path.read_bytes()[:-200])
    assert all(any(line.startswith(name) for line in problems(own_store)) for name in FIRST_SHARD)
    path.unlink()
    assert any("is missing, with the tracks " + ", ".join(FIRST_SHARD) in line for line in problems(own_store))


def test_what_is_said_does_not_depend_on_the_number_of_threads(
    own_store: Store, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in (0, 2):
        path = own_store.directory.path / shard_name(index)
        path.write_bytes(path.read_bytes()[:-200])
    said = []
    for room in (1, 1 << 30):  # one thread, and eight
        monkeypatch.setattr("melzarr.pipeline.inspection.verify.ROOM", room)
        monkeypatch.setattr("os.cpu_count", lambda: 8)
        said.append(repr(verify(own_store, music, n_samples=3)))
    assert said[0] == said[1]
    assert "cannot be decoded" in said[0]


def test_two_shards_that_changed_places_are_found(own_store: Store) -> None:
    first, second, aside = (own_store.directory.path / name for name in (shard_name(0), shard_name(1), "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    found = problems(own_store)
    assert any(FIRST_SHARD[0] in line for line in found)
    assert any("drums/drums.00000" in line for line in found)


def test_a_file_too_many_is_found(own_store: Store) -> None:
    (own_store.directory.path / "notes.txt").write_text("x")
    assert any("added" in line for line in problems(own_store))


@pytest.mark.parametrize(
    ("name", "number", "value", "said"),
    [
        ("status", 0, "short", "it is short, but all windows are valid"),
        ("status", 0, "fine", "its status 'fine' is unknown"),
        ("n_windows", 0, 59, "a window beyond its 59 valid ones is not NaN"),
        ("n_windows", 1, 24, "one of its 24 valid windows is not finite"),
        ("error", 0, "no", "its status is ok, its error 'no'"),
    ],
)
def test_a_status_that_does_not_fit_its_data_is_found(own_store: Store, name, number, value, said) -> None:
    zarr.open_array(own_store.directory.path / name, mode="r+")[number] = value
    assert any(line.endswith(said) for line in problems(own_store))


def test_statistics_that_are_not_the_datas_are_found(own_store: Store) -> None:
    array = zarr.open_array(own_store.directory.path / "mean_db", mode="r+")
    array[3] = array[3] + 0.01
    assert problems_but_uuid(own_store) == ["mean_db does not match the sums in the receipts"]


def test_sums_that_are_not_the_datas_are_found_though_the_statistics_fit_them(own_store: Store) -> None:
    level = zarr.open_array(own_store.directory.path / "receipts/level", mode="r+")
    level[0, 3] = level[0, 3] + 1000
    count, *sums = (own_store.values(f"receipts/{name}") for name in ("count", "level", "square"))
    mean, std = statistics(int(count.sum()), *sums)
    for name, values in (("mean_db", mean), ("std_db", std)):
        zarr.open_array(own_store.directory.path / name, mode="r+")[:] = values
    assert "mean_db does not match the windows of the ok tracks of the train split" in problems_but_uuid(own_store)


@pytest.mark.parametrize(
    ("name", "number", "value", "said"),
    [
        ("window", 2, 0.5, "window is not what the spec says"),
        ("frame", 0, 0.5, "frame is not what the spec says"),
        ("band", 127, 0.5, "band is not what the spec says"),
        ("receipts/count", 0, 5, "receipts/count is not the number of frames in the ok tracks of the train split"),
        ("track", 1, "bells/bells.00000", "the id 'bells/bells.00000' occurs twice"),
        ("group", slice(None), "one", "are in one group, 'one'"),
    ],
)
def test_what_does_not_follow_from_the_rest_is_found(own_store: Store, name, number, value, said) -> None:
    zarr.open_array(own_store.directory.path / name, mode="r+")[number] = value
    assert any(said in line for line in problems_but_uuid(own_store))


def test_a_label_that_was_changed_in_a_share_is_found_by_its_table(finished: Store, tmp_path: Path) -> None:
    share(finished, tmp_path / "shared", ShareOptions(), draw=plain_charts)
    assert problems(open_store(tmp_path / "shared")) == []
    zarr.open_array(tmp_path / "shared/label", mode="r+")[0] = "drums"
    assert "tracks.csv does not match the tracks of the store" in problems_but_uuid(open_store(tmp_path / "shared"))


def problems_but_uuid(store: Store) -> list[str]:
    """Problems of a store whose UUID was made to fit, as by one who changed it on purpose."""
    path = store.directory.path / "zarr.json"
    text = path.read_text()
    path.write_text(text.replace(json.loads(text)["attributes"]["uuid"], store.content_uuid()))
    return problems(store)


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_fits_some_data(status: str) -> None:
    mel = np.zeros((4, 5, 8), np.float32)
    n_valid = {"ok": 4, "silent": 4, "short": 2, "failed": 0}[status]
    mel[n_valid:] = np.nan
    assert status_problem(mel, status, n_valid, "" if status == "ok" else "a sentence") == ""


def test_audio_that_changed_or_went_since_is_named(finished: Store, own_music: Path) -> None:
    soundfile.write(own_music / "bells/bells.00003.wav", np.zeros(1000), 22050)
    (own_music / "bells/bells.00004.wav").unlink()
    verdict = verify(finished, own_music, n_samples=12)
    assert [line.partition(":")[0] for line in verdict.problems] == ["bells/bells.00003", "bells/bells.00004"]
    assert verdict.n_sources == 11
    assert verdict.n_sampled == 9  # those that are as they were, but for the failed one


def test_audio_that_cannot_be_read_is_named_with_the_reason(
    finished: Store, own_music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LocalDirectory.digest

    def digest(folder: LocalDirectory, name: str, *algorithm: Any) -> str:
        if name == "bells/bells.00003.wav":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder.path / name))
        return whole(folder, name, *algorithm)

    monkeypatch.setattr(LocalDirectory, "digest", digest)
    (own_music / "bells/bells.00004.wav").unlink()
    assert verify(finished, own_music).problems == [
        f"bells/bells.00003: its file bells/bells.00003.wav below {own_music} cannot be read: Input/output error",
        f"bells/bells.00004: its file bells/bells.00004.wav is missing below {own_music}",
    ]


def test_a_track_that_librosa_cannot_compute_is_named_and_the_others_are_done(
    finished: Store, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = librosa_windows

    def fails(path: Path, *arguments: Any) -> np.ndarray:
        if path.name == "bells.00002.wav":
            raise RuntimeError("a codec gave up")
        return whole(path, *arguments)

    monkeypatch.setattr("melzarr.pipeline.inspection.verify.librosa_windows", fails)
    verdict = verify(finished, music, n_samples=12)
    assert verdict.problems == ["bells/bells.00002: it cannot be computed again (RuntimeError: a codec gave up)"]
    assert verdict.n_sampled == 10


def test_windows_that_are_not_librosas_are_named(own_store: Store, music: Path) -> None:
    mel = zarr.open_array(own_store.directory.path / "mel", mode="r+")
    mel[0] = np.asarray(mel[0]) * 1.001
    verdict = verify(open_store(own_store.directory.path), music, n_samples=12)
    assert any(line.startswith("bells/bells.00000: ") and "from librosa" in line for line in verdict.problems)
    assert verdict.max_db == pytest.approx(10 * np.log10(1.001), rel=1e-2)


SCALES = [{}, {"power": 1.0}, {"scale": "db"}, {"scale": "db", "dtype": "float16"}, {"scale": "db", "power": 0.5}]


@pytest.mark.parametrize("fields", SCALES[1:])
def test_other_scales_are_compared_with_librosa_too(fields, music: Path, tmp_path: Path, plan_of) -> None:

    catalog, plan = plan_of(music, **fields)
    build(plan, catalog, tmp_path / "s.zarr", InProcess())
    verdict = verify(open_store(tmp_path / "s.zarr"), music, n_samples=12)
    assert verdict.problems == []
    assert verdict.max_db <= (0.04 if "dtype" in fields else 1e-3)


def test_distances_are_those_of_the_formula() -> None:
    spec = FeatureSpec()
    there = np.full((1, 5, 128), 2.0)
    here = there.copy()
    here[0, 0, 0] = 2.2
    relative, decibel = distances(here, there, spec)
    assert relative == pytest.approx(0.1)
    assert decibel == pytest.approx(10 * np.log10(1.1))


def spectra(power: float, loudest_db: float) -> np.ndarray:
    """Windows whose values reach from the loudest to 120 dB below it."""
    levels = loudest_db - np.random.default_rng(0).uniform(0, 120, (40, 5, 128))
    levels[:, 0, 0] = loudest_db
    return 10 ** (levels * power / 20)


def stored(values: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    return as_stored(values.astype(np.float32), spec).astype(np.float64)


@pytest.mark.parametrize("loudest_db", [-60.0, 0.0, 45.0])
@pytest.mark.parametrize("fields", SCALES)
def test_what_is_off_by_as_much_as_may_be_passes_and_by_more_does_not(fields, loudest_db: float) -> None:
    spec = FeatureSpec(**fields)
    there = spectra(spec.power, loudest_db)
    largest = there.max()
    off = np.random.default_rng(1).choice([-1, 1], there.shape) * largest
    relative, decibel = distances(stored(np.maximum(there + 0.9e-6 * off, 0), spec), there, spec)
    assert relative <= MAX_RELATIVE
    assert decibel <= MAX_DB[spec.dtype]
    relative, _ = distances(stored(there + 3e-6 * np.abs(off), spec), there, spec)
    assert relative > MAX_RELATIVE


@pytest.mark.parametrize("below", [1.0, 20.0, 40.0, 55.0])
@pytest.mark.parametrize("fields", SCALES[:4])
def test_a_value_that_is_missing_is_found_however_quiet_it_is(fields, below: float) -> None:
    spec = FeatureSpec(**fields)
    there = spectra(spec.power, 30.0)
    there[7, 3, 9] = there.max() * 10 ** (-below / 10)
    here = there.copy()
    here[7, 3, 9] = 0
    relative, decibel = distances(stored(here, spec), there, spec)
    assert relative > MAX_RELATIVE
    assert (decibel > MAX_DB[spec.dtype]) == (below < 24)


def test_librosas_windows_of_the_article_are_its_authors(shared: Path) -> None:
    reference = np.load(shared / "reference/hiphop.00053.npz")
    there = librosa_windows(shared / "reference/hiphop.00053.au", FeatureSpec(), 599)[reference["window"]]
    largest = reference["mel"].max(axis=(1, 2), keepdims=True)
    assert (np.abs(there - reference["mel"]) / largest).max() <= 1e-6


def test_a_store_that_is_replaced_meanwhile_is_not_called_damaged(own_store: Store, plan_of, own_music: Path) -> None:
    other = own_store.directory.path.with_name("other.zarr")
    (own_music / "bells/bells.00000.wav").unlink()
    catalog, plan = plan_of(own_music)
    build(plan, catalog, other, InProcess())

    def replaced(_: int) -> None:
        if other.exists():
            shutil.rmtree(own_store.directory.path)
            other.rename(own_store.directory.path)

    with pytest.raises(BuildError, match="was replaced or removed while it was read; run the same command again"):
        verify(own_store, feedback=Feedback(counting=lambda *_: nullcontext(replaced)))
    assert verify(open_store(own_store.directory)).problems == []


@pytest.mark.slow
def test_real_music_equals_librosa(shared: Path, tmp_path: Path) -> None:
    from melzarr.pipeline.builder.plan import make_plan
    from melzarr.pipeline.versions import versions

    root = tmp_path / "music"
    for path in sorted((shared / "music/clips").glob("*/*.00003.flac")):
        (root / path.parent.name).mkdir(parents=True)
        shutil.copy(path, root / path.parent.name)
    (root / "formats").mkdir()
    for path in sorted((shared / "music/formats").iterdir()):
        shutil.copy(path, root / "formats")
    # Pieces of one name in several formats need ids of their own: here, their whole file names.
    rows = [f"{p.relative_to(root)},{p.parent.name},{p.name}" for p in sorted(root.rglob("*")) if p.is_file()]
    (root / "tracks.csv").write_text("\n".join(["path,label,id", *rows]) + "\n")
    catalog = read_catalog(root / "tracks.csv")
    summary = build(make_plan(FeatureSpec(), catalog.tracks, versions()), catalog, tmp_path / "s.zarr", InProcess())
    assert summary.statuses == {"ok": 16, "silent": 1}
    verdict = verify(open_store(tmp_path / "s.zarr"), catalog.root, n_samples=17)
    assert verdict.problems == []
    assert verdict.n_sampled == 17
    assert verdict.max_relative <= 1e-6
    assert verdict.max_db <= 1e-3
