"""Objects as convex parts: what a house, a tree or a figure is made of, and where a figure's joints are.

A part is a unit primitive (ellipsoid, box, frustum, prism; all within [-1, 1]^3) under `world = offset + rotation @
(half * local)`. Things stand on y = 0 and are about one unit high at scale 1. Knows nothing of rays or cameras.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from trainer.tabletop.scenes import COLOURS, Thing

JOINTS = (
    "head", "neck", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
    "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle",
)  # fmt: skip
BONES = (
    ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("neck", "right_shoulder"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("neck", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
    ("neck", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("head", "neck"),
)  # fmt: skip

BARK = (0.16, 0.08, 0.03)
ROOF = (0.13, 0.07, 0.06)
DOOR = (0.10, 0.05, 0.03)
PANE = (0.75, 0.70, 0.45)
HOLLOW = (0.03, 0.02, 0.02)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One primitive in world space. `taper` is a frustum's top radius over its bottom radius (1 cylinder, 0 cone)."""

    kind: str
    offset: np.ndarray
    rotation: np.ndarray
    half: np.ndarray
    colour: tuple[float, float, float]
    material: str
    pattern: str = "plain"
    taper: float = 1.0
    owner: int = 0

    @property
    def radius(self) -> float:
        """Of a bounding sphere around `offset`."""
        x, y, z = (float(value) for value in self.half)
        if self.kind == "ellipsoid":
            return max(x, y, z)
        if self.kind == "frustum":
            return math.hypot(max(x, z) * max(1.0, self.taper), y)
        return math.sqrt(x * x + y * y + z * z)


def parts_of(thing: Thing, owner: int = 0) -> list[Part]:
    """The parts of a thing, placed, turned, scaled and coloured in the world."""
    local = _BUILDERS[thing.shape](thing)
    turn = _rotation_y(thing.yaw)
    base = np.array(thing.position)
    placed = []
    for kind, centre, half, options in local:
        placed.append(
            Part(
                kind=kind,
                offset=base + turn @ (np.array(centre) * thing.scale),
                rotation=turn @ options.get("rotation", np.eye(3)),
                half=np.array(half, dtype=float) * thing.scale,
                colour=options.get("colour", COLOURS[thing.colour]),
                material="matte" if "colour" in options else thing.material,
                pattern=options.get("pattern", thing.pattern if "colour" not in options else "plain"),
                taper=options.get("taper", 1.0),
                owner=owner,
            )
        )
    return placed


def joints_of(thing: Thing) -> dict[str, np.ndarray]:
    """World positions of a figure's joints by name; empty for other shapes."""
    if thing.shape != "figure":
        return {}
    turn, base = _rotation_y(thing.yaw), np.array(thing.position)
    return {name: base + turn @ (at * thing.scale) for name, at in _figure_joints(thing).items()}


def to_local(part: Part, points: torch.Tensor, is_direction: bool = False) -> torch.Tensor:
    """World points or directions `[..., 3]` in the part's unit frame."""
    matrix = torch.as_tensor(part.rotation / part.half, dtype=torch.float32, device=points.device)
    if not is_direction:
        points = points - torch.as_tensor(part.offset, dtype=torch.float32, device=points.device)
    return points @ matrix


def _ball(_: Thing) -> list:
    return [("ellipsoid", (0, 0.48, 0), (0.48, 0.48, 0.48), {})]


def _cube(_: Thing) -> list:
    return [("box", (0, 0.45, 0), (0.45, 0.45, 0.45), {})]


def _cone(_: Thing) -> list:
    return [("frustum", (0, 0.55, 0), (0.48, 0.55, 0.48), {"taper": 0.0})]


def _cylinder(_: Thing) -> list:
    return [("frustum", (0, 0.5, 0), (0.42, 0.5, 0.42), {})]


def _house(_: Thing) -> list:
    front = 0.405
    return [
        ("box", (0, 0.33, 0), (0.5, 0.33, 0.4), {}),
        ("prism", (0, 0.88, 0), (0.6, 0.24, 0.48), {"colour": ROOF}),
        ("box", (0.33, 0.98, -0.1), (0.07, 0.2, 0.07), {"colour": ROOF}),
        ("box", (0, 0.2, front), (0.1, 0.2, 0.015), {"colour": DOOR}),
        ("box", (-0.3, 0.38, front), (0.09, 0.1, 0.015), {"colour": PANE}),
        ("box", (0.3, 0.38, front), (0.09, 0.1, 0.015), {"colour": PANE}),
    ]


