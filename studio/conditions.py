"""What a request may hold besides its prompt: pictures that the drawing follows.

Pictures are named by the hash of their content, never by a path; who keeps them is the history's business. All values
validate themselves and raise `InvalidRequest`.
This module knows no model, no file and no pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from studio.checks import check_count, check_id, check_number, check_picture
from studio.errors import InvalidRequest

MAX_CONTROL_UNITS = 3
MAX_REFERENCES = 2
MAX_CONTROL_WEIGHT = 2.0
MAX_REFERENCE_SCALE = 1.5
MAX_GRID_STEPS = 50
RESIZE_MODES = ("crop", "stretch", "pad")
BACKGROUNDS = ("auto", "alpha", "plain", "grabcut")

UPSCALE_FACTORS = (2, 4, 8)
MIN_TILE_PIXELS, MAX_TILE_PIXELS, TILE_STEP_PIXELS = 64, 1024, 32
MIN_OVERLAP_PIXELS, OVERLAP_STEP_PIXELS = 24, 8
MAX_SEAM_THRESHOLD = 100.0
DEFAULT_SEAM_THRESHOLD = 2.0

CANNY_LOW, CANNY_HIGH, MAX_CANNY = 100, 200, 500

Resize = Literal["crop", "stretch", "pad"]
Background = Literal["auto", "alpha", "plain", "grabcut"]
Annotator = Literal["none", "canny", "lineart", "shuffle", "tile", "depth"]
ANNOTATORS: dict[Annotator, str] = {
    "none": "The picture is already a map",
    "canny": "Canny edges",
    "lineart": "Lines",
    "shuffle": "Shuffled colours",
    "tile": "Coarse tile",
    "depth": "Depth (99 MB to download)",
}
Built = TypeVar("Built")


@dataclass(frozen=True, kw_only=True)
class ControlUnit:
    """A ControlNet and the map it reads; `start` and `end` are shares of the steps, snapped to the real ones.

    `resize` says how a map of other proportions meets the canvas.
    """

    control: str
    image: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        check_id("control", self.control)
        check_picture("control_image", self.image)
        check_number("control_weight", self.weight, 0.0, MAX_CONTROL_WEIGHT)
        check_number("control_start", self.start, 0.0, 1.0)
        check_number("control_end", self.end, 0.0, 1.0)
        if self.start >= self.end:
            raise InvalidRequest("control_end", f"more than the start {self.start:g}", self.end)
        check_resize("control_resize", self.resize)

    def steps(self, num_steps: int) -> tuple[int, int]:
        """The real steps it acts in, as first and one behind the last; one step at least."""
        first = min(round(self.start * num_steps), num_steps - 1)
        return first, max(round(self.end * num_steps), first + 1)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A picture whose content an IP-Adapter brings in; where there is a mask, only where that is white."""

    adapter: str
    image: str
    scale: float = 0.6
    mask: str | None = None

    def __post_init__(self) -> None:
        check_id("reference_adapter", self.adapter)
        check_picture("reference_image", self.image)
        check_number("reference_scale", self.scale, 0.0, MAX_REFERENCE_SCALE)
        if self.mask is not None:
            check_picture("reference_mask", self.mask)


