"""`WonderEngine`: from a request and a square picture of an object to a sheet of its views, on the house's terms.

request -> resident network -> base + strength * ΔW by name -> noise, guided steps with previews, decode -> result

The same request, events, receipts and samplers as text-to-image; what differs is the twelve rows of
`multiview_drawing`. Delta weights of the base add to the 685 parameters they share with the network; its wider conv_in
is left alone, as in the published setting. It does not know queues, history, or who asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from studio.catalog import Catalog
from studio.engine.accelerator import check_kind
from studio.engine.device import (
    ROOM_OVER_WEIGHTS,
    choose_device,
    choose_dtype,
    free_memory_bytes,
    or_out_of_memory,
    release_memory,
)
from studio.engine.diffusion import device_in_words, versions
from studio.engine.drawing import SMALLER
from studio.engine.hub import Hub, Say
from studio.engine.lens import Lens
from studio.engine.multiview_drawing import decode_sheet, draw_latents, encode, preview_sheet
from studio.engine.multiview_files import MultiviewFiles, Networks, read_networks
from studio.engine.preview import LinearPreview, Preview, decode
from studio.engine.samplers import make_sampler, plan_request
from studio.engine.stream import Emit, Worker
from studio.engine.weights import Weights
from studio.errors import InvalidRequest
from studio.perflow import DeltaWeights, KeptBase, check_fits
from studio.specs import AcceleratorSpec, MultiviewSpec
from studio.types import (
    GeneratedImage,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Loading,
    MemoryRoom,
    Receipt,
    StepPlan,
    StepPreview,
)


class ResidentViews:
    """A multiview network in memory, its kept base, and the delta weights on it (if any)."""

    def __init__(self, spec: MultiviewSpec, networks: Networks) -> None:
        self.spec, self.networks = spec, networks
        self.base = KeptBase(networks.unet)  # in the precision of its files
        self.delta: DeltaWeights | None = None
        self._worn: tuple[AcceleratorSpec, float] | None = None
        self._preview: Preview | None = None

    def wear(self, accelerator: AcceleratorSpec, strength: float, read: Callable[[], DeltaWeights]) -> None:
        """Put delta weights on by name, always from the bare base, or take them off. Raises `IncompatibleWeights`."""
        if self._worn == (accelerator, strength):
            return
        self._worn = self.delta = None
        if accelerator.kind == "none":
            self.base.restore()
        else:
            delta = read()
            check_fits(delta.spec, family=self.spec.family, base_prediction_type=self.spec.prediction_type)
            self.base.apply(delta, strength)
            self.delta = delta
        self._worn = (accelerator, strength)

    @property
    def preview(self) -> Preview:
        """A small autoencoder shows each step as it is; a large one's needs the linear map."""
        if self._preview is None:
            vae, device = self.networks.vae, next(self.networks.unet.parameters()).device
            self._preview = partial(decode, vae) if self.spec.family == "tabletop" else LinearPreview(vae, device)
        return self._preview


