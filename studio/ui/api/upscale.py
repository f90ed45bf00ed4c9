"""The typed endpoints that enlarge pictures tile by tile: /upscale and /redo_seams.

A client that cancels or goes away leaves the tiles that are done in the history. Annotations are evaluated here (no
`from __future__ import annotations`), because gradio documents the API from them.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gradio.data_classes import FileData

from studio.conditions import DEFAULT_SEAM_THRESHOLD
from studio.services import RANDOM_SEED, Services
from studio.ui.uploads import uploaded_files
from studio.upscales import TAB

Files = list[FileData]
Json = dict[str, Any]
Drawn = Iterator[tuple[Files, Json]]


def upscale_endpoints(services: Services, drawn: Callable[..., Drawn]) -> tuple[Callable[..., Any], ...]:
    """The functions that draw; `drawn` tells of a generation."""

    def upscale(
        image: FileData,
        factor: int = 2,
        prompt: str = "",
        creativity: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        control: str | None = None,
        weight: float | None = None,
        negative_prompt: str = "",
        model: str | None = None,
        accelerator: str | None = None,
        accelerator_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | list[float] | None = None,
        seed: int = RANDOM_SEED,
    ) -> Drawn:
        """Enlarge a picture 2, 4 or 8 times and refine it tile by tile, told like /text_to_image.

        creativity is the share of the steps that run on each tile; tiles are `tile` pixels a side and share `overlap`
        of them. control is a tile ControlNet from /models, "none" is without, left out the recommended one if it is
        here. The report's receipt holds upscale: seam_ratio and worst_seam (1 or less is no seam) and psnr, the
        fidelity in dB of the result, shrunk, to the input. Left out or null means what the model does best with.
        """
        request = services.upscales.resolve(
            services.keep(_path(image, services), "image", shrinks=False), prompt=prompt, factor=factor,
            creativity=creativity, tile=tile, overlap=overlap, control=control, weight=weight,
            negative_prompt=negative_prompt, model=services.default_model if model is None else model,
            accelerator=accelerator, accelerator_strength=accelerator_strength, steps=steps, guidance=guidance,
            seed=seed,
        )  # fmt: skip
        yield from drawn(services, request, tab=TAB)

    def redo_seams(id: str, threshold: float = DEFAULT_SEAM_THRESHOLD) -> Drawn:
        """Redo the seams of an enlarged picture (its id from /upscale or /history) that measure above a threshold.

        What is not within an overlap of such a seam stays as it is, and so does a seam that comes out no better.
        """
        yield from drawn(services, services.upscales.mend(id, threshold), tab=TAB)

    return upscale, redo_seams


def _path(file: Any, services: Services) -> Any:
    """Where an upload lies, in this studio's own upload folder. Raises `InvalidRequest`."""
    path = file["path"] if isinstance(file, dict) else file.path
    [(_, found)] = uploaded_files([path], services.settings.served_dir)
    return found
