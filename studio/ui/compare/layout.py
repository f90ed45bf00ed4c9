"""Where the Compare tab's components stand: prompt, contestants and fairness at the left, the contest at the right.

Contestants are cards called A to D; all four are on the page, and those beyond their number are hidden. This module
does not know what happens when values change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.comparing.contest import MAX_CONTESTANTS, MAX_ROUNDS
from studio.types import MAX_STEPS
from studio.ui.compare.view import EMPTY, LETTERS, VIEWS
from studio.ui.form import accelerator_choices
from studio.ui.form_layout import EXAMPLES, chips_html, model_choices
from studio.ui.plain_html import live_html, pickable_html, plain_html

if TYPE_CHECKING:
    from studio.services import Services

TAB_ID = "compare"
EQUAL = (("Nothing: own settings", "own"), ("Steps", "steps"), ("Network calls", "calls"), ("Time", "time"))
BUDGETS: Mapping[str, tuple[str, str, float]] = {
    "steps": ("Steps for each", f"1 to {MAX_STEPS}; the reference keeps its own.", 4),
    "calls": ("Network calls for each", "Guidance asks the network twice a step; the reference keeps its own.", 8),
    "time": ("Seconds for each", "0 takes the first contestant's own time. The reference keeps its own steps.", 0),
}
"""What is made equal: the budget's label, its reason, and a value to begin with."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One contestant; `kept` remembers which of its values a person has set, `strength` is the accelerator's."""

    box: gr.Column
    model: gr.Dropdown
    accelerator: gr.Dropdown
    steps: gr.Number
    guidance: gr.Textbox
    is_reference: gr.Checkbox
    remove: gr.Button
    plan: gr.HTML
    error: gr.HTML
    strength: gr.State
    kept: gr.State

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What chooses it."""
        return (self.model, self.accelerator, self.steps, self.guidance, self.is_reference, self.strength)

    @property
    def values(self) -> tuple[Any, ...]:
        """Its inputs, and what is remembered of them."""
        return (*self.inputs, self.kept)

    @property
    def outputs(self) -> list[Any]:
        """Everything that filling it writes."""
        return [self.box, *self.values, self.remove]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The left side. `count` is how many cards take part."""

    prompt: gr.Textbox
    examples: gr.HTML
    compare: gr.Button
    cancel: gr.Button
    negative_prompt: gr.Textbox
    cards: tuple[Card, ...]
    count: gr.State
    add: gr.Button
    equal: gr.Radio
    budget: gr.Number
    seed: gr.Number
    dice: gr.Button
    reuse_seed: gr.Button
    rounds: gr.Slider
    width: gr.Number
    height: gr.Number
    errors: Mapping[str, gr.HTML]

    @property
    def common(self) -> list[Any]:
        """What all contestants share, and how they are compared."""
        return [self.prompt, self.negative_prompt, self.equal, self.budget, self.seed, self.rounds, self.width,
                self.height]  # fmt: skip

    @property
    def inputs(self) -> set[Any]:
        """Everything that a contest is read from."""
        return {*self.common, self.count, *(each for card in self.cards for each in card.inputs)}

    @property
    def chosen(self) -> list[Any]:
        """What changes the plans: all but the words and the seed."""
        cards = [each for card in self.cards for each in card.inputs]
        return [self.equal, self.budget, self.rounds, self.width, self.height, self.count, *cards]

    @property
    def contestants(self) -> list[Any]:
        """Everything that filling the cards writes."""
        return [*(each for card in self.cards for each in card.outputs), self.count, self.add]

    @property
    def error_places(self) -> list[Any]:
        """Where errors stand, each place once."""
        return [*dict.fromkeys(self.errors.values()), *(card.error for card in self.cards)]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The right side: the pictures, ways to look at them, votes and numbers.

    `shown` holds the contest on the page, `ballots` its votes by pair, `votes` those of the whole session, `chosen`
    the history id of the picture that the actions are about.
    """

    bar: gr.Row
    view: gr.Radio
    left: gr.Dropdown
    right: gr.Dropdown
    stage: gr.HTML
    words: gr.HTML
    actions: gr.Row
    download: gr.Button
    download_all: gr.Button
    voting: gr.Row
    next_blind: gr.Button
    download_votes: gr.Button
    numbers: gr.HTML
    shown: gr.State
    chosen: gr.State
    ballots: gr.State
    votes: gr.State

    @property
    def looking(self) -> set[Any]:
        """What a look at the contest depends on."""
        return {self.view, self.left, self.right, self.shown, self.ballots, self.votes}

    @property
    def outputs(self) -> list[Any]:
        """Everything a contest or a look at it may change."""
        return [
            self.bar, self.view, self.left, self.right, self.stage, self.words, self.actions, self.voting,
            self.next_blind, self.download_votes, self.numbers, self.shown, self.chosen, self.ballots, self.votes,
        ]  # fmt: skip


