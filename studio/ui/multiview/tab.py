"""The Multiview tab: a picture of one object at the left, its views at the right, below them a mesh that turns.

What the network will see is shown before anything is drawn; how often the network is really asked stands beside the
button. The tab is built only where a network can draw. This module does not know how views or meshes are made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.conditions import ViewsOf
from studio.errors import InvalidRequest, NotFound, StudioError
from studio.multiviews import TAB, Multiviews
from studio.types import GenerationRequest, GenerationResult, Loading, StepPreview
from studio.ui import stage
from studio.ui.destinations import Destination, SettingsTaker, Source
from studio.ui.downloads import connect_download
from studio.ui.feedback import event_in_words, failure_html, failure_in_words, result_in_words
from studio.ui.multiview.layout import Parts, accelerator_choices, build_inputs, build_result
from studio.ui.multiview.view import EMPTY, mesh_in_words, seen_html, sheet_html, turntable_html
from studio.ui.uploads import uploaded_files
from studio.ui.windows_view import grid_html

if TYPE_CHECKING:
    from studio.services import Services

TAB_ID = TAB
TITLE = "Multiview"
Updates = dict[Any, Any]
Values = dict[Any, Any]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_multiview(services: Services, views: Multiviews) -> tuple[Source, SettingsTaker, Destination]:
    """Put the tab's content on the page, in the current context; say what it gives to and takes from other tabs."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
            parts = build_inputs(views)
        with gr.Column(scale=8, min_width=300, elem_classes="output"):
            parts |= build_result()
    built = Parts(**parts)
    page = ViewsOnPage(services, views, built)
    _connect(services, page)

    def receive(history_id: str) -> Updates:
        return {built.picture: str(services.history.export(history_id))}

    taker = SettingsTaker(tab_id=TAB_ID, outputs=built.settings, take=page.show)
    place = Destination(title="Six views of it", tab_id=TAB_ID, outputs=[built.picture], receive=receive)
    return Source(row=built.actions, chosen=built.chosen), taker, place


def no_views() -> SettingsTaker:
    """What stands for the tab where no network draws views."""

    def take(_request: GenerationRequest) -> Updates:
        raise NotFound(
            "These are six views of an object, and no network that draws views is here: put its weights where the "
            "catalogue looks for them (presets/multiview.toml), then start the studio again."
        )

    return SettingsTaker(tab_id=TAB_ID, outputs=[], take=take)


