"""Words and pictures of the Multiview tab: what the network sees, the views, the turning mesh. Knows no gradio."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from PIL import Image

from studio.multiview.cutout import Prepared
from studio.multiviews import MeshFiles
from studio.types import GenerationResult
from studio.ui import stage
from studio.ui.feedback import seconds_in_words
from studio.ui.windows_view import data_uri, plural

EMPTY = (
    '<div class="stage empty"><h2>One picture, six sides</h2><p>Give a picture of one object, on a plain colour or cut '
    "out. Its six views and their normal maps are drawn together, and become a mesh.</p></div>"
)


def seen_html(prepared: Prepared) -> str:
    """The prepared picture, and what to know about it."""
    notes = "".join(f"<p>{escape(note)}</p>" for note in prepared.notes)
    picture = f'<img src="{data_uri(prepared.image)}" alt="The object as the network will see it" width="128">'
    return f'<figure class="seen">{picture}<figcaption>What the network will see.{notes}</figcaption></figure>'


def sheet_html(result: GenerationResult) -> str:
    """Twelve views as the large picture of the stage."""
    sheet = result.images[0]
    alt = f"Six views of the object: normal maps above, colours below (seed {sheet.seed})"
    source = data_uri(sheet.image, max(sheet.image.size))
    return stage.frame_html(
        f'<img class="stage-picture result" src="{source}" alt="{alt}" decoding="sync">', result.request
    )


def turntable_html(path: Path) -> str:
    """The turning mesh; its first frame alone for those who ask for no motion."""
    with Image.open(path, formats=("WEBP",)) as picture:
        still = data_uri(picture.convert("RGB"))
    moving = "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
        f'<img src="{moving}" alt="The mesh, turning once" width="224"></picture>'
    )


def mesh_in_words(made: MeshFiles) -> str:
    """What was made, and how well it agrees with the normal maps."""
    sculpture = made.sculpture
    closed = "watertight" if sculpture.is_watertight else "not closed everywhere"
    return (
        f"{plural(len(sculpture.mesh.faces), 'face')}, {closed}, in {seconds_in_words(sculpture.seconds)}. "
        f"Its faces lie {sculpture.normal_error_degrees:.1f}° from the normal maps on average "
        f"({sculpture.hull_normal_error_degrees:.1f}° before they shaped it)."
    )
