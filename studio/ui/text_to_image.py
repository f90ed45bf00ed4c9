"""The text-to-image tab: the form at the left, the picture at the right, below it what can be done with it.

A generation is an iterator of events; each becomes an update of the page, so a preview is seen while the next step
runs. Closing the iterator stops the work: after Cancel or Esc this module does it between two events, so that the last
word on the page is its own; for a closed page gradio does. This module does not know how pictures are made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidRequest, NotFound, StudioError
from studio.types import GenerationRequest, GenerationResult, Loading, StepPreview, Waiting
from studio.ui import stage
from studio.ui.destinations import SettingsTaker, Source
from studio.ui.downloads import connect_download
from studio.ui.feedback import event_in_words, failure_in_words, result_in_words
from studio.ui.form import Form, Updates, Values
from studio.ui.form_events import FormActions, connect_form
from studio.ui.form_layout import EXAMPLES, build_form
from studio.ui.plain_html import live_html, pickable_html, picked, plain_html
from studio.ui.windows_view import lens_card_html, lens_html

if TYPE_CHECKING:
    from studio.services import Services

TAB_ID = "text-to-image"
TITLE = "Text to image"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The components at the right."""

    stage: gr.HTML
    words: gr.HTML
    lens: gr.HTML
    actions: gr.Row
    download: gr.Button
    download_all: gr.Button
    shown: gr.State
    chosen: gr.State

    @property
    def outputs(self) -> list[Any]:
        """Everything a generation may change here."""
        return [self.stage, self.words, self.lens, self.actions, self.download_all, self.shown, self.chosen]


@dataclass(frozen=True, kw_only=True)
class Starter:
    """A button that draws here and hands the picture on: `then` what it hands it to is connected by the page."""

    button: gr.Button
    drawing: Drawing


def build_text_to_image(services: Services) -> tuple[Source, SettingsTaker, Starter]:
    """Put the tab's content on the page, in the current context; say what it gives to and takes from other tabs, and
    the button that draws for the next tab."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
            form = build_form(services, TAB_ID)
            assert form.generate.parent is not None
            with form.generate.parent:
                further = gr.Button("Draw and enlarge", size="lg", min_width=120, elem_id=f"{TAB_ID}-further")
        with gr.Column(scale=8, min_width=300, elem_classes="output"):
            result = build_result(TAB_ID, stage.empty_html(EXAMPLES[0]))
    connect_form(form, services)
    drawing = Drawing(services, form, result)
    connect_generation(drawing)
    connect_result(services, form, result, "drawn")

    taker = SettingsTaker(tab_id=TAB_ID, outputs=form.outputs, take=lambda request: form.show(request, services))
    return Source(row=result.actions, chosen=result.chosen), taker, Starter(button=further, drawing=drawing)


def build_result(tab_id: str, empty: str) -> Result:
    """The right side of a tab that draws; `empty` is the stage before the first picture."""
    picture = pickable_html(empty, elem_id=f"{tab_id}-stage")
    words = live_html(elem_id=f"{tab_id}-words", elem_classes="words")
    with gr.Row(visible=False, elem_classes="actions", elem_id=f"{tab_id}-actions") as actions:
        download = gr.Button("Download", size="sm", min_width=80, elem_id=f"{tab_id}-download")
        download_all = gr.Button("Download all", size="sm", min_width=80, visible=False)
    return Result(
        stage=picture, words=words, lens=plain_html(elem_id=f"{tab_id}-lens"), actions=actions, download=download,
        download_all=download_all, shown=gr.State(None), chosen=gr.State(None),
    )  # fmt: skip


class Drawing:
    """Generations on the page, at most one per session: from the form's values to a stream of updates.

    A tab with more to choose than the form has extends `inputs` and `make_request`.
    """

    tab_id = TAB_ID
    empty = stage.empty_html(EXAMPLES[0])

    def __init__(self, services: Services, form: Form, result: Result) -> None:
        self.services, self.form, self.result = services, form, result
        self._act = FormActions(form, services)
        self._stops: dict[str | None, threading.Event] = {}

    @property
    def inputs(self) -> set[Any]:
        """Everything `make_request` reads."""
        return self.form.inputs

    @property
    def outputs(self) -> list[Any]:
        """Everything `draw` may change."""
        return [*self.result.outputs, self.form.generate, self.form.cancel, *self.form.error_places]

    def pick(self, values: Values, event: gr.EventData, session: gr.Request) -> Iterator[Updates]:
        """A button of the stage: the example of the empty page, or another picture of the batch."""
        choice, shown = picked(event), values[self.result.shown]
        if choice == "example":
            yield {self.form.prompt: EXAMPLES[0]}
            yield from self.draw({**values, self.form.prompt: EXAMPLES[0]}, session)
        elif shown is not None and choice.isdecimal() and int(choice) < len(shown.pictures):
            yield show_picture(self.result, replace(shown, chosen=int(choice)))

    def draw(self, values: Values, session: gr.Request) -> Iterator[Updates]:
        """Updates from the click to the result, or to the sentence that says why there is none."""
        yield from self.draw_request(lambda: self.make_request(values), session)

    def draw_request(self, make: Callable[[], GenerationRequest], session: gr.Request) -> Iterator[Updates]:
        """The same for a request that is not made of the form's values; nothing while another is at work here."""
        if session.session_hash in self._stops:
            return
        try:
            request = make()
        except InvalidRequest as error:
            yield {**self.form.error_updates(error), **self._idle()}
            return
        except StudioError as error:
            yield {self.result.stage: stage.failed_html(str(error)), **self._idle()}
            return
        stop = self._stops[session.session_hash] = threading.Event()
        try:
            yield {**self.form.error_updates(None), **self._begin(request)}
            yield from self._work(request, stop)
        except InvalidRequest as error:
            yield {**self.form.error_updates(error), **self._idle(), self.result.stage: self.empty}
        except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
            yield {self.result.stage: stage.failed_html(failure_in_words(error)), **self._idle()}
        finally:
            self._stops.pop(session.session_hash, None)

    def cancel(self, session: gr.Request) -> Updates:
        """Cancel or Esc: the work ends within one step."""
        stop = self._stops.get(session.session_hash)
        if stop is None:
            return {self.form.cancel: gr.skip()}
        stop.set()
        return {self.form.cancel: gr.update(value="Stopping…", interactive=False)}

    def make_request(self, values: Values) -> GenerationRequest:
        """What the page asks for. Raises `StudioError`, `InvalidRequest` naming the field."""
        if not (values[self.form.prompt] or "").strip():
            raise InvalidRequest("prompt", "some words on what to draw, or an example from below", "nothing")
        return self.services.resolve(**self.form.choices(values, self._act.windows(values)))

    def _work(self, request: GenerationRequest, stop: threading.Event) -> Iterator[Updates]:
        result, cards = self.result, list[str]()
        windows = self.services.plan(request).windows
        with closing(self.services.generate(request, tab=self.tab_id)) as events:  # pyright: ignore[reportArgumentType]
            for event in events:
                if isinstance(event, GenerationResult):
                    yield self._finish(event)
                    return
                if stop.is_set():
                    yield {**self._idle(), result.words: "Cancelled. Nothing was saved."}
                    return
                updates: Updates = {result.words: event_in_words(event)}
                if isinstance(event, StepPreview):
                    cards = [*cards, lens_card_html(event)] if event.step > 1 else [lens_card_html(event)]
                    updates[result.stage] = stage.preview_html(event, request, windows)
                    updates[result.lens] = lens_html(cards, event.num_time_windows)
                elif isinstance(event, Loading | Waiting):
                    updates[result.stage] = stage.waiting_html(request, getattr(event, "fraction", None))
                yield updates

    def _begin(self, request: GenerationRequest) -> Updates:
        result = self.result
        return {
            self.form.generate: gr.update(visible=False),
            self.form.cancel: gr.update(visible=True, value="Cancel", interactive=True),
            result.stage: stage.waiting_html(request),
            result.words: "Starting…",
            result.lens: "",
            result.actions: gr.update(visible=False),
            result.chosen: None,
        }

    def _idle(self) -> Updates:
        return {
            self.form.generate: gr.update(visible=True),
            self.form.cancel: gr.update(visible=False),
            self.result.words: "",
        }

    def _finish(self, event: GenerationResult) -> Updates:
        shown = stage.shown_result(event)
        return {
            **self._idle(),
            **show_picture(self.result, shown),
            self.result.words: result_in_words(event),
            self.result.download_all: gr.update(visible=len(shown.pictures) > 1),
        }


