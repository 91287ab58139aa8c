"""What is found in a store: held against plain numpy, and against faults that were planted."""

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import zarr
from faulty_store import HOSTILE, RATE, Song, encoded, make_store, song
from hypothesis import given, settings
from hypothesis import strategies as st

from melzarr.pipeline.features.decibels import as_stored, mean_levels, stored_levels
from melzarr.pipeline.features.mel import mel_windows
from melzarr.pipeline.inspection.duplicate_candidates import (
    NEAREST,
    SOUGHT,
    apart_db,
    candidates,
    fingerprint,
    heard_levels,
)
from melzarr.pipeline.inspection.named_tracks import LISTED
from melzarr.pipeline.inspection.quality import (
    CLIPPED_SHARE,
    MAX_LABELS,
    QUIET_DB,
    QualityReport,
    find,
)
from melzarr.pipeline.inspection.time_alignment import SAME, STEADY_DB, Outline, _best_shift, alike, envelope, outline
from melzarr.pipeline.sources.split import SPLITS
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.reader import Store, open_store
from melzarr.pipeline.zarr_store.shard import shard_name


@pytest.fixture(scope="module")
def found(faulty: Store):
    return find(faulty)


def levels_of(store: Store, number: int) -> np.ndarray:
    """Levels of a track's valid windows in dB, shape (n, n_mels), in double precision."""
    mel = np.asarray(store.mel[number], np.float64)
    mel = mel[np.isfinite(mel).all(axis=(1, 2))]
    return 10 * np.log10(np.maximum(mel, 1e-10)).reshape(-1, mel.shape[-1])


# Figures --------------------------------------------------------------------------------------------------------------


def test_mean_spectra_are_those_of_numpy(faulty: Store, found) -> None:
    label, status = faulty.values("label"), faulty.values("status")
    heard = (status == "ok") | (status == "short")
    for name, mean in zip(found.labels, found.mean_db, strict=True):
        everything = np.concatenate([levels_of(faulty, n) for n in np.flatnonzero(heard & (label == name))])
        np.testing.assert_allclose(mean, everything.mean(axis=0), atol=1e-3)
    everything = np.concatenate([levels_of(faulty, n) for n in np.flatnonzero(heard)])
    np.testing.assert_allclose(found.all_db, everything.mean(axis=0), atol=1e-3)


def test_counts_are_those_of_counting(faulty: Store, found) -> None:
    columns = (faulty.values(name).tolist() for name in ("label", "split", "status"))
    counted = Counter(zip(*columns, strict=True))
    for place, label in enumerate(found.labels):
        for i, split in enumerate(found.splits):
            for j, status in enumerate(found.statuses):
                assert found.counts[place, i, j] == counted[label, split, status]
    assert found.counts.sum() == found.totals.sum() == faulty.n_tracks
    assert found.splits == ("train", "valid", "test", "unused")
    assert set(found.statuses) == {"ok", "short", "silent", "failed"}


def test_labels_that_lack_a_split_are_named(found) -> None:
    assert dict(found.lacking.rows) == {"drums": ("test",), HOSTILE: ("valid",)}


def test_tracks_that_are_not_ok_are_named_with_their_reasons(found) -> None:
    assert {row.track: row.status for row in found.troubled.rows} == {
        "track-011": "failed", "track-012": "short", "track-013": "silent",
    }  # fmt: skip
    assert "finds no audio" in found.troubled.rows[0].error


def test_near_silent_and_clipped_tracks_are_named_with_their_figures(faulty: Store, found) -> None:
    (quiet,), (clipped,) = found.quiet.rows, found.clipped.rows
    assert quiet.track == "track-014"
    assert quiet.value == pytest.approx(20 * np.log10(0.004), abs=0.1)
    assert clipped.track == "track-015"
    assert clipped.value == faulty.values("clipped")[15] > CLIPPED_SHARE
    assert quiet.value < QUIET_DB


