"""A scan, and a comparison with a finished store: what they say, and that tracks beyond counting take no memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from melzarr.pipeline.builder import up_to_date as room
from melzarr.pipeline.builder.plan import Plan, make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.inspection.scan import NAMED, TRIALS, scan
from melzarr.pipeline.sources import tracks as tracks_room
from melzarr.pipeline.sources.catalog import Catalog
from melzarr.pipeline.sources.tracks import FIELDS, TEXT, Track, Tracks, matches
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.reader import Store
from melzarr.pipeline.zarr_store.shard import index_bytes, shard_name

if TYPE_CHECKING:
    from tests.conftest import Planner

N = 10_000
BYTES = 500  # of a track that is looked at; as objects it took 2000


@pytest.fixture(scope="module")
def many() -> tuple[Catalog, Plan]:
    """Ten thousand tracks, of none of which there is a file."""
    names = (f"label-{n % 7}/a-name-of-some-length-{n:07d}" for n in range(N))
    tracks = Tracks.of((Track(name, name[:7], f"{name}.flac", name, "train") for name in names), by="id")
    return Catalog(LocalDirectory(Path("/nowhere")), tracks), make_plan(FeatureSpec(), tracks, versions())


def peak_of(function: Callable[[], object]) -> int:
    """Bytes that a function holds at most: the least of two times, for other threads of the process allocate too."""
    function()  # what is imported and kept at first use is not counted
    peaks = []
    for _ in range(2):
        tracemalloc.start()
        function()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)


def test_a_scan_holds_no_objects_for_its_tracks_and_names_the_first_problems(
    many: tuple[Catalog, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks_room, "BLOCK", 256)  # of which there are always some as objects
    found: list[Any] = []
    assert peak_of(lambda: found.append(scan(*many, n_workers=1))) < BYTES * N
    assert (found[0].n_problems, len(found[0].problems)) == (N, NAMED)
    assert found[0].cost is None


@pytest.mark.parametrize("spec", [{}, {"scale": "db", "dtype": "float16"}])
def test_the_size_of_a_store_is_estimated_from_tracks_as_they_are_encoded(
    own_music: Path, tmp_path: Path, plan_of: Planner, spec: dict[str, str]
) -> None:
    for path in sorted(own_music.glob("*/*"))[TRIALS:]:
        path.unlink()
    catalog, plan = plan_of(own_music, **spec)
    cost = scan(catalog, plan, n_workers=1).cost
    build(plan, catalog, tmp_path / "made.zarr", InProcess())
    shard = tmp_path / "made.zarr" / shard_name(0)
    assert cost is not None
    assert cost.store_bytes == shard.stat().st_size - index_bytes(plan.tracks_per_shard)


def test_a_comparison_holds_no_objects_for_its_tracks(
    many: tuple[Catalog, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks_room, "BLOCK", 256)
    monkeypatch.setattr(room, "CHUNK_VALUES", 256)
    catalog, _ = many
    tracks = Tracks.of(catalog.tracks)
    columns = {name: tracks.column(name) for name in FIELDS} | {"track": tracks.column("id")}
    columns["source_blake3"] = np.full(N, "5a" * 32, TEXT)
    read = {"text": columns.__getitem__, **dict.fromkeys(("column", "field"), lambda name, some: columns[name][some])}
    store = cast("Store", SimpleNamespace(**read))
    found: list[list[str]] = []
    assert peak_of(lambda: found.append(room._track_changes(store, catalog, lambda _: None))) < BYTES * N
    first = sorted(track.id for track in catalog.tracks[:3])
    assert found[0] == [f"tracks whose files have changed: {', '.join(first)} and {N - 3} more"]


def test_matches_are_those_of_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.array([f"é-{n}" for n in rng.permutation(500)[:300]], TEXT) for _ in range(2))
    here, there = matches(first, second)
    places = {name: number for number, name in enumerate(first.tolist())}
    expected = {(places[name], number) for number, name in enumerate(second.tolist()) if name in places}
    assert set(zip(here.tolist(), there.tolist(), strict=True)) == expected
    assert len(expected) > 100
