"""The Upscale tab: a picture at the left, enlarged and refined tile by tile; the result beside what it was.

It draws by the same path as text to image: `Enlarging` only adds the picture to the request. Cancel keeps the tiles
that are done. This module does not know how tiles are drawn, nor how seams are measured.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidRequest, NotFound, StudioError
from studio.specs import AcceleratorSpec, ModelSpec
from studio.types import (
    GenerationRequest,
    GenerationResult,
    Guidance,
    Loading,
    StepDone,
    StepPreview,
    Waiting,
)
from studio.ui import stage
from studio.ui.destinations import Destination, SettingsTaker, Source
from studio.ui.feedback import event_in_words, failure_html, field_error_html, result_in_words
from studio.ui.form import Form, Updates, Values, num_time_windows, recommended
from studio.ui.form_events import LATEST, connect_form
from studio.ui.form_layout import build_form
from studio.ui.text_to_image import Drawing, Result, Starter, build_result, connect_generation, connect_result
from studio.ui.upscale.layout import (
    Finished,
    UpscaleFields,
    build_finished,
    build_picture,
    build_tiles,
    control_choices,
)
from studio.ui.upscale.view import (
    EMPTY,
    estimate_html,
    facts_html,
    heat_html,
    jpeg_for_comparison,
    measures_html,
    tile_in_words,
    tiles_html,
)
from studio.ui.windows_view import data_uri
from studio.upscales import NO_CONTROL, TAB
from studio.upscaling.enlarged import Enlarged

if TYPE_CHECKING:
    from studio.services import Services

TAB_ID = TAB
TITLE = "Upscale"
OF_PICTURE = ("image", "upscale_image", "factor", "creativity", "tile", "overlap", "upscale_control", "upscale_weight",
              "threshold", "width", "height")  # fmt: skip
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_upscale(services: Services, starter: Starter, tabs: gr.Tabs) -> tuple[Source, SettingsTaker, Destination]:
    """Put the tab's content on the page, in the current context; say what it gives to and takes from other tabs."""

    def advised(model: ModelSpec, accelerator: AcceleratorSpec) -> dict[str, Any]:
        best, values = services.catalog.upscaling(model), recommended(model, accelerator)
        guidance = Guidance(scales=best.guidance) if best.guidance else values["guidance"]
        return {**values, "steps": best.steps or values["steps"], "guidance": guidance}

    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
            parts = build_picture(TAB_ID)
            form = build_form(services, TAB_ID, advised=advised, has_size=False)
            fields = UpscaleFields(**parts, **build_tiles(services, TAB_ID))
        with gr.Column(scale=8, min_width=300, elem_classes="output"):
            result = build_result(TAB_ID, EMPTY)
            finished = build_finished(TAB_ID)
    form.generate.value = "Enlarge"
    form = replace(form, errors={**form.errors, **dict.fromkeys(OF_PICTURE, fields.error)})
    connect_form(form, services)
    drawing = Enlarging(services, form, result, fields, finished)
    connect_generation(drawing)
    connect_result(services, form, result, "enlarged")
    _connect(drawing)

    def receive(history_id: str) -> Updates:
        entry = services.history.get(history_id)
        return {
            **drawing.adopt(entry.request),
            fields.picture: str(services.history.export(history_id)),
            form.prompt: entry.prompt,
        }

    place = Destination(title="Enlarge it", tab_id=TAB_ID, outputs=drawing.shown, receive=receive)
    _connect_starter(starter, drawing, place, tabs)
    taker = SettingsTaker(tab_id=TAB_ID, outputs=drawing.shown, take=drawing.show)
    return Source(row=result.actions, chosen=result.chosen), taker, place