def show_picture(result: Result, shown: stage.Shown) -> Updates:
    """One picture of a result, large, with its lens and what can be done with it."""
    picture = shown.pictures[shown.chosen]
    return {
        result.stage: stage.result_html(shown),
        result.lens: lens_html(picture.lens, shown.num_time_windows),
        result.actions: gr.update(visible=picture.history_id is not None),
        result.shown: shown,
        result.chosen: picture.history_id,
    }


def connect_generation(drawing: Drawing) -> None:
    """Draw on a click, stop on another."""
    form, result = drawing.form, drawing.result
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    # The studio's own line decides who draws next and tells people their place in it; gradio's must not hide that.
    drawn = form.generate.click(drawing.draw, drawing.inputs, drawing.outputs, concurrency_limit=None, **quiet)
    drawn.then(None, None, None, js="() => setTimeout(window.studio.showError, 50)")
    result.stage.select(
        drawing.pick, {*drawing.inputs, result.shown}, [*drawing.outputs, form.prompt], concurrency_limit=None, **quiet
    )
    form.cancel.click(drawing.cancel, None, form.cancel, queue=False, **quiet)


def connect_result(services: Services, form: Form, result: Result, name: str) -> None:
    """What can be done with a picture that is there; `name` is for the tab's hidden download links."""

    def reuse(shown: stage.Shown | None) -> int:
        if shown is None:
            raise gr.Error("There is no picture yet whose seed could be used again.", duration=5, print_exception=False)
        return shown.pictures[shown.chosen].seed

    def export(history_id: str | None) -> Path:
        return services.history.export(_required(history_id))

    def export_all(shown: stage.Shown | None) -> Path:
        ids = [picture.history_id for picture in shown.pictures if picture.history_id] if shown else []
        return services.history.zip(ids)

    form.reuse_seed.click(reuse, result.shown, form.seed, queue=False, show_progress="hidden", api_visibility="private")
    connect_download(result.download, export, result.chosen, f"{name}-file")
    connect_download(result.download_all, export_all, result.shown, f"{name}-files")


def _required(history_id: str | None) -> str:
    if history_id is None:
        raise NotFound("This picture is not in the history: draw it again, then download it.")
    return history_id
