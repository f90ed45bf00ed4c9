"""The values that cross layers: choices of a person, events of the engine.

Facts and choices are different types. How many time windows, which head, how guidance was trained: facts of the
weights (`studio.specs`). Steps, seed, guidance, strength: a person's choices (`GenerationRequest`), which validate
themselves. No slider can contradict a fact.

Direction of time: timestep 1000 is noise, 0 is data; time window 0 is at the noise end.
This module knows no torch, no diffusers, no gradio, no folder and no catalogue: whether a model id exists is the
catalogue's business, whether it is on disk the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from studio import conditions
from studio.checks import check_count, check_id, check_number, check_text
from studio.conditions import (
    MAX_CONTROL_UNITS,
    MAX_GRID_STEPS,
    MAX_REFERENCES,
    ControlUnit,
    InitialImage,
    Reference,
    Upscale,
    ViewsOf,
)
from studio.errors import InvalidRequest

MAX_STEPS = MAX_GRID_STEPS
MIN_SIDE_PIXELS, MAX_SIDE_PIXELS = 64, 2048
MAX_UPSCALED_PIXELS = 8192 * 8192
MAX_PROMPT_CHARACTERS = 2000
MAX_IMAGES = 16
MAX_GUIDANCE = 30.0
MAX_ACCELERATOR_STRENGTH = 1.5
MAX_SEED = 2**32 - 1

CONDITIONS = ("controls", "references", "initial", "views_of", "upscale")


# --- choices ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance scales: one value for all, one per time window (noise end first), or one per step.

    1 means off: that step makes one network call instead of two. Raises `InvalidRequest` for values outside [0, 30].
    """

    scales: tuple[float, ...]
    per: Literal["window", "step"] = "window"

    def __post_init__(self) -> None:
        if not 1 <= len(self.scales) <= MAX_STEPS:
            raise InvalidRequest("guidance", f"1 to {MAX_STEPS} scales", self.scales)
        for scale in self.scales:
            is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
            if not is_number or not 0 <= scale <= MAX_GUIDANCE:  # NaN is in no range
                raise InvalidRequest("guidance", f"numbers from 0 to {MAX_GUIDANCE:g}", scale)

    @classmethod
    def of(cls, value: float | int | list[float] | tuple[float, ...] | Guidance) -> Guidance:
        """A number becomes a constant schedule, a list one scale per time window."""
        if isinstance(value, Guidance):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float | list | tuple):
            raise InvalidRequest("guidance", "a number, or a list with one number per time window", value)
        return cls(scales=tuple(value) if isinstance(value, list | tuple) else (value,))


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """All that a person chose for one generation; immutable, and valid once it exists.

    `seed` is concrete (0 to 2**32 - 1); image i of `num_images` uses seed + i. `strength` of the accelerator scales
    delta weights (0 = the bare base, 1 = as trained). Raises `InvalidRequest` naming field, range and value.
    """

    prompt: str
    negative_prompt: str = ""
    model: str = "tabletop"
    accelerator: str = "perflow-tabletop"
    accelerator_strength: float = 1.0
    steps: int = 4
    guidance: Guidance = field(default_factory=lambda: Guidance(scales=(3.0,)))
    width: int = 128
    height: int = 128
    seed: int = 0
    num_images: int = 1
    controls: tuple[ControlUnit, ...] = ()
    references: tuple[Reference, ...] = ()
    initial: InitialImage | None = None
    views_of: ViewsOf | None = None
    upscale: Upscale | None = None

    def __post_init__(self) -> None:
        check_text("prompt", self.prompt, MAX_PROMPT_CHARACTERS)
        check_text("negative_prompt", self.negative_prompt, MAX_PROMPT_CHARACTERS)
        check_id("model", self.model)
        check_id("accelerator", self.accelerator)
        check_number("accelerator_strength", self.accelerator_strength, 0.0, MAX_ACCELERATOR_STRENGTH)
        check_count("steps", self.steps, 1, MAX_STEPS)
        if not isinstance(self.guidance, Guidance):
            raise InvalidRequest("guidance", "a Guidance value", self.guidance)
        check_count("seed", self.seed, 0, MAX_SEED)
        check_count("num_images", self.num_images, 1, MAX_IMAGES)
        conditions.check_tuple("controls", self.controls, ControlUnit, MAX_CONTROL_UNITS)
        conditions.check_tuple("references", self.references, Reference, MAX_REFERENCES)
        if self.initial is not None:
            if not isinstance(self.initial, InitialImage):
                raise InvalidRequest("initial", "an InitialImage value", self.initial)
            self.initial.check_steps(self.steps)
        if self.views_of is not None and not isinstance(self.views_of, ViewsOf):
            raise InvalidRequest("views_of", "a ViewsOf value", self.views_of)
        if self.upscale is None:
            check_canvas(self.width, self.height)
        else:
            self._check_upscale(self.upscale)

    def _check_upscale(self, upscale: Upscale) -> None:
        """What is enlarged stands alone, is a whole multiple of its picture, and has a bound on all its pixels."""
        if not isinstance(upscale, Upscale):
            raise InvalidRequest("upscale", "an Upscale value", upscale)
        upscale.check_steps(self.steps)
        if self.controls or self.initial is not None or any(each.mask for each in self.references):
            raise InvalidRequest(
                "upscale", "an enlargement without control units, initial picture or masks of references", "some"
            )
        if self.num_images != 1:
            raise InvalidRequest("num_images", "one picture at a time where a picture is enlarged", self.num_images)
        for name, side in (("width", self.width), ("height", self.height)):
            check_count(name, side, 1, MAX_UPSCALED_PIXELS)
            if side % upscale.factor:
                raise InvalidRequest(name, f"a multiple of the factor {upscale.factor}", side)
        if self.width * self.height > MAX_UPSCALED_PIXELS:
            expected = f"at most {MAX_UPSCALED_PIXELS / 1e6:.0f} megapixels in all (8192 x 8192): a smaller factor"
            raise InvalidRequest("factor", expected, f"{self.width} x {self.height}")

    @property
    def first_step(self) -> int:
        """How many of the grid's steps are left out, because a picture stands for them."""
        begins = self.initial or self.upscale
        return 0 if begins is None else self.steps - begins.num_steps(self.steps)

    @property
    def pictures(self) -> tuple[str, ...]:
        """The pictures it names, each once, by the hash of their content."""
        named = conditions.pictures_of(self.controls, self.references, self.initial, self.views_of, self.upscale)
        return tuple(dict.fromkeys(named))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal request; conditions only where there are any."""
        return {name: value for name, value in asdict(self).items() if value or name not in CONDITIONS}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GenerationRequest:
        """The inverse of `to_json`; unknown keys raise `InvalidRequest` rather than being dropped."""
        known = set(cls.__dataclass_fields__)
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidRequest(unknown[0], f"one of {', '.join(sorted(known))}", values[unknown[0]])
        fields = dict(values)
        guidance = fields.get("guidance")
        if isinstance(guidance, dict):
            fields["guidance"] = Guidance(scales=tuple(guidance["scales"]), per=guidance.get("per", "window"))
        elif guidance is not None:
            fields["guidance"] = Guidance.of(guidance)
        for name, kind in (("controls", ControlUnit), ("references", Reference)):
            if name in fields:
                fields[name] = conditions.tuple_from_json(kind, name, fields[name])
        for name, kind in (("initial", InitialImage), ("views_of", ViewsOf), ("upscale", Upscale)):
            if fields.get(name) is not None:
                fields[name] = conditions.from_json(kind, name, fields[name])
        return cls(**fields)


def check_canvas(width: object, height: object) -> None:
    """Sides that can be drawn at. Raises `InvalidRequest`."""
    for name, side in (("width", width), ("height", height)):
        check_count(name, side, MIN_SIDE_PIXELS, MAX_SIDE_PIXELS)
        if side % 8:  # type: ignore[operator]
            raise InvalidRequest(name, "a multiple of 8", side)


# --- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """The effective grid: where the network is really asked, before anything runs.

    One entry per step: `timesteps` (1000 = noise), `windows` (0 = noise end; the window in which the step starts),
    `guidance` (1 = off). `num_network_calls` counts a guided step twice. `notes` says what differs from the request
    (fewer steps than windows, ...), in sentences for a person.
    """

    num_time_windows: int
    timesteps: tuple[int, ...]
    windows: tuple[int, ...]
    guidance: tuple[float, ...]
    num_network_calls: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The device is busy: how many are ahead and an estimate, `None` while unknown."""

    num_ahead: int
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Weights are being downloaded, read or merged; `fraction` in [0, 1], `None` where it cannot be known."""

    message: str
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A step (1-based `step`) of image `image_index` of the request is done.

    Where a picture is drawn in tiles, the step is one of the 1-based `tile` of `num_tiles`; else both are 0.
    """

    image_index: int
    num_images: int
    step: int
    num_steps: int
    timestep: int
    window: int
    num_time_windows: int
    guidance: float
    seconds: float
    tile: int = 0
    num_tiles: int = 0


