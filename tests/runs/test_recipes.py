"""Recipes: what ships makes valid configurations for every goal and machine; what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from studio.catalog import Catalog
from studio.errors import CatalogError
from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from studio.runs.recipes import Goal, Machine, TrainingRecipe, load_recipes

PRESETS = Path(__file__).resolve().parents[2] / "presets"
RECIPES = load_recipes(PRESETS)
GOOD = 'title = "x"\ndescription = "y"\ngoal = "lcm"\nmachine = "cpu"\nmodel = "tabletop"\n'


def test_there_is_one_recipe_for_every_goal_on_every_machine() -> None:
    found = [(recipe.goal, recipe.machine) for recipe in RECIPES]
    assert found == [(goal, machine) for goal in get_args(Goal) for machine in get_args(Machine)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_a_recipe_makes_a_configuration_for_its_model(recipe: TrainingRecipe) -> None:
    spec = Catalog.load(PRESETS).model(recipe.model)
    base = BaseModel(id=spec.id, family=spec.family, source=spec.source, prediction_type=spec.prediction_type)
    config = TrainingConfig(name=recipe.title, base=base, dataset=DatasetRef(id="any"), **recipe.config)
    assert config.resolution == spec.native_width
    wanted = {"accelerate": "perflow", "style": "diffusion", "lcm": "lcm"}[recipe.goal]
    assert config.method == wanted
    assert config.warmup_steps < config.num_steps
    assert config.validate_every_steps <= config.num_steps
    assert config.sample_every_steps <= config.num_steps


@pytest.mark.parametrize("recipe", [each for each in RECIPES if each.machine == "cpu"], ids=lambda recipe: recipe.id)
def test_a_quick_look_stays_one_on_two_cores(recipe: TrainingRecipe) -> None:
    assert recipe.model == "tabletop"
    assert recipe.config["resolution"] == 128
    assert 16 <= recipe.config["batch_size"] <= 32
    assert 200 <= recipe.config["num_steps"] <= 400
    assert 5e-5 <= recipe.config["learning_rate"] <= 1e-4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("title = ", "readable"),
        (GOOD.replace("lcm", "faster"), "goal"),
        (GOOD.replace("cpu", "abacus"), "machine"),
        (GOOD.replace('model = "tabletop"', "model = 7"), "model"),
        (GOOD + "seconds = 3\n", "seconds"),
        (GOOD + "[config]\nlearning_rate = 1e3\n", "learning_rate"),
        (GOOD + "[config]\nlearnng_rate = 1e-4\n", "learnng_rate"),
        (GOOD + '[config]\nname = "mine"\n', "name"),
        (GOOD + "config = 3\n", "table"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "mine.toml").write_text(text)
    with pytest.raises(CatalogError, match=named) as caught:
        load_recipes(tmp_path)
    assert "mine.toml" in str(caught.value)


def test_an_owner_without_recipes_has_none(tmp_path: Path) -> None:
    assert load_recipes(tmp_path) == ()
