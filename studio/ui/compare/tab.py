"""The Compare tab: contestants at the left, their pictures, numbers and votes at the right, grids of pictures below.

It puts the parts on the page and connects them: fields.py is the left side, contest.py draws,
looks.py looks. This module does not know how pictures are made, nor what is fair.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import NotFound
from studio.ui.catalog_lists import CatalogLists
from studio.ui.compare.contest import Contest
from studio.ui.compare.fields import start_of
from studio.ui.compare.grid import Grids
from studio.ui.compare.grid_layout import build_grids, like_choices
from studio.ui.compare.layout import TAB_ID, build_fields, build_result
from studio.ui.compare.stops import Stops
from studio.ui.compare.view import ShownContest
from studio.ui.destinations import Destination, Source
from studio.ui.downloads import connect_download
from studio.ui.form import Updates

if TYPE_CHECKING:
    from studio.services import Services

TITLE = "Compare"
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_compare(services: Services, tab: gr.Tab) -> tuple[list[Source], Destination]:
    """Put the tab's content on the page, in the current context; say what it gives to and takes from other tabs."""
    start, reference = start_of(services, services.default_model)
    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
            fields = build_fields(services, start, reference)
        with gr.Column(scale=8, min_width=300, elem_classes="output compare-output"):
            parts = build_result()
            grid_parts = build_grids(len(start))
    contest = Contest(services, fields, parts, Stops())
    grids = Grids(services, contest, grid_parts)
    recounted = _connect_fields(contest, tab)
    _connect_contest(contest)
    _connect_grids(grids, tab, recounted)

    def receive(history_id: str) -> Updates:
        updates = contest.act.receive(services.history.get(history_id).request)
        return {**updates, grid_parts.like: gr.update(choices=like_choices(updates[fields.count]), value=0)}

    outputs = [
        *fields.contestants,
        grid_parts.like,
        fields.prompt,
        fields.negative_prompt,
        fields.seed,
        fields.width,
        fields.height,
    ]
    place = Destination(title="Compare it", tab_id=TAB_ID, outputs=outputs, receive=receive)
    sources = [Source(row=each.actions, chosen=each.chosen) for each in (parts, grid_parts)]
    return sources, place


def _connect_fields(contest: Contest, tab: gr.Tab) -> list[Any]:
    """The left side's own behaviour; returns the events after which there are more or fewer contestants."""
    fields, act = contest.fields, contest.act
    quick: dict[str, Any] = {"queue": False, **QUIETLY}
    plans = [*(card.plan for card in fields.cards), *fields.error_places]
    changes = [tab.select, *(each.change for each in fields.chosen)]
    gr.on(changes, act.refresh, fields.inputs, plans, trigger_mode="always_last", **quick)
    fields.examples.select(act.example, None, fields.prompt, **quick)
    fields.dice.click(lambda: -1, None, fields.seed, **quick)
    latest: dict[str, Any] = {**quick, "trigger_mode": "always_last"}  # a choice during another's answer counts
    fields.equal.input(act.change_equal, fields.equal, fields.budget, **latest)
    everything = {*fields.inputs, *(card.kept for card in fields.cards)}
    CatalogLists(contest.services, [(card.model, card.accelerator) for card in fields.cards]).connect(tab.select)
    recounted = [fields.add.click(act.add, everything, fields.contestants, **quick)]
    for index, card in enumerate(fields.cards):
        advised = [card.steps, card.guidance, card.strength]
        card.model.input(partial(act.change_model, index), everything, [card.accelerator, *advised], **latest)
        card.accelerator.input(partial(act.change_accelerator, index), everything, advised, **latest)
        card.steps.input(lambda kept: kept | {"steps"}, card.kept, card.kept, **quick)
        card.guidance.input(lambda kept: kept | {"guidance"}, card.kept, card.kept, **quick)
        others = [each.is_reference for each in fields.cards if each is not card]
        card.is_reference.input(partial(act.mark_reference, index), card.is_reference, others, **quick)
        recounted += [card.remove.click(partial(act.remove, index), everything, fields.contestants, **quick)]
    # The number of cards is a state, whose change is not told: what follows from it is asked for.
    return [each.then(act.refresh, fields.inputs, plans, **quick) for each in recounted]


