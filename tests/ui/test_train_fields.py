"""The generated form: every field of the configuration once, with its sentence; what is read is what was shown."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import gradio as gr
import pytest

from studio.errors import InvalidRequest
from studio.runs.config import METHODS, TrainingConfig
from studio.runs.recipes import load_recipes
from studio.settings import Settings
from studio.ui.train.fields import MAIN, Fields, grouped, is_relevant, specs
from studio.ui.train.form import build_folded_fields, build_main_fields, joined
from tests.ui.written_runs import config

RECIPES = load_recipes(Settings.presets_dir)


def build(recipe=RECIPES[0]) -> Fields:
    with gr.Blocks():
        return joined(build_main_fields(recipe), build_folded_fields(recipe))


def values_of(fields: Fields, **changes) -> dict:
    values = {component: component.value for component in fields.components.values()}
    return values | {fields.components[name]: value for name, value in changes.items()}


def test_every_field_of_the_configuration_stands_on_the_page_once() -> None:
    wanted = [each.name for each in dataclasses.fields(TrainingConfig) if each.metadata]
    shown = Counter([*MAIN, *(name for names in grouped().values() for name in names)])
    assert shown == Counter(wanted)
    main = [
        each.name for each in dataclasses.fields(TrainingConfig) if each.metadata and "advanced" not in each.metadata
    ]
    assert set(main) <= set(MAIN), "what is not advanced is not folded"


@pytest.mark.parametrize("name", list(specs()))
def test_a_field_says_what_it_is_and_between_which_bounds(name: str) -> None:
    spec = specs()[name]
    assert spec.info.startswith(spec.limits["help"].strip())
    if "low" in spec.limits:
        low, high = re.search(r"(\S+) to (\S+)\.$", spec.info).groups()  # pyright: ignore
        assert float(low.replace(",", "")) == spec.limits["low"]
        assert float(high.replace(",", "")) == spec.limits["high"]
        assert "Default" in spec.info


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_a_recipe_is_read_back_as_it_was_written(recipe) -> None:
    fields = build(recipe)
    read = fields.read(values_of(fields))
    expected = dataclasses.asdict(config(**recipe.config))
    assert {name: read[name] for name in read} == {name: expected[name] for name in read}
    assert config(**read) == config(**recipe.config)


def test_lists_are_typed_with_commas_and_prompts_a_line_each() -> None:
    fields = build()
    read = fields.read(values_of(fields, sample_steps="1, 4 8", sample_prompts=" a cube \n\n a cone ", seed=7.0))
    assert read["sample_steps"] == (1, 4, 8)
    assert read["sample_prompts"] == ("a cube", "a cone")
    assert read["seed"] == 7
    assert isinstance(read["seed"], int)


@pytest.mark.parametrize(
    ("name", "typed"),
    [("sample_steps", "two, 4"), ("num_steps", None), ("num_steps", 2.5), ("learning_rate", 1e3), ("batch_size", 0)],
)
def test_what_makes_no_sense_is_refused_by_the_name_of_its_field(name: str, typed: object) -> None:
    fields = build()
    with pytest.raises(InvalidRequest) as caught:
        config(**fields.read(values_of(fields, **{name: typed})))
    assert caught.value.field == name
    place = gr.HTML()
    updates = fields.error_updates(caught.value, place)
    assert [each for each, told in updates.items() if told] == [fields.errors[name]]


def test_an_error_without_a_field_of_its_own_is_still_shown() -> None:
    fields, place = build(), gr.HTML()
    assert fields.error_updates(InvalidRequest("base", "a base", "none"), place)[place]
    assert not any(fields.error_updates(None, place).values())


@pytest.mark.parametrize("method", list(METHODS))
def test_only_what_means_something_to_a_method_is_shown_and_read(method: str) -> None:
    fields = build()
    updates = fields.show({"method": method}, method)
    hidden = {name for name, each in fields.components.items() if updates.get(each, {}).get("visible") is False}
    assert hidden == {name for name in fields.components if not is_relevant(name, method)}
    changes = {"control": "canny"} if method == "controlnet" else {}
    read = fields.read(values_of(fields, method=method, lora_rank=8, **changes))
    assert config(**read).method == method
    assert not hidden & set(read)