def build_fields(services: Services, start: Sequence[Mapping[str, Any]], reference: int | None) -> Fields:
    """Put the left side on the page, in the current context; `start` are the contestants to begin with."""
    parts: dict[str, Any] = {"errors": {}}
    _build_prompt(parts)
    parts["count"] = gr.State(len(start))
    with gr.Column(elem_classes="contestants"):
        parts["cards"] = tuple(
            _build_card(services, index, start[min(index, len(start) - 1)], index == reference, index < len(start))
            for index in range(MAX_CONTESTANTS)
        )
        parts["add"] = gr.Button("Add a contestant", size="sm", elem_id=_id("add"), visible=len(start) < 4)
    _error(parts, "contestants")
    _build_fairness(parts)
    with gr.Row(elem_classes="seed"):
        parts["seed"] = gr.Number(-1, label="Seed", info="The same noise for all; -1 takes a new one each time.",
                                  elem_id=_id("seed"), min_width=140)  # fmt: skip
        parts["dice"] = gr.Button("Random", size="sm", elem_id=_id("dice"), min_width=80)
        parts["reuse_seed"] = gr.Button("Reuse last", size="sm", elem_id=_id("reuse-seed"), min_width=80)
    _error(parts, "seed")
    with gr.Accordion("Timed rounds and size", open=False, elem_classes="fold"):
        _build_rounds(parts)
    return Fields(**parts)


def _id(name: str) -> str:
    return f"{TAB_ID}-{name}"


def _error(parts: dict[str, Any], field: str) -> None:
    parts["errors"][field] = plain_html(elem_classes="field-error-place", elem_id=_id(f"error-{field}"))


def _build_prompt(parts: dict[str, Any]) -> None:
    parts["prompt"] = gr.Textbox(
        label="Prompt", placeholder="What should they all draw?", lines=2, max_lines=8, elem_id=_id("prompt"),
        elem_classes="prompt",
    )  # fmt: skip
    _error(parts, "prompt")
    examples = ((str(index), text, "Use this prompt") for index, text in enumerate(EXAMPLES))
    parts["examples"] = pickable_html(chips_html("Examples", examples), elem_id=_id("examples"))
    with gr.Row(elem_classes="go"):
        parts["compare"] = gr.Button("Compare", variant="primary", size="lg", elem_id=_id("generate"),
                                     elem_classes="generate-button")  # fmt: skip
        parts["cancel"] = gr.Button("Cancel", variant="stop", size="lg", visible=False, elem_id=_id("cancel"),
                                    elem_classes="cancel-button")  # fmt: skip
    parts["negative_prompt"] = gr.Textbox(
        label="Negative prompt", placeholder="What should stay out of it", lines=1, max_lines=4,
        elem_id=_id("negative-prompt"),
    )  # fmt: skip
    _error(parts, "negative_prompt")