class WonderEngine:
    """Runs the catalogue's multiview networks; one request at a time. Arguments are `DiffusionEngine`'s."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        assets_dir: Path | str,
        device: str = "auto",
        dtype: str = "auto",
        hub_cache: Path | str | None = None,
        offline: bool | None = None,
    ) -> None:
        self._catalog = catalog
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        hub = Hub(Path(hub_cache) if hub_cache else None, offline)
        self._weights = Weights(catalog, hub, Path(assets_dir))
        self._files = MultiviewFiles(hub, Path(assets_dir))
        self._resident: ResidentViews | None = None
        self._turn = threading.Lock()
        self._worker = Worker("views")

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The effective grid of a request, without loading anything. Raises `InvalidRequest`."""
        spec, accelerator = self._entries(request)
        return plan_request(request, spec, accelerator)

    def is_on_disk(self, id: str) -> bool:
        """Whether a network's or accelerator's weights can be used without a download."""
        specs = {spec.id: spec for spec in self._catalog.multiview}
        return self._files.is_on_disk(specs[id]) if id in specs else self._weights.is_on_disk(id)

    def generate(
        self, request: GenerationRequest, picture: Image.Image, *, previews: bool = True
    ) -> Iterator[GenerationEvent]:
        """Yield `Loading`, a `StepPreview` per step and sheet, and last the `GenerationResult` of sheets.

        Raises `InvalidRequest`, `IncompatibleWeights`, `ModelUnavailable`, `UnsafeFile` or `OutOfMemory`.
        """
        plan = self.plan(request)
        _check_picture(request, picture)

        def run(emit: Emit[GenerationEvent]) -> None:
            with self._turn:
                self._run(request, plan, picture, previews, emit)

        yield from self._worker.stream(run)

    def room(self, request: GenerationRequest) -> MemoryRoom:
        """Free memory as measured, and a request's need: weights that are not loaded yet, and activations."""
        spec = self._catalog.multiview_model(request.model)
        weights = self._files.num_bytes(spec) or spec.download_bytes or 0
        is_loaded = self._resident is not None and self._resident.spec == spec
        needed = int((ROOM_OVER_WEIGHTS - 1) * weights) + (0 if is_loaded else weights)
        return MemoryRoom(device=self._device.type, free_bytes=free_memory_bytes(self._device), needed_bytes=needed)

    def make_room(self) -> None:
        """Unload what is resident, where it takes a device's own memory; a processor's is the machine's."""
        if self._device.type != "cpu":
            self.close()

    def close(self) -> None:
        """Free the resident network; the engine can be used again all the same."""
        self._worker.close()
        with self._turn:
            self._resident = None
            release_memory()

    def _entries(self, request: GenerationRequest) -> tuple[MultiviewSpec, AcceleratorSpec]:
        spec, accelerator = self._catalog.multiview_model(request.model), self._catalog.accelerator(request.accelerator)
        check_kind(accelerator, spec, is_merged=False)
        if accelerator.kind == "lora":
            raise InvalidRequest(
                "accelerator", "delta weights or a plain solver for multiview networks", accelerator.id
            )
        size = spec.native_width
        if (request.width, request.height) != (6 * size, 2 * size):
            raise InvalidRequest("width", f"a sheet of {6 * size} x {2 * size} pixels for {spec.id}", request.width)
        return spec, accelerator

    def _run(
        self, request: GenerationRequest, plan: StepPlan, picture: Image.Image, previews: bool,
        emit: Emit[GenerationEvent],
    ) -> None:  # fmt: skip
        def say(message: str, fraction: float | None) -> None:
            emit(Loading(message=message, fraction=fraction))

        started = time.perf_counter()
        resident = self._loaded(request, say)
        seconds_load = time.perf_counter() - started
        read = partial(encode, resident.networks, picture, begins_near=resident.spec.begins_near)
        given = or_out_of_memory("reading the picture", SMALLER, read)
        images, seconds_steps, seconds_decode = [], list[float](), 0.0
        for index in range(request.num_images):
            told = Lens(plan, emit, image_index=index, num_images=request.num_images)
            lens = _Sheets(told, plan, index, resident if previews else None)
            latents = self._drawn(resident, request, plan, given, lens)
            begun = time.perf_counter()
            sheet = or_out_of_memory(
                "decoding the views", SMALLER, partial(decode_sheet, resident.networks.vae, latents)
            )
            seconds_decode += time.perf_counter() - begun
            lens.finish(sheet)
            seconds_steps += lens.seconds
            images.append(GeneratedImage(image=sheet, seed=request.seed + index, lens=tuple(lens.previews)))
        receipt = Receipt(
            plan=plan,
            model=request.model,
            accelerator=request.accelerator,
            base_sha256=resident.base.sha256,
            delta_sha256=resident.delta.sha256 if resident.delta else None,
            device=device_in_words(self._device),
            dtype=str(self._dtype).removeprefix("torch."),
            seconds_load=seconds_load,
            seconds_steps=tuple(seconds_steps),
            seconds_decode=seconds_decode,
            num_network_calls=plan.num_network_calls * request.num_images,
            versions=versions(),
            warnings=plan.notes,
        )
        seconds = time.perf_counter() - started
        emit(GenerationResult(request=request, images=tuple(images), seconds=seconds, receipt=receipt))

    def _drawn(self, resident: ResidentViews, request: GenerationRequest, plan: StepPlan, given, lens: _Sheets):
        spec, accelerator = self._entries(request)
        facts = resident.delta.spec if resident.delta else None
        sampler = make_sampler(resident.networks.noise_schedule, spec, accelerator, facts)
        draw = partial(
            draw_latents, resident.networks, sampler, given, plan.guidance, request.seed + lens.index, lens.show
        )
        return or_out_of_memory("drawing the views", SMALLER, draw)

    def _loaded(self, request: GenerationRequest, say: Say) -> ResidentViews:
        spec, accelerator = self._entries(request)
        if self._resident is None or self._resident.spec != spec:
            folders = self._files.folders(spec, say)
            self._resident = None
            release_memory()
            say(f"Reading {spec.title}", None)
            self._resident = or_out_of_memory(f"loading {spec.title}", SMALLER, lambda: self._read(spec, folders))
        resident = self._resident
        read = partial(self._weights.delta, accelerator, say)
        or_out_of_memory(
            f"putting {accelerator.title} on", SMALLER,
            lambda: resident.wear(accelerator, request.accelerator_strength, read),
        )  # fmt: skip
        return resident

    def _read(self, spec: MultiviewSpec, folders: dict[str, Path]) -> ResidentViews:
        resident = ResidentViews(spec, read_networks(spec, folders))
        for part in resident.networks.modules:
            part.requires_grad_(False)
            nn.Module.to(part, self._device, self._dtype)
        for part in (resident.networks.unet, resident.networks.vae):
            nn.Module.to(part, memory_format=torch.channels_last)
        return resident


class _Sheets:
    """The steps of one sheet, told as those of any image (`Lens`); `resident` is there where previews are wanted."""

    def __init__(self, lens: Lens, plan: StepPlan, index: int, resident: ResidentViews | None) -> None:
        self._lens, self._plan, self._resident = lens, plan, resident
        self.index = index
        self.seconds: list[float] = []

    @property
    def previews(self) -> list[StepPreview]:
        return self._lens.previews

    def show(self, step: int, seconds: float, latents: torch.Tensor) -> None:
        """A step is done; the last one is shown by `finish`, decoded in full."""
        self.seconds.append(seconds)
        if step < len(self._plan.timesteps):
            self._tell(preview_sheet(self._resident.preview, latents) if self._resident else None)

    def finish(self, sheet: Image.Image) -> None:
        """The last step with the finished sheet."""
        self._tell(sheet if self._resident else None)

    def _tell(self, image: Image.Image | None) -> None:
        self._lens.show(len(self.seconds), self.seconds[-1], image)


def _check_picture(request: GenerationRequest, picture: Image.Image) -> None:
    side = request.height // 2
    if picture.size != (side, side):
        raise InvalidRequest(
            "image", f"a prepared picture of {side} x {side} pixels", f"{picture.width} x {picture.height}"
        )
