"""From the filled form to a run: recipes fill, every change is checked, the estimate measures, Start starts.

Nothing starts before the estimate for exactly these values has been shown, or was skipped by a tick. This module does
not know how a run is shown once it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidRequest, NeedsConfirmation, StudioError
from studio.runs.config import TrainingConfig
from studio.runs.preflight import PreflightReport
from studio.ui.feedback import failure_html
from studio.ui.plain_html import live_html, plain_html
from studio.ui.train.estimate import NOT_YET, commands_html, estimate_html, stale_html, waiting_html
from studio.ui.train.fields import Updates, Values
from studio.ui.train.form import TrainForm, base_html, recipe_html, recipe_of, suggested_name
from studio.ui.train.importing import DatasetField, card_html

if TYPE_CHECKING:
    from studio.training import BaseStatus, TrainingServices


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """What was measured, and for which values (`_mark`)."""

    mark: str
    report: PreflightReport


@dataclass(frozen=True, kw_only=True)
class StartPart:
    """Estimate and Start. `estimated` holds an `Estimated`, `source` the run whose settings these are."""

    rate: gr.Number
    estimate: gr.Button
    report: gr.HTML
    skip: gr.Checkbox
    start: gr.Button
    resume_changed: gr.Button
    differences: gr.HTML
    confirm_changed: gr.Button
    words: gr.HTML
    processes: gr.Number
    nodes: gr.Number
    commands: gr.HTML
    estimated: gr.State
    suggested: gr.State
    source: gr.State


def build_start(name: str) -> StartPart:
    """Put estimate and Start on the page, in the current context."""
    report = plain_html(NOT_YET, elem_id="train-report")
    with gr.Column(elem_classes="field-pairs"):
        with gr.Column(min_width=0):
            rate = gr.Number(None, label="Cost of this machine an hour", placeholder="0", elem_id="train-rate",
                             info="In any currency; empty shows no cost.")  # fmt: skip
        with gr.Column(min_width=0):
            skip = gr.Checkbox(False, label="Start without an estimate", elem_id="train-skip")
    with gr.Row(elem_classes="go train-go"):
        estimate = gr.Button("Estimate", size="lg", elem_id="train-estimate")
        start = gr.Button("Start training", variant="primary", size="lg", elem_id="train-start",
                          interactive=False)  # fmt: skip
    words = live_html(elem_id="train-words", elem_classes="words")
    resume_changed = gr.Button("Resume it with these settings", visible=False, elem_id="train-resume-changed")
    differences = plain_html(elem_id="train-differences")
    confirm_changed = gr.Button("Yes, go on with these changes", variant="stop", visible=False,
                                elem_id="train-confirm-changed")  # fmt: skip
    return StartPart(
        rate=rate, estimate=estimate, report=report, skip=skip, start=start, resume_changed=resume_changed,
        differences=differences, confirm_changed=confirm_changed, words=words, **build_commands(),
        estimated=gr.State(None), suggested=gr.State(name), source=gr.State(None),
    )  # fmt: skip


def build_commands() -> dict[str, Any]:
    """The fold with the command lines for other machines."""
    with gr.Accordion("Several GPUs, several machines, Hugging Face Jobs", open=False, elem_classes="fold"):
        with gr.Row(elem_classes="pair"):
            processes = gr.Number(2, label="GPUs in a machine", minimum=1, precision=0, min_width=120,
                                  elem_id="train-processes")  # fmt: skip
            nodes = gr.Number(1, label="Machines", minimum=1, precision=0, min_width=120, elem_id="train-nodes")
        commands = plain_html(elem_id="train-commands")
    return {"processes": processes, "nodes": nodes, "commands": commands}


class StartActions:
    """The handlers, each from the page's values to updates of the page."""

    def __init__(self, training: TrainingServices, form: TrainForm, pictures: DatasetField, part: StartPart) -> None:
        self._training, self.form, self.pictures, self.part = training, form, pictures, part

    @property
    def inputs(self) -> set[Any]:
        """Everything the handlers read."""
        part, form = self.part, self.form
        own = {part.rate, part.skip, part.processes, part.nodes, part.estimated, part.suggested, part.source}
        return {*form.inputs, form.goal, form.machine, self.pictures.picker, *own}

    def config(self, values: Values) -> TrainingConfig:
        """What the page says, checked. Raises `InvalidRequest`."""
        return self._training.choices.config_of(self.form.choices(values, values[self.pictures.picker]))

    def error_updates(self, error: InvalidRequest | None) -> Updates:
        """The sentence beside its field, and no other."""
        updates = self.form.error_updates(error)
        updates[self.pictures.error] = ""
        if error is not None and error.field == "dataset":
            updates[self.pictures.error], updates[self.form.error] = updates[self.form.error], ""
        return updates

    @property
    def error_places(self) -> list[Any]:
        """Everything `error_updates` writes."""
        return [*self.form.error_places, self.pictures.error]

    # --- filling ---

    def take_recipe(self, values: Values) -> Updates:
        """Another goal or machine: its recipe's values, and its base and pictures where they can be used."""
        form = self.form
        recipe = recipe_of(self._training.choices.recipes(), values[form.goal], values[form.machine])
        if recipe is None:
            return {form.recipe_facts: recipe_html(None)}
        method = recipe.config.get("method", "perflow")
        updates = {form.recipe_facts: recipe_html(recipe), **form.fields.show(recipe.config, method)}
        updates[form.base] = gr.update(value=recipe.model)
        updates[form.base_facts] = base_html(self._base(recipe.model))
        if recipe.dataset and not values[self.pictures.picker]:
            updates[self.pictures.picker] = recipe.dataset
        return {**updates, **self._rename(values, method, recipe.model)}

    def change_base(self, values: Values) -> Updates:
        """Another base: what is known of it, its own size and its kind of prediction."""
        form = self.form
        status = self._base(values[form.base])
        head = values[form.fields.components["prediction_type"]]
        needs_v = status.spec.prediction_type == "v_prediction"
        wanted: dict[str, Any] = {"resolution": status.spec.native_width}
        if needs_v != (head == "v_prediction"):
            wanted["prediction_type"] = "v_prediction" if needs_v else "ddim_eps"
        method = values[form.fields.components["method"]]
        return {
            form.base_facts: base_html(status), **form.fields.show(wanted, method),
            **self._rename(values, method, status.spec.id),
        }  # fmt: skip

    def change_method(self, values: Values) -> Updates:
        """Another method: the fields that mean something to it."""
        method = values[self.form.fields.components["method"]]
        return {**self.form.fields.show({}, method), **self._rename(values, method, values[self.form.base])}

    def _rename(self, values: Values, method: str, base: str) -> Updates:
        """The suggested name follows, until a person gives one."""
        form, part = self.form, self.part
        if values[form.name] != values[part.suggested]:
            return {}
        name = suggested_name(method, self._base(base).spec.title)
        return {form.name: name, part.suggested: name}

    def _base(self, id: str) -> BaseStatus:
        return next(each for each in self._training.choices.bases() if each.spec.id == id)

    def fill(self, config: TrainingConfig, source: str | None, *, can_resume: bool) -> Updates:
        """The form as a run has it, for a new run with changes, or to resume that run with them."""
        form, part = self.form, self.part
        values = {name: getattr(config, name) for name in form.fields.components}
        return {
            **form.fields.show(values, config.method), form.name: config.name, form.base: config.base.id,
            form.base_facts: base_html(self._base(config.base.id)), self.pictures.picker: config.dataset.id,
            part.source: source, part.suggested: None,
            part.resume_changed: gr.update(visible=can_resume, value=f"Resume “{config.name}” with these settings"),
            part.differences: "", part.confirm_changed: gr.update(visible=False),
        }  # fmt: skip

    @property
    def fill_outputs(self) -> list[Any]:
        """Everything `fill` writes."""
        form, part = self.form, self.part
        return [
            *form.fields.components.values(), form.name, form.base, form.base_facts, self.pictures.picker, part.source,
            part.suggested, part.resume_changed, part.differences, part.confirm_changed,
        ]  # fmt: skip

    # --- checking ---

    def refresh(self, values: Values) -> Updates:
        """After any change: the first thing that makes no sense, whether the estimate holds, the command lines."""
        part, estimated = self.part, values[self.part.estimated]
        try:
            config = self.config(values)
        except InvalidRequest as error:
            return {**self.error_updates(error), part.start: gr.update(interactive=False)}
        holds = estimated is not None and estimated.mark == _mark(config)
        updates = {**self.error_updates(None), part.start: gr.update(interactive=holds or values[part.skip])}
        if estimated is not None and holds:
            updates[part.report] = estimate_html(estimated.report, config, values[part.rate])
        elif estimated is not None:
            updates |= {part.report: stale_html(), part.estimated: None}
        return {**updates, part.commands: self._commands(config, values)}

    def _commands(self, config: TrainingConfig, values: Values) -> str:
        try:
            lines = self._training.command_line(config, int(values[self.part.processes] or 0),
                                                int(values[self.part.nodes] or 0))  # fmt: skip
        except InvalidRequest as error:
            return failure_html(error)
        return commands_html(lines)

    def card(self, values: Values) -> Updates:
        """What is known of the chosen pictures, at this size and batch."""
        form, pictures = self.form, self.pictures
        sizes = {name: values[form.fields.components[name]] for name in ("resolution", "batch_size")}
        whole = {name: int(value) if value and value >= 1 else 64 for name, value in sizes.items()}
        chosen = values[pictures.picker]
        kept = chosen not in (None, "", "tabletop")
        return {
            pictures.card: card_html(self._training, chosen, **whole),
            pictures.delete: gr.update(visible=kept),
            pictures.confirm: gr.update(visible=False),
        }

    # --- starting ---

    def estimate(self, values: Values) -> Iterator[Updates]:
        """Two real steps and a sample, then what they say."""
        part = self.part
        try:
            config = self.config(values)
            yield {
                **self.error_updates(None), part.estimate: gr.update(interactive=False), part.words: "",
                part.report: waiting_html(),
            }  # fmt: skip
            report = self._training.preflight(config)
        except InvalidRequest as error:
            yield {**self.error_updates(error), **self._measured(NOT_YET)}
        except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
            yield self._measured(failure_html(error))
        else:
            estimated = Estimated(mark=_mark(config), report=report) if report.is_possible else None
            yield {
                **self._measured(estimate_html(report, config, values[part.rate])),
                part.estimated: estimated,
                part.start: gr.update(interactive=estimated is not None or values[part.skip]),
            }

    def _measured(self, html: str) -> Updates:
        return {self.part.report: html, self.part.estimate: gr.update(interactive=True)}

    def start(self, values: Values) -> tuple[Updates, str | None]:
        """A new run, and its id; or the sentence that says why not."""
        part = self.part
        try:
            config = self.config(values)
            estimated = values[part.estimated]
            if not values[part.skip] and (estimated is None or estimated.mark != _mark(config)):
                return {part.words: "Estimate first: it takes a minute and says whether this run fits. "
                                    "Or tick “Start without an estimate”."}, None  # fmt: skip
            status = self._training.start(config)
        except InvalidRequest as error:
            return {**self.error_updates(error), part.words: ""}, None
        except StudioError as error:
            return {part.words: failure_html(error)}, None
        return {**self.error_updates(None), part.words: f"{config.name} is on its way.", part.estimated: None,
                part.report: NOT_YET, part.skip: False,
                part.start: gr.update(interactive=False)}, status.id  # fmt: skip

    def resume_changed(self, values: Values, *, confirmed: bool) -> tuple[Updates, str | None]:
        """The run these settings came from, taken up again with them; what changes is shown first."""
        part, source = self.part, values[self.part.source]
        try:
            self._training.resume(source or "", self.config(values), confirmed)
        except NeedsConfirmation as asked:
            rows = "".join(f"<li>{escape(line)}</li>" for line in asked.lines)
            told = f'<div class="estimate"><b>This changes what it learns</b><ul>{rows}</ul></div>'
            return {part.differences: told, part.confirm_changed: gr.update(visible=True)}, None
        except InvalidRequest as error:
            return self.error_updates(error), None
        except StudioError as error:
            return {part.words: failure_html(error)}, None
        hidden = gr.update(visible=False)
        return {part.differences: "", part.confirm_changed: hidden, part.resume_changed: hidden}, source


def _mark(config: TrainingConfig) -> str:
    """What an estimate is about: all that decides the result and how often things are kept."""
    return repr(config)
