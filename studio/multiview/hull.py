"""From six silhouettes to a closed surface: the visual hull, as a level set.

Every view's mask becomes a signed distance (positive inside), views that face each other are averaged, and the hull at
a point is the smallest of the four that remain: negative outside of any silhouette. Marching cubes over a grid with
air all around it gives a closed surface.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes

from studio.errors import InvalidRequest
from studio.multiview.mesh import Mesh, without_crumbs
from studio.multiview.views import VIEWS

GRID = 80
FRONT, BACK, RIGHT, LEFT = 0, 3, 2, 4


def visual_hull(masks: np.ndarray, grid: int = GRID) -> Mesh:
    """The hull of `[6, S, S]` masks in [-1, 1]^3. Raises `InvalidRequest` where nothing is left of the object."""
    distances = [signed_distance(mask) for mask in cleaned(masks)]
    distances[FRONT] = (distances[FRONT] + distances[BACK][:, ::-1]) / 2
    distances[RIGHT] = (distances[RIGHT] + distances[LEFT][:, ::-1]) / 2
    axis = np.linspace(-1, 1, grid)
    inside = np.full((grid, grid, grid), np.inf, dtype=np.float32)
    for index, view in enumerate(VIEWS):
        if index not in (BACK, LEFT):
            inside = np.minimum(inside, _seen_along(distances[index], view.right, axis))
    if not (inside > 0).any():
        raise InvalidRequest("views", "silhouettes that one object can have from all sides", "views that disagree")
    return without_crumbs(surface(inside))


def surface(inside: np.ndarray) -> Mesh:
    """The zero level of a field on the grid over [-1, 1]^3, positive inside; a rim of air keeps it closed."""
    air = np.pad(inside, 1, constant_values=-1e-3)
    step = 2 / (len(inside) - 1)
    places, faces, _, _ = marching_cubes(air, 0.0, allow_degenerate=False)
    vertices = (places - 1) * step - 1
    mesh = Mesh(vertices=vertices.astype(np.float64), faces=faces, colours=np.full((len(vertices), 3), 0.6))
    return mesh if mesh.volume > 0 else Mesh(vertices=mesh.vertices, faces=faces[:, ::-1], colours=mesh.colours)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline in the picture's units ([-1, 1] across), positive inside; `[S, S]`."""
    if not mask.any():
        return np.full(mask.shape, -1.0)
    solid = np.pad(mask, 1)
    inside, outside = (np.asarray(ndimage.distance_transform_edt(each)) for each in (solid, ~solid))
    pixels = inside - outside
    return ((pixels - np.sign(pixels) / 2) * 2 / len(mask))[1:-1, 1:-1]


def cleaned(masks: np.ndarray) -> np.ndarray:
    """Masks without specks and pinholes: each keeps its largest piece and those of a twentieth of it."""
    found = []
    for mask in masks:
        smooth = ndimage.median_filter(mask.astype(np.uint8), size=3) > 0
        regions, _ = ndimage.label(smooth)  # pyright: ignore[reportGeneralTypeIssues]
        areas = np.bincount(regions.ravel())
        areas[0] = 0
        found.append((areas >= max(areas.max() / 20, 4))[regions] if areas.any() else smooth)
    return np.stack(found)


def _seen_along(distance: np.ndarray, right: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The picture's value at every grid point `[x, y, z]`, by where the point lies in the picture."""
    size = len(distance)
    across = axis[:, None] * right[0] + axis[None] * right[2]
    columns = ((across + 1) * size - 1) / 2
    rows = ((1 - axis) * size - 1) / 2
    shape = (len(axis),) * 3
    places = np.broadcast_to(rows[None, :, None], shape), np.broadcast_to(columns[:, None, :], shape)
    return ndimage.map_coordinates(distance.astype(np.float32), places, order=1, mode="nearest")
