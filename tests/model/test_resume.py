"""A training is a function of store, recipe and seed, however often it is stopped on the way."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="the training extra is not installed")

from melzarr.model import run_directory as run_room
from melzarr.model import train as room
from melzarr.model import train_summary
from melzarr.model.evaluation_protocol import make_protocol
from melzarr.model.run_directory import Run
from melzarr.model.train import train
from melzarr.model.training_recipe import TrainRecipe
from melzarr.pipeline.builder.feedback import Feedback
from melzarr.pipeline.errors import RunError
from melzarr.pipeline.zarr_store.reader import Store

SEED = 3  # that of the run `trained`


class Stopped(BaseException):
    """What a test stops a training by."""


def same_weights(one: Run, other: Run) -> bool:
    pairs = zip(one.model().get_weights(), other.model().get_weights(), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def timeless(run: Run) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.history()]


def stop() -> None:
    raise Stopped


# The same and another -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_bit_for_bit_whatever_the_memory(
    tiny: Store, quick: TrainRecipe, trained: Run, tmp_path: Path
) -> None:
    again = Run(tmp_path / "again")
    found = train(tiny, quick, make_protocol(tiny, "track"), again, seed=SEED, memory=1)
    assert same_weights(again, trained)
    assert timeless(again) == timeless(trained)
    assert found == again.metrics == trained.metrics


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_another_seed_gives_other_weights(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    one, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    recipe = replace(quick, epochs=1)
    for run, seed in ((one, 1), (other, 2)):
        train(tiny, recipe, make_protocol(tiny, "track"), run, seed=seed)
    assert not same_weights(one, other)
    assert timeless(one) != timeless(other)


# Stopped and run again ------------------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(
    tiny: Store,
    quick: TrainRecipe,
    light,  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """A run of the light network that nothing disturbed, the same for all tests."""
    run = Run(tmp_path_factory.getbasetemp() / "undisturbed")
    train(tiny, quick, make_protocol(tiny, "track"), run, seed=SEED)
    return run


PLACES: dict[str, tuple[Any, str, int]] = {
    "in the middle of an epoch": (room._Batches, "on_train_batch_end", 8),
    "before the model is saved": (run_room, "save_model", 2),
    "before figures are written": (run_room, "write_whole", 3),
    "before TensorBoard is told": (run_room, "write_event", 2),
}


@pytest.mark.parametrize(
    "place", [name if n < 2 else pytest.param(name, marks=pytest.mark.slow) for n, name in enumerate(PLACES)]
)
def test_wherever_a_training_is_stopped_it_goes_on_to_the_same_weights(
    tiny: Store, quick: TrainRecipe, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run, protocol = Run(tmp_path / "run"), make_protocol(tiny, "track")
    owner, name, call = PLACES[place]
    calls, original = iter(range(1, 1000)), getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *a, **k: stop() if next(calls) == call else original(*a, **k))
        with pytest.raises(Stopped):
            train(tiny, quick, protocol, run, seed=SEED)
    assert not run.is_finished
    train(tiny, quick, protocol, run, seed=SEED)
    assert same_weights(run, undisturbed)
    assert timeless(run) == timeless(undisturbed)
    assert run.metrics == undisturbed.metrics
    assert sorted(path.name for path in run.path.rglob("*")) == sorted(p.name for p in undisturbed.path.rglob("*"))


STOPS_OF_SUMMARY: dict[str, tuple[Any, str]] = {
    "while networks of summaries are trained": (train_summary, "mean_of_members"),
    "before the joined model is saved": (Run, "keep_model"),
    "after the joined model is saved": (Run, "keep_answers"),
    "before figures are written": (Run, "finish"),
}


@pytest.mark.parametrize("place", STOPS_OF_SUMMARY)
def test_wherever_a_second_opinion_is_stopped_it_goes_on_to_the_same_weights(
    tiny: Store, two_opinions: TrainRecipe, joined: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run, protocol = Run(tmp_path / "run"), make_protocol(tiny, "track")
    with monkeypatch.context() as patch:
        patch.setattr(*STOPS_OF_SUMMARY[place], lambda *_, **__: stop())
        with pytest.raises(Stopped):
            train(tiny, two_opinions, protocol, run, seed=SEED)
    assert not run.is_finished
    assert train(tiny, two_opinions, protocol, run, seed=SEED) == joined.metrics
    assert same_weights(run, joined)
    assert sorted(path.name for path in run.path.rglob("*")) == sorted(p.name for p in joined.path.rglob("*"))


@pytest.mark.slow
def test_a_training_that_is_stopped_after_each_epoch_goes_on_to_the_same_weights(
    tiny: Store, quick: TrainRecipe, undisturbed: Run, tmp_path: Path
) -> None:
    run, protocol, counted = Run(tmp_path / "run"), make_protocol(tiny, "track"), []
    stopping = Feedback(
        say=lambda line: stop() if line.startswith("epoch") else None,
        counting=lambda *_: nullcontext(counted.append),
    )
    for done in (1, 2, 3):
        with pytest.raises(Stopped):
            train(tiny, quick, protocol, run, seed=SEED, feedback=stopping)
        assert (len(run.history()), run.is_finished) == (done, False)
    train(tiny, quick, protocol, run, seed=SEED)
    assert same_weights(run, undisturbed)
    assert timeless(run) == timeless(undisturbed)
    assert run.metrics == undisturbed.metrics
    epoch = [16] * 5
    assert counted == [0, *epoch, 80, *epoch, 160, *epoch]  # each begins with what was done before


@pytest.mark.usefixtures("light")
def test_a_state_that_was_lost_is_a_sentence_that_helps(tiny: Store, quick: TrainRecipe, tmp_path: Path) -> None:
    run, protocol = Run(tmp_path / "run"), make_protocol(tiny, "track")
    with pytest.raises(Stopped):
        train(tiny, quick, protocol, run, feedback=Feedback(say=lambda _: stop()))
    run.checkpoint(1).unlink()
    with pytest.raises(RunError, match="--force"):
        train(tiny, quick, protocol, run)
    train(tiny, quick, protocol, run, replace=True)
    assert run.is_finished
