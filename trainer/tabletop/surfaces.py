"""Colour and light on the tabletop: skies, floors, patterns and materials as functions of points and directions.

All tensors are `[H, W, 3]` grids of rays in world space (y up). Light is linear inside and leaves as sRGB in [0, 1].
Knows nothing of how a ray found its point (`renderer`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from trainer.tabletop.geometry import Part, to_local
from trainer.tabletop.scenes import Scene, light_direction

# (zenith, horizon, sun colour, sun strength, ambient strength), linear light
_SKIES = {
    "blue": ((0.10, 0.28, 0.72), (0.55, 0.72, 0.90), (1.0, 0.95, 0.85), 1.05, 0.50),
    "sunset": ((0.20, 0.12, 0.34), (0.95, 0.42, 0.14), (1.0, 0.68, 0.42), 1.05, 0.42),
    "night": ((0.008, 0.012, 0.045), (0.03, 0.045, 0.12), (0.62, 0.72, 1.0), 0.62, 0.30),
    "cloudy": ((0.42, 0.46, 0.52), (0.74, 0.76, 0.78), (1.0, 1.0, 1.0), 0.55, 0.75),
    "studio": ((0.82, 0.82, 0.84), (0.93, 0.93, 0.94), (1.0, 0.98, 0.95), 0.85, 0.60),
}
# the mean colour of each floor, for reflections and distance
_FLOORS = {
    "grey": (0.22, 0.22, 0.23),
    "checkered": (0.34, 0.33, 0.32),
    "wooden": (0.32, 0.17, 0.075),
    "grassy": (0.10, 0.22, 0.035),
    "sandy": (0.55, 0.42, 0.24),
    "brick": (0.34, 0.12, 0.08),
}


def shade(scene: Scene, parts: list[Part], index: torch.Tensor, points: torch.Tensor, normals: torch.Tensor,
          directions: torch.Tensor, lit: torch.Tensor, with_ground: bool) -> torch.Tensor:  # fmt: skip
    """sRGB colours `[H, W, 3]` of what each ray sees (`index`: part number, -1 floor, -2 sky)."""
    device = points.device
    _, _, sun_colour, sun, ambient = _SKIES[scene.sky]
    toward = _light(scene, device)
    albedo, gloss, metal = _albedo(scene, parts, index, points)
    facing = (normals @ toward).clamp(min=0) * lit
    occlusion = _occlusion(parts, points, normals, index)
    dome = 0.62 + 0.38 * normals[..., 1]
    fill = (ambient * dome * occlusion)[..., None] * torch.tensor(_mixed_sky(scene.sky), device=device)
    light = sun * facing[..., None] * torch.tensor(sun_colour, device=device) + fill
    mirror = directions - 2 * (directions * normals).sum(-1, keepdim=True) * normals
    reflection = _environment(scene, mirror) * (0.35 + 0.65 * occlusion[..., None])
    fresnel = 0.05 + 0.6 * (1 + (directions * normals).sum(-1, keepdim=True)).clamp(0, 1) ** 4
    highlight = ((mirror @ toward).clamp(min=0) ** 60 * lit)[..., None] * sun
    colour = albedo * light * (1 - 0.8 * metal)
    colour = colour + gloss * (fresnel * reflection + 0.9 * highlight)
    colour = colour + metal * albedo**0.75 * (1.5 * reflection**1.4 + 1.5 * highlight)
    if with_ground:
        far = 1 - torch.exp(-((points[..., 0] ** 2 + points[..., 2] ** 2) / 420))
        horizon = torch.tensor(_SKIES[scene.sky][1], device=device)
        colour = torch.lerp(colour, horizon.expand_as(colour), torch.where(index == -1, far, 0.0)[..., None])
        background = _sky(scene, directions)
    else:
        background = torch.ones_like(colour)
    colour = torch.where((index == -2)[..., None], background, colour)
    return (colour.clamp(0) / (1 + 0.12 * colour.clamp(0))).clamp(0, 1) ** (1 / 2.2)


def _light(scene: Scene, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(light_direction(scene), dtype=torch.float32, device=device)


def _mixed_sky(name: str) -> tuple[float, ...]:
    """The colour of diffuse light: half sky, half white, brightness one."""
    zenith, horizon, *_ = _SKIES[name]
    mixed = [(a + b) / 2 for a, b in zip(zenith, horizon, strict=True)]
    top = max(mixed)
    return tuple(0.5 + 0.5 * value / top for value in mixed)


def _albedo(scene: Scene, parts: list[Part], index: torch.Tensor, points: torch.Tensor):
    """Base colour, gloss and metalness of every ray's point."""
    device = points.device
    colours = torch.tensor([part.colour for part in parts] + [(0.0, 0.0, 0.0)] * 2, device=device)
    gloss = torch.tensor([float(part.material == "glossy") for part in parts] + [0.0, 0.0], device=device)
    metal = torch.tensor([float(part.material == "metal") for part in parts] + [0.0, 0.0], device=device)
    number = index.long()
    albedo = colours[number]
    floor = (index == -1).nonzero(as_tuple=True)
    albedo[floor] = _floor(scene, points[floor])
    for position, part in enumerate(parts):
        if part.pattern == "plain":
            continue
        here = (index == position).nonzero(as_tuple=True)
        if here[0].numel():
            albedo[here] = _patterned(part, albedo[here], to_local(part, points[here]))
    return albedo, gloss[number][..., None], metal[number][..., None]


