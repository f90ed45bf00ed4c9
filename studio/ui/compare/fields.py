"""What the left side of the Compare tab says, and what it does by itself: plans before the click, advice, cards.

A contestant travels as a mapping of `CONTESTANT_FIELDS`, as `Services.comparisons` takes it. Every error knows its
place: a contestant's own stand in its card. This module does not know who draws, nor anything about results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.comparing.contest import MAX_CONTESTANTS, MIN_CONTESTANTS, Comparison
from studio.errors import InvalidRequest
from studio.types import GenerationRequest, Guidance, StepPlan
from studio.ui.compare.layout import BUDGETS, Card, Fields, scales_in_words
from studio.ui.feedback import field_error_html
from studio.ui.form import Updates, Values, accelerator_choices
from studio.ui.form_layout import EXAMPLES
from studio.ui.plain_html import picked
from studio.ui.windows_view import grid_html, plural

if TYPE_CHECKING:
    from studio.services import Services

Choices = dict[str, Any]


class CardError(InvalidRequest):
    """A contestant's own field makes no sense; `index` says whose."""

    def __init__(self, index: int, error: InvalidRequest) -> None:
        super().__init__(error.field, error.expected, error.got)
        self.index = index


def start_of(services: Services, model: str) -> tuple[list[Choices], int | None]:
    """Contestants to begin with, at least two: where a model has one way to draw, in twice its steps as well."""
    found, reference = services.comparisons.suggested(model)
    while len(found) < MIN_CONTESTANTS:
        found.append({**found[-1], "steps": 2 * found[-1]["steps"]})
    return found, reference


def read_guidance(text: str) -> float | list[float]:
    """`3`, or one scale per time window such as `7.5, 4, 4, 4`. Raises `InvalidRequest`."""
    expected = "a number, or one per time window such as 7.5, 4, 4, 4"
    words = str(text or "").replace(",", " ").replace(";", " ").split()
    try:
        scales = [float(word) for word in words]
    except ValueError as error:
        raise InvalidRequest("guidance", expected, text) from error
    if not scales:
        raise InvalidRequest("guidance", expected, "nothing")
    return scales[0] if len(scales) == 1 else scales


