"""Where a finished picture can go next: a registry that later tabs plug into.

A tab that can take a picture offers a `Destination`; a tab that has pictures offers a `Source`. `connect` gives every
source one button per destination, so no tab knows another. What travels is the picture's history id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.errors import NotFound, StudioError
from studio.types import GenerationRequest


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A place for pictures: `receive` turns a history id into updates of `outputs`, all of them in the tab `tab_id`.

    It may name another tab itself, by an update of the page's tabs.
    """

    title: str
    tab_id: str
    outputs: Sequence[Block]
    receive: Callable[[str], dict[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class SettingsTaker:
    """A tab whose form can be filled from a request: `take` turns it into updates of `outputs`."""

    tab_id: str
    outputs: Sequence[Block]
    take: Callable[[GenerationRequest], dict[Any, Any]]
    choose_tab: Callable[[GenerationRequest], str] | None = None

    def tab_for(self, request: GenerationRequest) -> str:
        """The tab to show once it was filled from this request."""
        return self.choose_tab(request) if self.choose_tab else self.tab_id


def either(plain: SettingsTaker, following: SettingsTaker, enlarging: SettingsTaker | None = None) -> SettingsTaker:
    """Tabs as one: a request that enlarges goes to `enlarging`, one that follows pictures to `following`, any other to
    `plain`."""
    takers = [each for each in (plain, following, enlarging) if each is not None]

    def choose(request: GenerationRequest) -> SettingsTaker:
        if enlarging is not None and request.upscale is not None:
            return enlarging
        return following if request.pictures else plain

    return SettingsTaker(
        tab_id=plain.tab_id,
        outputs=[output for taker in takers for output in taker.outputs],
        take=lambda request: choose(request).take(request),
        choose_tab=lambda request: choose(request).tab_id,
    )


@dataclass(frozen=True, kw_only=True)
class Source:
    """A tab that shows pictures: `row` is where its buttons stand, `chosen` holds the history id of the shown one."""

    row: gr.Row
    chosen: gr.State


def connect(sources: Sequence[Source], destinations: Sequence[Destination], tabs: gr.Tabs) -> None:
    """One button for every way from a source to a destination."""
    for source in sources:
        with source.row:
            for destination in destinations:
                button = gr.Button(destination.title, size="sm", min_width=80)
                button.click(_sender(destination, tabs), source.chosen, [*destination.outputs, tabs],
                             show_progress="hidden", api_visibility="private")  # fmt: skip


def _sender(destination: Destination, tabs: gr.Tabs) -> Callable[[str | None], dict[Any, Any]]:
    def send(history_id: str | None) -> dict[Any, Any]:
        try:
            if history_id is None:
                raise NotFound("This picture is not in the history: there is nothing to send.")
            return {tabs: gr.Tabs(selected=destination.tab_id), **destination.receive(history_id)}
        except StudioError as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error

    return send