class Enlarging(Drawing):
    """Enlargements on the page."""

    tab_id = TAB_ID
    empty = EMPTY

    def __init__(
        self, services: Services, form: Form, result: Result, fields: UpscaleFields, finished: Finished
    ) -> None:
        super().__init__(services, form, result)
        self.fields, self.finished = fields, finished

    @property
    def inputs(self) -> set[Any]:
        return {*self.form.inputs, *self.fields.inputs}

    @property
    def outputs(self) -> list[Any]:
        return [*super().outputs, *self.finished.outputs]

    @property
    def shown(self) -> list[Any]:
        """Everything `show` writes."""
        return [*self.form.outputs, *self.fields.inputs, self.fields.facts]

    # --- from the page to a request ---

    def make_request(self, values: Values) -> GenerationRequest:
        picture = self.services.keep(values[self.fields.picture], "image", shrinks=False)
        return self._request(values, picture)

    def _request(self, values: Values, picture: str) -> GenerationRequest:
        fields = self.fields
        chosen = self.form.choices(values, self._act.windows(values))
        for name in ("width", "height", "num_images"):
            chosen.pop(name)
        return self.services.upscales.resolve(
            picture, factor=values[fields.factor], creativity=values[fields.creativity], tile=values[fields.tile],
            overlap=values[fields.overlap], control=values[fields.control], weight=values[fields.weight], **chosen,
        )  # fmt: skip

    def estimate(self, values: Values) -> Updates:
        """What a click would make and take, or why it could not."""
        fields = self.fields
        if not values[fields.picture]:
            return {fields.estimate: "", fields.error: ""}
        try:
            request = self.make_request(values)
            plan = self.services.plan(request)
        except InvalidRequest as error:
            return {fields.estimate: "", fields.error: field_error_html(error)}
        except StudioError as error:
            return {fields.estimate: "", fields.error: failure_html(error)}
        estimate = self.services.upscales.estimate(request, plan)
        return {fields.estimate: estimate_html(estimate, plan), fields.error: ""}

    def change_model(self, model: str) -> Updates:
        """Another model: its tile ControlNets, and what it does best with."""
        fields, services = self.fields, self.services
        spec = services.catalog.model(model)
        advised, control = services.upscales.advised(spec)
        return {
            fields.control: gr.update(choices=control_choices(services, model), value=control or NO_CONTROL),
            fields.creativity: advised.creativity if control else advised.creativity_alone,
            fields.weight: gr.update(value=advised.weight, visible=control is not None),
            fields.tile: advised.tile,
            fields.overlap: advised.overlap,
            fields.facts: facts_html(advised, has_control=control is not None),
        }

    def change_control(self, model: str, control: str) -> Updates:
        """With or without a tile ControlNet: the creativity that suits it."""
        spec = self.services.catalog.upscaling(self.services.catalog.model(model))
        held = control != NO_CONTROL
        fields = self.fields
        creativity = spec.creativity if held else spec.creativity_alone
        return {fields.creativity: creativity, fields.weight: gr.update(visible=held)}

    # --- from a request to the page ---

    def show(self, request: GenerationRequest) -> Updates:
        """Updates that make the tab say exactly this request. Raises `NotFound` for a lost picture."""
        fields, upscale = self.fields, request.upscale
        if upscale is None:
            raise NotFound("This picture was not enlarged here: use its settings in another tab.")
        updates = {**self.form.show(request, self.services), **self.change_model(request.model)}
        for field in (self.form.width, self.form.height):
            updates.pop(field)
        return {
            **updates,
            fields.picture: self.services.picture(upscale.image),
            fields.factor: upscale.factor,
            fields.control: gr.update(
                choices=control_choices(self.services, request.model), value=upscale.control or NO_CONTROL
            ),
            fields.creativity: upscale.creativity,
            fields.weight: gr.update(value=upscale.weight, visible=upscale.control is not None),
            fields.tile: upscale.tile,
            fields.overlap: upscale.overlap,
        }

    def adopt(self, request: GenerationRequest) -> Updates:
        """The model and accelerator that drew a picture, and what they do best with; none where this tab lacks them."""
        form, services = self.form, self.services
        if request.model not in {spec.id for spec in services.catalog.models}:
            return {}
        model, accelerator = services.catalog.model(request.model), services.catalog.accelerator(request.accelerator)
        best = form.advised(model, accelerator)
        windows = num_time_windows(services, model.id, accelerator.id)
        return {
            **form.model_updates(model, services, accelerator.id),
            **self.change_model(model.id),
            **form.schedule.show(best["guidance"], num_time_windows=windows),
            form.steps: best["steps"],
        }

    # --- drawing ---

    def redo(self, values: Values, session: gr.Request) -> Iterator[Updates]:
        """Draw again what lies near the seams that show."""
        history_id, threshold = values[self.result.chosen], values[self.finished.threshold]

        def request() -> GenerationRequest:
            if history_id is None:
                raise NotFound("There is no saved picture whose seams could be redone.")
            return self.services.upscales.mend(history_id, threshold)

        yield from self.draw_request(request, session)

    def heat(self, history_id: str | None, threshold: float) -> Updates:
        """The seams of the shown picture."""
        if history_id is None:
            return {self.finished.heat: ""}
        try:
            return {self.finished.heat: heat_html(self.services.upscales.measure(history_id), threshold)}
        except StudioError as error:
            return {self.finished.heat: failure_html(error)}

    def _work(self, request: GenerationRequest, stop: threading.Event) -> Iterator[Updates]:
        result = self.result
        events = self.services.generate(request, tab=self.tab_id, stop=stop)
        with closing(events):  # pyright: ignore[reportArgumentType]
            for event in events:
                if isinstance(event, GenerationResult):
                    yield self._finish(event)
                    return
                if isinstance(event, Waiting | Loading):
                    if stop.is_set():
                        break
                    fraction = getattr(event, "fraction", None)
                    yield {result.words: event_in_words(event), result.stage: stage.waiting_html(request, fraction)}
                elif isinstance(event, StepDone):
                    updates: Updates = {result.words: tile_in_words(event)}
                    if isinstance(event, StepPreview):
                        updates[result.stage] = tiles_html(event, request)
                    yield updates
        yield {
            **self._idle(),
            result.words: "Cancelled before a tile was done. Nothing was saved.",
            result.stage: EMPTY,
        }

    def _begin(self, request: GenerationRequest) -> Updates:
        return {**super()._begin(request), self.finished.box: gr.update(visible=False)}

    def _finish(self, event: GenerationResult) -> Updates:
        result, finished, report = self.result, self.finished, event.receipt.upscale
        assert report is not None
        image = event.images[0]
        shown = stage.Shown(
            request=event.request,
            pictures=(
                stage.ShownPicture(
                    source=data_uri(image.image), thumbnail="", alt="", seed=image.seed, history_id=image.history_id,
                    lens=(),
                ),
            ),
            num_time_windows=event.receipt.plan.num_time_windows,
        )  # fmt: skip
        return {
            **self._idle(),
            result.stage: "",
            result.words: result_in_words(event),
            result.actions: gr.update(visible=image.history_id is not None),
            result.shown: shown,
            result.chosen: image.history_id,
            finished.box: gr.update(visible=True),
            finished.slider: self._before_and_after(event),
            finished.measures: measures_html(report),
            finished.heat: "",
            finished.redo: gr.update(interactive=image.history_id is not None and report.worst_seam > 1),
        }

    def _before_and_after(self, event: GenerationResult) -> tuple[str, str]:
        """Two files of equal size for the slider."""
        upscale, history = event.request.upscale, self.services.history
        assert upscale is not None
        before = Enlarged(source=history.inputs.open(upscale.image), factor=upscale.factor).whole()
        pair = (("before.jpg", before), ("after.jpg", event.images[0].image))
        first, second = (str(history.export_file(name, jpeg_for_comparison(image))) for name, image in pair)
        return first, second