def _connect_contest(contest: Contest) -> None:
    fields, parts, services = contest.fields, contest.parts, contest.services
    drawing: dict[str, Any] = {"concurrency_limit": None, **QUIETLY}
    begun = fields.compare.click(contest.draw, contest.inputs, contest.outputs, **drawing)
    begun.then(None, None, None, js="() => setTimeout(window.studio.showError, 50)")
    parts.stage.select(contest.pick, contest.inputs, [*contest.outputs, fields.prompt], **drawing)
    parts.next_blind.click(contest.draw_blind, contest.inputs, contest.outputs, **drawing)
    fields.cancel.click(contest.cancel, None, fields.cancel, queue=False, **QUIETLY)
    looks = [parts.view.input, parts.left.input, parts.right.input]
    gr.on(looks, contest.looks.look, parts.looking, parts.outputs, trigger_mode="always_last", queue=False, **QUIETLY)

    def reuse(shown: ShownContest | None) -> int:
        if shown is None:
            raise gr.Error("There is no contest yet whose seed could be used again.", duration=5, print_exception=False)
        return shown.pictures[0].request.seed

    fields.reuse_seed.click(reuse, parts.shown, fields.seed, queue=False, **QUIETLY)
    connect_download(parts.download, partial(_export, services), parts.chosen, "compared-file")
    connect_download(parts.download_all, contest.looks.export_all, parts.shown, "compared-files")
    connect_download(parts.download_votes, contest.looks.export_votes, parts.votes, "votes-file")


def _export(services: Services, history_id: str | None) -> Path:
    if history_id is None:
        raise NotFound("This picture is not in the history: draw it again, then download it.")
    return services.history.export(history_id)


def _connect_grids(grids: Grids, tab: gr.Tab, recounted: list[Any]) -> None:
    parts, fields = grids.parts, grids.contest.fields
    quick: dict[str, Any] = {"queue": False, **QUIETLY}
    drawing: dict[str, Any] = {"concurrency_limit": None, **QUIETLY}
    changes = [tab.select, fields.prompt.blur, fields.prompt.change]
    changes += [each.change for each in (*fields.chosen, fields.seed, *parts.built)]
    told = [parts.sweeps, parts.estimate, parts.run, *parts.error_places]
    gr.on(changes, grids.wishes.estimate, grids.inputs, told, trigger_mode="always_last", **quick)
    for place, axis in parts.axes.items():
        axis.name.input(partial(grids.wishes.change_axis, place), grids.inputs, axis.values, **quick)
    for each in recounted:
        counted = each.then(grids.wishes.change_count, [fields.count, parts.like], parts.like, **quick)
        counted.then(grids.wishes.estimate, grids.inputs, told, **quick)
    for listen, draw in (
        (parts.sweeps.select, grids.draw_sweep),
        (parts.run.click, grids.draw_built),
        (parts.resume.click, grids.resume),
    ):
        begun = listen(draw, grids.inputs, grids.outputs, **drawing)
        begun.then(None, None, None, js="() => setTimeout(window.studio.showError, 50)")
        begun.success(grids.wishes.costs, grids.inputs, told[:3], **quick)
    parts.cancel.click(grids.cancel, None, parts.cancel, queue=False, **QUIETLY)
    looked = [parts.cell, parts.stage, parts.actions, parts.shown, parts.chosen]
    seen = parts.stage.select(grids.pick, parts.shown, looked, **QUIETLY)
    seen.success(None, None, None, js="() => setTimeout(() => window.studio.reveal('compare-grid-cell'), 50)")
    connect_download(parts.download, partial(_export, grids.services), parts.chosen, "grid-cell-file")
    connect_download(parts.download_sheet, grids.export, parts.shown, "grid-sheet-file")
