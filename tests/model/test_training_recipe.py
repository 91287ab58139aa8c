"""How to train, as a file says it, and the optimizer that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training extra is not installed")

from melzarr.model.training_recipe import SummaryRecipe, TrainRecipe, recipe_names  # noqa: E402
from melzarr.pipeline.errors import RecipeError  # noqa: E402

GOOD: dict[str, Any] = {
    "frontend": "db", "optimizer": "adamw", "learning_rate": 0.001, "batch_size": 32, "epochs": 4,
}  # fmt: skip


def write(folder: Path, **fields: Any) -> str:
    """A recipe file of fields; None leaves one out."""
    rows = ({**GOOD, **fields}).items()
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in rows if value is not None)
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    return str(folder / "mine.toml")


def test_two_recipes_come_with_melzarr_and_both_can_be_read() -> None:
    assert recipe_names() == ["article", "default"]
    assert [TrainRecipe.read(name).frontend for name in recipe_names()] == ["none", "db"]


def test_the_articles_recipe_is_what_its_keras_took_by_itself() -> None:
    recipe = TrainRecipe.read("article")
    assert (recipe.optimizer, recipe.learning_rate, recipe.rho, recipe.epsilon) == ("adadelta", 1.0, 0.95, 1e-8)
    assert (recipe.batch_size, recipe.epochs, recipe.dropout) == (128, 10, 0.5)
    assert (recipe.frontend, recipe.schedule, recipe.windows_per_track) == ("none", "constant", 0)
    config = recipe.make_optimizer(7).get_config()
    assert (config["name"], config["rho"], config["epsilon"]) == ("adadelta", 0.95, 1e-8)
    assert config["learning_rate"] == 1.0
    assert not config["weight_decay"]


def test_a_file_gives_its_fields_and_the_defaults_of_the_others(tmp_path: Path) -> None:
    recipe = TrainRecipe.read(write(tmp_path, weight_decay=0.25, patience=3))
    assert recipe.to_dict() == {
        **GOOD, "dropout": 0.5, "rho": 0.95, "epsilon": 1e-8, "weight_decay": 0.25, "schedule": "constant",
        "patience": 3, "windows_per_track": 0,
    }  # fmt: skip
    assert TrainRecipe.read(write(tmp_path, **recipe.to_dict())) == recipe


SUMMARY = {
    "members": 2, "units": 8, "learning_rate": 0.01, "weight_decay": 0.1, "batch_size": 4, "epochs": 3, "weight": 0.5,
}  # fmt: skip


def with_summary(folder: Path, **fields: Any) -> str:
    """A recipe file with the hyperparameters of a second opinion."""
    path, rows = Path(write(folder)), {**SUMMARY, **fields}.items()
    path.write_text(
        path.read_text() + "[summary]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in rows)
    )
    return str(path)


def test_a_second_opinion_is_a_table_of_the_file(tmp_path: Path) -> None:
    recipe = TrainRecipe.read(with_summary(tmp_path))
    assert recipe.summary == SummaryRecipe(**SUMMARY)
    assert recipe.to_dict()["summary"] == SUMMARY
    assert TrainRecipe.read("default").summary is not None
    assert "summary" not in TrainRecipe.read("article").to_dict()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"members": 0}, "summary.members=0 is not a whole number of at least 1"),
        ({"units": 2.5}, "summary.units=2.5 is not a whole number of at least 1"),
        ({"weight_decay": -1}, "summary.weight_decay=-1 is not a number of at least 0"),
        ({"learning_rate": 0}, "summary.learning_rate=0 is not above 0"),
        ({"weight": 1.5}, r"summary.weight=1.5 is not in \[0, 1\]"),
        ({"colour": 1}, "is not a training recipe: .*colour.*; copy one"),
    ],
)
def test_a_second_opinion_that_cannot_be_is_a_sentence(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        TrainRecipe.read(with_summary(tmp_path, **fields))


def steps(recipe: TrainRecipe, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Where a recipe's optimizer takes a variable, step by step."""
    variable, optimizer = keras.Variable(start), recipe.make_optimizer(len(gradients))
    found = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        found.append(keras.ops.convert_to_numpy(variable).copy())
    return np.array(found)


