"""The gallery tab: every picture ever drawn here, newest first; search, look, restore, download, delete.

The history on disk is the truth; the page holds only which entries it shows. Thumbnails travel inside the page, the
original leaves as a file. This module does not know how pictures are made.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from studio.errors import NotFound, StudioError
from studio.types import GenerationRequest
from studio.ui.destinations import SettingsTaker, Source
from studio.ui.downloads import connect_download
from studio.ui.feedback import alt_text, seconds_in_words
from studio.ui.plain_html import pickable_html, picked, plain_html
from studio.ui.windows_view import data_uri

if TYPE_CHECKING:
    from studio.history import HistoryEntry
    from studio.services import Services

TAB_ID = "gallery"
TITLE = "Gallery"
PAGE = 36
MAX_SHOWN_BYTES = 12_000_000
SHRUNK_SIDE_PIXELS = 2048
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
Updates = dict[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The components of the tab. `shown` holds the ids on the page, newest first; `chosen` the id of the open one."""

    search: gr.Textbox
    tiles: gr.HTML
    more: gr.Button
    download_all: gr.Button
    detail: gr.Column
    picture: gr.HTML
    actions: gr.Row
    download: gr.Button
    delete: gr.Button
    confirm: gr.Row
    delete_now: gr.Button
    keep: gr.Button
    dropped: gr.File
    dropped_words: gr.HTML
    shown: gr.State
    chosen: gr.State


def build_gallery(services: Services) -> tuple[Gallery, Source]:
    """Put the tab's content on the page, in the current context."""
    page = _build_page()
    act = GalleryActions(page, services)
    listed = [page.tiles, page.more, page.download_all, page.shown]
    opened = [page.detail, page.picture, page.confirm, page.chosen]
    page.more.click(act.next_page, [page.search, page.shown], listed, **QUIETLY)
    page.tiles.select(act.open, None, opened, **QUIETLY).success(
        None, None, None, js="() => setTimeout(() => window.studio.reveal('gallery-detail'), 50)"
    )
    page.picture.select(act.close, None, opened, **QUIETLY)
    page.delete.click(lambda: gr.update(visible=True), None, page.confirm, queue=False, **QUIETLY)
    page.keep.click(lambda: gr.update(visible=False), None, page.confirm, queue=False, **QUIETLY)
    page.delete_now.click(act.delete, [page.search, page.chosen], [*listed, *opened], **QUIETLY)
    connect_download(page.download, act.export, page.chosen, "gallery-file")
    connect_download(page.download_all, services.history.zip, page.shown, "gallery-files")
    return page, Source(row=page.actions, chosen=page.chosen)


def connect_gallery(page: Gallery, tab: gr.Tab, services: Services, settings: SettingsTaker, tabs: gr.Tabs) -> None:
    """Fill the gallery whenever it is opened or searched, and let a dropped picture restore its settings."""
    act = GalleryActions(page, services)
    listed = [page.tiles, page.more, page.download_all, page.shown]
    # One listener for both, so that the answer to an older question never comes last.
    gr.on([tab.select, page.search.change], act.first_page, page.search, listed, trigger_mode="always_last", **QUIETLY)

    def restore_file(path: str | None) -> Updates:
        if path is None:
            return {page.dropped_words: ""}
        try:
            wanted = services.history.read_parameters(path)
            cleared = {page.dropped_words: "", page.dropped: None}
            return {**cleared, **settings.take(wanted), tabs: gr.Tabs(selected=settings.tab_for(wanted))}
        except StudioError as error:
            return {page.dropped_words: f'<p class="field-error" role="alert">{escape(str(error))}</p>'}

    outputs = [page.dropped_words, page.dropped, *settings.outputs, tabs]
    page.dropped.upload(restore_file, page.dropped, outputs, **QUIETLY)