def _build_card(
    services: Services, index: int, choices: Mapping[str, Any], is_reference: bool, is_visible: bool
) -> Card:
    """One contestant's card, filled with these choices."""

    def name(field: str) -> str:
        return _id(f"{LETTERS[index].lower()}-{field}")

    model = choices["model"]
    with gr.Column(visible=is_visible, elem_classes="contestant", elem_id=name("card")) as box:
        with gr.Row(elem_classes="contestant-head"):
            plain_html(f'<b class="letter">{LETTERS[index]}</b>', min_width=28)
            chosen = gr.Dropdown(model_choices(services.models()), value=model, label=f"Model of {LETTERS[index]}",
                                 show_label=False, container=False, filterable=False, elem_id=name("model"),
                                 min_width=140)  # fmt: skip
            reference = gr.Checkbox(is_reference, label="Reference", container=False, elem_id=name("reference"),
                                    elem_classes="mark-reference", min_width=100)  # fmt: skip
            remove = gr.Button(
                f"Remove {LETTERS[index]}", size="sm", elem_id=name("remove"), elem_classes="remove", min_width=32
            )
        with gr.Row(elem_classes="contestant-how"):
            accelerator = gr.Dropdown(accelerator_choices(services.accelerators(model)), value=choices["accelerator"],
                                      label="Accelerator", filterable=False, elem_id=name("accelerator"),
                                      scale=5, min_width=150)  # fmt: skip
            steps = gr.Number(choices["steps"], label="Steps", elem_id=name("steps"), scale=2, min_width=64)
            guidance = gr.Textbox(scales_in_words(choices["guidance"]), label="CFG", elem_id=name("guidance"),
                                  max_lines=1, scale=2, min_width=64)  # fmt: skip
        plan = plain_html(elem_id=name("plan"), elem_classes="contestant-plan")
        error = plain_html(elem_classes="field-error-place", elem_id=name("error"))
    return Card(
        box=box, model=chosen, accelerator=accelerator, steps=steps, guidance=guidance, is_reference=reference,
        remove=remove, plan=plan, error=error, strength=gr.State(1.0), kept=gr.State(frozenset()),
    )  # fmt: skip


def _build_fairness(parts: dict[str, Any]) -> None:
    parts["equal"] = gr.Radio(
        list(EQUAL), value="own", label="What is equal", elem_id=_id("equal"), elem_classes="choice-row",
        info="Beside prompt, seed, starting noise and canvas, which always are.",
    )  # fmt: skip
    parts["budget"] = gr.Number(0, label="Budget", visible=False, elem_id=_id("budget"))
    _error(parts, "budget")


def _build_rounds(parts: dict[str, Any]) -> None:
    parts["rounds"] = gr.Slider(
        0, MAX_ROUNDS, value=3, step=1, label="Timed rounds", elem_id=_id("rounds"),
        info="Drawn again in turns, out of sight, so that times are fair: their median counts. 0 leaves it at the "
        "first pass, whose previews cost time.",
    )  # fmt: skip
    _error(parts, "rounds")
    with gr.Row(elem_classes="pair"):
        for side in ("width", "height"):
            parts[side] = gr.Number(0, label=side.title(), info="0 takes the model's own.", min_width=120,
                                    elem_id=_id(side))  # fmt: skip
    _error(parts, "width")
    _error(parts, "height")


def build_result() -> Parts:
    """Put the right side on the page, in the current context."""
    with gr.Row(visible=False, elem_classes="looks", elem_id=_id("looks")) as bar:
        view = gr.Radio(list(VIEWS), value="grid", label="View", show_label=False, container=False,
                        elem_id=_id("view"), elem_classes="segmented", min_width=320)  # fmt: skip
        left = gr.Dropdown([], label="Left", visible=False, filterable=False, elem_id=_id("left"), min_width=150)
        right = gr.Dropdown([], label="Right", visible=False, filterable=False, elem_id=_id("right"), min_width=150)
    stage = pickable_html(EMPTY, elem_id=_id("stage"))
    words = live_html(elem_id=_id("words"), elem_classes="words")
    with gr.Row(visible=False, elem_classes="actions", elem_id=_id("actions")) as actions:
        download = gr.Button("Download", size="sm", min_width=80, elem_id=_id("download"))
        download_all = gr.Button("Download all", size="sm", min_width=80, elem_id=_id("download-all"))
    with gr.Row(visible=False, elem_classes="actions", elem_id=_id("voting")) as voting:
        next_blind = gr.Button("Draw the next one blind", variant="primary", size="sm", min_width=160,
                               elem_id=_id("next-blind"), elem_classes="draws-again")  # fmt: skip
        download_votes = gr.Button("Download votes (CSV)", size="sm", min_width=150, elem_id=_id("download-votes"))
    return Parts(
        bar=bar, view=view, left=left, right=right, stage=stage, words=words, actions=actions, download=download,
        download_all=download_all, voting=voting, next_blind=next_blind, download_votes=download_votes,
        numbers=plain_html(elem_id=_id("numbers")), shown=gr.State(None), chosen=gr.State(None),
        ballots=gr.State({}), votes=gr.State(()),
    )  # fmt: skip


def scales_in_words(guidance: Any) -> str:
    """`3`, or `7.5, 4, 4, 4`: what stands in a card's CFG field."""
    scales = guidance if isinstance(guidance, list | tuple) else (guidance,)
    return ", ".join(f"{scale:g}" for scale in scales)
