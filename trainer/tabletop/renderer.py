"""Ray casting for the tabletop world: a scene becomes pixels, depth, normals and masks, in torch, on CPU or CUDA.

Every part is convex and has a closed-form intersection, so one pass finds what each ray sees, a second what each seen
point has between itself and the light. Four rays a pixel; each of the four looks at another point of the light, which
gives soft shadows for the price of hard ones.

Shapes: rays live on a grid `[2H, 2W, 3]`, averaged to `[H, W]`. Pixels are in [0, 1] (sRGB), depth in world units along
the view direction (inf = sky), normals are unit vectors in the camera's frame (x right, y up, z towards viewer).
Knows nothing of captions or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from trainer.tabletop import surfaces
from trainer.tabletop.geometry import Part, joints_of, parts_of, to_local
from trainer.tabletop.scenes import Scene, light_direction

FIELD_OF_VIEW = math.radians(33)
LOOK_AT = np.array([0.0, 0.58, 0.0])
WONDER3D_YAWS_DEGREES = (0, 45, 90, 180, 270, 315)
FAR = 1e9


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where rays start and where they go. `half_height` is set for orthographic cameras (world units), else `None`."""

    position: np.ndarray
    rotation: np.ndarray
    half_height: float | None = None

    @classmethod
    def looking(
        cls, at: np.ndarray, yaw: float, pitch: float, distance: float, half_height: float | None = None
    ) -> Camera:
        """A camera `distance` away from `at`; yaw turns it around the vertical axis, pitch raises it (radians)."""
        forward = -np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
        right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
        up = np.cross(right, forward)
        return cls(
            position=at - forward * distance, rotation=np.stack([right, up, -forward], axis=1), half_height=half_height
        )

    def project(self, point: np.ndarray) -> tuple[float, float, float]:
        """(x, y, depth): x, y in [-1, 1] over the picture's height (x right, y up), depth in world units."""
        local = self.rotation.T @ (point - self.position)
        depth = float(-local[2])
        extent = self.half_height if self.half_height else math.tan(FIELD_OF_VIEW / 2) * max(depth, 1e-6)
        return float(local[0]) / extent, float(local[1]) / extent, depth


@dataclass(frozen=True, kw_only=True)
class Render:
    """What a camera sees. `owner` is the index of the thing at each pixel's centre, -1 floor, -2 sky or nothing."""

    rgb: torch.Tensor
    depth: torch.Tensor
    normals: torch.Tensor
    owner: torch.Tensor
    joints: tuple[dict[str, tuple[float, float, bool]], ...]

    @property
    def mask(self) -> torch.Tensor:
        """`[H, W]` bool: any thing."""
        return self.owner >= 0


def scene_camera(scene: Scene) -> Camera:
    """The scene's own perspective camera."""
    return Camera.looking(LOOK_AT, scene.camera_yaw, scene.camera_height, scene.camera_distance)


def render(scene: Scene, size: int = 128, device: str | torch.device = "cpu", camera: Camera | None = None,
           with_ground: bool = True) -> Render:  # fmt: skip
    """Draw a scene at `size` x `size`; without ground the things stand in a white void (Wonder3D's input)."""
    camera = camera or scene_camera(scene)
    parts = [part for index, thing in enumerate(scene.things) for part in parts_of(thing, index)]
    origins, directions = _rays(camera, 2 * size, device)
    distance, part_index = _nearest(parts, camera, origins, directions, with_ground)
    points = origins + distance[..., None] * directions
    normals = _normals(parts, part_index, points)
    lit = _unshadowed(parts, scene, points, normals, part_index)
    rgb = surfaces.shade(scene, parts, part_index, points, normals, directions, lit, with_ground)
    return _averaged(scene, camera, parts, rgb, part_index, points, normals)