def _build_page() -> Gallery:
    with gr.Row(elem_classes="gallery-bar"):
        search = gr.Textbox(
            label="Search",
            placeholder="Search prompts, models, seeds",
            show_label=False,
            container=False,
            scale=4,
            elem_id="gallery-search",
        )
        download_all = gr.Button(
            "Download these", size="sm", min_width=120, visible=False, elem_id="gallery-download-shown"
        )
    with gr.Column(visible=False, elem_classes="detail", elem_id="gallery-detail") as detail:
        picture = pickable_html(elem_id="gallery-detail-picture")
        with gr.Row(elem_classes="actions") as actions:
            download = gr.Button("Download", size="sm", min_width=80)
            delete = gr.Button("Delete", size="sm", min_width=80, elem_id="gallery-delete")
        with gr.Row(visible=False, elem_classes="actions confirm") as confirm:
            plain_html("<p>Delete this picture for good?</p>")
            delete_now = gr.Button("Delete", variant="stop", size="sm", min_width=80, elem_id="gallery-delete-now")
            keep = gr.Button("Keep", size="sm", min_width=80)
    tiles = pickable_html(_empty_html(""), elem_id="gallery-tiles")
    more = gr.Button("More", size="sm", visible=False, elem_id="gallery-more")
    with gr.Accordion("Restore settings from a picture file", open=False, elem_classes="fold"):
        dropped = gr.File(label="A PNG drawn here, or by another studio", file_types=[".png", ".jpg", ".webp"],
                          elem_id="gallery-dropped", height=120)  # fmt: skip
        dropped_words = plain_html()
    return Gallery(
        search=search, tiles=tiles, more=more, download_all=download_all, detail=detail, picture=picture,
        actions=actions, download=download, delete=delete, confirm=confirm, delete_now=delete_now, keep=keep,
        dropped=dropped, dropped_words=dropped_words, shown=gr.State(()), chosen=gr.State(None),
    )  # fmt: skip


class GalleryActions:
    """The handlers, each from values to updates of the page."""

    def __init__(self, page: Gallery, services: Services) -> None:
        self._page, self._history = page, services.history

    def first_page(self, text: str) -> Updates:
        """The newest entries that match."""
        return self._list(text, self._history.search(text or "", limit=PAGE + 1), ())

    def next_page(self, text: str, shown: tuple[str, ...]) -> Updates:
        """The page as it is, and older entries below."""
        older = self._history.search(text or "", limit=PAGE + 1, before=shown[-1] if shown else None)
        return self._list(text, older, shown)

    def _list(self, text: str, found: Sequence[HistoryEntry], shown: tuple[str, ...]) -> Updates:
        page = self._page
        entries = [entry for id in shown if (entry := self._find(id))] + list(found[:PAGE])
        return {
            page.tiles: tiles_html(entries) if entries else _empty_html(text or ""),
            page.more: gr.update(visible=len(found) > PAGE),
            page.download_all: gr.update(visible=bool(entries), value=f"Download all {len(entries)}"),
            page.shown: tuple(entry.id for entry in entries),
        }

    def _find(self, id: str) -> HistoryEntry | None:
        try:
            return self._history.get(id)
        except NotFound:
            return None

    def open(self, event: gr.EventData) -> Updates:
        """One picture, large, with its parameters."""
        entry = self._find(picked(event))
        if entry is None:
            raise gr.Error("This picture is gone; open the gallery again.", duration=6, print_exception=False)
        page = self._page
        return {
            page.detail: gr.update(visible=True),
            page.picture: detail_html(entry),
            page.confirm: gr.update(visible=False),
            page.chosen: entry.id,
        }

    def close(self) -> Updates:
        """Back to the tiles alone."""
        page = self._page
        return {
            page.detail: gr.update(visible=False),
            page.picture: "",
            page.confirm: gr.update(visible=False),
            page.chosen: None,
        }

    def delete(self, text: str, chosen: str | None) -> Updates:
        """After the second click: the file is gone for good."""
        try:
            self._history.delete([chosen] if chosen else [])
        except StudioError as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error
        return {**self.close(), **self.first_page(text)}

    def export(self, chosen: str | None) -> Path:
        """The original file of the open picture."""
        if chosen is None:
            raise NotFound("Open a picture first.")
        return self._history.export(chosen)


