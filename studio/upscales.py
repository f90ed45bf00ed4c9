"""What the page and the API may call to enlarge a picture: its defaults, its cost before any work, its seams, redone.

small picture -> `resolve` -> `Services.generate` (line, device, engine, history) -> `seams` shown -> `mend` -> again

An enlargement is a picture of the history like any other, whose request names the small one. This module knows neither
gradio nor torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from studio.catalog import Catalog
from studio.conditions import DEFAULT_SEAM_THRESHOLD, Upscale
from studio.errors import InvalidRequest, NotFound
from studio.history import History
from studio.specs import ControlSpec, ModelSpec, UpscaleSpec
from studio.types import GenerationRequest, StepPlan
from studio.upscaling.enlarged import Enlarged
from studio.upscaling.measures import Seams, find_seams
from studio.upscaling.tiles import lay

TAB = "upscale"
MAX_TILES = 10_000
NO_CONTROL = "none"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an enlargement will take."""

    width: int
    height: int
    num_tiles: int
    num_network_calls: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A finished enlargement with what it was made of, and the seams measured on it."""

    picture: Image.Image
    enlarged: Enlarged
    seams: Seams


class Upscales:
    """Enlarging, on the house's terms; built by `Services`. `controls` gives the control specs that are here for a
    model, `resolve` completes and checks a request."""

    def __init__(
        self,
        catalog: Catalog,
        history: History,
        controls: Callable[[str], tuple[ControlSpec, ...]],
        resolve: Callable[..., GenerationRequest],
    ) -> None:
        self._catalog, self._history = catalog, history
        self._controls, self._resolve = controls, resolve

    def controls(self, model_id: str) -> tuple[ControlSpec, ...]:
        """The tile ControlNets that are here for a model, the recommended one first."""
        return tuple(each for each in self._controls(model_id) if is_tile_control(each))

    def advised(self, model: ModelSpec) -> tuple[UpscaleSpec, str | None]:
        """How a model best enlarges, and by which tile ControlNet, if one is here."""
        found = self.controls(model.id)
        return self._catalog.upscaling(model), found[0].id if found else None

    def resolve(
        self,
        picture: str,
        *,
        model: str,
        factor: int = 2,
        creativity: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        control: str | None = None,
        weight: float | None = None,
        steps: int | None = None,
        guidance: Any = None,
        **choices: Any,
    ) -> GenerationRequest:
        """A request that enlarges a kept picture; `None` is what the model does best with, control "none" is without.

        `choices` are those of `Services.resolve`. Raises `InvalidRequest` naming field, range and value.
        """
        spec = self._catalog.model(model)
        advised, recommended = self.advised(spec)
        chosen = recommended if control is None else None if control == NO_CONTROL else control
        steady = advised.creativity if chosen else advised.creativity_alone
        side = advised.tile if tile is None else _whole(tile)
        upscale = Upscale(
            image=picture,
            factor=_whole(factor),
            creativity=steady if creativity is None else creativity,
            tile=side,
            overlap=min(advised.overlap, _half(side)) if overlap is None else _whole(overlap),
            control=chosen,
            weight=advised.weight if weight is None else weight,
        )
        size = self._size_of(upscale)
        if guidance is None and advised.guidance:
            guidance = advised.guidance
        steps = advised.steps if steps is None else steps
        return self._resolve(
            **choices, model=model, steps=steps, guidance=guidance, width=size[0], height=size[1], num_images=1,
            upscale=upscale,
        )  # fmt: skip

    def estimate(self, request: GenerationRequest, plan: StepPlan) -> Estimate:
        """Tiles and network calls of a request, whose plan is that of a tile."""
        num_tiles = num_tiles_of(request)
        return Estimate(
            width=request.width,
            height=request.height,
            num_tiles=num_tiles,
            num_network_calls=num_tiles * plan.num_network_calls,
        )

    # --- seams ---

    def measure(self, history_id: str) -> Measured:
        """The seams of a saved enlargement. Raises `NotFound`."""
        entry = self._history.get(history_id)
        upscale = _upscale_of(entry.request)
        enlarged = Enlarged(source=self._history.inputs.open(upscale.image), factor=upscale.factor)
        with Image.open(entry.path, formats=("PNG",)) as file:
            picture = file.convert("RGB")
        grid = lay(*enlarged.size, upscale.tile, upscale.overlap)
        return Measured(picture=picture, enlarged=enlarged, seams=find_seams(picture, enlarged, grid))

    def mend(self, history_id: str, threshold: float = DEFAULT_SEAM_THRESHOLD) -> GenerationRequest:
        """A request that redoes the seams of a saved enlargement that measure above a threshold.

        Raises `NotFound`, and `InvalidRequest` where none does.
        """
        entry = self._history.get(history_id)
        upscale = replace(_upscale_of(entry.request), threshold=threshold, mend=None)
        measured = self.measure(history_id)
        if not measured.seams.above(threshold):
            expected = f"a threshold below this picture's worst seam, which measures {measured.seams.worst:.2f}"
            raise InvalidRequest("threshold", expected, threshold)
        kept = self._history.inputs.keep(measured.picture)
        return replace(entry.request, upscale=replace(upscale, mend=kept))

    def _size_of(self, upscale: Upscale) -> tuple[int, int]:
        return Enlarged(source=self._history.inputs.open(upscale.image), factor=upscale.factor).size


def is_tile_control(spec: ControlSpec) -> bool:
    """Whether a control is a ControlNet that refines tiles."""
    return spec.kind == "controlnet" and spec.annotator == "tile"


def check(request: GenerationRequest, model: ModelSpec, sizes: dict[str, tuple[int, int]]) -> None:
    """Refuse, before any work, tiles that a model cannot draw and sizes that are not its pictures'.

    `sizes` are those of the request's pictures, by id. Raises `InvalidRequest`.
    """
    upscale = request.upscale
    if upscale is None:
        return
    if upscale.tile % model.size_multiple:
        raise InvalidRequest("tile", f"a multiple of {model.size_multiple} for {model.id}", upscale.tile)
    width, height = (side * upscale.factor for side in sizes[upscale.image])
    if (request.width, request.height) != (width, height):
        expected = f"{width} x {height}, {upscale.factor} times the picture"
        raise InvalidRequest("width", expected, f"{request.width} x {request.height}")
    if upscale.mend is not None and sizes[upscale.mend] != (width, height):
        raise InvalidRequest("mend", f"a finished picture of {width} x {height}", sizes[upscale.mend])
    num_tiles = num_tiles_of(request)
    if num_tiles > MAX_TILES:
        raise InvalidRequest("tile", f"tiles large enough that {MAX_TILES} cover the picture", f"{num_tiles} tiles")


def num_tiles_of(request: GenerationRequest) -> int:
    """How many tiles a request lays over its picture."""
    upscale = _upscale_of(request)
    return len(lay(request.width, request.height, upscale.tile, upscale.overlap))


def _upscale_of(request: GenerationRequest) -> Upscale:
    if request.upscale is None:
        raise NotFound("This picture was not enlarged in tiles, so it has no seams: choose one from the Upscale tab.")
    return request.upscale


def _half(side: Any) -> Any:
    return side // 2 if isinstance(side, int) else side


def _whole(value: Any) -> Any:
    """4.0 means 4, since JSON and sliders do not tell them apart; all else is the request's to refuse."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