class ViewsOnPage:
    """What the tab does: prepare, draw, make a mesh; at most one drawing per session."""

    def __init__(self, services: Services, views: Multiviews, parts: Parts) -> None:
        self._services, self._views, self.parts = services, views, parts
        self._stops: dict[str | None, threading.Event] = {}

    def prepare(self, path: str | None, background: Any, model: str) -> Updates:
        """What the network will see of the picture, or the sentence that says why it can see nothing."""
        parts = self.parts
        if path is None:
            return {parts.prepared: None, parts.seen: "", parts.error: ""}
        try:
            [(_, file)] = uploaded_files([path], self._services.settings.served_dir)
            given = ViewsOf(image=self._views.keep(file), background=background)
            prepared = self._views.prepare(given.image, model, background)
        except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
            return {parts.prepared: None, parts.seen: "", parts.error: failure_html(error)}
        return {parts.prepared: given, parts.seen: seen_html(prepared), parts.error: ""}

    def show(self, request: GenerationRequest) -> Updates:
        """Updates that make the tab say exactly this request, its picture included. Raises `NotFound`."""
        parts, given = self.parts, request.views_of
        assert given is not None
        prepared = self._views.prepare(given.image, request.model, given.background)
        choices = accelerator_choices(self._views, request.model)
        return {
            parts.picture: self._services.picture(given.image),
            parts.background: given.background,
            parts.prepared: given,
            parts.seen: seen_html(prepared),
            parts.error: "",
            parts.model: request.model,
            parts.accelerator: gr.update(choices=choices, value=request.accelerator),
            parts.strength: request.accelerator_strength,
            parts.steps: request.steps,
            parts.guidance: request.guidance.scales[0],
            parts.seed: request.seed,
        }

    def plan(self, values: Values) -> Updates:
        """How often the network will be asked."""
        try:
            return {self.parts.grid: grid_html(self._views.plan(self._request(values)))}
        except StudioError as error:
            return {self.parts.grid: failure_html(error)}

    def network(self, model: str) -> Updates:
        """Another network: its accelerators, and its recommended one."""
        start = self._views.resolve(model=model, seed=0)
        choices = accelerator_choices(self._views, model)
        return {
            self.parts.accelerator: gr.update(choices=choices, value=start.accelerator), self.parts.steps: start.steps
        }  # fmt: skip

    def draw(self, values: Values, session: gr.Request) -> Iterator[Updates]:
        """Updates from the click to the views, or to the sentence that says why there are none."""
        parts = self.parts
        try:
            if values[parts.prepared] is None:
                raise InvalidRequest("image", "a picture of one object", "nothing")
            request = self._request(values)
        except StudioError as error:
            yield {parts.error: failure_html(error)}
            return
        stop = self._stops[session.session_hash] = threading.Event()
        try:
            yield {**self._begin(request), parts.error: ""}
            yield from self._work(request, stop)
        except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
            yield {parts.stage: stage.failed_html(failure_in_words(error)), parts.words: "", **self._idle()}
        finally:
            self._stops.pop(session.session_hash, None)

    def cancel(self, session: gr.Request) -> Updates:
        """The work ends within one step."""
        stop = self._stops.get(session.session_hash)
        if stop is not None:
            stop.set()
        return {self.parts.cancel: gr.update(value="Stopping…", interactive=False)}

    def mesh(self, history_id: str | None) -> Iterator[Updates]:
        """A mesh of the shown views, with what is true of it."""
        parts = self.parts
        yield {parts.mesh_words: "Carving the mesh from the outlines, turning its faces to the normals…"}
        try:
            made = self._views.mesh(_required(history_id))
        except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
            yield {parts.mesh_words: failure_html(error)}
            return
        yield {
            parts.mesh: str(made.glb),
            parts.turntable: turntable_html(made.turntable),
            parts.mesh_words: mesh_in_words(made),
            parts.mesh_actions: gr.update(visible=True),
            parts.mesh_path: str(made.glb),
        }

    def _request(self, values: Values) -> GenerationRequest:
        parts = self.parts
        return self._views.resolve(
            model=values[parts.model], accelerator=values[parts.accelerator], steps=values[parts.steps],
            guidance=values[parts.guidance], seed=-1 if values[parts.seed] is None else values[parts.seed],
            accelerator_strength=values[parts.strength], views_of=values[parts.prepared],
        )  # fmt: skip

    def _work(self, request: GenerationRequest, stop: threading.Event) -> Iterator[Updates]:
        parts, windows = self.parts, self._views.plan(request).windows
        with closing(self._views.draw(request)) as events:  # pyright: ignore[reportArgumentType]
            for event in events:
                if isinstance(event, GenerationResult):
                    yield self._finish(event)
                    return
                if stop.is_set():
                    yield {parts.stage: EMPTY, parts.words: "Cancelled. Nothing was saved.", **self._idle()}
                    return
                updates: Updates = {parts.words: event_in_words(event)}
                if isinstance(event, StepPreview):
                    updates[parts.stage] = stage.preview_html(event, request, windows)
                elif isinstance(event, Loading):
                    updates[parts.stage] = stage.waiting_html(request, event.fraction)
                yield updates

    def _begin(self, request: GenerationRequest) -> Updates:
        parts = self.parts
        return {
            parts.generate: gr.update(visible=False),
            parts.cancel: gr.update(visible=True, value="Cancel", interactive=True),
            parts.stage: stage.waiting_html(request),
            parts.words: "Starting…",
            parts.actions: gr.update(visible=False),
            parts.chosen: None,
            parts.mesh_actions: gr.update(visible=False),
            parts.mesh_words: "",
        }

    def _idle(self) -> Updates:
        return {self.parts.generate: gr.update(visible=True), self.parts.cancel: gr.update(visible=False)}

    def _finish(self, event: GenerationResult) -> Updates:
        sheet, parts = event.images[0], self.parts
        return {
            **self._idle(),
            parts.stage: sheet_html(event),
            parts.words: result_in_words(event),
            parts.actions: gr.update(visible=sheet.history_id is not None),
            parts.chosen: sheet.history_id,
        }


def _required(value: str | None) -> str:
    if value is None:
        raise NotFound("There are no saved views yet: draw them first.")
    return value


def _connect(services: Services, page: ViewsOnPage) -> None:
    parts = page.parts
    seen = [parts.prepared, parts.seen, parts.error]
    of_picture = [parts.picture, parts.background, parts.model]
    gr.on([parts.picture.change, parts.background.change, parts.model.change], page.prepare, of_picture, seen, **QUIET)
    # By hand only: a restored request brings its own accelerator and steps. A choice during another's answer counts.
    parts.model.input(
        page.network, parts.model, [parts.accelerator, parts.steps], trigger_mode="always_last", **QUIET
    )  # fmt: skip
    changes = [parts.steps.change, parts.guidance.change, parts.accelerator.change]
    gr.on(changes, page.plan, parts.choices, parts.grid, **QUIET)
    parts.generate.click(page.draw, parts.choices, parts.result, concurrency_limit=None, **QUIET)
    parts.cancel.click(page.cancel, None, parts.cancel, queue=False, **QUIET)
    parts.make.click(page.mesh, parts.chosen, parts.of_mesh, concurrency_limit=1, **QUIET)
    connect_download(parts.download, lambda id: services.history.export(_required(id)), parts.chosen, "views-file")
    connect_download(parts.download_mesh, lambda path: Path(_required(path)), parts.mesh_path, "mesh-file")