def _empty_html(text: str) -> str:
    if text.strip():
        return f'<div class="gallery-empty"><p>Nothing here matches “{escape(text)}”.</p></div>'
    return (
        '<div class="gallery-empty"><h2>Nothing drawn yet</h2>'
        "<p>Every picture you draw is kept here, with its settings inside.</p>"
        '<button type="button" class="pill primary" data-tab="Text to image">Draw the first one</button></div>'
    )


def _file_uri(path: Path, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _picture_uri(entry: HistoryEntry) -> str:
    """The original; one too large for a page, shrunk."""
    if entry.path.stat().st_size <= MAX_SHOWN_BYTES:
        return _file_uri(entry.path, "png")
    with Image.open(entry.path, formats=("PNG",)) as image:
        return data_uri(image, SHRUNK_SIDE_PIXELS)


def tiles_html(entries: Sequence[HistoryEntry]) -> str:
    """The thumbnails, newest first, each a button."""
    return f'<div class="tiles">{"".join(map(_tile_html, entries))}</div>'


def _tile_html(entry: HistoryEntry) -> str:
    kind = "png" if entry.thumbnail_path.suffix == ".png" else "jpeg"
    source = _file_uri(entry.thumbnail_path, kind) if entry.thumbnail_path.exists() else ""
    alt = escape(alt_text(entry.request, entry.seed))
    return (
        f'<button type="button" class="tile" data-pick="{escape(entry.id)}">'
        f'<img src="{source}" alt="{alt}" loading="lazy"><span>{escape(entry.prompt) or "no prompt"}</span></button>'
    )


def detail_html(entry: HistoryEntry) -> str:
    """The picture itself beside everything that made it."""
    source = _picture_uri(entry) if entry.path.exists() else ""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _parameters(entry).items())
    receipt = escape(json.dumps(entry.receipt, indent=2, ensure_ascii=False))
    return (
        f'<article class="detail-card"><img src="{source}" alt="{escape(alt_text(entry.request, entry.seed))}">'
        f'<div><button type="button" class="close" data-pick="close" aria-label="Close">×</button>'
        f"<h2>{escape(entry.prompt) or 'no prompt'}</h2><dl>{rows}</dl>"
        f"<details><summary>Receipt</summary><pre>{receipt}</pre></details></div></article>"
    )


def _followed(request: GenerationRequest) -> dict[str, str]:
    """What the picture followed besides its prompt."""
    rows = {}
    if request.controls:
        rows["Follows"] = ", ".join(f"{unit.control} at weight {unit.weight:g}" for unit in request.controls)
    if request.references:
        rows["Refers to"] = ", ".join(f"{each.adapter} at scale {each.scale:g}" for each in request.references)
    if request.initial is not None:
        kind = "a part of a picture" if request.initial.mask else "a picture"
        rows["Begins from"] = f"{kind}, strength {request.initial.strength:g}"
    if request.views_of is not None:
        rows["Shows"] = "six views of a picture, normal maps above colours"
    if request.upscale is not None:
        upscale = request.upscale
        held = f", held by {upscale.control}" if upscale.control else ""
        rows["Enlarged"] = (
            f"{upscale.factor}×, creativity {upscale.creativity:g}, tiles of {upscale.tile} that share "
            f"{upscale.overlap} pixels{held}" + ("; its seams redone" if upscale.mend else "")
        )
    return rows


def _parameters(entry: HistoryEntry) -> dict[str, str]:
    request: GenerationRequest = entry.request
    created = datetime.fromisoformat(entry.created).strftime("%Y-%m-%d %H:%M UTC")
    rows = {
        "Negative prompt": request.negative_prompt,
        "Model": request.model,
        "Accelerator": f"{request.accelerator}, strength {request.accelerator_strength:g}",
        "Steps": str(request.steps),
        "CFG": f"{'-'.join(f'{scale:g}' for scale in request.guidance.scales)}"
        + (f" per {request.guidance.per}" if len(request.guidance.scales) > 1 else ""),
        **_followed(request),
        "Seed": str(entry.seed),
        "Size": f"{entry.width} × {entry.height}",
        "Drawn": created,
    }
    steps = entry.receipt.get("seconds_steps")
    if steps:
        rows["Time in steps"] = seconds_in_words(sum(steps))
    return {name: value for name, value in rows.items() if value}
