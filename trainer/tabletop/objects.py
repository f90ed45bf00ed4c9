"""One thing at a time, for the multiview network: its six orthographic views with normals, and pictures of it.

The front view is framed as uploads are (`studio.multiview.cutout`): centred by its outline, its longer side over three
quarters of the square; the other views turn about the middle of the thing. Two pictures go with the views: the front
view itself, and the thing as the world's own camera would see it, in perspective and from a little above, cut out and
framed; so the network also knows pictures that text-to-image draws.
Rendered objects are cached in chunks, compressed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from studio.multiview.cutout import FILLED_SHARE, framed
from studio.multiview.views import VIEWS, ViewSet, coloured
from trainer.tabletop.data import WORLD_VERSION
from trainer.tabletop.geometry import parts_of, to_local
from trainer.tabletop.renderer import _PLANES, Camera, Render, render
from trainer.tabletop.scenes import Scene, random_scene

CHUNK = 100
MEASURED_SIZE = 48
AWAY = 4.0


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where a thing's square lies in the world: the middle of it, and half its side."""

    centre: np.ndarray
    half: float


def object_scene(seed: int) -> Scene:
    """The first thing of a seed's scene, alone and at the origin, in the same light."""
    scene = random_scene(seed, num_things=1)
    thing = replace(scene.things[0], position=(0.0, 0.0, 0.0))
    return replace(scene, things=(thing,), relations=(), sky="studio")


def frame_of(scene: Scene) -> Frame:
    """The thing's square, by its outline from the front and from the right."""
    thing = scene.things[0]
    middle, reach = np.array([0.0, 0.6 * thing.scale, 0.0]), 0.9 * thing.scale
    (left, right), (low, high) = _extent(scene, middle, reach, 0)
    (near, far), _ = _extent(scene, middle, reach, 90)
    centre = middle + reach * np.array([(left + right) / 2, (low + high) / 2, -(near + far) / 2])
    return Frame(centre=centre, half=reach * max(right - left, high - low) / 2 / FILLED_SHARE)


def views_of(scene: Scene, frame: Frame, size: int) -> ViewSet:
    """The six views: normals in the front camera's frame, colours on white."""
    seen = [_look(scene, frame.centre, frame.half, view.yaw_degrees, size) for view in VIEWS]
    front = _camera(frame.centre, frame.half, 0).rotation
    normals, colours = [], []
    for view, picture in zip(VIEWS, seen, strict=True):
        turn = front.T @ _camera(frame.centre, frame.half, view.yaw_degrees).rotation
        vectors = np.einsum("ij,jhw->hwi", turn, picture.normals.numpy())
        normals.append(coloured(vectors, picture.mask.numpy()))
        colours.append(picture.rgb.permute(1, 2, 0).numpy().astype(np.float32))
    return ViewSet(normals=np.stack(normals), colours=np.stack(colours))


def perspective_picture(scene: Scene, frame: Frame, size: int) -> np.ndarray:
    """`[size, size, 3]`: the thing as the scene's camera sees it from the front, cut out and framed."""
    camera = Camera.looking(frame.centre, 0.0, scene.camera_height, scene.camera_distance)
    seen = render(scene, size, camera=camera, with_ground=False)
    picture = framed(seen.rgb.permute(1, 2, 0).numpy(), seen.mask.numpy().astype(np.float32), size)
    return np.asarray(picture, dtype=np.float32) / 255


def solid_of(scene: Scene, frame: Frame, axis: np.ndarray) -> np.ndarray:
    """`[n, n, n]` bool: the thing itself on the grid of `axis` values in x, y and z of its frame."""
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    points = torch.as_tensor(grid * frame.half + frame.centre, dtype=torch.float32)
    inside = torch.zeros(points.shape[:3], dtype=torch.bool)
    for part in parts_of(scene.things[0], 0):
        p = to_local(part, points)
        if part.kind == "ellipsoid":
            inside |= (p * p).sum(-1) < 1
        elif part.kind == "frustum":
            radius = (part.taper + 1) / 2 + (part.taper - 1) / 2 * p[..., 1]
            inside |= (p[..., 1].abs() < 1) & (p[..., 0] ** 2 + p[..., 2] ** 2 < radius**2)
        else:
            planes = torch.tensor(_PLANES[part.kind], dtype=torch.float32)
            inside |= (p @ planes[:, :3].T <= planes[:, 3]).all(-1)
    return inside.numpy()


# --- the cache --------------------------------------------------------------------------------------------------


def pictures_of(seed: int, size: int) -> np.ndarray:
    """`[13, 3, size, size]` uint8: six normal maps, six colour pictures, the perspective picture."""
    scene = object_scene(seed)
    frame = frame_of(scene)
    views = views_of(scene, frame, size)
    all_pictures = np.concatenate([views.normals, views.colours, perspective_picture(scene, frame, size)[None]])
    return (all_pictures.transpose(0, 3, 1, 2).clip(0, 1) * 255).round().astype(np.uint8)


def render_objects(cache: Path, first_seed: int, count: int, size: int, workers: int) -> Iterator[int]:
    """Make sure that the objects of `count` seeds from `first_seed` are cached; yields how many are there by now."""
    starts = range(first_seed, first_seed + count, CHUNK)
    missing = [start for start in starts if not chunk_path(cache, start).exists()]
    done = count - CHUNK * len(missing)
    yield done
    if not missing:
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for _ in as_completed([pool.submit(render_chunk, cache, start, size) for start in missing]):
            done += CHUNK
            yield done


def render_chunk(cache: Path, start: int, size: int, count: int | None = None) -> None:
    """Write one chunk aside and rename it, so that a chunk that exists is whole."""
    pictures = np.stack([pictures_of(seed, size) for seed in range(start, start + (count or CHUNK))])
    cache.mkdir(parents=True, exist_ok=True)
    path = chunk_path(cache, start)
    staged = path.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez_compressed(staged, pictures=pictures)
    staged.replace(path)


def load_chunk(cache: Path, start: int) -> np.ndarray:
    """`[CHUNK, 13, 3, size, size]` uint8."""
    with np.load(chunk_path(cache, start)) as file:
        return file["pictures"]


def chunk_path(cache: Path, start: int) -> Path:
    return cache / f"objects-v{WORLD_VERSION}-{start:09d}.npz"


def _camera(centre: np.ndarray, half: float, yaw_degrees: float) -> Camera:
    return Camera.looking(centre, math.radians(yaw_degrees), 0.0, AWAY, half_height=half)


def _look(scene: Scene, centre: np.ndarray, half: float, yaw_degrees: float, size: int) -> Render:
    return render(scene, size, camera=_camera(centre, half, yaw_degrees), with_ground=False)


def _extent(
    scene: Scene, centre: np.ndarray, half: float, yaw_degrees: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Leftmost and rightmost, lowest and highest place of the outline in a square, in its units."""
    rows, columns = np.nonzero(_look(scene, centre, half, yaw_degrees, MEASURED_SIZE).mask.numpy())
    x = (columns.min() / MEASURED_SIZE * 2 - 1, (columns.max() + 1) / MEASURED_SIZE * 2 - 1)
    y = (1 - (rows.max() + 1) / MEASURED_SIZE * 2, 1 - rows.min() / MEASURED_SIZE * 2)
    return x, y
