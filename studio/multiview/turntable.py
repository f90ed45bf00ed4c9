"""A mesh that turns: frames drawn by throwing points of its faces at a depth buffer, as an animated picture."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage

from studio.multiview.mesh import Mesh

SIDE_PIXELS = 224
NUM_FRAMES = 24
FRAME_MILLISECONDS = 90
PITCH = math.radians(18)
LIGHT = np.array([0.35, 0.6, 0.72])
POINTS_PER_PIXEL = 4.0


def turntable(mesh: Mesh, num_frames: int = NUM_FRAMES) -> bytes:
    """An animated WebP of one turn, seen from a little above."""
    points, normals, colours = _points(mesh)
    frames = [frame(points, normals, colours, 2 * math.pi * number / num_frames) for number in range(num_frames)]
    file = io.BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0, quality=85
    )
    return file.getvalue()


def frame(points: np.ndarray, normals: np.ndarray, colours: np.ndarray, yaw: float) -> Image.Image:
    """One picture, the camera `yaw` to the right of the front; the largest coordinate towards it wins a pixel."""
    toward = np.array([math.sin(yaw) * math.cos(PITCH), math.sin(PITCH), math.cos(yaw) * math.cos(PITCH)])
    right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    up = np.cross(toward, right)
    columns = ((points @ right / 1.15 + 1) / 2 * SIDE_PIXELS).astype(int)
    rows = ((1 - points @ up / 1.15) / 2 * SIDE_PIXELS).astype(int)
    shown = (normals @ toward > 0) & (np.minimum(rows, columns) >= 0) & (np.maximum(rows, columns) < SIDE_PIXELS)
    order = np.argsort(points[shown] @ toward)  # later ones overwrite: the nearest last
    light = LIGHT[0] * right + LIGHT[1] * up + LIGHT[2] * toward
    shade = 0.55 + 0.5 * (normals[shown] @ (light / np.linalg.norm(light))).clip(0)
    picture = np.ones((SIDE_PIXELS, SIDE_PIXELS, 3))
    picture[rows[shown][order], columns[shown][order]] = (colours[shown] * shade[:, None])[order].clip(0, 1)
    return Image.fromarray(ndimage.median_filter((picture * 255).astype(np.uint8), size=(3, 3, 1)))


def _points(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, normals and colours spread evenly over the surface, always the same ones."""
    _, areas = mesh.face_normals()
    count = int(areas.sum() * (SIDE_PIXELS / 2) ** 2 * POINTS_PER_PIXEL)
    rng = np.random.default_rng(0)
    faces = mesh.faces[rng.choice(len(areas), size=count, p=areas / areas.sum())]
    share = rng.random((count, 2))
    share = np.where(share.sum(axis=1, keepdims=True) > 1, 1 - share, share)
    weights = np.concatenate([share, 1 - share.sum(axis=1, keepdims=True)], axis=1)
    of_corners = (mesh.vertices[faces], mesh.vertex_normals()[faces], mesh.colours[faces])
    points, normals, colours = ((weights[..., None] * values).sum(axis=1) for values in of_corners)
    return points, normals, colours
