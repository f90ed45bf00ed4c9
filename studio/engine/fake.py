"""The FAKE engine: draws a gradient from the seed, so that page, API and tests run without any model.

It is reached by tests and by `--engine fake` alone, and says in every receipt that no network ran. It takes real
time in small steps, sends a preview of each, honours a closed iterator within one step, and draws the same pixels for
the same seed, alone or in a batch.
Direction of time: timestep 1000 is noise; a preview is the gradient mixed with (timestep left) noise. It knows no
torch, and no more of the maths than the step grid of METHOD section 2: every window gets N // K points, the noisiest
N % K windows one more.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from studio.catalog import Catalog
from studio.errors import InvalidRequest
from studio.types import (
    MAX_SEED,
    GeneratedImage,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Loading,
    Receipt,
    StepPlan,
    StepPreview,
)

NUM_TRAIN_TIMESTEPS = 1000
WARNING = "This picture comes from the fake engine: no model drew it."


class FakeEngine:
    """An `Engine` whose pictures are gradients; `step_seconds` is the time each step pretends to work."""

    def __init__(self, catalog: Catalog, *, step_seconds: float = 0.05) -> None:
        self._catalog = catalog
        self._step_seconds = step_seconds

    def is_on_disk(self, id: str) -> bool:  # noqa: ARG002
        """Nothing needs a download here."""
        return True

    def close(self) -> None:
        """Nothing is held."""

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The grid the accelerator's windows would give; one window for plain solvers."""
        delta = self._catalog.accelerator(request.accelerator).delta
        windows = delta.num_time_windows if delta else 1
        timesteps = _step_grid(windows, request.steps)
        places = tuple(min(windows - 1, (NUM_TRAIN_TIMESTEPS - t) * windows // NUM_TRAIN_TIMESTEPS) for t in timesteps)
        scales = _scales(request, places, windows)
        notes = (f"{request.steps} steps over {windows} windows: a step spans several.",)
        return StepPlan(
            num_time_windows=windows,
            timesteps=timesteps,
            windows=places,
            guidance=scales,
            num_network_calls=sum(1 if scale == 1 else 2 for scale in scales) * request.num_images,
            notes=notes if request.steps < windows else (),
        )

    def generate(self, request: GenerationRequest) -> Iterator[GenerationEvent]:
        """`Loading`, a `StepPreview` per step and image, and a `GenerationResult`."""
        plan = self.plan(request)
        started = time.perf_counter()
        yield Loading(message="Preparing the fake engine", fraction=1.0)
        images: list[GeneratedImage] = []
        for index in range(request.num_images):
            lens: list[StepPreview] = []
            for preview in self._steps(request, plan, index):
                lens.append(preview)
                yield preview
            seed = (request.seed + index) % (MAX_SEED + 1)
            images.append(GeneratedImage(image=_picture(request, seed, noise=0.0), seed=seed, lens=tuple(lens)))
        yield GenerationResult(
            request=request,
            images=tuple(images),
            seconds=time.perf_counter() - started,
            receipt=_receipt(request, plan, images),
        )

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


def _step_grid(num_time_windows: int, num_steps: int) -> tuple[int, ...]:
    """METHOD section 2 with integer edges; fewer steps than windows are spread evenly over all of time."""
    if num_steps < num_time_windows:
        num_time_windows = num_steps
    timesteps: list[int] = []
    for window in range(num_time_windows):
        start = NUM_TRAIN_TIMESTEPS - NUM_TRAIN_TIMESTEPS * window // num_time_windows
        end = NUM_TRAIN_TIMESTEPS - NUM_TRAIN_TIMESTEPS * (window + 1) // num_time_windows
        points = num_steps // num_time_windows + (window < num_steps % num_time_windows)
        timesteps += [start - (start - end) * point // points for point in range(points)]
    return tuple(timesteps)


def _scales(request: GenerationRequest, places: tuple[int, ...], num_time_windows: int) -> tuple[float, ...]:
    """One guidance scale per step, from one for all, one per window or one per step."""
    scales, per = request.guidance.scales, request.guidance.per
    if len(scales) == 1:
        return scales * len(places)
    expected = num_time_windows if per == "window" else len(places)
    if len(scales) != expected:
        raise InvalidRequest("guidance", f"1 or {expected} scales, one per {per}", list(scales))
    return scales if per == "step" else tuple(scales[place] for place in places)


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