# --- connections ------------------------------------------------------------------------------------------------------


def _connect(drawing: Enlarging) -> None:
    form, fields, finished, result = drawing.form, drawing.fields, drawing.finished, drawing.result
    of_plan = [form.steps, form.accelerator, *form.schedule.components]
    changes = [each.change for each in (*fields.inputs, *of_plan)]
    gr.on(
        changes, drawing.estimate, drawing.inputs, [fields.estimate, fields.error], trigger_mode="always_last",
        queue=False, **QUIETLY,
    )  # fmt: skip
    form.model.input(drawing.change_model, form.model, [*fields.tiles, fields.facts], **LATEST)
    advised = [fields.creativity, fields.weight]
    fields.control.input(drawing.change_control, [form.model, fields.control], advised, **LATEST)
    finished.redo.click(
        drawing.redo, {result.chosen, finished.threshold}, drawing.outputs, concurrency_limit=None, **QUIETLY
    )
    gr.on(
        [finished.threshold.change, result.chosen.change], drawing.heat, [result.chosen, finished.threshold],
        finished.heat, trigger_mode="always_last", **QUIETLY,
    )  # fmt: skip


def _connect_starter(starter: Starter, drawing: Enlarging, place: Destination, tabs: gr.Tabs) -> None:
    """One click in another tab: draw there, bring the picture here, enlarge it."""
    first = starter.drawing

    def bring(history_id: str | None) -> Updates:
        if history_id is None:  # cancelled or refused there, and said there
            return {tabs: gr.skip()}
        return {tabs: gr.Tabs(selected=place.tab_id), drawing.fields.factor: 2, **place.receive(history_id)}

    def enlarge(values: Values, session: gr.Request) -> Iterator[Updates]:
        if values[first.result.chosen] is not None:
            yield from drawing.draw(values, session)

    begun = starter.button.click(first.draw, first.inputs, first.outputs, concurrency_limit=None, **QUIETLY)
    outputs: list[Any] = [*place.outputs, tabs]
    brought = begun.then(bring, first.result.chosen, outputs, **QUIETLY)
    brought.then(
        enlarge, {*drawing.inputs, first.result.chosen}, drawing.outputs, concurrency_limit=None, **QUIETLY
    )  # fmt: skip