class FieldActions:
    """The handlers of the left side, each from the page's values to updates of the page."""

    def __init__(self, fields: Fields, services: Services) -> None:
        self._fields, self._services = fields, services

    # --- reading ---

    def contestants(self, values: Values) -> list[Choices]:
        """Those that take part. Raises `CardError`."""
        found = []
        for index, card in enumerate(self._fields.cards[: values[self._fields.count]]):
            try:
                found.append(self._card_choices(card, values))
                self._services.resolve(prompt="", seed=0, **found[-1])
            except InvalidRequest as error:
                raise CardError(index, error) from error
        return found

    def _card_choices(self, card: Card, values: Values) -> Choices:
        if values[card.steps] is None:
            raise InvalidRequest("steps", "a whole number", "an empty field")
        return {
            "model": values[card.model],
            "accelerator": values[card.accelerator],
            "accelerator_strength": values[card.strength],
            "steps": _whole(values[card.steps]),
            "guidance": read_guidance(values[card.guidance]),
        }

    def reference(self, values: Values) -> int | None:
        """Which card is marked."""
        taking_part = self._fields.cards[: values[self._fields.count]]
        return next((index for index, card in enumerate(taking_part) if values[card.is_reference]), None)

    def comparison(self, values: Values, **changes: Any) -> Comparison:
        """The contest that the page asks for. Raises `InvalidRequest` naming the field, `CardError`."""
        fields = self._fields
        if values[fields.seed] is None:
            raise InvalidRequest("seed", "a whole number", "an empty field")
        chosen: Choices = {
            "prompt": values[fields.prompt] or "",
            "negative_prompt": values[fields.negative_prompt] or "",
            "width": values[fields.width] or None,
            "height": values[fields.height] or None,
            "seed": values[fields.seed],
            "equal": values[fields.equal],
            "budget": self._budget(values),
            "reference": self.reference(values),
            "rounds": _whole(values[fields.rounds]),
            "contestants": self.contestants(values),
        }
        try:
            return self._services.comparisons.resolve(**{**chosen, **changes})
        except InvalidRequest as error:
            cause = error.__cause__  # what all share is not one contestant's fault
            if isinstance(cause, InvalidRequest) and cause.field in self._fields.errors:
                raise cause from error
            raise

    def _budget(self, values: Values) -> Any:
        equal, budget = values[self._fields.equal], _whole(values[self._fields.budget])
        return None if equal == "own" or (equal == "time" and budget == 0) else budget

    def errors(self, error: InvalidRequest | None) -> Updates:
        """The sentence beside its field, and no other."""
        fields = self._fields
        updates: Updates = dict.fromkeys(fields.error_places, "")
        if isinstance(error, CardError):
            updates[fields.cards[error.index].error] = field_error_html(error)
        elif error is not None:
            updates[fields.errors.get(error.field, fields.errors["contestants"])] = field_error_html(error)
        return updates

    # --- by itself ---

    def refresh(self, values: Values) -> Updates:
        """Each contestant's effective grid and calls, or the first thing that makes no sense."""
        fields = self._fields
        try:
            comparison = self.comparison(values, prompt="", negative_prompt="", seed=0)
        except InvalidRequest as error:
            return {**self.errors(error), **dict.fromkeys((card.plan for card in fields.cards), gr.skip())}
        plans = self._services.comparisons.plans(comparison)
        updates: Updates = {card.plan: "" for card in fields.cards}
        for index, (request, plan) in enumerate(zip(comparison.contestants, plans, strict=True)):
            updates[fields.cards[index].plan] = self._plan_html(comparison, index, request, plan)
        return {**self.errors(None), **updates}

    def _plan_html(self, comparison: Comparison, index: int, request: GenerationRequest, plan: StepPlan) -> str:
        spec = self._services.catalog.accelerator(request.accelerator)
        words = "All others are measured against it." if index == comparison.reference else spec.reason
        if request.accelerator_strength != 1:
            words = f"At strength {request.accelerator_strength:g}. {words}"
        if index != comparison.reference and comparison.equal in ("steps", "calls"):
            words = f"{plural(request.steps, 'step')} by what is equal."
        elif index != comparison.reference and comparison.equal == "time":
            words = "As many steps as the time allows, once the pace is measured."
        return grid_html(plan) + f'<p class="facts"><span>{escape(words)}</span></p>'

    def change_equal(self, equal: str) -> Updates:
        """Another thing is equal: its budget, with a value to begin with."""
        if equal == "own":
            return {self._fields.budget: gr.update(visible=False)}
        label, info, value = BUDGETS[equal]
        return {self._fields.budget: gr.update(visible=True, label=label, info=info, value=value)}

    def change_model(self, index: int, values: Values) -> Updates:
        """Another model for a card: its accelerators, and what is recommended where nobody chose."""
        card, services = self._fields.cards[index], self._services
        offered = services.accelerators(values[card.model])
        current = values[card.accelerator]
        kept = current in {each.id for each in offered}
        accelerator = current if kept else services.catalog.model(values[card.model]).default_accelerator
        update = gr.update(choices=accelerator_choices(offered))
        if not kept:  # else it stands there, or a newer choice that this answer must not undo
            update["value"] = accelerator
        return {card.accelerator: update, **self._advice(card, accelerator, values[card.kept])}

    def change_accelerator(self, index: int, values: Values) -> Updates:
        """Another accelerator for a card: what is recommended where nobody chose."""
        card = self._fields.cards[index]
        return self._advice(card, values[card.accelerator], values[card.kept])

    def _advice(self, card: Card, accelerator: str, kept: frozenset[str]) -> Updates:
        spec = self._services.catalog.accelerator(accelerator)
        steps = gr.skip() if "steps" in kept else spec.recommended_steps
        guidance = gr.skip() if "guidance" in kept else scales_in_words(spec.recommended_guidance)
        return {card.steps: steps, card.guidance: guidance, card.strength: 1.0}

    def mark_reference(self, index: int, is_on: bool) -> Updates:
        """One reference at most."""
        others = (card.is_reference for i, card in enumerate(self._fields.cards) if i != index)
        return {each: False if is_on else gr.skip() for each in others}

    def add(self, values: Values) -> Updates:
        """One contestant more: as the last one, until it is changed."""
        rows = self._rows(values)
        return self.show([*rows, {**rows[-1], "is_reference": False}], first=len(rows))

    def remove(self, index: int, values: Values) -> Updates:
        """One contestant less; those after it take its letter."""
        rows = self._rows(values)
        return self.show([row for i, row in enumerate(rows) if i != index], first=index)

    def _rows(self, values: Values) -> list[Choices]:
        """The cards as they stand, whatever stands in them."""
        names = ("model", "accelerator", "steps", "guidance", "is_reference", "strength", "kept")
        cards = self._fields.cards[: values[self._fields.count]]
        return [{name: values[getattr(card, name)] for name in names} for card in cards]

    def show(self, rows: Sequence[Mapping[str, Any]], first: int = 0) -> Updates:
        """Updates that make the cards say exactly these contestants; those before `first` are left as they are."""
        fields = self._fields
        updates: Updates = {fields.count: len(rows), fields.add: gr.update(visible=len(rows) < MAX_CONTESTANTS)}
        for index, card in enumerate(fields.cards):
            updates[card.box] = gr.update(visible=index < len(rows))
            updates[card.remove] = gr.update(visible=len(rows) > MIN_CONTESTANTS)
            updates |= dict.fromkeys(card.values, gr.skip())
            if first <= index < len(rows):
                updates |= self._card_updates(card, rows[index])
        return updates

    def _card_updates(self, card: Card, row: Mapping[str, Any]) -> Updates:
        offered = accelerator_choices(self._services.accelerators(row["model"]))
        guidance = row["guidance"]
        return {
            card.model: row["model"],
            card.accelerator: gr.update(choices=offered, value=row["accelerator"]),
            card.steps: row["steps"],
            card.guidance: guidance if isinstance(guidance, str) else scales_in_words(guidance),
            card.is_reference: bool(row.get("is_reference")),
            card.strength: row.get("strength", 1.0),
            card.kept: row.get("kept", frozenset()),
        }

    def example(self, event: gr.EventData) -> str:
        """The example prompt of a chip."""
        return EXAMPLES[int(picked(event)) % len(EXAMPLES)]

    # --- from elsewhere ---

    def receive(self, request: GenerationRequest) -> Updates:
        """A picture's own request as the first contestant, against those that are suggested for its model."""
        fields = self._fields
        if request.pictures:
            raise InvalidRequest("picture", "one that was drawn from a prompt alone", "one that followed a picture")
        suggested, reference = start_of(self._services, request.model)
        is_marked = [{**each, "is_reference": index == reference} for index, each in enumerate(suggested)]
        own = {"model": request.model, "accelerator": request.accelerator, "steps": request.steps,
               "guidance": list(replace_per_step(request.guidance).scales), "strength": request.accelerator_strength,
               "kept": frozenset({"steps", "guidance"})}  # fmt: skip
        others = [each for each in is_marked if each["accelerator"] != request.accelerator]
        return {
            **self.show([own, *others][:MAX_CONTESTANTS]),
            fields.prompt: request.prompt,
            fields.negative_prompt: request.negative_prompt,
            fields.seed: request.seed,
            fields.width: request.width,
            fields.height: request.height,
        }


def as_contestant(request: GenerationRequest, name: str) -> Choices:
    """A contestant's request as a value of a grid's `contestant` axis; `name` labels its row."""
    scales = replace_per_step(request.guidance).scales
    return {
        "name": name, "model": request.model, "accelerator": request.accelerator,
        "accelerator_strength": request.accelerator_strength, "steps": request.steps, "guidance": list(scales),
    }  # fmt: skip


def replace_per_step(guidance: Guidance) -> Guidance:
    """One scale per step cannot outlive another number of steps: its first stands for all."""
    return replace(guidance, scales=guidance.scales[:1], per="window") if guidance.per == "step" else guidance


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