def test_faults_are_short_sentences(found) -> None:
    assert found.faults() == [
        "1 track failed",
        "1 track is short",
        "1 track is silent",
        "1 track is near-silent",
        "1 track is clipped",
        "2 labels lack a split that others have",
        "3 pairs of tracks are the same recording: 2 in different splits",
    ]


def test_a_sound_store_has_no_faults(tmp_path: Path) -> None:
    songs = [Song(style, split, song(style, n)) for style in ("bells", "wind")
             for n, split in enumerate(("train", "valid", "test"))]  # fmt: skip
    assert find(make_store(tmp_path, songs)).faults() == []


def test_progress_counts_every_track_once(faulty: Store) -> None:
    seen = []
    find(faulty, seen.append)
    assert sum(seen) == faulty.n_tracks


def test_findings_do_not_depend_on_the_number_of_threads(faulty: Store, found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    again = find(faulty)
    assert repr(again.pairs) == repr(found.pairs)  # NaN is not equal to itself
    np.testing.assert_array_equal(again.mean_db, found.mean_db)
    np.testing.assert_array_equal(again.all_db, found.all_db)


def test_the_search_for_copies_tells_its_progress_too(faulty: Store, found) -> None:
    steps: dict[str, list[int]] = {}

    def step(name: str, n_tracks: int) -> Callable[[int], object]:
        steps[name] = [n_tracks]
        return steps[name].append

    find(faulty, step=step)
    assert set(steps) == {"search copies", "compare copies"}
    assert steps["search copies"][0] >= found.n_compared > 0
    for n_tracks, *told in steps.values():
        assert 0 < sum(told) <= n_tracks
    assert sum(steps["compare copies"][1:]) == steps["compare copies"][0]


def test_examples_are_of_ok_tracks_and_their_levels_those_of_the_store(faulty: Store, found) -> None:
    names = faulty.values("track").tolist()
    assert {example.label for example in found.examples} == set(found.labels)
    for example in found.examples:
        number = names.index(example.track)
        assert faulty.values("status")[number] == "ok"
        mel = np.asarray(faulty.mel[number], np.float64)
        expected = 10 * np.log10(np.maximum(mel, 1e-10)).mean(axis=1).T
        np.testing.assert_allclose(example.levels, expected, atol=1e-3)
        assert example.seconds == pytest.approx(60 * 882 / RATE)


# Duplicates -----------------------------------------------------------------------------------------------------------


def pairs_of(found: QualityReport) -> list[tuple[str, str]]:
    return [(pair.first.track, pair.second.track) for pair in found.pairs.rows]


def test_copies_are_found_and_nothing_else(found) -> None:
    """Of one song that is there three times: 8, 9 and 1, of which 8 alone is in another split."""
    assert pairs_of(found) == [("track-008", "track-001"), ("track-009", "track-008"), ("track-009", "track-001")]
    assert found.n_across == 2
    assert all(SAME <= pair.likeness < 1 for pair in found.pairs.rows)
    assert all(pair.later == 0 for pair in found.pairs.rows)
    assert found.n_compared == 15  # all but the failed, the silent, the short and the one that is in no split
    assert found.n_too_short == 1


def test_files_of_the_same_bytes_are_said_whatever_their_splits_and_labels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE)
    beep = song("chiptune", 0, 0.3)  # too short to be compared by sound
    songs = [
        Song("a", "train", noise), Song("b", "train", noise), Song("a", "test", noise),
        Song("a", "train", beep), Song("a", "train", beep), Song("a", "unused", beep), Song("a", "valid", beep[:-1]),
    ]  # fmt: skip
    found = find(make_store(tmp_path, songs))
    assert pairs_of(found) == [
        ("track-002", "track-000"), ("track-001", "track-000"), ("track-004", "track-003")
    ]  # fmt: skip
    assert all(np.isinf(pair.likeness) for pair in found.pairs.rows)
    assert (found.n_across, found.n_relabelled) == (1, 1)
    assert found.faults()[-1] == (
        "3 pairs of tracks are the same recording: 1 in different splits, 1 under different labels"
    )