@dataclass(frozen=True, kw_only=True)
class StepPreview(StepDone):
    """A step with what it makes of the picture: the prediction of the final image."""

    image: Image.Image


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """One finished picture: its own seed, its pixels, its parameters, and its place in the history once saved.

    `latents` are the final ones, C h w in fp32, in which pictures of one model are compared; an engine may have none.
    """

    image: Image.Image
    seed: int
    lens: tuple[StepPreview, ...] = ()
    latents: np.ndarray | None = None
    history_id: str | None = None
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class UpscaleReport:
    """How an enlargement came out, measured on the picture itself.

    `seam_ratio` is the gradient energy across tile borders over that beside them (1 or less: no seam), `worst_seam`
    that of the worst stretch of a border, `psnr` the fidelity of the result, shrunk, to its input in dB. With seams
    redone, `num_tiles` counts those, `num_refined` those that came out better, and `seam_ratio_before` what it was.
    """

    num_tiles: int
    num_refined: int
    seam_ratio: float
    worst_seam: float
    psnr: float
    seam_ratio_before: float | None = None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What really ran: enough to draw the same pixels again, and to know what they cost.

    `memory_bytes` is the most that the device held meanwhile (on a processor, this whole process); `None` if unknown.
    """

    plan: StepPlan
    model: str
    accelerator: str
    base_sha256: str
    delta_sha256: str | None
    device: str
    dtype: str
    seconds_load: float
    seconds_steps: tuple[float, ...]
    seconds_decode: float
    num_network_calls: int
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    controls_sha256: dict[str, str] = field(default_factory=dict)
    upscale: UpscaleReport | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """The last event of a generation."""

    request: GenerationRequest
    images: tuple[GeneratedImage, ...]
    seconds: float
    receipt: Receipt


GenerationEvent = Waiting | Loading | StepDone | GenerationResult


@dataclass(frozen=True, kw_only=True)
class MemoryRoom:
    """The device's memory as an engine measures it: free for it now, and what a request needs beyond what is loaded."""

    device: str
    free_bytes: int
    needed_bytes: int


