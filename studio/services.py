"""Everything the page and the API may call, built once by `app.py`.

One straight path: what a person typed -> `resolve` (defaults of the catalogue, every refusal before any work) ->
`generate` (line, device, engine, history). Page and API take the same path, so both refuse in the same words.
This module knows neither gradio nor torch: pictures and values go in and out.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from studio import inputs, upscales
from studio.catalog import Catalog
from studio.comparisons import Comparisons
from studio.conditions import CannyLevels, ControlUnit, InitialImage, Reference, Upscale, check_resize
from studio.engine.annotators import Annotators
from studio.engine.fitting import fit
from studio.engine.judging import Judges
from studio.errors import InvalidRequest, StorageError, StudioError
from studio.gpu import DeviceLease, on_space_gpu
from studio.grids import Grids
from studio.history import History
from studio.multiviews import TAB as MULTIVIEW_TAB
from studio.multiviews import Multiviews
from studio.settings import Settings
from studio.sharing import Sharing
from studio.specs import AcceleratorSpec, ControlSpec, ModelSpec
from studio.training import TrainingServices
from studio.types import (
    MAX_IMAGES,
    MAX_SEED,
    Engine,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Guidance,
    MultiviewEngine,
    StepPlan,
    check_canvas,
)

RANDOM_SEED = -1


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """A model of the catalogue, and whether it can be used without a download."""

    spec: ModelSpec
    on_disk: bool


@dataclass(frozen=True, kw_only=True)
class ControlStatus:
    """A ControlNet or IP-Adapter of the catalogue, and whether it can be used without a download."""

    spec: ControlSpec
    on_disk: bool


class Services:
    """What the studio can do. `resolve` and `plan` are cheap; `generate` waits its turn for the device."""

    def __init__(
        self, settings: Settings, catalog: Catalog, engine: Engine, history: History, lease: DeviceLease,
        training: TrainingServices | None = None, views: MultiviewEngine | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.catalog = catalog
        self.history = history
        self.training = training
        self._engine = engine
        self._annotators = Annotators(settings.hub_cache, settings.offline)
        self._lease = lease
        self._sharing = Sharing(engine, lambda: training.at_work if training else None)
        self._stopping = threading.Event()
        self.multiview = None if views is None else self._multiviews(views)
        self.upscales = upscales.Upscales(catalog, history, self._control_specs, self.resolve)
        self.judges = Judges(settings.assets_dir, settings.hub_cache)
        self.comparisons = Comparisons(
            catalog, self.resolve, self.plan, self.generate, self.judges, lambda: self._is_training
        )
        self.grids = Grids(settings.data_dir, history, self.resolve, self.plan, self.generate)
        self._draw = on_space_gpu(engine.generate) if settings.on_space else engine.generate
        if settings.model is not None:
            catalog.model(settings.model)

    def _multiviews(self, views: MultiviewEngine) -> Multiviews:
        sharing = Sharing(views, lambda: self.training.at_work if self.training else None)
        in_turn = partial(self._in_turn, sharing=sharing, tab=MULTIVIEW_TAB)
        draw = on_space_gpu(views.generate) if self.settings.on_space else views.generate
        return Multiviews(self.catalog, views, draw, self.history, in_turn, self._engine.make_room)

    def models(self) -> tuple[ModelStatus, ...]:
        """Every model of the catalogue, in its order."""
        return tuple(ModelStatus(spec=spec, on_disk=self._engine.is_on_disk(spec.id)) for spec in self.catalog.models)

    def accelerators(self, model_id: str) -> tuple[AcceleratorSpec, ...]:
        """The accelerators that fit a model. Raises `InvalidRequest` for an unknown model."""
        return tuple(self.catalog.accelerators_for(self.catalog.model(model_id)))

    def controls(self, model_id: str) -> tuple[ControlStatus, ...]:
        """What drawings of a model can follow: all that can be downloaded, and what is not from the hub once it is
        there."""
        found = (
            ControlStatus(spec=spec, on_disk=self._engine.is_on_disk(spec.id))
            for spec in self.catalog.controls_for(model_id)
        )
        return tuple(each for each in found if each.on_disk or each.spec.origin == "hub")

    def _control_specs(self, model_id: str) -> tuple[ControlSpec, ...]:
        return tuple(each.spec for each in self.controls(model_id))

    @property
    def _is_training(self) -> bool:
        return self.training is not None and self.training.at_work is not None

    @property
    def default_model(self) -> str:
        """The model at first sight: the owner's choice, else the catalogue's first."""
        return self.settings.model or self.catalog.models[0].id

    def resolve(
        self,
        *,
        prompt: str,
        negative_prompt: str = "",
        model: str | None = None,
        accelerator: str | None = None,
        accelerator_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | list[float] | tuple[float, ...] | Guidance | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = RANDOM_SEED,
        num_images: int = 1,
        controls: tuple[ControlUnit, ...] = (),
        references: tuple[Reference, ...] = (),
        initial: InitialImage | None = None,
        upscale: Upscale | None = None,
    ) -> GenerationRequest:
        """What a person typed, completed and checked; `None` takes the recommended value, seed -1 a random one.

        Raises `InvalidRequest` naming field, range and value.
        """
        spec = self._model(model)
        how = self._accelerator(spec, accelerator)
        request = GenerationRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            model=spec.id,
            accelerator=how.id,
            accelerator_strength=accelerator_strength,
            steps=_whole(how.recommended_steps if steps is None else steps),
            guidance=Guidance.of(how.recommended_guidance if guidance is None else guidance),
            width=_whole(spec.native_width if width is None else width),
            height=_whole(spec.native_height if height is None else height),
            seed=_concrete(_whole(seed)),
            num_images=_whole(num_images),
            controls=controls,
            references=references,
            initial=initial,
            upscale=upscale,
        )
        self._check_size(spec, request)
        self._check_conditions(spec, request)
        self._engine.plan(request)
        return request

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The effective grid, without running anything."""
        return self._engine.plan(request)

    def generate(
        self, request: GenerationRequest, *, tab: str = "text-to-image", previews: bool = True,
        stop: threading.Event | None = None, keep: bool = True,
    ) -> Iterator[GenerationEvent]:  # fmt: skip
        """`Waiting` while the device is busy, then the engine's events; the result's pictures are in the history.

        Without `previews` steps are told but not decoded, which saves a good part of a small model's time; without
        `keep` nothing is saved, for drawings that only measure.
        Closing the iterator leaves the line or stops the engine within a step. Raises `QueueFull`, `InvalidRequest`,
        and what the engine raises. A picture the disk refuses stays in the result, without `history_id` and `path`,
        and a warning of the receipt says why.

        An enlargement that is stopped, by `stop` or by closing the iterator, is saved with the tiles it has; where
        there are none, no result comes. (Where a Space lends the device, closing keeps nothing.)
        """
        spec = self._model(request.model)
        self._accelerator(spec, request.accelerator)
        self._check_size(spec, request)
        self._check_conditions(spec, request)
        self._engine.plan(request)
        draw, keeps = partial(self._draw, request, previews=previews), None
        if request.upscale is not None and not self.settings.on_space:
            keeps = stop or threading.Event()
            draw = partial(draw, enough=keeps.is_set)
        yield from self._in_turn(request, draw, sharing=self._sharing, tab=tab if keep else None, keeps=keeps)

    def _in_turn(
        self, request: GenerationRequest, draw: Callable[[], Iterator[GenerationEvent]], *, sharing: Sharing,
        tab: str | None, keeps: threading.Event | None = None,
    ) -> Iterator[GenerationEvent]:  # fmt: skip
        """Wait for the line and for room on the device, draw, and save what was drawn under a tab's name, if any.

        Whoever closes this while it draws gets nothing; with `keeps` set then, the engine hands over what it has, and
        that is saved.
        """
        result: GenerationResult | None = None
        with self._lease.enter("generation") as ticket:
            for waiting in ticket.wait():
                self._go_on()
                yield waiting
            with ExitStack() as held:
                for waiting in sharing.enter(request, held):
                    self._go_on()
                    yield waiting
                self._go_on()
                events = held.enter_context(closing(draw()))  # pyright: ignore[reportArgumentType]
                for event in events:
                    self._go_on()
                    if isinstance(event, GenerationResult):
                        result = event
                        continue
                    try:
                        yield event
                    except GeneratorExit:
                        if keeps is not None and tab is not None:
                            keeps.set()
                            self._save_rest(events, tab)
                        raise
        # The device is free again: encoding and the disk need none.
        if result is not None:
            yield result if tab is None else self._saved(result, tab)

    def _save_rest(self, events: Iterator[GenerationEvent], tab: str) -> None:
        """The picture that a stopped engine still hands over, for whoever is gone."""
        for event in events:
            if isinstance(event, GenerationResult):
                self._saved(event, tab)

    # --- pictures to follow ---

    def keep(self, source: Path | str | Image.Image | None, field: str = "image", *, shrinks: bool = True) -> str:
        """Take a picture in, whatever it is, and return the id under which requests may name it.

        Raises `InvalidRequest`, `UnsafeFile`, `StorageError`; `field` is what errors call it. Sides above 2048 pixels
        are shrunk to that, unless its every pixel counts.
        """
        return self.history.inputs.keep(inputs.take(source, field, shrinks=shrinks))

    def keep_mask(self, source: Path | str | Image.Image | None, picture: str, field: str = "mask") -> str:
        """Take in the mask of a kept picture: white where something is to happen."""
        return self.history.inputs.keep(inputs.take_mask(source, self.picture(picture), field))

    def picture(self, id: str) -> Image.Image:
        """A kept picture. Raises `NotFound`."""
        return self.history.inputs.open(id)

    def annotate(
        self, picture: str, annotator: str, *, levels: CannyLevels | None = None, resize: str = "crop",
        size: tuple[int, int] | None = None,
    ) -> str:  # fmt: skip
        """The map of a kept picture, kept as well: its id. With a `size` the picture is fitted to that canvas first.

        Raises `InvalidRequest`, `ModelUnavailable`, `NotFound`.
        """
        check_resize("control_resize", resize)
        if size is not None:
            check_canvas(*size)
        image = self.picture(picture)
        fitted = image if size is None else fit(image, size, resize, is_map=annotator == "none")
        made = self._annotators.annotate(annotator, fitted, levels)
        return self.history.inputs.keep(inputs.check_map(made, "control_image"))

    def _check_conditions(self, model: ModelSpec, request: GenerationRequest) -> None:
        """Refuse what does not fit the model, and pictures that are not kept here, before any work."""
        named = [("control", each.control, "controlnet") for each in request.controls]
        named += [("reference_adapter", each.adapter, "ip_adapter") for each in request.references]
        if request.upscale is not None and request.upscale.control is not None:
            named.append(("upscale_control", request.upscale.control, "controlnet"))
        for field, id, kind in named:
            fitting = [each.spec.id for each in self.controls(model.id) if each.spec.kind == kind]
            if id not in fitting:
                raise InvalidRequest(field, f"one that fits {model.id}: {', '.join(fitting) or 'none is here'}", id)
        for id in request.pictures:
            if self.history.inputs.path(id) is None:
                self.picture(id)  # raises the sentence
        if request.upscale is not None:
            upscales.check(request, model, {id: self.picture(id).size for id in request.pictures})
        for unit in request.controls:
            inputs.check_map(self.picture(unit.image))
        initial = request.initial
        if initial is not None and initial.mask is not None:
            inputs.take_mask(self.picture(initial.mask), self.picture(initial.image))
        for reference in request.references:
            if reference.mask is not None:
                inputs.check_mask(self.picture(reference.mask), "where the reference is to act", "reference_mask")

    def stop(self) -> None:
        """End what waits and what runs within a step; nothing starts any more. Safe to call from any thread, twice."""
        self._stopping.set()

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise StudioError("The studio is being stopped: nothing was drawn. Start it again and repeat the request.")

    def _saved(self, result: GenerationResult, tab: str) -> GenerationResult:
        images, warnings = [], list(result.receipt.warnings)
        for image in result.images:
            try:
                entry = self.history.add(result, image, tab=tab)
            except StorageError as error:
                images.append(image)
                warnings.append(f"Seed {image.seed} was not saved: {error}")
            else:
                images.append(replace(image, history_id=entry.id, path=entry.path))
        return replace(result, images=tuple(images), receipt=replace(result.receipt, warnings=tuple(warnings)))

    def _model(self, id: str | None) -> ModelSpec:
        return self.catalog.model(self.default_model if id is None else _text("model", id))

    def _accelerator(self, model: ModelSpec, id: str | None) -> AcceleratorSpec:
        fitting = {spec.id: spec for spec in self.catalog.accelerators_for(model)}
        chosen = model.default_accelerator if id is None else _text("accelerator", id)
        if chosen not in fitting:
            raise InvalidRequest("accelerator", f"one that fits {model.id}: {', '.join(fitting)}", chosen)
        return fitting[chosen]

    def _check_size(self, model: ModelSpec, request: GenerationRequest) -> None:
        if request.upscale is not None:
            return  # its tiles must fit the model, not all of it
        for name, side in (("width", request.width), ("height", request.height)):
            if side % model.size_multiple:
                raise InvalidRequest(name, f"a multiple of {model.size_multiple} for {model.id}", side)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(name, "an id from the catalogue", value)
    return value


def _whole(value: Any) -> Any:
    """4.0 means 4, since JSON and sliders do not tell them apart; all else is the request's to refuse."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _concrete(seed: Any) -> Any:
    """A random seed for -1, low enough that seed + i of a batch is a seed too."""
    if seed == RANDOM_SEED and not isinstance(seed, bool):
        return secrets.randbelow(MAX_SEED - MAX_IMAGES)
    return seed