@dataclass(frozen=True, kw_only=True)
class InitialImage:
    """The picture to begin from (image-to-image); with a mask only its white part is drawn anew (inpainting).

    `strength` is the share of the steps that run: near 0 hardly changes the picture, 1 begins from noise alone.
    """

    image: str
    strength: float = 0.75
    mask: str | None = None
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        check_picture("initial_image", self.image)
        check_number("strength", self.strength, 0.0, 1.0)
        if self.mask is not None:
            check_picture("mask", self.mask)
        check_resize("initial_resize", self.resize)

    def num_steps(self, steps: int) -> int:
        """How many of the grid's last steps run."""
        return share_of_steps(self.strength, steps)

    def check_steps(self, steps: int) -> None:
        """Raises `InvalidRequest` where no step would run, saying what to raise."""
        check_share("strength", self.strength, steps)


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """A picture to enlarge and refine tile by tile; `image` is the small one, the request's size is what comes out.

    `creativity` is the share of the steps that run on each tile, as an initial picture's strength. Tiles are `tile`
    pixels a side and share at least `overlap` of them with their neighbours. `control` is a tile ControlNet, `None` for
    none. With `mend`, a finished enlargement of the same picture, only the seams of it that measure above `threshold`
    are drawn anew.
    """

    image: str
    factor: int = 2
    creativity: float = 0.25
    tile: int = 128
    overlap: int = 32
    control: str | None = None
    weight: float = 1.0
    mend: str | None = None
    threshold: float = DEFAULT_SEAM_THRESHOLD

    def __post_init__(self) -> None:
        check_picture("upscale_image", self.image)
        if self.factor not in UPSCALE_FACTORS or isinstance(self.factor, bool):
            raise InvalidRequest("factor", f"one of {', '.join(map(str, UPSCALE_FACTORS))}", self.factor)
        check_number("creativity", self.creativity, 0.0, 1.0)
        check_count("tile", self.tile, MIN_TILE_PIXELS, MAX_TILE_PIXELS)
        if self.tile % TILE_STEP_PIXELS:
            raise InvalidRequest("tile", f"a multiple of {TILE_STEP_PIXELS}", self.tile)
        check_count("overlap", self.overlap, MIN_OVERLAP_PIXELS, self.tile // 2)
        if self.overlap % OVERLAP_STEP_PIXELS:
            raise InvalidRequest("overlap", f"a multiple of {OVERLAP_STEP_PIXELS}", self.overlap)
        if self.control is not None:
            check_id("upscale_control", self.control)
        check_number("upscale_weight", self.weight, 0.0, MAX_CONTROL_WEIGHT)
        if self.mend is not None:
            check_picture("mend", self.mend)
        check_number("threshold", self.threshold, 1.0, MAX_SEAM_THRESHOLD)

    def num_steps(self, steps: int) -> int:
        """How many of the grid's last steps run on each tile."""
        return share_of_steps(self.creativity, steps)

    def check_steps(self, steps: int) -> None:
        """Raises `InvalidRequest` where no step would run, saying what to raise."""
        check_share("creativity", self.creativity, steps)


@dataclass(frozen=True, kw_only=True)
class ViewsOf:
    """The picture of one object whose views are drawn, and how the object is told from its background."""

    image: str
    background: Background = "auto"

    def __post_init__(self) -> None:
        check_picture("image", self.image)
        check_background(self.background)


@dataclass(frozen=True, kw_only=True)
class CannyLevels:
    """Where an edge begins and where it is sure, in levels of gradient."""

    low: int = CANNY_LOW
    high: int = CANNY_HIGH

    def __post_init__(self) -> None:
        check_count("canny_low", self.low, 1, MAX_CANNY)
        check_count("canny_high", self.high, 1, MAX_CANNY)
        if self.low > self.high:
            raise InvalidRequest("canny_low", f"at most the high level {self.high}", self.low)


def share_of_steps(share: float, steps: int) -> int:
    """A share of the steps, in whole ones."""
    return min(int(steps * share + 1e-6), steps)


def check_share(name: str, share: float, steps: int) -> None:
    """One step at least. Raises `InvalidRequest` saying what to raise."""
    if share_of_steps(share, steps) >= 1:
        return
    ways = [f"at least {1 / steps:.2g} with {steps} {'step' if steps == 1 else 'steps'}"]
    if share * MAX_GRID_STEPS >= 1:
        ways.append(f"at least {-(-1 // share):.0f} steps with {share:g}")
    text = f"{', or '.join(ways)} ({name} x steps is how many steps run, and that must be one or more)"
    raise InvalidRequest(name, text, share)


def check_resize(name: str, value: object) -> None:
    """One of the ways in which a picture meets a canvas of other proportions."""
    if value not in RESIZE_MODES:
        raise InvalidRequest(name, f"one of {', '.join(RESIZE_MODES)}", value)


def check_background(value: object) -> None:
    """One of the ways in which an object is told from its background."""
    if value not in BACKGROUNDS:
        raise InvalidRequest("background", f"one of {', '.join(BACKGROUNDS)}", value)


def check_tuple(name: str, values: object, kind: type, most: int) -> None:
    """A tuple of at most `most` values of a kind."""
    if not isinstance(values, tuple) or not all(isinstance(each, kind) for each in values):
        raise InvalidRequest(name, f"a tuple of {kind.__name__}", values)
    if len(values) > most:
        raise InvalidRequest(name, f"at most {most}", f"{len(values)}")


def from_json(kind: type[Built], name: str, values: Any) -> Built:
    """A value of this module from plain JSON; unknown and missing keys raise `InvalidRequest`."""
    if isinstance(values, kind):
        return values
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if not isinstance(values, dict) or set(values) - set(known):
        raise InvalidRequest(name, f"an object with keys from {', '.join(known)}", values)
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidRequest(name, f"an object with at least its id and its image ({error})", values) from error


def tuple_from_json(kind: type[Built], name: str, values: Any) -> tuple[Built, ...]:
    """Several of them."""
    if not isinstance(values, list | tuple):
        raise InvalidRequest(name, f"a list of {kind.__name__}", values)
    return tuple(from_json(kind, name, each) for each in values)


def pictures_of(
    controls: tuple[ControlUnit, ...],
    references: tuple[Reference, ...],
    initial: InitialImage | None,
    views_of: ViewsOf | None = None,
    upscale: Upscale | None = None,
) -> Iterator[str]:
    """Every picture that these name."""
    yield from (each.image for each in (*controls, *((views_of,) if views_of else ())))
    if upscale is not None:
        yield from (each for each in (upscale.image, upscale.mend) if each is not None)
    for each in (*references, *((initial,) if initial else ())):
        yield each.image
        if each.mask is not None:
            yield each.mask
