"""A plan divides tracks into shards, names what each depends on, and says what the work will cost."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melzarr.pipeline.builder.plan import (
    TRACKS_PER_SHARD,
    WORKER_BASE_BYTES,
    Plan,
    digest,
    estimate,
    make_plan,
)
from melzarr.pipeline.sources.tracks import Track, Tracks
from melzarr.pipeline.spec import FeatureSpec

VERSIONS = {"melzarr": "0.1.0+abc", "numpy": "2.4.0"}
DEFAULT = FeatureSpec()


def tracks(n: int) -> tuple[Track, ...]:
    return tuple(Track(f"jazz/{i:05d}", "jazz", f"jazz/{i:05d}.wav", f"jazz/{i:05d}", "train") for i in range(n))


def plan_of(n: int, spec: FeatureSpec = DEFAULT, tracks_per_shard: int | None = None) -> Plan:
    return make_plan(spec, tracks(n), VERSIONS, tracks_per_shard)


# Shards ---------------------------------------------------------------------------------------------------------------


@given(n=st.integers(0, 200), tracks_per_shard=st.integers(1, 40) | st.none())
def test_the_shards_are_the_tracks_in_order_each_once(n: int, tracks_per_shard: int | None) -> None:
    plan = plan_of(n, tracks_per_shard=tracks_per_shard)
    assert plan == dataclasses.replace(plan, tracks=Tracks.of(plan.tracks))
    shards = list(plan.shards())
    assert [track for shard in shards for track in shard.tracks] == list(plan.tracks)
    assert [shard.index for shard in shards] == list(range(plan.n_shards))
    assert all(plan.tracks[shard.start] == shard.tracks[0] for shard in shards)
    assert all(len(shard.tracks) == plan.tracks_per_shard for shard in shards[:-1])
    assert [plan.shard(shard.index) for shard in shards] == shards


def test_a_thousand_tracks_are_63_shards_of_16() -> None:
    plan = plan_of(1000)
    assert (plan.tracks_per_shard, plan.n_shards, len(plan.shard(62).tracks)) == (16, 63, 8)
    assert plan.shard_bytes == 16 * 599 * 5 * 128 * 4


@given(
    n_windows=st.integers(1, 200_000),
    n_mels=st.integers(1, 1024),
    hop_length=st.sampled_from([64, 512, 2205]),
)
def test_what_a_worker_needs_is_bounded_whatever_the_spec(n_windows: int, n_mels: int, hop_length: int) -> None:
    spec = FeatureSpec(n_windows=n_windows, n_mels=n_mels, hop_length=hop_length)
    plan = plan_of(1000, spec)
    assert 1 <= plan.tracks_per_shard <= TRACKS_PER_SHARD
    # A quarter of a gigabyte a shard, or the one track that is larger: then nothing smaller can be written at once.
    assert plan.shard_bytes <= max(256 * 2**20, spec.track_bytes)
    # A shard holds as many tracks as fit.
    assert plan.tracks_per_shard == 16 or (plan.tracks_per_shard + 1) * spec.track_bytes > 256 * 2**20
    # A file of 96 kHz and the samples that it becomes, each once more while they are converted, in single precision.
    samples = 4 * round(spec.seconds * 96_000) + 4 * spec.n_samples
    assert plan.worker_bytes == WORKER_BASE_BYTES + 2 * samples + 4 * plan.shard_bytes


def test_a_worker_of_the_default_spec_needs_about_half_a_gigabyte() -> None:
    assert plan_of(1000).worker_bytes == pytest.approx(0.5 * 2**30, rel=0.1)


def test_the_shards_do_not_depend_on_how_many_tracks_there_are() -> None:
    assert {plan_of(n).tracks_per_shard for n in (0, 1, 15, 1000, 10_000)} == {16}


# What a shard depends on ----------------------------------------------------------------------------------------------


def changed(plan: Plan, **fields: str) -> Plan:
    """Return the plan with another second track."""
    first, second, *rest = plan.tracks
    return dataclasses.replace(plan, tracks=(first, dataclasses.replace(second, **fields), *rest))


@pytest.mark.parametrize(
    "field",
    ["sample_rate", "window", "stride", "n_windows", "n_fft", "hop_length", "n_mels", "power", "pad_mode", "scale"],
)
def test_the_key_changes_with_every_field_of_the_spec(field: str) -> None:
    value = {"pad_mode": "edge", "scale": "db", "power": 1.0}.get(field, getattr(DEFAULT, field))
    other = dataclasses.replace(DEFAULT, **{field: value - 2 if isinstance(value, int) else value})
    plan = plan_of(3)
    assert plan.key(plan.shard(0)) != dataclasses.replace(plan, spec=other).key(plan.shard(0))


def test_the_key_changes_with_the_type_that_is_stored() -> None:
    keys = {digest_of_spec(FeatureSpec(scale="db", dtype=dtype)) for dtype in ("float32", "float16")}
    assert len(keys) == 2


@given(n=st.integers(1, 40), tracks_per_shard=st.integers(1, 20))
def test_the_key_is_the_digest_of_all_that_it_depends_on(n: int, tracks_per_shard: int) -> None:
    plan = plan_of(n, tracks_per_shard=tracks_per_shard)
    for shard in plan.shards():
        members = [[track.id, track.split == "train"] for track in shard.tracks]
        assert plan.key(shard) == digest([DEFAULT.to_dict(), VERSIONS, tracks_per_shard, members])


def digest_of_spec(spec: FeatureSpec) -> str:
    plan = plan_of(3, spec)
    return plan.key(plan.shard(0))


@pytest.mark.parametrize(
    "versions", [VERSIONS | {"numpy": "2.5.0"}, VERSIONS | {"soxr": "1"}, {"melzarr": "0.1.0+abc"}]
)
def test_the_key_changes_with_every_version(versions: dict[str, str]) -> None:
    plan = plan_of(3)
    assert plan.key(plan.shard(0)) != dataclasses.replace(plan, versions=versions).key(plan.shard(0))


@pytest.mark.parametrize("fields", [{"id": "other"}, {"split": "test"}])
def test_the_key_changes_with_the_tracks_and_with_what_is_trained_on(fields: dict[str, str]) -> None:
    plan = plan_of(20)
    other = changed(plan, **fields)
    assert plan.key(plan.shard(0)) != other.key(other.shard(0))


@pytest.mark.parametrize("other", [plan_of(15), plan_of(16, tracks_per_shard=20)], ids=["fewer tracks", "wider shards"])
def test_the_key_changes_with_the_shape_of_the_shard(other: Plan) -> None:
    plan = plan_of(16)
    assert plan.key(plan.shard(0)) != other.key(other.shard(0))


@pytest.mark.parametrize("fields", [{"label": "blues"}, {"group": "duke"}])
def test_the_key_does_not_change_with_what_no_shard_holds(fields: dict[str, str]) -> None:
    plan = plan_of(20)
    other = changed(plan, **fields)
    assert other.tracks != plan.tracks
    assert plan.key(plan.shard(0)) == other.key(other.shard(0))


def test_valid_and_test_are_the_same_to_a_shard() -> None:
    valid, test = (changed(plan_of(20), split=part) for part in ("valid", "test"))
    assert valid.key(valid.shard(0)) == test.key(test.shard(0))


def test_the_key_does_not_change_with_the_other_shards() -> None:
    plan, longer = plan_of(20), plan_of(40)
    assert plan.key(plan.shard(0)) == longer.key(longer.shard(0))
    assert plan.key(plan.shard(1)) != longer.key(longer.shard(1))


def test_a_digest_is_sha256_of_json_with_sorted_names() -> None:
    expected = hashlib.sha256(b'{"a":[1,true],"b":"\\u00e9"}').hexdigest()
    assert digest({"b": "é", "a": [1, True]}) == digest({"a": (1, True), "b": "é"}) == expected


# What it will cost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_tracks", "n_workers", "tracks_in_turn"),
    [
        (1000, 1, 1000),
        (1000, 2, 32 * 16),  # 63 shards: one worker has 32
        (1000, 63, 16),
        (1000, 500, 16),  # no more than one shard a worker
        (7, 4, 7),
        (40, 2, 32),
        (40, 0, 40),  # in this process
    ],
)
def test_the_time_is_that_of_the_busiest_worker(n_tracks: int, n_workers: int, tracks_in_turn: int) -> None:
    assert estimate(plan_of(n_tracks), 0.125, 1, n_workers).seconds == tracks_in_turn * 0.125


def test_the_size_is_that_of_the_compressed_tracks() -> None:
    cost = estimate(plan_of(1000), 0.1, 1_400_000.4, 2)
    assert cost.store_bytes == 1_400_000_400
    assert (cost.worker_bytes, cost.n_workers) == (plan_of(1000).worker_bytes, 2)