def test_noise_is_like_itself_alone(tmp_path: Path) -> None:
    """By their mean levels all white noises are within 0.2 dB of each other."""
    noises = [np.random.default_rng(number).normal(0, 0.1, 3 * RATE) for number in range(6)]
    copy = encoded(0.5 * noises[0], format="OGG", subtype="VORBIS")
    songs = [*(Song("noise", "train", noise) for noise in noises), Song("other", "train", copy)]
    found = find(make_store(tmp_path, songs))
    assert pairs_of(found) == [("track-006", "track-000")]
    assert found.n_relabelled == 1


def test_what_has_one_rhythm_or_one_fade_in_common_is_not_the_same(tmp_path: Path) -> None:
    """Noises that are clapped, faded or cut off alike: their loudness is the same over time, their spectra are not."""
    time = np.arange(4 * RATE) / RATE
    rng = np.random.default_rng(0)
    shapes = (np.exp(-8 * (time % 0.5)), np.minimum(time, 4 - time) / 2, 1.0 * (time % 1 < 0.5), 1.0 * (time > 1))
    songs = [Song("noise", split, 0.1 * shape * rng.normal(size=time.size)) for shape in shapes for split in SPLITS]
    assert find(make_store(tmp_path, songs, n_windows=95)).pairs.n == 0


def test_what_is_no_digest_says_nothing(faulty: Store, found, tmp_path: Path) -> None:
    path = damaged(faulty, tmp_path)
    zarr.open_group(path, mode="r+", use_consolidated=False)["source_blake3"][...] = "unknown"
    assert pairs_of(find(open_store(path))) == pairs_of(found)


def test_how_many_could_not_be_compared_is_said(faulty: Store, found, tmp_path: Path, monkeypatch) -> None:
    short = find(
        make_store(tmp_path, [Song("a", split, song("bells", 1)) for split in ("train", "test")], n_windows=49)
    )
    assert (short.n_compared, short.n_too_short, short.pairs.n) == (0, 2, 1)  # by their digests
    monkeypatch.setattr("melzarr.pipeline.inspection.track_statistics.KEPT", 0)
    monkeypatch.setattr("melzarr.pipeline.inspection.near_duplicates.MAX_READ", 2)
    few = find(faulty)
    assert (found.n_left, few.pairs.n) == (0, 1)
    assert few.n_left > 0


def test_tracks_that_begin_elsewhere_in_a_recording_are_found_with_their_shift(tmp_path: Path) -> None:
    long, seconds = song("wind", 3, 16.0), 3.1
    later = encoded(long[round(seconds * RATE) :], format="MP3", subtype="MPEG_LAYER_III")
    songs = [
        Song("wind", "train", long),
        Song("wind", "test", later),
        Song("wind", "test", song("wind", 4, 16.0)),
    ]
    found = find(make_store(tmp_path, songs, n_windows=270))
    (pair,) = found.pairs.rows
    assert (pair.first.track, pair.second.track) == ("track-001", "track-000")
    assert pair.later == pytest.approx(-seconds, abs=0.05)


