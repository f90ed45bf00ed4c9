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

    It is also told the values of `inputs`, and may name another tab itself, by an update of the page's tabs. What it
    raises is said where the person is, and nothing moves.
    """

    title: str
    tab_id: str
    outputs: Sequence[Block]
    receive: Callable[..., dict[Any, Any]]
    inputs: Sequence[Block] = ()


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


def either(
    plain: SettingsTaker, other: SettingsTaker, goes_there: Callable[[GenerationRequest], bool]
) -> SettingsTaker:
    """Two tabs as one: a request that `goes_there` fills `other`, any other `plain`."""

    def choose(request: GenerationRequest) -> SettingsTaker:
        return other if goes_there(request) else plain

    return SettingsTaker(
        tab_id=plain.tab_id,
        outputs=[*plain.outputs, *other.outputs],
        take=lambda request: choose(request).take(request),
        choose_tab=lambda request: choose(request).tab_for(request),
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
                button.click(
                    _sender(destination, tabs), [source.chosen, *destination.inputs], [*destination.outputs, tabs],
                    show_progress="hidden", api_visibility="private",
                )  # fmt: skip


def _sender(destination: Destination, tabs: gr.Tabs) -> Callable[..., dict[Any, Any]]:
    def send(history_id: str | None, *values: Any) -> dict[Any, Any]:
        try:
            if history_id is None:
                raise NotFound("This picture is not in the history: there is nothing to send.")
            return {tabs: gr.Tabs(selected=destination.tab_id), **destination.receive(history_id, *values)}
        except StudioError as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error

    return send
