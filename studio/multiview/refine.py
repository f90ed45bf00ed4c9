"""The hull made rounder by the normal maps, and painted with the colour pictures.

Faces that a view sees take its normals; vertices then move so that the edges of those faces become perpendicular to
them, and no farther than that needs: one sparse least-squares problem (Nehab et al., 2005). Which face joins which
never changes, so what was closed stays closed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg
from scipy.spatial import KDTree

from studio.multiview.mesh import Mesh
from studio.multiview.views import VIEWS, View, ViewSet

# How strongly a vertex keeps its place, against edges that should turn. The object lies inside its hull and touches it:
# a vertex that was pushed out of the hull is held, one that sinks in hardly is.
HOLD, LOOSE = 0.4, 0.05
ROUNDS, ITERATIONS = 6, 50
MIN_FACING = 0.15
DEPTH_CELLS = 64
DEPTH_TOLERANCE = 0.08
PAINT_INSET_PIXELS = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """What one view sees of points: how squarely (0 = not at all), and where in the picture (rows, columns)."""

    facing: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def refined(mesh: Mesh, views: ViewSet) -> Mesh:
    """The mesh with its faces turned towards the normals of the views that see them."""
    start, outwards = mesh.vertices, mesh.vertex_normals()
    hold = np.full(len(start), HOLD * LOOSE)
    for _ in range(ROUNDS):
        targets, weights = face_targets(mesh, views)
        mesh = replace(mesh, vertices=_turned(mesh, start, targets * weights[:, None], hold))
        is_out = ((mesh.vertices - start) * outwards).sum(axis=-1) > 0
        hold = HOLD * np.where(is_out, 1.0, LOOSE)
    return mesh


def face_targets(mesh: Mesh, views: ViewSet) -> tuple[np.ndarray, np.ndarray]:
    """A unit normal `[F, 3]` for every face from the views that see it, and how well they do `[F]` (0 = unseen)."""
    normals, _ = mesh.face_normals()
    total, weights = np.zeros_like(normals), np.zeros(len(normals))
    vectors, masks = views.vectors(), views.masks()
    for view, vector, mask in zip(VIEWS, vectors, masks, strict=True):
        sight = seen(mesh.centres, normals, mesh, view, views.size)
        share = sight.facing * _sampled(mask[..., None].astype(np.float32), sight)[:, 0]
        total += share[:, None] * _sampled(vector, sight)
        weights += share
    length = np.linalg.norm(total, axis=-1)
    return total / length[:, None].clip(1e-9), np.where(length > 1e-6, weights.clip(0, 1), 0)


def normal_error_degrees(mesh: Mesh, views: ViewSet) -> float:
    """The mean angle between the mesh's faces and the normal maps, over what each view sees."""
    normals, areas = mesh.face_normals()
    vectors, masks = views.vectors(), views.masks()
    total, weight = 0.0, 0.0
    for view, vector, mask in zip(VIEWS, vectors, masks, strict=True):
        sight = seen(mesh.centres, normals, mesh, view, views.size)
        inside = _sampled(mask[..., None].astype(np.float32), sight)[:, 0] > 0.9
        share = sight.facing * areas * inside
        cosine = (normals * _unit(_sampled(vector, sight))).sum(axis=-1).clip(-1, 1)
        total += float((share * np.degrees(np.arccos(cosine))).sum())
        weight += float(share.sum())
    return total / weight if weight else 180.0


def painted(mesh: Mesh, views: ViewSet) -> Mesh:
    """The mesh in the colours of the views that see it; what none sees takes the nearest colour."""
    normals = mesh.vertex_normals()
    total, weights = np.zeros_like(mesh.vertices), np.zeros(len(mesh.vertices))
    for view, picture, mask in zip(VIEWS, views.colours, views.masks(), strict=True):
        sight = seen(mesh.vertices, normals, mesh, view, views.size)
        solid = ndimage.binary_erosion(mask, iterations=PAINT_INSET_PIXELS)
        share = sight.facing**3 * (_sampled(solid[..., None].astype(np.float32), sight)[:, 0] > 0.99)
        total += share[:, None] * _sampled(picture, sight)
        weights += share
    colours = np.full_like(total, 0.6)
    known = weights > 1e-3
    colours[known] = total[known] / weights[known, None]
    if known.any() and not known.all():
        _, nearest = KDTree(mesh.vertices[known]).query(mesh.vertices[~known])
        colours[~known] = colours[known][nearest]
    return replace(mesh, colours=colours.clip(0, 1))


def seen(points: np.ndarray, normals: np.ndarray, mesh: Mesh, view: View, size: int) -> Sight:
    """What a view sees of `[N, 3]` points with normals on a mesh; a coarse depth map tells what stands in front."""
    facing = normals @ view.toward
    nearest = _depth_map(mesh, view)
    cells = _cells(points, view)
    hidden = points @ view.toward < nearest[cells] - DEPTH_TOLERANCE
    rows = ((1 - points[:, 1]) * size - 1) / 2
    columns = ((points @ view.right + 1) * size - 1) / 2
    return Sight(facing=np.where(hidden | (facing < MIN_FACING), 0.0, facing), rows=rows, columns=columns)


def _depth_map(mesh: Mesh, view: View) -> np.ndarray:
    """The surface's largest coordinate towards the camera in each of 64 x 64 cells."""
    nearest = np.full((DEPTH_CELLS, DEPTH_CELLS), -np.inf)
    np.maximum.at(nearest, _cells(mesh.centres, view), mesh.centres @ view.toward)
    return nearest


def _cells(points: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    across, up = points @ view.right, points[:, 1]
    return tuple(((value + 1) / 2 * DEPTH_CELLS).astype(int).clip(0, DEPTH_CELLS - 1) for value in (up, across))  # pyright: ignore[reportReturnType]


def _sampled(picture: np.ndarray, sight: Sight) -> np.ndarray:
    """`[N, C]`: a picture `[S, S, C]` at a sight's places, between pixels."""
    places = np.stack([sight.rows, sight.columns])
    channels = [
        ndimage.map_coordinates(picture[..., c], places, order=1, mode="nearest") for c in range(picture.shape[2])
    ]
    return np.stack(channels, axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)


def _turned(mesh: Mesh, start: np.ndarray, targets: np.ndarray, hold: np.ndarray) -> np.ndarray:
    """Vertices `[V, 3]` that minimise the sum of (target . edge)^2 over edges and (hold * way from the start)^2."""
    count = 3 * len(mesh.vertices)
    rows, columns, values = [], [], []
    for number, (i, j) in enumerate(((0, 1), (1, 2), (2, 0))):
        equation = np.arange(len(mesh.faces)) + number * len(mesh.faces)
        for axis in range(3):
            for corner, sign in ((i, 1.0), (j, -1.0)):
                rows.append(equation)
                columns.append(3 * mesh.faces[:, corner] + axis)
                values.append(sign * targets[:, axis])
    places = np.concatenate(rows), np.concatenate(columns)
    edges = sparse.coo_matrix((np.concatenate(values), places), shape=(3 * len(mesh.faces), count)).tocsr()
    held = np.repeat(hold**2, 3)
    normal_equations = (edges.T @ edges + sparse.diags(held)).tocsr()
    begin = mesh.vertices.ravel()
    solved, _ = cg(normal_equations, held * start.ravel(), x0=begin, rtol=1e-4, maxiter=ITERATIONS)
    return solved.reshape(-1, 3)