def test_what_the_reader_keeps_no_longer_is_read_again(faulty: Store, found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melzarr.pipeline.inspection.track_statistics.KEPT", 10_000)  # of two tracks
    monkeypatch.setattr("melzarr.pipeline.inspection.near_duplicates.HELD", 0)
    again = find(faulty).pairs.rows
    assert [(pair.likeness, pair.later) for pair in again] == [(pair.likeness, pair.later) for pair in found.pairs.rows]


def test_alike_is_what_brute_force_finds() -> None:
    rng = np.random.default_rng(4)
    smooth = np.cumsum(rng.normal(size=(500, 8)), axis=0)
    one, other = (envelope(heard_levels(smooth[some].astype(np.float32), 0.0)).astype(np.float64)
                  for some in (slice(0, 300), slice(120, 420)))  # fmt: skip
    likeness, shift = alike(outline(one.astype(np.float16), 300), outline(other.astype(np.float16), 300))
    by_shift = {}
    for lag in range(-100, 101):
        x, y = one[max(lag, 0) : 300 + min(lag, 0)], other[max(-lag, 0) : 300 - max(lag, 0)]
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        by_shift[lag] = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert shift == max(by_shift, key=by_shift.__getitem__)
    one, other = one + 3, 0.5 * other  # at another level and range it is the same
    assert alike(outline(one.astype(np.float16), 300), outline(other.astype(np.float16), 300))[0] == pytest.approx(
        likeness, abs=0.01
    )


@pytest.mark.parametrize("n", [70, 120, 200, 300])
def test_the_shift_of_tracks_of_any_length_is_that_of_brute_force(n: int) -> None:
    rng = np.random.default_rng(n)
    smooth = np.cumsum(rng.normal(size=(500, 8)), axis=0).astype(np.float16)
    tracks, least = (smooth[:200], smooth[60 : 60 + n] + rng.normal(size=(n, 8)).astype(np.float16)), 60
    for one, other in (tracks, tracks[::-1]):
        by_shift = {}
        for lag in range(least - len(other), len(one) - least + 1):
            start, stop = max(lag, 0), min(lag + len(other), len(one))
            x, y = one[start:stop].astype(np.float64), other[start - lag : stop - lag].astype(np.float64)
            x, y = x - x.mean(axis=0), y - y.mean(axis=0)
            steady = x.size * STEADY_DB**2
            by_shift[lag] = (x * y).sum() / np.sqrt(((x * x).sum() + steady) * ((y * y).sum() + steady))
        shift, correlation = _best_shift(outline(one, 300), outline(other, 300), least)
        assert shift == max(by_shift, key=by_shift.__getitem__)
        assert correlation == pytest.approx(by_shift[shift], abs=1e-4)  # single precision, over hundreds of windows


@pytest.mark.parametrize("scale", [{}, {"power": 1.0}, {"scale": "db"}, {"scale": "db", "dtype": "float16"}])
def test_mean_levels_are_those_of_numpy(scale: dict[str, Any]) -> None:
    spec, rng = FeatureSpec(n_windows=2500, n_mels=8, **scale), np.random.default_rng(0)
    mel = 10 ** rng.uniform(-16, 9, (2500, spec.n_frames, 8)).astype(np.float32)
    mel[5] = 0
    stored = as_stored(mel, spec)
    levels, loudness = mean_levels(stored, spec)
    exact = stored_levels(stored.astype(np.float64), spec)
    np.testing.assert_allclose(levels, exact.mean(axis=1), rtol=0, atol=2e-4)
    assert loudness == pytest.approx(10 * np.log10((10 ** (exact / 10)).mean()), abs=1e-3)
    for wrong in (np.nan, np.inf):
        stored[1234, 1, 3] = wrong
        assert np.isnan(mean_levels(stored, spec)[1])


def test_a_fingerprint_is_that_of_numpy_and_does_not_know_how_loud(faulty: Store) -> None:
    levels = levels_of(faulty, 0)
    loudness = 10 * np.log10((10 ** (levels / 10)).mean())
    means = levels.reshape(-1, faulty.spec.n_frames, faulty.spec.n_mels).mean(axis=1).astype(np.float32)
    heard = np.maximum(means - loudness, -30)
    found = fingerprint(heard_levels(means, loudness))
    np.testing.assert_allclose(found, [*heard.mean(axis=0), *heard.std(axis=0)], atol=2e-3)
    np.testing.assert_allclose(fingerprint(heard_levels(means - 20, loudness - 20)), found, atol=2e-3)


@pytest.mark.parametrize("n_mels", [128, 256, 300])
def test_a_fingerprint_of_many_bands_is_bounded(n_mels: int) -> None:
    heard = np.random.default_rng(0).normal(size=(50, n_mels)).astype(np.float32)
    print_ = fingerprint(heard)
    assert print_.shape == (256,)
    starts = np.linspace(0, n_mels, 128, endpoint=False).astype(int)
    means = [some.mean() for some in np.split(heard.mean(axis=0), starts[1:])]
    np.testing.assert_allclose(print_[:128], means, atol=1e-5)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, SOUGHT + 1), st.integers(1, 8))
