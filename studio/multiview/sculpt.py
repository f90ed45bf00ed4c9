"""A mesh of a sheet of views: hull, normals, colours, and what is true of the result."""

from __future__ import annotations

import time
from dataclasses import dataclass

from studio.errors import InvalidRequest
from studio.multiview.hull import GRID, visual_hull
from studio.multiview.mesh import Mesh
from studio.multiview.refine import normal_error_degrees, painted, refined
from studio.multiview.views import ViewSet

MIN_MASK_SHARE = 0.003


@dataclass(frozen=True, kw_only=True, eq=False)
class Sculpture:
    """The mesh, the mean angle to the normal maps before and after they shaped it, and the time it took."""

    mesh: Mesh
    is_watertight: bool
    hull_normal_error_degrees: float
    normal_error_degrees: float
    seconds: float


def sculpt(views: ViewSet, grid: int = GRID) -> Sculpture:
    """The mesh of six views, `grid` points a side. Raises `InvalidRequest` where they show no object."""
    started = time.perf_counter()
    masks = views.masks()
    empty = [float(mask.mean()) < MIN_MASK_SHARE for mask in masks]
    if all(empty):
        raise InvalidRequest("views", "normal maps that show an object on white", "empty views")
    hull = visual_hull(masks, grid)
    shaped = refined(hull, views)
    mesh = painted(shaped, views)
    return Sculpture(
        mesh=mesh,
        is_watertight=mesh.is_watertight,
        hull_normal_error_degrees=normal_error_degrees(hull, views),
        normal_error_degrees=normal_error_degrees(shaped, views),
        seconds=time.perf_counter() - started,
    )
