"""The Train tab's form: goal and machine choose a recipe, the recipe fills the fields, the fields make a configuration.

What a recipe says is only a beginning: every field can be changed, and is checked as it changes. The configuration is
read here and nowhere else. This module does not know how runs are started, nor how datasets are brought in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidRequest
from studio.runs.recipes import GOALS, MACHINES, TrainingRecipe
from studio.ui.feedback import licence_html
from studio.ui.plain_html import plain_html
from studio.ui.train.fields import CHOICES, MAIN, Fields, Updates, Values, build_group, grouped, specs

if TYPE_CHECKING:
    from studio.training import BaseStatus

PREFIX = "train"


@dataclass(frozen=True, kw_only=True)
class TrainForm:
    """The components of the left side, without the dataset's own."""

    goal: gr.Radio
    machine: gr.Radio
    recipe_facts: gr.HTML
    base: gr.Dropdown
    base_facts: gr.HTML
    name: gr.Textbox
    error: gr.HTML
    errors: dict[str, gr.HTML]
    fields: Fields

    @property
    def inputs(self) -> set[Any]:
        """Everything that makes the configuration, besides the dataset."""
        return {self.base, self.name, *self.fields.components.values()}

    def choices(self, values: Values, dataset: str | None) -> dict[str, Any]:
        """The arguments of `TrainingServices.config_of`. Raises `InvalidRequest` naming the field."""
        name = str(values[self.name] or "").strip()
        if not name:
            raise InvalidRequest("name", "a name, by which you will find the run and its result again", "nothing")
        if not dataset:
            raise InvalidRequest("dataset", "pictures to learn from", "nothing")
        fields = self.fields.read(values)
        if fields.get("license") == specs()["license"].default:
            del fields["license"]  # the base's own is better than none
        return {"name": name, "base": values[self.base], "dataset": dataset, **fields}

    def error_updates(self, error: InvalidRequest | None) -> Updates:
        """The sentence beside its field, and no other."""
        known = Fields(components=self.fields.components, errors={**self.fields.errors, **self.errors})
        return known.error_updates(error, self.error)

    @property
    def error_places(self) -> list[gr.HTML]:
        """Everything `error_updates` writes."""
        return [*self.fields.errors.values(), *self.errors.values(), self.error]

    def show(self, config: dict[str, Any], method: str) -> Updates:
        """Updates that make the fields say what a recipe or another run says."""
        return self.fields.show(config, method)


def build_recipes(recipes: Sequence[TrainingRecipe], start: TrainingRecipe) -> tuple[gr.Radio, gr.Radio, gr.HTML]:
    """Goal, machine, and what the recipe of both is about."""
    goals = [(title, id) for id, title in GOALS.items() if any(each.goal == id for each in recipes)]
    machines = [(title, id) for id, title in MACHINES.items() if any(each.machine == id for each in recipes)]
    goal = gr.Radio(goals, value=start.goal, label="Goal", elem_id=f"{PREFIX}-goal", elem_classes="choice-row")
    machine = gr.Radio(machines, value=start.machine, label="Machine", elem_id=f"{PREFIX}-machine",
                       elem_classes="choice-row")  # fmt: skip
    return goal, machine, plain_html(recipe_html(start), elem_id=f"{PREFIX}-recipe-facts")


def recipe_html(recipe: TrainingRecipe | None) -> str:
    """What a recipe is about, in its own words."""
    if recipe is None:
        return '<p class="facts"><span>There is no recipe for this: the fields stay as they are.</span></p>'
    return f'<p class="facts"><span>{escape(recipe.description)}</span></p>'


def recipe_of(recipes: Sequence[TrainingRecipe], goal: str, machine: str) -> TrainingRecipe | None:
    """The recipe for a goal on a machine."""
    return next((each for each in recipes if (each.goal, each.machine) == (goal, machine)), None)


def build_base(models: Sequence[tuple[str, str]], start: str, name: str) -> tuple[gr.Dropdown, gr.HTML, gr.Textbox]:
    """Base model, what is known of it, and the run's name."""
    base = gr.Dropdown(list(models), value=start, label="Base model", filterable=False, elem_id=f"{PREFIX}-base")
    return base, plain_html(elem_id=f"{PREFIX}-base-facts"), gr.Textbox(
        name, label="Name", placeholder="What this run is called", max_lines=1, elem_id=f"{PREFIX}-name",
        info="You will find the run, and its result in every tab, under it.",
    )  # fmt: skip


def base_html(status: BaseStatus) -> str:
    """One quiet line about the base, or why it cannot be trained here."""
    if status.reason:
        words = f"{status.spec.title} cannot be trained here: {status.reason}."
        return f'<p class="field-error" role="alert">{escape(words)}</p>'
    side = f"{status.spec.native_width} pixels"
    return f'<p class="facts"><span>made for {side}</span>{licence_html(status.spec.license)}</p>'


def suggested_name(method: str, title: str) -> str:
    """What a run is called where nobody gave it a name."""
    return f"{CHOICES.get(method, method).split(' (')[0]} on {title.split(' (')[0]}"


def build_main_fields(recipe: TrainingRecipe) -> Fields:
    """The fields that everybody looks at."""
    with gr.Column(elem_classes="field-pairs"):
        return build_group(MAIN, recipe.config, recipe.config.get("method", "perflow"), PREFIX)


def build_folded_fields(recipe: TrainingRecipe) -> Fields:
    """All others, folded, each with its sentence."""
    components: dict[str, Any] = {}
    errors: dict[str, gr.HTML] = {}
    for title, names in grouped().items():
        with gr.Accordion(title, open=False, elem_classes="fold"), gr.Column(elem_classes="field-pairs"):
            part = build_group(names, recipe.config, recipe.config.get("method", "perflow"), PREFIX)
        components |= part.components
        errors |= part.errors
    return Fields(components=components, errors=errors)


def joined(*parts: Fields) -> Fields:
    """Several groups as one."""
    return Fields(
        components={name: each for part in parts for name, each in part.components.items()},
        errors={name: each for part in parts for name, each in part.errors.items()},
    )