def test_candidates_are_those_of_comparing_all_with_all(seed: int, n: int, n_mels: int) -> None:
    rng = np.random.default_rng(seed)
    prints = rng.choice(rng.normal(0, 1.0, 7), (n, 2 * n_mels)).astype(np.float16)  # few values: many ties and repeats
    prints[rng.random(n) < 0.1] = np.nan
    parts = rng.integers(-1, 3, n)
    usable = [t for t in range(n) if parts[t] >= 0 and np.isfinite(prints[t]).all()]
    first = {t: next(u for u in usable if (prints[u] == prints[t]).all()) for t in usable}
    expected = {(first[t], t) for t in usable if first[t] != t}
    for here in usable:
        for part in range(3):
            there = [t for t in usable if parts[t] == part and t != here and first[t] == t and first[here] == here]
            apart = {t: float(apart_db(prints[here], prints[t])) for t in there}
            near = sorted((t for t in there if apart[t] <= 0.9), key=lambda t: (apart[t], t))
            if len(near) > NEAREST and apart[near[NEAREST - 1]] == apart[near[NEAREST]]:
                return  # which of equals are taken does not matter
            expected |= {tuple(sorted((here, t))) for t in near[:NEAREST]}
    pairs = candidates(prints, parts, within=0.9)
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    assert len(pairs) == len(expected)
    apart = apart_db(prints[pairs[:, 0]], prints[pairs[:, 1]])
    assert (np.diff(apart) >= 0).all()


@pytest.mark.timeout(60)
def test_many_copies_of_one_track_take_no_longer_than_others() -> None:
    """All against all would be ten billion comparisons, and half an hour."""
    prints = np.zeros((200_000, 16), np.float16)
    pairs = candidates(prints, np.arange(200_000) % 2)
    assert pairs.tolist() == [[0, number] for number in range(1, 200_000)]


@pytest.mark.slow
def test_real_music_is_found_again_and_different_songs_are_not(shared: Path) -> None:
    """Twenty of the clips; the threshold was measured with all, see `melzarr.pipeline.inspection.time_alignment`."""
    spec, folder = FeatureSpec(), shared / "music"
    with (folder / "tracks.csv").open(newline="", encoding="utf-8") as file:
        rows = list({row["source_track"]: row for row in csv.DictReader(file)}.values())[::4][:20]

    def again(samples: np.ndarray, rate: int, **how: object) -> np.ndarray:
        data = io.BytesIO()
        soundfile.write(data, soxr.resample(samples, RATE, rate), rate, **how)
        data.seek(0)
        return soxr.resample(soundfile.read(data)[0], rate, RATE)

    def heard(samples: np.ndarray) -> tuple[np.ndarray, Outline]:
        mel = mel_windows(samples.astype(np.float32), spec)
        heard = heard_levels(*mean_levels(mel[np.isfinite(mel).all(axis=(1, 2))], spec))
        return fingerprint(heard), outline(envelope(heard), 599)

    songs = [soundfile.read(folder / row["path"])[0] for row in rows]
    mp3 = {"format": "MP3", "subtype": "MPEG_LAYER_III"}
    ways = {
        "MP3": lambda x: again(x, 44100, **mp3),
        "Vorbis": lambda x: again(x, 44100, format="OGG", subtype="VORBIS"),
        "Opus": lambda x: again(x, 48000, format="OGG", subtype="OPUS"),
        "5 s later": lambda x: x[round(5.013 * RATE) :],
        "2 s later as MP3": lambda x: again(x[2 * RATE :], 44100, **mp3),
        "the first half": lambda x: x[: 15 * RATE],
        "softer": lambda x: 0.1 * x,
    }
    originals = [heard(samples) for samples in songs]
    for way, change in ways.items():
        both = originals + [heard(change(samples)) for samples in songs]
        prints = np.stack([print_ for print_, _ in both]).astype(np.float16)
        found = {(a, b) for a, b in candidates(prints, np.repeat([0, 1], 20)).tolist()
                 if alike(both[a][1], both[b][1])[0] >= SAME}  # fmt: skip
        assert found == {(number, 20 + number) for number in range(20)}, way


