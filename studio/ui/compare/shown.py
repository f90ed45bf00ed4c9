"""From what a contest brought forth to what the page shows of it: names, files, and why a number is missing."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.comparing.contest import Comparison
from studio.comparisons import Entry
from studio.types import GeneratedImage, GenerationRequest
from studio.ui.compare.view import Picture
from studio.ui.feedback import alt_text
from studio.ui.windows_view import data_uri, plural

if TYPE_CHECKING:
    from studio.services import Services

MAX_SHOWN_BYTES = 3_000_000


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What contestants are called: their accelerator; their model too, where models differ."""

    services: Services
    has_models: bool

    @classmethod
    def of(cls, services: Services, comparison: Comparison) -> Naming:
        """The names of one contest."""
        return cls(services=services, has_models=len({each.model for each in comparison.contestants}) > 1)

    def name(self, request: GenerationRequest) -> str:
        """`PeRFlow (4 windows)`, or `PeRFlow (4 windows) on SD 1.5`."""
        name = self.services.catalog.accelerator(request.accelerator).title
        return f"{name} on {self.services.catalog.model(request.model).title}" if self.has_models else name

    def title(self, request: GenerationRequest) -> str:
        """Name and settings with a bar between them, as cards take them."""
        return f"{self.name(request)}|{settings_in_words(request)}"


def settings_in_words(request: GenerationRequest) -> str:
    """`4 steps, CFG 3`."""
    scales = "-".join(f"{scale:g}" for scale in request.guidance.scales)
    guidance = "CFG off" if request.guidance.scales == (1.0,) else f"CFG {scales}"
    strength = "" if request.accelerator_strength == 1 else f", strength {request.accelerator_strength:g}"
    return f"{plural(request.steps, 'step')}, {guidance}{strength}"


def shown_picture(
    services: Services, entry: Entry, naming: Naming, entries: Mapping[int, Entry], reference: int | None
) -> Picture:  # fmt: skip
    """A contestant's picture as the page shows it."""
    request = entry.request
    measured = None if reference is None else entries.get(reference)
    return Picture(
        index=entry.index,
        name=naming.name(request),
        settings=settings_in_words(request),
        source=_source(entry.image),
        image=entry.image.image,
        alt=f"{alt_text(request, entry.image.seed)}, drawn by {naming.name(request)}",
        request=request,
        history_id=entry.image.history_id,
        plan=entry.plan,
        numbers=entry.numbers,
        seconds=entry.seconds,
        seconds_rounds=entry.seconds_rounds,
        memory_bytes=entry.result.receipt.memory_bytes,
        why={**_why_no_distance(entry, measured, reference), **_why_no_verdict(services, entry)},
    )


def _source(image: GeneratedImage) -> str:
    """The original file; where it is too large for a page, or not there, a copy."""
    if image.path is not None and image.path.stat().st_size <= MAX_SHOWN_BYTES:
        return "data:image/png;base64," + base64.b64encode(image.path.read_bytes()).decode("ascii")
    return data_uri(image.image, max(image.image.size))


def _why_no_distance(entry: Entry, measured: Entry | None, reference: int | None) -> dict[str, str]:
    if reference is None:
        words = "no reference is marked"
    elif entry.index == reference:
        words = "it is the reference"
    elif measured is None:
        words = "the reference was not drawn"
    elif measured.result.receipt.base_sha256 != entry.result.receipt.base_sha256:
        words = "the reference is another model"
    else:
        words = "this engine gives no latents"
    return {"latent_error": words, "psnr": words, "memory_bytes": "not told by this device"}


def _why_no_verdict(services: Services, entry: Entry) -> dict[str, str]:
    if services.judges.vocabulary(services.catalog.model(entry.request.model).family) is not None:
        return {"adherence": "the prompt names nothing the judge knows"}
    return {"clip_score": "CLIP's weights are not on this disk"}
