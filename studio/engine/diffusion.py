"""`DiffusionEngine`: the one path from a request to its pictures, on stock diffusers pipelines.

request -> resident pipeline -> base + strength * ΔW -> controls and adapters attached -> per image: noise (or a noised
picture), guided steps with previews, decode -> result

Images of a request are drawn one after another, each from its own seed by itself: so image i is bit for bit the same
alone and in a batch, and the first picture is there before the last has begun. (Batching them would be faster on a
large GPU, at the price of results that depend on their neighbours.)
It does not know queues, history, or who asked.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from studio.catalog import Catalog
from studio.engine.accelerator import Worn, check_kind
from studio.engine.advice import odd_choices
from studio.engine.conditions import Conditions, OpenPicture, make
from studio.engine.controls import Attached, check_fits
from studio.engine.device import (
    ROOM_OVER_WEIGHTS,
    PeakMemory,
    choose_device,
    choose_dtype,
    free_memory_bytes,
    or_out_of_memory,
)
from studio.engine.drawing import SMALLER, Drawn, Order, draw
from studio.engine.hub import Hub, Say
from studio.engine.lens import Lens
from studio.engine.loader import Loader, Resident
from studio.engine.prompts import EncodedPrompt
from studio.engine.samplers import make_sampler, plan_request
from studio.engine.stream import Emit, Worker
from studio.engine.upscaling import NOT_HELD, Work, check_memory, grid_of, num_canvas_bytes, upscale_picture
from studio.engine.weights import Weights
from studio.errors import InvalidRequest, NotFound
from studio.specs import AcceleratorSpec, ControlSpec, ModelSpec
from studio.types import (
    Enough,
    GeneratedImage,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Loading,
    MemoryRoom,
    Receipt,
    StepPlan,
    UpscaleReport,
    never,
)
from studio.upscaling.enlarged import Enlarged


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request with what the catalogue says about it."""

    request: GenerationRequest
    model: ModelSpec
    accelerator: AcceleratorSpec
    plan: StepPlan
    controls: tuple[ControlSpec, ...] = ()
    adapters: tuple[ControlSpec, ...] = ()
    enough: Enough = never


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The pictures of a job, and what there is to say of them."""

    images: tuple[GeneratedImage, ...]
    drawn: list[Drawn]
    warnings: list[str]
    upscale: UpscaleReport | None = None


class DiffusionEngine:
    """Runs models from the catalogue; one request at a time, others wait their turn.

    `device` and `dtype` are "auto" or a name; `hub_cache` a folder instead of the user's Hugging Face cache; `offline`
    True never asks the network. `open_picture` gives the pictures that requests name by their content.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        assets_dir: Path | str,
        device: str = "auto",
        dtype: str = "auto",
        hub_cache: Path | str | None = None,
        offline: bool | None = None,
        open_picture: OpenPicture | None = None,
    ) -> None:
        self._catalog = catalog
        self._open_picture = open_picture or _no_picture
        self._device = choose_device(device)
        self.dtype = choose_dtype(dtype, self._device)
        hub = Hub(Path(hub_cache) if hub_cache else None, offline)
        self._weights = Weights(catalog, hub, Path(assets_dir))
        self._loader = Loader(catalog, self._weights, device=self._device, dtype=self.dtype)
        self._peak = PeakMemory(self._device)
        self._turn = threading.Lock()
        self._worker = Worker()

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The effective grid of a request, without loading anything. Raises `InvalidRequest`."""
        return self._job(request).plan

    def is_on_disk(self, id: str) -> bool:
        """Whether a model's or accelerator's weights can be used without a download."""
        return self._weights.is_on_disk(id)

    def generate(
        self, request: GenerationRequest, *, previews: bool = True, enough: Enough = never
    ) -> Iterator[GenerationEvent]:
        """Yield `Loading`, a `StepPreview` per step and image, and last the `GenerationResult`.

        Without `previews` a `StepDone` stands for each preview, and only finished pictures are decoded. A picture drawn
        in tiles ends with those it has once `enough()`; without any, there is no result.

        Raises `InvalidRequest`, `IncompatibleWeights`, `ModelUnavailable`, `UnsafeFile` or `OutOfMemory`.
        """
        job = replace(self._job(request), enough=enough)

        def run(emit: Emit[GenerationEvent]) -> None:
            self._run(job, previews, emit)

        yield from self._worker.stream(run)

    def close(self) -> None:
        """Free the resident model; the engine can be used again all the same."""
        self._worker.close()
        with self._turn:
            self._loader.unload()

    def room(self, request: GenerationRequest) -> MemoryRoom:
        """Free memory as measured, and a request's need: weights that are not loaded yet, and activations."""
        model = self._catalog.model(request.model)
        loaded = self._loader.num_loaded_bytes(model)
        weights = self._weights.num_bytes(model)
        needed = int((ROOM_OVER_WEIGHTS - 1) * max(weights, loaded)) + (0 if loaded else weights)
        if request.upscale is not None and self._device.type == "cpu":
            needed += num_canvas_bytes(request)
        return MemoryRoom(device=self._device.type, free_bytes=free_memory_bytes(self._device), needed_bytes=needed)

    def make_room(self) -> None:
        """Unload what is resident, where it takes a device's own memory; a processor's is the machine's."""
        if self._device.type != "cpu":
            self.close()

    def _job(self, request: GenerationRequest) -> _Job:
        model = self._catalog.model(request.model)
        accelerator = self._catalog.accelerator(request.accelerator)
        check_kind(accelerator, model, is_merged=self._catalog.is_merged(model))
        named = [unit.control for unit in request.controls]
        named += [request.upscale.control] if request.upscale and request.upscale.control else []
        controls = tuple(self._control(id, "controlnet", model) for id in named)
        adapters = tuple(self._control(each.adapter, "ip_adapter", model) for each in request.references)
        plan = plan_request(request, model, accelerator)
        return _Job(
            request=request, model=model, accelerator=accelerator, plan=plan, controls=controls, adapters=adapters
        )

    def _control(self, id: str, kind: str, model: ModelSpec) -> ControlSpec:
        spec = self._catalog.control(id)
        if spec.kind != kind:
            raise InvalidRequest("control", "a ControlNet for a map and an IP-Adapter for a reference", id)
        check_fits(spec, model)
        return spec

    def _run(self, job: _Job, previews: bool, emit: Emit[GenerationEvent]) -> None:
        def say(message: str, fraction: float | None) -> None:
            emit(Loading(message=message, fraction=fraction))

        with self._turn:
            started = time.perf_counter()
            resident = self._loader.load(job.model, say)
            worn = self._wear(resident, job, say)
            attached = self._attach(resident, job, say)
            seconds_load = time.perf_counter() - started
            self._peak.start()
            with torch.inference_mode():
                conditions = self._conditions(resident, job, attached)
                made = self._draw_all(resident, job, worn, conditions, previews, emit)
            if not made.images:
                return
            emit(
                GenerationResult(
                    request=job.request,
                    images=made.images,
                    seconds=time.perf_counter() - started,
                    receipt=self._receipt(resident, job, worn, attached, seconds_load, made),
                )
            )

    def _wear(self, resident: Resident, job: _Job, say: Say) -> Worn:
        read = self._weights.lora if job.accelerator.kind == "lora" else self._weights.delta
        return or_out_of_memory(
            f"putting {job.accelerator.title} on",
            "Close other programs that use the device, or choose a smaller model.",
            lambda: resident.unet.wear(
                job.accelerator, job.request.accelerator_strength, lambda: read(job.accelerator, say)
            ),
        )

    def _attach(self, resident: Resident, job: _Job, say: Say) -> Attached:
        return or_out_of_memory(
            "loading what the picture is to follow",
            "Use fewer control units, close other programs that use the device, or choose a smaller model.",
            lambda: resident.controls.attach(job.controls, job.adapters, self._weights, say),
        )

    def _conditions(self, resident: Resident, job: _Job, attached: Attached) -> Conditions:
        resident.controls.set_scales(job.request.references)
        num_steps = len(job.plan.timesteps)
        return or_out_of_memory(
            "reading the input pictures",
            SMALLER,
            lambda: make(job.request, attached, self._open_picture, resident.pipe, num_steps=num_steps),
        )

    def _draw_all(
        self,
        resident: Resident,
        job: _Job,
        worn: Worn,
        conditions: Conditions,
        previews: bool,
        emit: Emit[GenerationEvent],
    ) -> _Made:
        request = job.request
        prompt, negative = self._encode(resident, request)
        warnings = [text for text in (prompt.warning, negative.warning) if text]
        warnings += [*worn.warnings, *odd_choices(request, job.model, job.accelerator, worn.facts, job.plan)]
        order = Order(
            conditions=conditions,
            plan=job.plan,
            prompt=prompt,
            negative=negative,
            width=request.width,
            height=request.height,
            seed=request.seed,
        )
        sampler = partial(make_sampler, resident.noise_schedule, job.model, job.accelerator, worn.facts)
        if request.upscale is not None:
            return self._upscale(resident, job, order, sampler, warnings, Lens(job.plan, emit, is_seen=previews))
        images, all_drawn = [], []
        for index in range(request.num_images):
            lens = Lens(job.plan, emit, image_index=index, num_images=request.num_images)
            own = replace(order, seed=request.seed + index)
            drawn = draw(resident.pipe, sampler(), own, resident.preview if previews else None, lens.show)
            latents = None if drawn.latents is None else drawn.latents[0].float().cpu().numpy()
            images.append(GeneratedImage(image=drawn.image, seed=own.seed, lens=tuple(lens.previews), latents=latents))
            all_drawn.append(drawn)
            warnings += drawn.warnings
        return _Made(images=tuple(images), drawn=all_drawn, warnings=list(dict.fromkeys(warnings)))

    def _upscale(
        self, resident: Resident, job: _Job, order: Order, sampler: Callable[[], Any], warnings: list[str], lens: Lens
    ) -> _Made:
        request, upscale = job.request, job.request.upscale
        assert upscale is not None
        check_memory(request)
        enlarged = Enlarged(source=self._open_picture(upscale.image), factor=upscale.factor)
        if enlarged.size != (request.width, request.height):
            expected = f"{enlarged.size[0]} x {enlarged.size[1]}, {upscale.factor} times the picture"
            raise InvalidRequest("factor", expected, f"{request.width} x {request.height}")
        work = Work(
            pipe=resident.pipe, make_sampler=sampler, order=replace(order, width=upscale.tile, height=upscale.tile),
            first_step=request.first_step, upscale=upscale, enlarged=enlarged, grid=grid_of(upscale, enlarged.size),
            tell=lens.tell, enough=job.enough,
            mended=self._open_picture(upscale.mend) if upscale.mend else None,
        )  # fmt: skip
        made = upscale_picture(work)
        if made is None:
            return _Made(images=(), drawn=[], warnings=warnings)
        drawn, report = made
        image = GeneratedImage(image=drawn.image, seed=request.seed)
        warnings = [*warnings, *(() if upscale.control else (NOT_HELD,))]
        return _Made(images=(image,), drawn=[drawn], warnings=[*warnings, *drawn.warnings], upscale=report)

    def _encode(self, resident: Resident, request: GenerationRequest) -> tuple[EncodedPrompt, EncodedPrompt]:
        def encode() -> tuple[EncodedPrompt, EncodedPrompt]:
            prompts = resident.prompts
            return prompts.encode(request.prompt), prompts.encode(request.negative_prompt, negative=True)

        return or_out_of_memory("reading the prompt", SMALLER, encode)

    def _receipt(
        self,
        resident: Resident,
        job: _Job,
        worn: Worn,
        attached: Attached,
        seconds_load: float,
        made: _Made,
    ) -> Receipt:
        all_drawn = made.drawn
        return Receipt(
            plan=job.plan,
            model=job.model.id,
            accelerator=job.accelerator.id,
            base_sha256=resident.unet.base_sha256,
            delta_sha256=worn.sha256,
            device=device_in_words(self._device),
            dtype=str(self.dtype).removeprefix("torch."),
            seconds_load=seconds_load,
            seconds_steps=tuple(seconds for drawn in all_drawn for seconds in drawn.seconds_steps),
            seconds_decode=sum(drawn.seconds_decode for drawn in all_drawn),
            num_network_calls=sum(drawn.num_network_calls for drawn in all_drawn),
            versions=versions(),
            warnings=tuple(made.warnings),
            controls_sha256=dict(attached.sha256 or {}),
            upscale=made.upscale,
            memory_bytes=self._peak.num_bytes(),
        )


def _no_picture(id: str) -> Image.Image:
    raise NotFound(f"This engine keeps no pictures, so it cannot follow one ({id[:12]}).")


def device_in_words(device: torch.device) -> str:
    """The device as a person would name it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    count = torch.get_num_threads()
    threads = f"{count} {'thread' if count == 1 else 'threads'}"
    return f"cpu ({threads})" if device.type == "cpu" else device.type


def versions() -> dict[str, str]:
    """The libraries whose version may change pixels."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