def _patterned(part: Part, colour: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """Stripes and dots in a contrasting tone, leaves as broken light and dark; `local` `[n, 3]` in [-1, 1]."""
    bright = sum(part.colour) > 1.5
    tone = torch.tensor((0.10, 0.10, 0.12) if bright else (0.88, 0.87, 0.82), device=colour.device)
    if part.pattern == "striped":
        inside = torch.sin(local[:, 1] * 10.5) > 0.25
    elif part.pattern == "dotted":
        cell = torch.remainder(local * 1.6 + 0.5, 1) - 0.5
        inside = (cell * cell).sum(-1) < 0.068
    else:
        noise = _noise(local[:, 0] * 5 + local[:, 2] * 3, local[:, 1] * 5, 7)
        return colour * (0.45 + 1.0 * noise[:, None])
    return torch.where(inside[:, None], tone, colour)


def _floor(scene: Scene, points: torch.Tensor) -> torch.Tensor:
    """Floor colours `[n, 3]` at world points; each seed shifts and turns the texture."""
    seed = scene.texture_seed
    angle, shift = (seed % 97) / 97 * 0.8 - 0.4, (seed % 13) / 13
    x = points[:, 0] * math.cos(angle) - points[:, 2] * math.sin(angle) + shift
    z = points[:, 0] * math.sin(angle) + points[:, 2] * math.cos(angle) + 3 * shift
    mean = torch.tensor(_FLOORS[scene.floor], device=points.device)
    if scene.floor == "grey":
        tone = 0.94 + 0.12 * _noise(x * 3, z * 3, seed)
        return mean * tone[:, None]
    if scene.floor == "checkered":
        dark = torch.remainder(torch.floor(x * 1.5) + torch.floor(z * 1.5), 2) > 0.5
        return torch.where(dark[:, None], torch.tensor((0.045, 0.05, 0.06), device=mean.device), mean * 1.85)
    if scene.floor == "wooden":
        board = torch.floor(z * 2.1)
        tone = 0.7 + 0.6 * _hash(board, torch.floor(x * 0.5 + board * 0.37), seed)
        grain = 0.82 + 0.36 * _noise(x * 1.5 + board * 9, z * 26, seed)
        seam = (torch.remainder(z * 2.1, 1) < 0.06).float()
        return mean * (tone * grain * (1 - 0.75 * seam))[:, None]
    if scene.floor == "grassy":
        blades = 0.45 + 0.8 * _noise(x * 15, z * 9, seed) * (0.6 + 0.8 * _noise(x * 2.2, z * 2.2, seed + 1))
        return mean * blades[:, None] * 1.5
    if scene.floor == "sandy":
        ripple = (
            0.90 + 0.13 * torch.sin(z * 11 + 3 * _noise(x * 1.6, z * 1.6, seed)) + 0.1 * _noise(x * 22, z * 22, seed)
        )
        return mean * ripple[:, None]
    row = torch.floor(z * 3.2)
    u = x * 1.5 + 0.5 * torch.remainder(row, 2)
    mortar = (torch.remainder(z * 3.2, 1) < 0.12) | (torch.remainder(u, 1) < 0.07)
    tone = 0.7 + 0.6 * _hash(torch.floor(u), row, seed)
    return torch.where(mortar[:, None], torch.tensor((0.45, 0.42, 0.38), device=mean.device), mean * tone[:, None])


def _sky(scene: Scene, directions: torch.Tensor) -> torch.Tensor:
    """The sky with its clouds, stars and the sun's glow."""
    colour = _environment(scene, directions)
    height = directions[..., 1].clamp(min=0)
    azimuth = torch.atan2(directions[..., 0], -directions[..., 2])
    if scene.sky == "night":
        u, v = azimuth * 38, height * 38
        star = (_hash(torch.floor(u), torch.floor(v), scene.texture_seed) > 0.955).float()
        spot = ((torch.remainder(u, 1) - 0.5) ** 2 + (torch.remainder(v, 1) - 0.5) ** 2 < 0.10).float()
        return colour + 0.75 * (star * spot)[..., None]
    if scene.sky == "studio":
        return colour
    cover = _noise(azimuth * 7, height * 26, scene.texture_seed) + 0.5 * _noise(
        azimuth * 15, height * 55, scene.texture_seed
    )
    cloud = ((cover - 0.72) * 2.4).clamp(0, 1)[..., None] * {"blue": 0.9, "sunset": 0.5, "cloudy": 0.35}[scene.sky]
    tint = torch.tensor(
        {"blue": (0.97, 0.97, 0.97), "sunset": (0.98, 0.55, 0.42), "cloudy": (0.92, 0.93, 0.95)}[scene.sky]
    )
    return torch.lerp(colour, tint.to(colour.device).expand_as(colour), cloud)


def _environment(scene: Scene, directions: torch.Tensor) -> torch.Tensor:
    """What a mirror would show: a smooth sky above, the floor's mean colour below."""
    device = directions.device
    zenith, horizon, sun_colour, sun, _ = _SKIES[scene.sky]
    high, low = torch.tensor(zenith, device=device), torch.tensor(horizon, device=device)
    height = directions[..., 1:2]
    above = torch.lerp(low.expand_as(directions), high.expand_as(directions), height.clamp(0, 1) ** 0.6)
    glow = (directions @ _light(scene, device)).clamp(min=0)[..., None] ** 12 * 0.25 * sun
    above = above + glow * torch.tensor(sun_colour, device=device)
    floor = torch.tensor(_FLOORS[scene.floor], device=device) * (0.9 * sun + 0.2)
    return torch.where(height > 0, above, torch.lerp(low, floor.expand_as(directions), (-6 * height).clamp(0, 1)))


def _occlusion(parts: list[Part], points: torch.Tensor, normals: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """How much of the sky is open, [0, 1]: each other thing hides a sphere's worth (closed form)."""
    open_sky = torch.ones(index.shape, device=points.device)
    owners = torch.tensor([part.owner for part in parts] + [-2, -1], device=points.device)[index.long()]
    for owner in sorted({part.owner for part in parts}):
        mine = [part for part in parts if part.owner == owner]
        weight = sum(float(part.half.prod()) for part in mine)
        centre = sum(part.offset * float(part.half.prod()) for part in mine) / weight
        radius = 0.9 * (weight * 1.2) ** (1 / 3)
        away = torch.as_tensor(centre, dtype=torch.float32, device=points.device) - points
        distance = away.norm(dim=-1).clamp(min=radius)
        cosine = (F.normalize(away, dim=-1) * normals).sum(-1)
        hidden = (0.5 + 0.5 * cosine).clamp(0, 1) * (radius / distance) ** 2
        open_sky = open_sky * torch.where(owners == owner, 1.0, 1 - 0.85 * hidden)
    return open_sky


def _hash(x: torch.Tensor, y: torch.Tensor, seed: int) -> torch.Tensor:
    """Pseudo-random values in [0, 1) for whole x, y."""
    value = torch.sin(torch.remainder(x * 127.1 + y * 311.7 + (seed % 1013) * 7.31, 6283.185)) * 4375.5453
    return value - torch.floor(value)


def _noise(x: torch.Tensor, y: torch.Tensor, seed: int) -> torch.Tensor:
    """Smooth value noise in [0, 1) with cells of size 1."""
    x0, y0 = torch.floor(x), torch.floor(y)
    u, v = x - x0, y - y0
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    bottom = torch.lerp(_hash(x0, y0, seed), _hash(x0 + 1, y0, seed), u)
    top = torch.lerp(_hash(x0, y0 + 1, seed), _hash(x0 + 1, y0 + 1, seed), u)
    return torch.lerp(bottom, top, v)