def orthographic_views(scene: Scene, yaws_degrees: tuple[float, ...] = WONDER3D_YAWS_DEGREES, size: int = 128,
                       device: str | torch.device = "cpu") -> list[Render]:  # fmt: skip
    """The first thing from several sides: orthographic, no ground, every normal map in the front camera's frame."""
    thing = scene.things[0]
    centre = np.array(thing.position) + np.array([0, 0.55 * thing.scale, 0])
    front = Camera.looking(centre, 0.0, 0.0, 4.0, half_height=0.8 * thing.scale)
    alone = Scene(
        things=(thing,), floor=scene.floor, sky="studio", light_yaw=scene.light_yaw, light_height=scene.light_height
    )
    views = []
    for yaw in yaws_degrees:
        camera = Camera.looking(centre, math.radians(yaw), 0.0, 4.0, half_height=0.8 * thing.scale)
        seen = render(alone, size, device, camera, with_ground=False)
        turn = torch.as_tensor(front.rotation.T @ camera.rotation, dtype=torch.float32, device=seen.normals.device)
        views.append(_with_normals(seen, torch.einsum("ij,jhw->ihw", turn, seen.normals)))
    return views


def _with_normals(seen: Render, normals: torch.Tensor) -> Render:
    return Render(rgb=seen.rgb, depth=seen.depth, normals=normals, owner=seen.owner, joints=seen.joints)


