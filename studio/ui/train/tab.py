"""The Train tab: pictures, recipe and settings at the left, the run at the right.

The page asks `TrainingServices` and reads runs from their folders; it trains nothing itself, so it may be closed at any
time. This module puts the parts together and connects them; what they do is in the modules beside it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import NotFound, StudioError
from studio.runs.bundle import zip_folder
from studio.types import GenerationRequest
from studio.ui.destinations import SettingsTaker
from studio.ui.downloads import connect_download
from studio.ui.plain_html import plain_html
from studio.ui.train.fields import Values
from studio.ui.train.form import (
    TrainForm,
    base_html,
    build_base,
    build_folded_fields,
    build_main_fields,
    build_recipes,
    joined,
    suggested_name,
)
from studio.ui.train.importing import DatasetField, build_dataset, connect_dataset, dataset_choices
from studio.ui.train.run import RunActions, RunPanel, build_run
from studio.ui.train.start import StartActions, StartPart, build_start

if TYPE_CHECKING:
    from studio.services import Services
    from studio.training import RunStatus, TrainingServices

TAB_ID = "train"
TITLE = "Train"
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
OFF = (
    '<div class="run-empty"><h2>Training is off here</h2><p>This studio is shown to the public, so nobody can bring '
    "pictures or train on it. Run the studio on your own machine, or duplicate this Space and start it with "
    "<b>--training on</b>: then everything is in this tab.</p></div>"
)


def build_train(services: Services, tab: gr.Tab, tabs: gr.Tabs, settings: SettingsTaker) -> None:
    """Put the tab's content on the page, in the current context, and connect it."""
    training = services.training
    if training is None or not training.is_on:
        plain_html(OFF, elem_id="train-off")
        return
    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
            form, pictures, part = _build_left(training)
        with gr.Column(scale=8, min_width=300, elem_classes="output train-output"):
            panel = build_run()
    start = StartActions(training, form, pictures, part)
    connect_dataset(pictures, training)
    _connect_form(start)
    _connect_look(training, panel, tab, pictures)
    _connect_start(start, RunActions(training, panel), panel)
    _connect_run(services, training, start, panel)
    _connect_try(services, training, panel, settings, tabs)


def _build_left(training: TrainingServices) -> tuple[TrainForm, DatasetField, StartPart]:
    recipes = training.choices.recipes()
    first = recipes[0]
    bases = training.choices.bases()
    title = next((each.spec.title for each in bases if each.spec.id == first.model), first.model)
    name = suggested_name(first.config.get("method", "perflow"), title)
    goal, machine, facts = build_recipes(recipes, first)
    pictures = build_dataset(training, first.dataset or "tabletop", training.settings.max_body_bytes)
    base, base_facts, named = build_base([(each.spec.title, each.spec.id) for each in bases], first.model, name)
    base_facts.value = base_html(next(each for each in bases if each.spec.id == first.model))
    errors = {field: plain_html(elem_classes="field-error-place", elem_id=f"train-error-{field}")
              for field in ("base", "name")}  # fmt: skip
    main = build_main_fields(first)
    error = plain_html(elem_classes="field-error-place", elem_id="train-error")
    part = build_start(name)
    folded = build_folded_fields(first)
    form = TrainForm(
        goal=goal, machine=machine, recipe_facts=facts, base=base, base_facts=base_facts, name=named, error=error,
        errors=errors, fields=joined(main, folded),
    )  # fmt: skip
    return form, pictures, part


def _connect_form(act: StartActions) -> None:
    form, part, pictures = act.form, act.part, act.pictures
    fields = form.fields.components
    filled = [*fields.values(), form.recipe_facts, form.base, form.base_facts, form.name, part.suggested,
              pictures.picker]  # fmt: skip
    # A choice made while the one before is still being answered counts.
    latest: dict[str, Any] = {"trigger_mode": "always_last", "queue": False, **QUIETLY}
    gr.on([form.goal.input, form.machine.input], act.take_recipe, act.inputs, filled, **latest)
    form.base.input(act.change_base, act.inputs, filled, **latest)
    fields["method"].input(act.change_method, act.inputs, filled, **latest)  # pyright: ignore
    changed: list[Any] = [
        *fields.values(),
        form.base,
        form.name,
        pictures.picker,
        part.skip,
        part.processes,
        part.nodes,
        part.rate,
    ]
    checked = [*act.error_places, part.start, part.report, part.estimated, part.commands]
    gr.on([each.change for each in changed], act.refresh, act.inputs, checked, **latest)
    sized: list[Any] = [pictures.picker, fields["resolution"], fields["batch_size"]]
    gr.on([each.change for each in sized], act.card, act.inputs, [pictures.card, pictures.delete, pictures.confirm],
          **latest)  # fmt: skip


