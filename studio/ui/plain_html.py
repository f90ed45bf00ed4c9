"""HTML components in the studio's own dress: without gradio's prose styles, and with clicks that reach Python.

A button inside such a component carries `data-pick`; the component's `select` event hands it over as `event.pick`, and
so does a slider that carries `data-scrub`, with its value.
This module does not know what is shown.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

_HAND_OVER = (
    "element.addEventListener('click', e => { const b = e.target.closest('[data-pick]'); "
    "if (b) trigger('select', {pick: b.dataset.pick}); }); "
    "element.addEventListener('input', e => { "
    "if (e.target.matches('[data-scrub]')) trigger('select', {pick: e.target.value}); });"
)
_ANNOUNCE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


def plain_html(value: str = "", **options: Any) -> gr.HTML:
    """HTML as it is written; `options` are those of `gr.HTML`."""
    return gr.HTML(value, apply_default_css=False, **{"js_on_load": None, **options})


def pickable_html(value: str = "", **options: Any) -> gr.HTML:
    """HTML whose `data-pick` buttons raise `select`."""
    return plain_html(value, js_on_load=_HAND_OVER, **options)


def live_html(value: str = "", **options: Any) -> gr.HTML:
    """HTML whose changes are read out by screen readers."""
    return plain_html(value, js_on_load=_ANNOUNCE, **options)


def picked(event: gr.EventData) -> str:
    """What the clicked button carried."""
    return str(event.pick)