def _tree(_: Thing) -> list:
    leaf = {"pattern": "leafy"}
    return [
        ("frustum", (0, 0.25, 0), (0.1, 0.25, 0.1), {"colour": BARK, "taper": 0.7}),
        ("ellipsoid", (0, 0.82, 0), (0.36, 0.36, 0.36), leaf),
        ("ellipsoid", (-0.22, 0.64, 0.08), (0.25, 0.24, 0.25), leaf),
        ("ellipsoid", (0.22, 0.66, 0.04), (0.26, 0.24, 0.26), leaf),
    ]


def _mug(_: Thing) -> list:
    upright = _axis_to((0, 1, 0), (1, 0, 0))
    return [
        ("frustum", (0, 0.42, 0), (0.36, 0.42, 0.36), {"taper": 1.1}),
        ("frustum", (0, 0.843, 0), (0.34, 0.004, 0.34), {"colour": HOLLOW, "taper": 1.0}),
        ("frustum", (0.47, 0.66, 0), (0.05, 0.13, 0.05), {"rotation": upright, "pattern": "plain"}),
        ("frustum", (0.47, 0.24, 0), (0.05, 0.13, 0.05), {"rotation": upright, "pattern": "plain"}),
        ("frustum", (0.58, 0.45, 0), (0.05, 0.25, 0.05), {"pattern": "plain"}),
    ]


def _figure(thing: Thing) -> list:
    joints = _figure_joints(thing)
    parts: list = [
        ("ellipsoid", joints["head"], (0.13, 0.15, 0.13), {}),
        ("frustum", (0, 0.66, 0), (0.13, 0.18, 0.09), {"taper": 1.35}),
    ]
    for start, end in BONES:
        if start == "neck" or end == "neck":
            continue
        thick = 0.062 if "hip" in start or "knee" in start else 0.05
        a, b = joints[start], joints[end]
        half = float(np.linalg.norm(b - a)) / 2
        parts.append(("frustum", (a + b) / 2, (thick, half, thick), {"rotation": _axis_to((0, 1, 0), b - a)}))
        parts.append(("ellipsoid", b, (thick * 1.15,) * 3, {}))
        if "shoulder" in start or "hip" in start:
            parts.append(("ellipsoid", a, (thick * 1.15,) * 3, {}))
    return parts


def _figure_joints(thing: Thing) -> dict[str, np.ndarray]:
    """Local joint positions of a pose; angles swing in the plane of the shoulders, legs also forwards when walking."""
    swing = math.sin(thing.phase)
    arms = {
        "standing": (0.35, 0.35),
        "waving": (0.35, 2.45 + 0.3 * swing),
        "cheering": (2.6, 2.6),
        "walking": (0.25, 0.25),
    }
    left, right = arms[thing.pose]
    stride = 0.5 * (0.4 + 0.6 * abs(swing)) * (1 if swing >= 0 else -1) if thing.pose == "walking" else 0.0
    joints = {"head": np.array([0.0, 1.03, 0.0]), "neck": np.array([0.0, 0.86, 0.0])}
    for side, sign, angle in (("left", -1.0, left), ("right", 1.0, right)):
        shoulder = np.array([sign * 0.19, 0.81, 0.0])
        down = np.array([sign * math.sin(angle), -math.cos(angle), sign * stride * 0.6])
        bend = 0.35 if angle > 1.5 else 0.12
        fore = np.array([sign * math.sin(angle + bend), -math.cos(angle + bend), sign * stride * 0.6 + 0.15])
        hip = np.array([sign * 0.09, 0.46, 0.0])
        leg = np.array([sign * 0.12, -1.0, -sign * stride])
        knee = hip + 0.22 * leg / np.linalg.norm(leg)
        joints[f"{side}_shoulder"], joints[f"{side}_hip"] = shoulder, hip
        joints[f"{side}_elbow"] = shoulder + 0.19 * down / np.linalg.norm(down)
        joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + 0.18 * fore / np.linalg.norm(fore)
        joints[f"{side}_knee"] = knee
        joints[f"{side}_ankle"] = knee + np.array([0, -0.2, -0.04 * abs(stride)])
    return joints


_BUILDERS = {
    "ball": _ball, "cube": _cube, "cone": _cone, "cylinder": _cylinder,
    "house": _house, "tree": _tree, "mug": _mug, "figure": _figure,
}  # fmt: skip


def _rotation_y(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _axis_to(start: tuple[float, ...], end) -> np.ndarray:
    """The rotation that turns the direction `start` into the direction `end` (Rodrigues)."""
    a = np.array(start, dtype=float)
    b = np.asarray(end, dtype=float) / np.linalg.norm(end)
    axis, cosine = np.cross(a, b), float(a @ b)
    if cosine < -0.9999:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)