# Stores at the edge ---------------------------------------------------------------------------------------------------


def test_a_store_without_an_ok_track_is_described(tmp_path: Path) -> None:
    found = find(make_store(tmp_path, [Song("a", "train", None), Song("b", "test", np.zeros(4 * RATE))]))
    assert found.examples == ()
    assert np.isnan(found.mean_db).all()
    assert np.isnan(found.all_db).all()
    assert found.lacking.n == 0  # no split has an ok track, so none is lacked
    assert found.n_compared == 0
    assert found.faults() == ["1 track failed", "1 track is silent"]


def test_a_single_track_is_described(tmp_path: Path) -> None:
    found = find(make_store(tmp_path, [Song("a", "train", song("bells", 0))]))
    assert found.faults() == []
    assert found.lengths.edges.size == 2


@pytest.mark.parametrize("spec", [{"scale": "db", "dtype": "float16"}, {"power": 1.0}, {"n_mels": 20, "n_windows": 3}])
def test_every_spec_is_understood(tmp_path: Path, spec: dict[str, object]) -> None:
    bell = song("bells", 1)
    songs = [Song("bells", "train", bell), Song("bells", "test", 0.5 * bell), Song("bells", "test", song("bells", 2))]
    found = find(make_store(tmp_path, songs, **spec))
    assert pairs_of(found) == ([] if spec.get("n_windows") == 3 else [("track-001", "track-000")])
    assert np.isfinite(found.mean_db).all()


def test_many_labels_are_bounded_and_all_are_counted(tmp_path: Path) -> None:
    samples = song("bells", 0, 0.2)
    found = find(make_store(tmp_path, [Song(f"label-{n}", "train", samples) for n in range(MAX_LABELS + 20)]))
    assert found.n_labels == MAX_LABELS + 20
    assert len(found.labels) == len(found.counts) == len(found.mean_db) == MAX_LABELS
    assert found.totals.sum() == MAX_LABELS + 20
    assert len(found.troubled.rows) == LISTED
    assert found.troubled.n_more == MAX_LABELS + 20 - LISTED


def damaged(store: Store, folder: Path) -> Path:
    return Path(shutil.copytree(store.directory.path, folder / "damaged.zarr"))


def test_a_damaged_track_is_named_and_the_rest_is_found(faulty: Store, tmp_path: Path) -> None:
    path = damaged(faulty, tmp_path)
    shard = path / shard_name(0)
    data = bytearray(shard.read_bytes())
    data[10] ^= 1  # in the first chunk of the shard
    shard.write_bytes(data)
    (path / shard_name(4)).unlink()
    found = find(open_store(path))
    assert [row.track for row in found.unreadable.rows] == ["track-000", "track-016", "track-017", "track-018"]
    assert "checksum" in found.unreadable.rows[0].error
    assert "missing" in found.unreadable.rows[1].error
    assert "4 tracks cannot be read" in found.faults()
    assert found.pairs.n == 3


def test_a_store_of_others_whose_columns_are_no_numbers_does_no_harm(faulty: Store, tmp_path: Path) -> None:
    path = damaged(faulty, tmp_path)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name in ("duration", "peak", "clipped", "mean_db", "std_db", "source_rate"):
            group[name][...] = np.nan
    group["n_windows"][...] = -5
    group["split"][...] = "nowhere"
    found = find(open_store(path))
    assert found.lengths.n_unknown == faulty.n_tracks
    assert found.quiet.n == found.clipped.n == found.pairs.n == found.lacking.n == 0
    assert found.splits == ("other",)
    assert np.isnan(found.all_db).all()
