"""How the studio looks: the colours of the time windows, the gradio theme, and the page's own css and script.

One idea carries the picture: time windows have colours, from noise (violet, window 0) to data (amber, the last), and
wear them everywhere. Everything else is quiet: warm neutrals, the system's own fonts, no request to any other host.
This module does not know what is on the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SHEETS = ("studio.css", "train.css", "compare.css")
STOPS = ("#6d4df2", "#b650cf", "#ef6a70", "#f4a41c")
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

INK, INK_DARK = "#1d1a26", "#f1eef7"
MUTED, MUTED_DARK = "#676173", "#a7a1b5"
LINE, LINE_DARK = "#e5e1ea", "#34303f"
PAPER, PAPER_DARK = "#fbfaf8", "#131118"
CARD, CARD_DARK = "#ffffff", "#1c1924"
VIOLET, VIOLET_DARK = "#5b3be0", "#6f52ee"


def window_colour(window: int, num_time_windows: int) -> str:
    """The colour of a time window as `#rrggbb`; window 0 is at the noise end."""
    place = (len(STOPS) - 1) * window / max(1, num_time_windows - 1)
    left = min(int(place), len(STOPS) - 2)
    pairs = zip(_channels(STOPS[left]), _channels(STOPS[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (place - left) * (b - a)):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def studio_theme() -> gr.themes.Base:
    """A plain theme in the studio's colours, made of system fonts only."""
    shades = "#f5f2ff #ece6ff #d9cfff #bcaaff #9a80fb #7f5ff5 #5b3be0 #4a2dc4 #3d289d #33247d #1f1550"
    violet = gr.themes.Color(*shades.split())
    base = gr.themes.Base(
        primary_hue=violet,
        secondary_hue=violet,
        neutral_hue="stone",
        font=SANS,
        font_mono=MONO,
        radius_size=gr.themes.sizes.radius_lg,
        spacing_size=gr.themes.sizes.spacing_md,
    )
    return base.set(**_surfaces(), **_fields(), **_buttons())


def _both(name: str, light: str, dark: str) -> dict[str, str]:
    return {name: light, f"{name}_dark": dark}


def _surfaces() -> dict[str, Any]:
    return {
        **_both("body_background_fill", PAPER, PAPER_DARK),
        **_both("body_text_color", INK, INK_DARK),
        **_both("body_text_color_subdued", MUTED, MUTED_DARK),
        **_both("background_fill_primary", CARD, CARD_DARK),
        **_both("background_fill_secondary", PAPER, PAPER_DARK),
        **_both("border_color_primary", LINE, LINE_DARK),
        **_both("block_background_fill", "transparent", "transparent"),
        **_both("block_border_width", "0px", "0px"),
        **_both("block_label_text_color", INK, INK_DARK),
        **_both("block_title_text_color", INK, INK_DARK),
        **_both("block_info_text_color", MUTED, MUTED_DARK),
        **_both("block_shadow", "none", "none"),
        "block_padding": "0px",
        "block_title_text_size": "0.875rem",
        "block_title_text_weight": "600",
        "block_info_text_size": "0.8125rem",
        "form_gap_width": "0px",
        "layout_gap": "18px",
    }


def _fields() -> dict[str, Any]:
    return {
        **_both("input_background_fill", CARD, CARD_DARK),
        **_both("input_border_color", LINE, LINE_DARK),
        **_both("input_border_color_focus", VIOLET, "#9a80fb"),
        **_both("input_border_width", "1px", "1px"),
        **_both("input_shadow", "none", "none"),
        **_both("input_shadow_focus", "none", "none"),
        **_both("slider_color", VIOLET, "#9a80fb"),
        **_both("checkbox_label_background_fill", CARD, CARD_DARK),
        **_both("checkbox_label_border_color", LINE, LINE_DARK),
        "input_padding": "10px 12px",
    }


def _buttons() -> dict[str, Any]:
    return {
        **_both("button_primary_background_fill", VIOLET, VIOLET_DARK),
        **_both("button_primary_background_fill_hover", "#4a2dc4", "#8067f2"),
        **_both("button_primary_text_color", "#ffffff", "#ffffff"),
        **_both("button_secondary_background_fill", CARD, CARD_DARK),
        **_both("button_secondary_background_fill_hover", "#f4f1f8", "#272332"),
        **_both("button_secondary_border_color", LINE, LINE_DARK),
        **_both("button_secondary_text_color", INK, INK_DARK),
        **_both("button_border_width", "1px", "1px"),
        "button_large_text_weight": "600",
        "button_small_text_weight": "500",
        "button_medium_text_weight": "500",
    }


def stylesheet() -> str:
    """The page's css: the window colours as variables, then the sheets of `assets/`."""
    stops = "".join(f"--stop-{i}: {colour}; " for i, colour in enumerate(STOPS))
    sheets = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SHEETS)
    return f":root {{ {stops}}}\n{sheets}"


def head() -> str:
    """What goes into the page's head: how it scales on a phone, its icon, and the keyboard script."""
    bars = "".join(
        f"<rect x='{2 + 7 * i}' y='{20 - 5 * i}' width='5' height='{10 + 5 * i}' rx='2' fill='%23{c[1:]}'/>"
        for i, c in enumerate(STOPS)
    )
    icon = f"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'>{bars}</svg>"
    script = (ASSETS / "studio.js").read_text(encoding="utf-8")
    return f'<link rel="icon" href="{icon}">\n<script>{script}</script>'