def _rays(camera: Camera, size: int, device: str | torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and unit directions `[size, size, 3]`."""
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    rotation = torch.as_tensor(camera.rotation, dtype=torch.float32, device=device)
    position = torch.as_tensor(camera.position, dtype=torch.float32, device=device)
    if camera.half_height:
        origins = position + camera.half_height * (x[..., None] * rotation[:, 0] + y[..., None] * rotation[:, 1])
        return origins, (-rotation[:, 2]).expand_as(origins)
    reach = math.tan(FIELD_OF_VIEW / 2)
    directions = reach * (x[..., None] * rotation[:, 0] + y[..., None] * rotation[:, 1]) - rotation[:, 2]
    return position.expand_as(directions), F.normalize(directions, dim=-1)


def _nearest(parts: list[Part], camera: Camera, origins: torch.Tensor, directions: torch.Tensor, with_ground: bool):
    """Distance along each ray and the index of the part hit there; -1 the floor, -2 nothing."""
    size = origins.shape[0]
    distance = torch.full(origins.shape[:2], FAR, device=origins.device)
    index = torch.full(origins.shape[:2], -2, dtype=torch.int16, device=origins.device)
    if with_ground:
        floor = -origins[..., 1] / directions[..., 1].clamp(max=-1e-5)
        hit = (directions[..., 1] < -1e-4) & (floor < 60)
        distance, index = torch.where(hit, floor, distance), torch.where(hit, -1, index)
    for number, part in enumerate(parts):
        rows, columns = _window(camera, part, size)
        if rows.stop <= rows.start or columns.stop <= columns.start:
            continue
        reached = intersect(part, origins[rows, columns], directions[rows, columns])
        closer = reached < distance[rows, columns]
        distance[rows, columns] = torch.where(closer, reached, distance[rows, columns])
        index[rows, columns] = torch.where(closer, number, index[rows, columns])
    return distance, index


def _window(camera: Camera, part: Part, size: int) -> tuple[slice, slice]:
    """Rows and columns of the ray grid that can see the part's bounding sphere."""
    x, y, depth = camera.project(part.offset)
    extent = camera.half_height or math.tan(FIELD_OF_VIEW / 2) * max(depth - part.radius, 0.3)
    reach = part.radius / extent * 1.08 + 2 / size
    low_x, high_x = (x - reach + 1) / 2 * size, (x + reach + 1) / 2 * size
    low_y, high_y = (1 - y - reach) / 2 * size, (1 - y + reach) / 2 * size
    return (
        slice(max(0, math.floor(low_y)), min(size, math.ceil(high_y))),
        slice(max(0, math.floor(low_x)), min(size, math.ceil(high_x))),
    )


def intersect(part: Part, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Distance `[...]` to the first hit in front of the origin, FAR where there is none."""
    o, d = to_local(part, origins), to_local(part, directions, is_direction=True)
    if part.kind == "ellipsoid":
        return _first(*_quadratic((d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1))
    if part.kind == "frustum":
        return _frustum(part.taper, o, d)
    return _convex(_PLANES[part.kind], o, d)


def _quadratic(a: torch.Tensor, half_b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The interval where a t^2 + 2 half_b t + c < 0 for a > 0; empty as (FAR, -FAR)."""
    discriminant = half_b * half_b - a * c
    root = discriminant.clamp(min=0).sqrt()
    missed = discriminant <= 0
    return ((-half_b - root) / a).masked_fill(missed, FAR), ((-half_b + root) / a).masked_fill(missed, -FAR)


def _first(near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    """The entry of a convex interval if it lies ahead; FAR otherwise."""
    return torch.where((near < far) & (near > 1e-3), near, FAR)


def _frustum(taper: float, o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """A capped cone between y = -1 (radius 1) and y = 1 (radius `taper`)."""
    slope, middle = (taper - 1) / 2, (taper + 1) / 2
    (ox, oy, oz), (dx, dy, dz) = o.unbind(-1), d.unbind(-1)
    radius, change = middle + slope * oy, slope * dy
    a = dx * dx + dz * dz - change * change
    half_b = ox * dx + oz * dz - radius * change
    c = ox * ox + oz * oz - radius * radius
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    discriminant = half_b * half_b - a * c
    root = discriminant.clamp(min=0).sqrt()
    best = torch.full_like(a, FAR)
    for sign in (-1.0, 1.0):
        t = (-half_b + sign * root) / a
        y = oy + t * dy
        good = (discriminant > 0) & (t > 1e-3) & (y.abs() <= 1) & (middle + slope * y >= 0)
        best = torch.where(good & (t < best), t, best)
    for y, cap in ((-1.0, 1.0), (1.0, taper)):
        t = (y - oy) / torch.where(dy.abs() < 1e-9, 1e-9, dy)
        x, z = ox + t * dx, oz + t * dz
        good = (t > 1e-3) & (x * x + z * z <= cap * cap)
        best = torch.where(good & (t < best), t, best)
    return best


_SLANT = 1 / math.sqrt(5)
_PLANES = {
    "box": ((1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 0, 1), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1)),
    # A roof: ridge along x at y = 1, eaves at y = -1, z = +-1.
    "prism": (
        (1, 0, 0, 1), (-1, 0, 0, 1), (0, -1, 0, 1),
        (0, _SLANT, 2 * _SLANT, _SLANT), (0, _SLANT, -2 * _SLANT, _SLANT),
    ),
}  # fmt: skip


def _convex(planes: tuple[tuple[float, ...], ...], o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Clip the ray against half spaces n . p <= k."""
    near, far = torch.full_like(o[..., 0], -FAR), torch.full_like(o[..., 0], FAR)
    for nx, ny, nz, k in planes:
        normal = torch.tensor([nx, ny, nz], device=o.device, dtype=o.dtype)
        speed, gap = d @ normal, k - o @ normal
        t = gap / torch.where(speed.abs() < 1e-9, 1e-9, speed)
        near = torch.where(speed < 0, torch.maximum(near, t), near)
        far = torch.where(speed > 0, torch.minimum(far, t), far)
        far = torch.where((speed == 0) & (gap < 0), -FAR, far)
    return _first(near, far)


def _normals(parts: list[Part], index: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """World normals `[..., 3]`; up on the floor and, for want of better, in the sky."""
    normals = torch.zeros_like(points)
    normals[..., 1] = 1
    for number, part in enumerate(parts):
        here = (index == number).nonzero(as_tuple=True)
        if here[0].numel():
            local = local_normal(part, to_local(part, points[here]))
            matrix = torch.as_tensor((part.rotation / part.half).T, dtype=torch.float32, device=points.device)
            normals[here] = F.normalize(local @ matrix, dim=-1)
    return normals


def local_normal(part: Part, p: torch.Tensor) -> torch.Tensor:
    """The gradient of the part's surface at local surface points `[n, 3]` (not of unit length)."""
    if part.kind == "ellipsoid":
        return p
    if part.kind == "frustum":
        x, y, z = p.unbind(-1)
        radius = (part.taper + 1) / 2 + (part.taper - 1) / 2 * y
        side = torch.stack([x, -(part.taper - 1) / 2 * radius, z], dim=-1)
        cap = torch.stack([torch.zeros_like(x), y, torch.zeros_like(x)], dim=-1)
        is_cap = (y.abs() > 1 - 1e-3) & (x * x + z * z < radius * radius - 1e-3)
        return torch.where(is_cap[..., None], cap, side)
    planes = torch.tensor(_PLANES[part.kind], device=p.device, dtype=p.dtype)
    touching = (p @ planes[:, :3].T - planes[:, 3]).abs().argmin(-1)
    return planes[touching, :3]


def _unshadowed(
    parts: list[Part], scene: Scene, points: torch.Tensor, normals: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """1 where the light is seen, else 0, `[2H, 2W]`; each of a pixel's four rays sees its own point of the light."""
    lit = torch.ones(index.shape, device=points.device)
    centre = light_direction(scene)
    side = np.cross(centre, [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    up = np.cross(side, centre)
    for row, column, a, b in ((0, 0, -1, -0.4), (0, 1, 0.4, -1), (1, 0, -0.4, 1), (1, 1, 1, 0.4)):
        toward = centre + 0.055 * (a * side + b * up)
        toward /= np.linalg.norm(toward)
        view = (slice(row, None, 2), slice(column, None, 2))
        start = (points[view] + 4e-3 * normals[view]).clone()
        seen = index[view] >= -1
        lit[view] = _shadow_pass(parts, start, seen, toward)
    return lit


def _shadow_pass(parts: list[Part], start: torch.Tensor, seen: torch.Tensor, toward: np.ndarray) -> torch.Tensor:
    """1 where nothing lies between `start` `[H, W, 3]` and a light in the direction `toward`."""
    light = torch.as_tensor(toward, dtype=torch.float32, device=start.device)
    flat = start[seen]
    clear = torch.ones(flat.shape[0], device=start.device)
    along = flat @ light
    for part in parts:
        centre = torch.as_tensor(part.offset, dtype=torch.float32, device=start.device)
        ahead = centre @ light - along
        away = flat - centre
        near = (away * away).sum(-1) - ahead * ahead < part.radius * part.radius
        here = (near & (ahead > -part.radius)).nonzero(as_tuple=True)[0]
        if here.numel():
            blocked = intersect(part, flat[here], light.expand(here.numel(), 3)) < FAR
            clear[here] = torch.where(blocked, 0.0, clear[here])
    result = torch.ones(seen.shape, device=start.device)
    result[seen] = clear
    return result


def _averaged(scene: Scene, camera: Camera, parts: list[Part], rgb: torch.Tensor,
              index: torch.Tensor, points: torch.Tensor, normals: torch.Tensor) -> Render:  # fmt: skip
    """From the ray grid to pixels: colours averaged over four rays, geometry taken from one of them."""
    forward = torch.as_tensor(-camera.rotation[:, 2], dtype=torch.float32, device=rgb.device)
    position = torch.as_tensor(camera.position, dtype=torch.float32, device=rgb.device)
    rotation = torch.as_tensor(camera.rotation, dtype=torch.float32, device=rgb.device)
    owners = torch.tensor([part.owner for part in parts] + [-2, -1], device=rgb.device)
    depth = torch.where(index == -2, math.inf, ((points - position) @ forward))[::2, ::2]
    owner = owners[index.long()[::2, ::2]]
    joints = tuple(
        {name: _seen_joint(camera, at, depth) for name, at in joints_of(thing).items()} for thing in scene.things
    )
    return Render(
        rgb=F.avg_pool2d(rgb.permute(2, 0, 1)[None], 2)[0],
        depth=depth,
        normals=(normals[::2, ::2] @ rotation).permute(2, 0, 1) * (owner != -2),
        owner=owner,
        joints=joints,
    )


def _seen_joint(camera: Camera, at: np.ndarray, depth: torch.Tensor) -> tuple[float, float, bool]:
    """(x, y) in pixels of `depth`, and whether the joint is in the picture and not hidden behind another thing."""
    size = depth.shape[0]
    x, y, away = camera.project(at)
    column, row = (x + 1) / 2 * size, (1 - y) / 2 * size
    inside = 0 <= column < size and 0 <= row < size
    return column, row, bool(inside and float(depth[int(row), int(column)]) > away - 0.25)
