"""The typed endpoints that draw after pictures: /annotate, /control and /image_to_image.

Pictures come in once, by /annotate or as a file of /image_to_image, and then go by the id of their content. Like the
page these take the path through `Services`, and refuse in its words. Annotations are evaluated here (no
`from __future__ import annotations`), because gradio documents the API from them.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gradio.data_classes import FileData

from studio import conditions
from studio.conditions import CANNY_HIGH, CANNY_LOW, CannyLevels, ControlUnit, InitialImage, Reference
from studio.errors import InvalidRequest
from studio.services import RANDOM_SEED, Services
from studio.ui.uploads import uploaded_file

Files = list[FileData]
Json = dict[str, Any]
Drawn = Iterator[tuple[Files, Json]]


def control_endpoints(
    services: Services, drawn: Callable[..., Drawn]
) -> tuple[tuple[Callable[..., Any], ...], tuple[Callable[..., Any], ...]]:
    """The functions that draw, and those that answer at once; `drawn` tells of a generation."""
    folder = services.settings.served_dir

    def annotate(
        image: FileData,
        annotator: str = "none",
        width: int | None = None,
        height: int | None = None,
        resize: str = "crop",
        canny_low: int = CANNY_LOW,
        canny_high: int = CANNY_HIGH,
    ) -> Json:
        """Take in a picture, make a map of it and keep it: the id under which /control names it, and its size.

        annotator is none (the picture is a map, a reference, a mask or a picture to begin from as it is), canny,
        lineart, shuffle, tile or depth. With width and height the picture is fitted to that canvas first: by crop,
        stretch or pad.
        """
        size = _canvas(width, height)
        levels = CannyLevels(low=canny_low, high=canny_high)
        kept = services.keep(uploaded_file(image, "image", folder))
        made = kept if annotator == "none" and size is None else services.annotate(
            kept, annotator, levels=levels, size=size, resize=resize
        )  # fmt: skip
        shown = services.picture(made)
        return {"id": made, "width": shown.width, "height": shown.height, "annotator": annotator}

    def control(
        prompt: str,
        controls: list[dict[str, Any]] | None = None,
        references: list[dict[str, Any]] | None = None,
        initial: dict[str, Any] | None = None,
        negative_prompt: str = "",
        model: str | None = None,
        accelerator: str | None = None,
        accelerator_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | list[float] | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = RANDOM_SEED,
        num_images: int = 1,
    ) -> Drawn:
        """Draw what pictures show, told like /text_to_image. Pictures are ids of /annotate.

        controls: up to three of {"control": an id of /models, "image": the map, "weight": 0 to 2, "start" and "end":
        shares of the steps, "resize"}. references: up to two of {"adapter": an id of /models, "image", "scale": 0 to
        1.5, "mask"}. initial: {"image", "strength": 0 to 1, "mask": white where to draw anew, "resize"}.
        """
        request = services.resolve(
            prompt=prompt, negative_prompt=negative_prompt, model=model, accelerator=accelerator,
            accelerator_strength=accelerator_strength, steps=steps, guidance=guidance, width=width, height=height,
            seed=seed, num_images=num_images,
            controls=conditions.tuple_from_json(ControlUnit, "controls", controls or []),
            references=conditions.tuple_from_json(Reference, "references", references or []),
            initial=None if initial is None else conditions.from_json(InitialImage, "initial", initial),
        )  # fmt: skip
        yield from drawn(services, request, tab="control")

    def image_to_image(
        prompt: str,
        image: FileData,
        strength: float = 0.75,
        mask: FileData | None = None,
        resize: str = "crop",
        negative_prompt: str = "",
        model: str | None = None,
        accelerator: str | None = None,
        accelerator_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | list[float] | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = RANDOM_SEED,
        num_images: int = 1,
    ) -> Drawn:
        """Draw on from a picture; with a mask of its size only where that is white. Told like /text_to_image.

        strength is the share of the steps that run: near 0 hardly changes the picture, 1 begins from noise alone;
        strength x steps must be at least one.
        """
        kept = services.keep(uploaded_file(image, "initial_image", folder), "initial_image")
        kept_mask = None if mask is None else services.keep_mask(uploaded_file(mask, "mask", folder), kept)
        values = {"image": kept, "strength": strength, "mask": kept_mask, "resize": resize}
        request = services.resolve(
            prompt=prompt, negative_prompt=negative_prompt, model=model, accelerator=accelerator,
            accelerator_strength=accelerator_strength, steps=steps, guidance=guidance, width=width, height=height,
            seed=seed, num_images=num_images, initial=conditions.from_json(InitialImage, "initial", values),
        )  # fmt: skip
        yield from drawn(services, request, tab="control")

    return (control, image_to_image), (annotate,)


def _canvas(width: int | None, height: int | None) -> tuple[int, int] | None:
    """Both sides or none. Raises `InvalidRequest`."""
    if width is None and height is None:
        return None
    if width is None or height is None:
        missing = "width" if width is None else "height"
        raise InvalidRequest(missing, "both sides of the canvas, or neither", "one side alone")
    return width, height
