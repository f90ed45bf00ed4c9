"""One click from a button to a file: originals leave as the files they are, with their parameters inside.

Gradio's own pictures are re-encoded and lose their text chunks, so a hidden download link is filled with a copy that
the history exported, and clicked. This module does not know what the files are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import StudioError


def connect_download(button: gr.Button, export: Callable[..., Path], inputs: Any, link_id: str) -> None:
    """Clicking `button` saves the file that `export` names; call inside the Blocks, once per button."""

    def prepare(*values: Any) -> str:
        try:
            return str(export(*values))
        except StudioError as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error

    link = gr.DownloadButton("Download", elem_id=link_id, visible="hidden")
    ready = button.click(prepare, inputs, link, show_progress="hidden", api_visibility="private")
    ready.success(None, None, None, js=f"() => setTimeout(() => window.studio.download('{link_id}'), 50)")