def test_adadelta_is_that_of_the_paper_with_the_recipes_settings() -> None:
    recipe = TrainRecipe(**{**GOOD, "optimizer": "adadelta", "learning_rate": 0.7}, rho=0.8, epsilon=1e-3)
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(5).astype(np.float32), rng.standard_normal((6, 5)).astype(np.float32)
    x, square, moved, expected = start.astype(np.float64), np.zeros(5), np.zeros(5), []
    for gradient in gradients.astype(np.float64):  # Zeiler 2012, algorithm 1, times the rate
        square = 0.8 * square + 0.2 * gradient**2
        step = -np.sqrt(moved + 1e-3) / np.sqrt(square + 1e-3) * gradient
        moved = 0.8 * moved + 0.2 * step**2
        x = x + 0.7 * step
        expected.append(x)
    np.testing.assert_allclose(steps(recipe, start, gradients), expected, rtol=1e-5, atol=1e-6)  # single precision


def test_adamw_decays_weights_by_the_recipes_share_of_the_rate() -> None:
    start, still = np.array([1.0, -2.0], np.float32), np.zeros((3, 2), np.float32)
    recipe = TrainRecipe(**{**GOOD, "learning_rate": 0.1}, weight_decay=0.5)
    np.testing.assert_allclose(steps(recipe, start, still), start * 0.95 ** np.arange(1, 4)[:, None], rtol=1e-6)


def test_cosine_brings_the_rate_to_nothing_by_the_last_step_and_constant_does_not() -> None:
    cosine = TrainRecipe(**GOOD, schedule="cosine").make_optimizer(25)
    rates = []
    for step in range(101):  # 4 epochs of 25
        cosine.iterations.assign(step)
        rates.append(float(keras.ops.convert_to_numpy(cosine.learning_rate)))
    expected = 0.0005 * (1 + np.cos(np.pi * np.arange(101) / 100))
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-9)  # single precision of a rate of 0.001
    assert rates[-1] == pytest.approx(0, abs=1e-10)
    constant = TrainRecipe(**GOOD).make_optimizer(25)
    constant.iterations.assign(100)
    assert float(keras.ops.convert_to_numpy(constant.learning_rate)) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"frontend": "mel"}, "frontend='mel' is unknown; use one of db, none"),
        ({"optimizer": "sgd"}, "optimizer='sgd' is unknown; use one of adadelta, adamw"),
        ({"schedule": "linear"}, "schedule='linear' is unknown; use one of constant, cosine"),
        ({"batch_size": 0}, "batch_size=0 is not a whole number of at least 1"),
        ({"batch_size": 12.5}, "batch_size=12.5 is not a whole number"),
        ({"epochs": 0}, "epochs=0 is not a whole number of at least 1"),
        ({"patience": -1}, "patience=-1 is not a whole number of at least 0"),
        ({"windows_per_track": "all"}, "windows_per_track='all' is not a whole number"),
        ({"learning_rate": 0}, "learning_rate=0 is not above 0"),
        ({"learning_rate": "fast"}, "learning_rate='fast' is not a number of at least 0"),
        ({"dropout": 1}, r"dropout=1 is not in \[0, 1\)"),
        ({"epochs": None}, "mine.toml is not a training recipe: .*'epochs'"),
        ({"momentum": 0.9}, "mine.toml is not a training recipe: .*'momentum'"),
    ],
)
def test_what_no_training_can_be_is_a_sentence(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        TrainRecipe.read(write(tmp_path, **fields))


@pytest.mark.parametrize("value", ["high", -1.0, float("inf")])
@pytest.mark.parametrize("name", ["rho", "epsilon", "weight_decay", "learning_rate"])
def test_a_setting_with_which_no_optimizer_can_step_is_a_sentence(tmp_path: Path, name: str, value: Any) -> None:
    path = write(tmp_path, **{name: None})
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{name} = {value!r}\n".replace("'", '"'))
    with pytest.raises(RecipeError, match=f"{name}|no training recipe"):
        TrainRecipe.read(path)


@pytest.mark.parametrize("content", [b"frontend = ", b"\xff\xfe", b""], ids=["no TOML", "no text", "empty"])
def test_a_file_that_is_no_recipe_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"mine\.toml is not a training recipe: .+; copy one that comes with melzarr"):
        TrainRecipe.read(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", ["articel", "", "no/such/file.toml"])
def test_a_name_that_is_unknown_is_answered_with_those_that_are_not(name: str) -> None:
    with pytest.raises(RecipeError, match=f"no training recipe '{name}': use article or default, or a file"):
        TrainRecipe.read(name)