def _connect_look(training: TrainingServices, panel: RunPanel, tab: gr.Tab, pictures: DatasetField) -> None:
    """The run is looked at when the tab opens, when another one is chosen, and every now and then."""
    act = RunActions(training, panel)
    seen = [panel.picker, panel.seen, panel.at]
    panel.timer.tick(act.look, seen, panel.shown, queue=False, **QUIETLY)
    tab.select(act.look, seen, panel.shown, queue=False, **QUIETLY)
    tab.select(lambda: gr.update(choices=dataset_choices(training)), None, pictures.picker, queue=False, **QUIETLY)
    panel.picker.input(lambda: (None, ""), None, [panel.at, panel.words], queue=False, **QUIETLY).then(
        act.look, seen, panel.shown, queue=False, **QUIETLY
    )
    panel.scrubber.select(act.scrub, panel.picker, panel.at, queue=False, trigger_mode="always_last", **QUIETLY).then(
        act.look, seen, panel.shown, queue=False, **QUIETLY
    )


def _connect_start(act: StartActions, show: RunActions, panel: RunPanel) -> None:
    part = act.part
    measured = [*act.error_places, part.estimate, part.report, part.words, part.estimated, part.start]
    part.estimate.click(act.estimate, act.inputs, measured, concurrency_limit=None, **QUIETLY)

    def started(work: Any, values: Values) -> dict[Any, Any]:
        updates, run_id = work({key: value for key, value in values.items() if key is not panel.seen})
        return {**updates, **(show.look(run_id, values[panel.seen], None, choose=True) if run_id else {})}

    inputs = {*act.inputs, panel.seen}
    shown = [*act.error_places, part.words, part.estimated, part.report, part.skip, part.start, *panel.shown]
    part.start.click(partial(started, act.start), inputs, shown, **QUIETLY).then(
        None, None, None, js="() => setTimeout(window.studio.showError, 50)"
    )
    changed = [*act.error_places, part.words, part.differences, part.confirm_changed, part.resume_changed, *panel.shown]
    for button, confirmed in ((part.resume_changed, False), (part.confirm_changed, True)):
        button.click(partial(started, partial(act.resume_changed, confirmed=confirmed)), inputs, changed, **QUIETLY)


def _connect_run(services: Services, training: TrainingServices, start: StartActions, panel: RunPanel) -> None:
    act, buttons = RunActions(training, panel), panel.buttons
    seen = [panel.picker, panel.seen, panel.at]
    look: dict[str, Any] = {"fn": act.look, "inputs": seen, "outputs": panel.shown, "queue": False, **QUIETLY}
    for request in ("stop", "save", "sample", "pause"):
        buttons[request].click(partial(act.ask, request), panel.picker, panel.words, **QUIETLY).then(**look)
    buttons["resume"].click(act.resume, panel.picker, panel.words, **QUIETLY).then(**look)
    buttons["delete"].click(lambda: gr.update(visible=True), None, panel.confirm, queue=False, **QUIETLY)
    panel.keep.click(lambda: gr.update(visible=False), None, panel.confirm, queue=False, **QUIETLY)
    panel.delete_now.click(act.delete, panel.picker, [panel.words, panel.confirm, panel.picker], **QUIETLY).then(**look)

    part = panel.result
    part.make.click(lambda: "Making LoRA files…", None, panel.words, queue=False, **QUIETLY).then(
        act.lora, [panel.picker, part.rank], panel.words, concurrency_limit=None, **QUIETLY
    )
    part.send.click(lambda: "Publishing…", None, panel.words, queue=False, **QUIETLY).then(
        act.publish, [panel.picker, part.repo, part.token], [panel.words, part.token], concurrency_limit=None, **QUIETLY
    )

    def use(chosen: str | None) -> dict[Any, Any]:
        status = _status(training, chosen)
        return start.fill(status.config, status.id, can_resume=not status.is_at_work and status.state != "queued")

    buttons["duplicate"].click(use, panel.picker, start.fill_outputs, queue=False, **QUIETLY)

    def export(chosen: str | None) -> Any:
        status = _status(training, chosen)
        return zip_folder(training.export_dir(status.id), services.settings.served_dir / "exports", status.id)

    connect_download(buttons["download"], export, panel.picker, "train-file")


def _connect_try(
    services: Services, training: TrainingServices, panel: RunPanel, settings: SettingsTaker, tabs: gr.Tabs
) -> None:
    def try_it(chosen: str | None) -> dict[Any, Any]:
        try:
            status = training.status(chosen or "")
            updates = settings.take(request_for(services, status))
        except StudioError as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error
        return {**updates, tabs: gr.Tabs(selected=settings.tab_id)}

    panel.buttons["try"].click(try_it, panel.picker, [*settings.outputs, tabs], queue=False, **QUIETLY)


def request_for(services: Services, status: RunStatus) -> GenerationRequest:
    """A first picture with what a run brought forth: its own base, its own accelerator, a caption it knows."""
    export = status.export
    if export is None:
        raise NotFound(f"{status.config.name} has no result yet.")
    prompt = (status.config.sample_prompts or ("a glossy red cube to the left of a small blue cone",))[0]
    if export.kind == "model":
        return services.resolve(prompt=prompt, model=status.catalog_id)
    if export.kind == "controlnet":
        raise NotFound(f"{status.config.name} is a ControlNet: choose it in a unit of the Control tab, with a picture.")
    return services.resolve(prompt=prompt, model=export.base_id, accelerator=status.catalog_id)


def _status(training: TrainingServices, chosen: str | None) -> RunStatus:
    try:
        return training.status(chosen or "")
    except StudioError as error:
        raise gr.Error(str(error), duration=8, print_exception=False) from error