Enough = Callable[[], bool]


def never() -> bool:
    """Nobody has had enough."""
    return False


class MultiviewEngine(Protocol):
    """Draws the views of one object; `Engine`'s rules hold."""

    def generate(
        self, request: GenerationRequest, picture: Image.Image, *, previews: bool = True
    ) -> Iterator[GenerationEvent]:
        """As `Engine.generate`, from a square picture of the object on white: each image is a sheet of all views."""
        ...

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The effective grid of a request, without loading anything. Raises `InvalidRequest`."""
        ...

    def is_on_disk(self, id: str) -> bool:
        """Whether a network's or accelerator's weights can be used without a download."""
        ...

    def room(self, request: GenerationRequest) -> MemoryRoom:
        """The memory that drawing this would need, beside what is free."""
        ...

    def make_room(self) -> None:
        """Give the device's memory back for someone else's work."""
        ...


class Engine(Protocol):
    """Runs models. Closing the iterator stops the work within one step and leaves the engine usable."""

    def generate(
        self, request: GenerationRequest, *, previews: bool = True, enough: Enough = never
    ) -> Iterator[GenerationEvent]:
        """Yield `Loading`, then a `StepPreview` per step and image, and last a `GenerationResult`.

        Without `previews` a step is told by a plain `StepDone` and nothing is decoded but the result. A picture drawn
        in tiles is finished with what it has as soon as `enough()` says so, asked at every step; where no tile is done
        by then, there is no result.
        """
        ...

    def plan(self, request: GenerationRequest) -> StepPlan:
        """The effective grid of a request, without loading anything. Raises `InvalidRequest`."""
        ...

    def is_on_disk(self, id: str) -> bool:
        """Whether a model's or accelerator's weights can be used without a download."""
        ...

    def room(self, request: GenerationRequest) -> MemoryRoom:
        """The memory that drawing this would need, beside what is free."""
        ...

    def make_room(self) -> None:
        """Give the device's memory back for someone else's work; the next request loads what it needs again."""
        ...
