"""The FAKE engine: draws a gradient from the seed, so that page, API and tests run without any model.

It is reached by tests and by `--engine fake` alone, and says in every receipt that no network ran. It takes real
time in small steps, sends a preview of each, honours a closed iterator within one step, and draws the same pixels for
the same seed, alone or in a batch.
Direction of time: timestep 1000 is noise; a preview is the gradient mixed with as much grain as time is left. It knows
no torch; the step grid is the real one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import numpy as np
from PIL import Image

from studio.catalog import Catalog
from studio.errors import NotFound
from studio.perflow import TimeWindows, make_plan
from studio.perflow.windows import begun_at
from studio.types import (
    MAX_SEED,
    Enough,
    GeneratedImage,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Loading,
    MemoryRoom,
    Receipt,
    StepDone,
    StepPlan,
    StepPreview,
    UpscaleReport,
    never,
)
from studio.upscaling.enlarged import Enlarged
from studio.upscaling.measures import SHOWN_SIDE_PIXELS, fidelity, find_seams
from studio.upscaling.tiles import lay

NUM_TRAIN_TIMESTEPS = 1000
WARNING = "This picture comes from the fake engine: no model drew it."


class FakeEngine:
    """An `Engine` whose pictures are gradients; `step_seconds` is the time each step pretends to work.

    What it is asked to refine it enlarges and no more; `open_picture` gives the pictures that such requests name.
    """

    def __init__(
        self, catalog: Catalog, *, step_seconds: float = 0.05,
        open_picture: Callable[[str], Image.Image] | None = None,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._step_seconds = step_seconds
        self._open_picture = open_picture or _no_picture

    def is_on_disk(self, id: str) -> bool:  # noqa: ARG002
        """Nothing needs a download here."""
        return True

    def close(self) -> None:
        """Nothing is held."""

    def room(self, request: GenerationRequest) -> MemoryRoom:  # noqa: ARG002
        """Gradients fit everywhere."""
        return MemoryRoom(device="cpu", free_bytes=1, needed_bytes=0)

    def make_room(self) -> None:
        """There is nothing to give back."""

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The true grid of the accelerator's windows; a plain solver is drawn as if it had one."""
        delta = self._catalog.accelerator(request.accelerator).delta
        windows = TimeWindows(num_time_windows=delta.num_time_windows if delta else 1)
        return begun_at(make_plan(windows, request.steps, request.guidance), request.first_step)

    def generate(
        self, request: GenerationRequest, *, previews: bool = True, enough: Enough = never
    ) -> Iterator[GenerationEvent]:
        """`Loading`, a `StepPreview` (or `StepDone`) per step and image, and a `GenerationResult`."""
        plan = self.plan(request)
        started = time.perf_counter()
        yield Loading(message="Preparing the fake engine", fraction=1.0)
        if request.upscale is not None:
            yield from self._upscale(request, plan, previews, enough)
            return
        images: list[GeneratedImage] = []
        for index in range(request.num_images):
            lens: list[StepPreview] = []
            for preview in self._steps(request, plan, index):
                lens.append(preview)
                yield preview if previews else without_image(preview)
            seed = (request.seed + index) % (MAX_SEED + 1)
            images.append(GeneratedImage(image=_picture(request, seed, noise=0.0), seed=seed, lens=tuple(lens)))
        yield GenerationResult(
            request=request,
            images=tuple(images),
            seconds=time.perf_counter() - started,
            receipt=_receipt(request, plan, images),
        )

    def _upscale(
        self, request: GenerationRequest, plan: StepPlan, previews: bool, enough: Enough
    ) -> Iterator[GenerationEvent]:
        """The picture enlarged, and every tile's steps as if they refined it."""
        upscale, started = request.upscale, time.perf_counter()
        assert upscale is not None
        enlarged = Enlarged(source=self._open_picture(upscale.image), factor=upscale.factor)
        picture = enlarged.whole()
        small = picture.copy()
        small.thumbnail((SHOWN_SIDE_PIXELS, SHOWN_SIDE_PIXELS))
        grid = lay(*picture.size, upscale.tile, upscale.overlap)
        num_done = 0
        while num_done < len(grid) and not enough():
            num_done += 1
            for step in self._steps(replace(request, upscale=None, width=64, height=64), plan, 0):
                told = replace(step, tile=num_done, num_tiles=len(grid), image=small)
                is_seen = previews and step.step == len(plan.timesteps)
                yield told if is_seen else without_image(told)
        if num_done == 0:
            return
        seams = find_seams(picture, enlarged, grid)
        report = UpscaleReport(
            num_tiles=len(grid), num_refined=num_done, seam_ratio=seams.ratio, worst_seam=seams.worst,
            psnr=fidelity(picture, enlarged.source),
        )  # fmt: skip
        image = GeneratedImage(image=picture, seed=request.seed)
        receipt = replace(_receipt(request, plan, [image]), upscale=report)
        seconds = time.perf_counter() - started
        yield GenerationResult(request=request, images=(image,), seconds=seconds, receipt=receipt)

    def _steps(self, request: GenerationRequest, plan: StepPlan, index: int) -> Iterator[StepPreview]:
        seed = (request.seed + index) % (MAX_SEED + 1)
        ends = (*plan.timesteps[1:], 0)
        for step, (timestep, end) in enumerate(zip(plan.timesteps, ends, strict=True)):
            began = time.perf_counter()
            time.sleep(self._step_seconds)
            yield StepPreview(
                image_index=index,
                num_images=request.num_images,
                step=step + 1,
                num_steps=len(plan.timesteps),
                timestep=timestep,
                window=plan.windows[step],
                num_time_windows=plan.num_time_windows,
                guidance=plan.guidance[step],
                seconds=time.perf_counter() - began,
                image=_picture(request, seed, noise=end / NUM_TRAIN_TIMESTEPS),
            )


def _no_picture(id: str) -> Image.Image:
    raise NotFound(f"This engine keeps no pictures, so it cannot enlarge one ({id[:12]}).")


def without_image(preview: StepPreview) -> StepDone:
    """The same step, told only."""
    return StepDone(**{field.name: getattr(preview, field.name) for field in fields(StepDone)})


def _picture(request: GenerationRequest, seed: int, *, noise: float) -> Image.Image:
    """A two-colour gradient whose direction and colours follow from seed and prompt, mixed with `noise` of grain."""
    digest = hashlib.sha256(f"{seed}:{request.prompt}".encode()).digest()
    random = np.random.default_rng(list(digest[:8]))
    first, second = random.integers(40, 240, size=(2, 3))
    across = np.linspace(0, 1, request.width)[None, :, None]
    down = np.linspace(0, 1, request.height)[:, None, None]
    turn = random.random()
    pixels = first + (second - first) * (turn * across + (1 - turn) * down)
    grain = random.integers(0, 256, size=(request.height, request.width, 3))
    return Image.fromarray(((1 - noise) * pixels + noise * grain).astype(np.uint8))


def _receipt(request: GenerationRequest, plan: StepPlan, images: list[GeneratedImage]) -> Receipt:
    return Receipt(
        plan=plan,
        model=request.model,
        accelerator=request.accelerator,
        base_sha256=hashlib.sha256(b"fake").hexdigest(),
        delta_sha256=None,
        device="fake",
        dtype="uint8",
        seconds_load=0.0,
        seconds_steps=tuple(step.seconds for image in images for step in image.lens),
        seconds_decode=0.0,
        num_network_calls=0,
        versions={"numpy": np.__version__},
        warnings=(WARNING,),
    )
