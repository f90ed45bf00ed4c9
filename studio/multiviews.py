"""What the page and the API may call about an object's views: prepare a picture, draw its views, make a mesh of them.

picture -> `keep` (by content) -> `prepare` (cut out, recentred; shown) -> `draw` (line, device, engine, history)
-> `mesh` (CPU only)

A sheet of views is a picture of the history like any other: it names the picture it was drawn from, so it can be drawn
again, and a mesh can be made of it at any later time. This module knows neither gradio nor torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from studio import inputs
from studio.catalog import Catalog
from studio.checks import check_id
from studio.conditions import ViewsOf, check_background
from studio.errors import InvalidRequest, NotFound
from studio.history import History
from studio.multiview.cutout import Prepared, prepare
from studio.multiview.glb import glb
from studio.multiview.sculpt import Sculpture, sculpt
from studio.multiview.turntable import turntable
from studio.multiview.views import VIEWS, ViewSet
from studio.specs import AcceleratorSpec, MultiviewSpec
from studio.types import MAX_SEED, GenerationEvent, GenerationRequest, Guidance, MultiviewEngine, StepPlan

TAB = "multiview"
RANDOM_SEED = -1
DEFAULT_GUIDANCE = 1.0
NUM_PREPARED = 8
KINDS = ("perflow_delta", "none")


class InTurn(Protocol):
    """The studio's one line for the device: waits, draws, saves."""

    def __call__(
        self, request: GenerationRequest, draw: Callable[[], Iterator[GenerationEvent]]
    ) -> Iterator[GenerationEvent]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshFiles:
    """A mesh as files to show and to fetch, and what is true of it."""

    glb: Path
    turntable: Path
    sculpture: Sculpture


class Multiviews:
    """The views of one object, on the house's terms; built by `Services` where an engine can draw them."""

    def __init__(
        self,
        catalog: Catalog,
        engine: MultiviewEngine,
        draw: Callable[..., Iterator[GenerationEvent]],
        history: History,
        in_turn: InTurn,
        make_room: Callable[[], None],
    ) -> None:
        self._catalog, self._engine, self._draw = catalog, engine, draw
        self._history, self._in_turn, self._make_room = history, in_turn, make_room
        # By content, so what was shown is what is drawn from.
        self._prepared = lru_cache(NUM_PREPARED)(
            lambda picture, size, background: prepare(history.inputs.open(picture), size, background)
        )

    def models(self) -> tuple[MultiviewSpec, ...]:
        """The networks whose weights are here; what cannot draw is not listed."""
        return tuple(spec for spec in self._catalog.multiview if self._engine.is_on_disk(spec.id))

    def accelerators(self, model_id: str) -> tuple[AcceleratorSpec, ...]:
        """Delta weights and plain solvers that fit a network. Raises `InvalidRequest`."""
        spec = self._model(model_id)
        return tuple(each for each in self._catalog.accelerators_for(spec) if each.kind in KINDS)

    def keep(self, source: Path | Image.Image) -> str:
        """Take in the picture of an object, whatever it is, and return its id. Raises `InvalidRequest`, `UnsafeFile`.

        What is transparent stays so.
        """
        return self._history.inputs.keep(inputs.take_object(source))

    def prepare(self, picture: str, model: str | None = None, background: str = "auto") -> Prepared:
        """The object of a kept picture, cut out and recentred for a network. Raises `InvalidRequest`, `NotFound`."""
        check_background(background)
        return self._prepared(picture, self._model(model).native_width, background)

    def resolve(
        self,
        *,
        model: str | None = None,
        accelerator: str | None = None,
        accelerator_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | list[float] | Guidance | None = None,
        seed: int = RANDOM_SEED,
        views_of: ViewsOf | None = None,
    ) -> GenerationRequest:
        """What a person chose, completed and checked; `None` is the recommended value, seed -1 a random one.

        A request can be planned before there is a picture, and drawn once it names one.
        """
        spec = self._model(model)
        how = self._accelerator(spec, accelerator)
        request = GenerationRequest(
            prompt="",
            model=spec.id,
            accelerator=how.id,
            accelerator_strength=accelerator_strength,
            steps=how.recommended_steps if steps is None else _whole(steps),
            guidance=Guidance.of(DEFAULT_GUIDANCE if guidance is None else guidance),
            width=len(VIEWS) * spec.native_width,
            height=2 * spec.native_width,
            seed=secrets.randbelow(MAX_SEED) if seed == RANDOM_SEED else _whole(seed),
            views_of=views_of,
        )
        self._engine.plan(request)
        return request

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The effective grid, without running anything: how often the network is really asked."""
        return self._engine.plan(request)

    def draw(self, request: GenerationRequest, *, previews: bool = True) -> Iterator[GenerationEvent]:
        """`Waiting`, then the engine's events; the result's sheet is in the history. Raises what the engine raises.

        On a device with memory of its own the two engines make room for each other.
        """
        given = request.views_of
        if given is None:
            raise InvalidRequest("image", "a picture of one object", "nothing")
        picture = self.prepare(given.image, request.model, given.background).image

        def events() -> Iterator[GenerationEvent]:
            self._make_room()
            with closing(self._draw(request, picture, previews=previews)) as drawn:  # pyright: ignore[reportArgumentType]
                yield from drawn
            self._engine.make_room()

        yield from self._in_turn(request, events)

    def mesh(self, id: str) -> MeshFiles:
        """A closed, coloured mesh of a saved sheet. Raises `NotFound`, `InvalidRequest`, `StorageError`."""
        path = self._history.get(id).path
        made = sculpt(ViewSet.of_sheet(_sheet(path)))
        return MeshFiles(
            glb=self._history.export_file(f"{path.stem}.glb", glb(made.mesh)),
            turntable=self._history.export_file(f"{path.stem}-turntable.webp", turntable(made.mesh)),
            sculpture=made,
        )

    def _model(self, id: str | None) -> MultiviewSpec:
        listed = {spec.id: spec for spec in self.models()}
        chosen = next(iter(listed), None) if id is None else id
        if not isinstance(chosen, str) or chosen not in listed:
            raise InvalidRequest("model", f"a multiview network that is here: {', '.join(listed) or 'none is'}", id)
        return listed[chosen]

    def _accelerator(self, spec: MultiviewSpec, id: str | None) -> AcceleratorSpec:
        fitting = {each.id: each for each in self.accelerators(spec.id)}
        chosen = spec.default_accelerator if id is None else id
        check_id("accelerator", chosen)
        if chosen not in fitting:
            raise InvalidRequest("accelerator", f"one that fits {spec.id}: {', '.join(fitting)}", id)
        return fitting[chosen]


def _whole(value: Any) -> Any:
    """4.0 means 4, since JSON and sliders do not tell them apart; all else is the request's to refuse."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sheet(path: Path) -> Image.Image:
    """A saved sheet, as it was written."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise NotFound(f"The file of these views, {path.name}, is gone or damaged: draw them again.") from error
