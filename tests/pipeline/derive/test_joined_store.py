"""Several stores read as one: what a merger of them would hold, without a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import melzarr
from melzarr.pipeline.derive.derive_store import derive
from melzarr.pipeline.derive.joined_store import JoinedStore
from melzarr.pipeline.derive.merge import merge
from melzarr.pipeline.derive.track_selection import TrackSelection
from melzarr.pipeline.errors import CallError, CatalogError, SpecError
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.zarr_store.layout import COORDINATES
from melzarr.pipeline.zarr_store.reader import Store, open_store


@pytest.fixture(scope="module")
def thirds(finished: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """Three stores of the music's tracks, of which the first two have whole shards."""
    folder = tmp_path_factory.mktemp("thirds")
    for number, tracks in enumerate((range(5), range(5, 10), range(10, 12))):
        derive([TrackSelection(finished, np.array(tracks))], folder / f"{number}.zarr", finished.attributes)
    return [open_store(folder / f"{number}.zarr") for number in range(3)]


def test_it_has_the_tracks_columns_and_statistics_of_a_merger(thirds: list[Store], tmp_path: Path) -> None:
    merge([store.directory for store in thirds], tmp_path / "merged.zarr")
    joined, merged = JoinedStore(tuple(thirds)), open_store(tmp_path / "merged.zarr")
    assert (joined.n_tracks, joined.spec, joined.io_threads) == (12, merged.spec, merged.io_threads)
    for name in COORDINATES:
        np.testing.assert_array_equal(joined.values(name), merged.values(name), err_msg=name)
        assert joined.column(name).dtype == merged.column(name).dtype
    read, windows = joined.reader(), np.empty((12, *joined.spec.shape), np.float32)
    for number in reversed(range(12)):
        read(number, windows[number])
    np.testing.assert_array_equal(windows, merged.mel[:])
    assert {**joined.attributes, "uuid": ""} == {**merged.attributes, "uuid": ""}


def test_its_statistics_are_those_of_numpy_over_all_train_tracks(thirds: list[Store]) -> None:
    joined = JoinedStore((thirds[2], thirds[0]))
    chosen = (joined.values("split") == "train") & (joined.values("status") == "ok")
    power = np.concatenate([thirds[2].mel[:], thirds[0].mel[:]])[chosen]
    levels = 10 * np.log10(np.maximum(power[np.isfinite(power)], 1e-10).reshape(-1, joined.spec.n_mels))
    # The store sums levels of float32 precision, 1e-4 dB.
    np.testing.assert_allclose(joined.values("mean_db"), levels.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(joined.values("std_db"), levels.std(axis=0), atol=1e-3)


def test_a_track_is_named_by_its_own_store(thirds: list[Store]) -> None:
    joined = JoinedStore(tuple(thirds))
    assert [joined.locate(number) for number in (0, 4, 5, 11)] == [
        (thirds[0].address, 0),
        (thirds[0].address, 4),
        (thirds[1].address, 0),
        (thirds[2].address, 1),
    ]
    assert joined.address == " + ".join(store.address for store in thirds)


def test_its_uuid_is_that_of_the_stores_in_their_order(thirds: list[Store]) -> None:
    first, again, other = (JoinedStore(tuple(thirds[place] for place in order)) for order in ((0, 1), (0, 1), (1, 0)))
    assert first.attributes["uuid"] == again.attributes["uuid"]
    assert len({first.attributes["uuid"], other.attributes["uuid"], *(s.attributes["uuid"] for s in thirds)}) == 5


def test_stores_that_do_not_fit_together_are_refused(thirds: list[Store], tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"is the id of a track in .*0\.zarr and of one in .*0\.zarr"):
        JoinedStore((thirds[0], thirds[0]))
    spec = FeatureSpec.from_dict({**thirds[1].spec.to_dict(), "scale": "db"})
    derive([TrackSelection.whole(thirds[1])], tmp_path / "db.zarr", thirds[1].attributes, spec=spec)
    with pytest.raises(SpecError, match=r"0\.zarr and .*db\.zarr differ in scale=power and db"):
        JoinedStore((thirds[0], open_store(tmp_path / "db.zarr")))
    with pytest.raises(CallError, match="no tracks are selected"):
        JoinedStore(())


def test_it_opens_as_one_dataset_of_dask_arrays(thirds: list[Store], finished: Store) -> None:
    joined = melzarr.open([thirds[0].address, Path(thirds[1].address), melzarr.open(thirds[2].address)])
    assert melzarr.open(joined) is joined
    assert repr(joined) == f"<melzarr.JoinedStores {joined.address}: mel 12 × 60 × 5 × 128 float32, power>"
    assert [store.address for store in joined.stores] == [store.address for store in thirds]
    dataset, whole = joined.to_xarray(), melzarr.open(finished.address).to_xarray()
    assert dataset["mel"].chunks is not None
    assert {name: dataset[name].dims for name in dataset.coords} == {name: whole[name].dims for name in whole.coords}
    for name in ("mel", *whole.coords):
        xr.testing.assert_equal(dataset[name].load().variable, whole[name].load().variable)
        assert dataset[name].attrs == whole[name].attrs
    assert joined.tracks.equals(melzarr.open(finished.address).tracks)
    assert dataset.attrs == joined.attributes
