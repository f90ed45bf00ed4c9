"""What is on the table: scenes as plain values, how they are drawn at random, and how they move.

World axes: x to the right, y up (the floor is y = 0), z towards the viewer; one unit is about one object. `time` runs
from 0 to 1 and loops. Five per cent of the (shape, colour, material) combinations never occur in training
(`is_held_out`), so that composition can be tested. Knows nothing of pixels (`renderer`) or words (`captions`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace

import numpy as np

SHAPES = ("ball", "cube", "cone", "cylinder", "house", "tree", "mug", "figure")
COLOURS = {
    "red": (0.80, 0.04, 0.04),
    "orange": (0.95, 0.32, 0.02),
    "yellow": (0.92, 0.72, 0.04),
    "green": (0.06, 0.42, 0.08),
    "blue": (0.04, 0.12, 0.75),
    "purple": (0.30, 0.05, 0.50),
    "pink": (0.95, 0.30, 0.50),
    "turquoise": (0.04, 0.58, 0.56),
    "white": (0.85, 0.85, 0.85),
    "brown": (0.22, 0.09, 0.03),
}
MATERIALS = ("matte", "glossy", "metal")
PATTERNS = ("plain", "striped", "dotted")
SIZES = {"small": 0.64, "medium": 0.88, "large": 1.12}
RELATIONS = ("left of", "right of", "behind", "on top of")
FLOORS = ("grey", "checkered", "wooden", "grassy", "sandy", "brick")
SKIES = ("blue", "sunset", "night", "cloudy", "studio")
POSES = ("standing", "waving", "cheering", "walking")
MOTIONS = ("still", "spin", "bounce", "slide")

FLAT_TOPPED = ("cube", "cylinder")
HELD_OUT_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object; `position` is the centre of its base, `yaw` in radians, `phase` drives a figure's limbs."""

    shape: str
    colour: str
    material: str = "matte"
    pattern: str = "plain"
    size: str = "medium"
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    pose: str = "standing"
    phase: float = 0.0
    motion: str = "still"

    @property
    def scale(self) -> float:
        return SIZES[self.size]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Things and where they stand. `relations[i]` tells how thing i+1 lies with respect to thing 0.

    Camera angles in radians; `light_yaw` 0 is a light from the viewer's side, positive from the right.
    """

    things: tuple[Thing, ...]
    relations: tuple[str, ...] = ()
    floor: str = "grey"
    sky: str = "blue"
    light_yaw: float = 0.6
    light_height: float = 0.8
    camera_yaw: float = 0.0
    camera_height: float = 0.2
    camera_distance: float = 4.0
    texture_seed: int = 0
    time: float = 0.0
    tags: tuple[str, ...] = field(default=())

    def at(self, time: float) -> Scene:
        """The same scene at another moment, `time` in [0, 1): spinning, bouncing, sliding, walking things move."""
        return replace(self, things=tuple(_moved(thing, time % 1.0) for thing in self.things), time=time % 1.0)


def light_direction(scene: Scene) -> np.ndarray:
    """Unit vector towards the light."""
    horizontal = math.cos(scene.light_height)
    return np.array([
        math.sin(scene.light_yaw) * horizontal, math.sin(scene.light_height), math.cos(scene.light_yaw) * horizontal
    ])  # fmt: skip


def _moved(thing: Thing, time: float) -> Thing:
    turn = 2 * math.pi * time
    x, y, z = thing.position
    thing = replace(thing, phase=thing.phase + turn)
    if thing.motion == "spin":
        return replace(thing, yaw=thing.yaw + turn)
    if thing.motion == "bounce":
        return replace(thing, position=(x, y + 0.5 * abs(math.sin(turn)), z))
    if thing.motion == "slide":
        return replace(thing, position=(x + 0.5 * math.sin(turn), y, z))
    return thing


def is_held_out(shape: str, colour: str, material: str) -> bool:
    """Whether this combination is kept from training; fixed for ever by its name, about 5 % of all."""
    digest = hashlib.sha256(f"{shape}/{colour}/{material}".encode()).digest()
    return digest[0] / 256 < HELD_OUT_SHARE


def random_scene(seed: int, *, num_things: int | None = None, held_out: bool = False) -> Scene:
    """The scene of a seed: the same on every machine.

    `held_out` scenes have a first thing whose combination training never shows; all other scenes avoid such things.
    """
    rng = np.random.default_rng([seed, 20240507])
    count = num_things or int(rng.choice([1, 2, 3], p=[0.42, 0.42, 0.16]))
    things = [_random_thing(rng, held_out)]
    while len(things) < count:
        other = _random_thing(rng, False)
        if all((other.shape, other.colour) != (thing.shape, thing.colour) for thing in things):
            things.append(other)
    relations = _random_relations(rng, things)
    placed = _placed(rng, things, relations)
    return Scene(
        things=placed,
        relations=relations,
        floor=str(rng.choice(FLOORS)),
        sky=str(rng.choice(SKIES)),
        light_yaw=float(rng.uniform(-1.1, 1.1)),
        light_height=float(rng.uniform(0.55, 1.1)),
        camera_yaw=float(rng.uniform(-0.12, 0.12)),
        camera_height=float(rng.uniform(0.13, 0.26)),
        camera_distance=max(float(rng.uniform(3.0, 3.4)), _fitting_distance(placed)),
        texture_seed=int(rng.integers(1 << 16)),
    )


def _random_thing(rng: np.random.Generator, held_out: bool) -> Thing:
    while True:
        shape, colour, material = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), str(rng.choice(MATERIALS))
        if is_held_out(shape, colour, material) == held_out:
            break
    can_have_pattern = shape in ("ball", "cube", "cone", "cylinder", "mug")
    return Thing(
        shape=shape,
        colour=colour,
        material=material,
        pattern=str(rng.choice(PATTERNS, p=[0.7, 0.15, 0.15])) if can_have_pattern else "plain",
        size=str(rng.choice(list(SIZES))),
        yaw=float(rng.uniform(-0.9, 0.9)) if shape != "figure" else float(rng.uniform(-0.5, 0.5)),
        pose=str(rng.choice(POSES)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        motion=str(rng.choice(MOTIONS)),
    )


def _random_relations(rng: np.random.Generator, things: list[Thing]) -> tuple[str, ...]:
    """One relation to the first thing for each other one; no two things want the same place."""
    free = [name for name in RELATIONS if name != "on top of" or things[0].shape in FLAT_TOPPED]
    order = [str(name) for name in rng.permutation(free)]
    return tuple(order[: len(things) - 1])


def _placed(rng: np.random.Generator, things: list[Thing], relations: tuple[str, ...]) -> tuple[Thing, ...]:
    """Put the first thing so that the group is centred and each other one where its relation says."""
    reach = 0.15 if things[1:] else 0.45
    middle = float(rng.uniform(-reach, reach))
    first = replace(things[0], position=(0.0, 0.0, float(rng.uniform(-0.1, 0.3))))
    placed = [first]
    for thing, relation in zip(things[1:], relations, strict=True):
        placed.append(_related(rng, thing, relation, first))
    left = min(thing.position[0] - thing.scale / 2 for thing in placed)
    right = max(thing.position[0] + thing.scale / 2 for thing in placed)
    return tuple(_shifted(thing, middle - (left + right) / 2) for thing in placed)


def _shifted(thing: Thing, distance: float) -> Thing:
    x, y, z = thing.position
    return replace(thing, position=(x + distance, y, z))


def _related(rng: np.random.Generator, thing: Thing, relation: str, first: Thing) -> Thing:
    x, _, z = first.position
    gap = 0.52 * (first.scale + thing.scale)
    if relation == "on top of":
        small = replace(thing, size="small")
        return replace(small, position=(x, first.scale * TOP_HEIGHT[first.shape], z), motion="still")
    if relation == "behind":
        side = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.45, 0.7))
        return replace(thing, position=(x + side, 0.0, z - gap - float(rng.uniform(0.4, 0.8))))
    aside = (-1.0 if relation == "left of" else 1.0) * (gap + float(rng.uniform(0.05, 0.25)))
    return replace(thing, position=(x + aside, 0.0, z + float(rng.uniform(-0.2, 0.2))))


def _fitting_distance(things: tuple[Thing, ...]) -> float:
    """How far off the camera must stand to see every thing whole: few pixels, so none are wasted on empty floor.

    A picture is 0.59 times its distance wide and high (field of view 33 degrees) and centred 0.58 above the floor.
    """
    sideways = max((abs(thing.position[0]) + 0.62 * thing.scale) / 0.28 + thing.position[2] for thing in things)
    upwards = max((thing.position[1] + 1.25 * thing.scale - 0.58) / 0.28 + thing.position[2] for thing in things)
    return max(sideways, upwards)


TOP_HEIGHT = {"cube": 0.9, "cylinder": 1.0}
