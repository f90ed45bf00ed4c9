"""The page: a header, one tab per thing the studio can do, and the ways between them.

A later tab is built here like the others and joins `sources` and `destinations`; nothing else changes.
This module does not know what happens inside a tab.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.ui import gallery, text_to_image, theme
from studio.ui.api import endpoints
from studio.ui.compare import tab as compare
from studio.ui.control import tab as control
from studio.ui.destinations import Destination, SettingsTaker, Source, connect, either
from studio.ui.multiview import tab as multiview
from studio.ui.plain_html import plain_html
from studio.ui.schedule_field import shades_css
from studio.ui.train import tab as train
from studio.ui.upscale import tab as upscale

if TYPE_CHECKING:
    from studio.services import Services

HEADER = """
<header class="masthead">
  <div class="mark" aria-hidden="true"><i></i><i></i><i></i><i></i></div>
  <h1>PeRFlow Studio</h1>
  <button type="button" class="help" data-help title="Keyboard (Shift + ?)" aria-label="Keyboard">?</button>
</header>
"""


def build(services: Services) -> gr.Blocks:
    """The whole page over these services; `launch_options` holds what the server needs to show it as meant."""
    with gr.Blocks(title="PeRFlow Studio", analytics_enabled=False, fill_width=True) as page:
        plain_html(HEADER)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(text_to_image.TITLE, id=text_to_image.TAB_ID):
                drawn, plain, starter = text_to_image.build_text_to_image(services)
            with gr.Tab(control.TITLE, id=control.TAB_ID) as control_tab:
                followed, following, places = control.build_control(services, control_tab)
            with gr.Tab(upscale.TITLE, id=upscale.TAB_ID):
                enlarged, enlarging, larger = upscale.build_upscale(services, starter, tabs)
            with gr.Tab(compare.TITLE, id=compare.TAB_ID) as compare_tab:
                compared, duel = compare.build_compare(services, compare_tab)
            views, sheets, of_views = _build_views(services)
            settings = settings_of(plain, following, enlarging, views)
            with gr.Tab(train.TITLE, id=train.TAB_ID) as train_tab:
                train.build_train(services, train_tab, tabs, settings)
            with gr.Tab(gallery.TITLE, id=gallery.TAB_ID) as gallery_tab:
                shelf, kept = gallery.build_gallery(services)
        gallery.connect_gallery(shelf, gallery_tab, services, settings, tabs)

        def reuse(history_id: str) -> dict[Any, Any]:
            request = services.history.get(history_id).request
            return {**settings.take(request), tabs: gr.Tabs(selected=settings.tab_for(request))}

        again = Destination(title="Use these settings", tab_id=settings.tab_id, outputs=settings.outputs, receive=reuse)
        places = [again, *places, larger, duel, *of_views]
        connect([drawn, followed, enlarged, *compared, *sheets, kept], places, tabs)
        endpoints.register(services)
    return page


def settings_of(
    plain: SettingsTaker, following: SettingsTaker, enlarging: SettingsTaker, views: SettingsTaker
) -> SettingsTaker:
    """All drawing tabs as one: a request goes back to the tab that made it."""
    settings = either(plain, following, lambda request: bool(request.pictures))
    settings = either(settings, enlarging, lambda request: request.upscale is not None)
    return either(settings, views, lambda request: request.views_of is not None)


def _build_views(services: Services) -> tuple[SettingsTaker, list[Source], list[Destination]]:
    """The Multiview tab, where a network can draw; it takes pictures from every other tab, and gives its sheets."""
    if services.multiview is None or not services.multiview.models():
        return multiview.no_views(), [], []
    with gr.Tab(multiview.TITLE, id=multiview.TAB_ID):
        source, taker, place = multiview.build_multiview(services, services.multiview)
        return taker, [source], [place]


def launch_options() -> dict[str, Any]:
    """What `launch()` and `mount_gradio_app()` take to show the page as meant."""
    return {
        "theme": theme.studio_theme(),
        "css": f"{theme.stylesheet()}\n{shades_css()}",
        "head": theme.head(),
        "footer_links": ["api"],
        "run_history": False,
    }
