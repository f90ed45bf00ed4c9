"""Triangle meshes: what is true of them, and what a camera sees of them.

`vertices` `[V, 3]`, `faces` `[F, 3]` (counter-clockwise from outside), `colours` `[V, 3]` in [0, 1] (sRGB).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """A surface; `colours` are grey until they are painted."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """`[F, 3, 3]`: the three points of every face."""
        return self.vertices[self.faces]

    @property
    def centres(self) -> np.ndarray:
        """`[F, 3]`: the middle of every face."""
        return self.corners.mean(axis=1)

    def face_normals(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit normals `[F, 3]` and areas `[F]`."""
        a, b, c = self.corners.transpose(1, 0, 2)
        cross = np.cross(b - a, c - a)
        doubled = np.linalg.norm(cross, axis=-1)
        return cross / doubled[:, None].clip(1e-12), doubled / 2

    def vertex_normals(self) -> np.ndarray:
        """`[V, 3]` unit normals, the faces around a vertex weighted by area."""
        normals, areas = self.face_normals()
        total = np.zeros_like(self.vertices)
        for corner in range(3):
            np.add.at(total, self.faces[:, corner], normals * areas[:, None])
        return total / np.linalg.norm(total, axis=-1, keepdims=True).clip(1e-12)

    @property
    def volume(self) -> float:
        """Signed: positive when the faces look outwards."""
        a, b, c = self.corners.transpose(1, 0, 2)
        return float((a * np.cross(b, c)).sum() / 6)

    @property
    def is_watertight(self) -> bool:
        """Whether every edge has one face on either side, walked in opposite directions."""
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        there, count = np.unique(edges, axis=0, return_counts=True)
        back = np.unique(edges[:, ::-1], axis=0)
        return len(edges) > 0 and bool((count == 1).all()) and np.array_equal(there, back)


def without_crumbs(mesh: Mesh, share: float = 0.05) -> Mesh:
    """The largest connected piece and those of at least `share` of its faces."""
    count = len(mesh.vertices)
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
    _, piece = connected_components(graph, directed=False)
    of_face = piece[mesh.faces[:, 0]]
    sizes = np.bincount(of_face)
    faces = mesh.faces[(sizes >= share * sizes.max())[of_face]]
    used, renumbered = np.unique(faces, return_inverse=True)
    return Mesh(vertices=mesh.vertices[used], faces=renumbered.reshape(-1, 3), colours=mesh.colours[used])


def is_inside(mesh: Mesh, axis: np.ndarray) -> np.ndarray:
    """`[n, n, n]` bool on the grid of `axis` values in x, y and z, by counting how often a ray along z has crossed."""
    step, count = float(axis[1] - axis[0]), len(axis)
    crossings = np.zeros((count, count, count + 1), dtype=np.int32)
    places = (mesh.corners - axis[0]) / step  # corners in grid units
    places[..., :2] += 1e-4 * np.array([0.917, 0.631])  # no ray exactly through an edge
    low = np.ceil(places[..., :2].min(axis=1)).astype(int)
    spans = np.floor(places[..., :2].max(axis=1)).astype(int) - low + 1
    for dx in range(int(spans[:, 0].max(initial=0))):
        for dy in range(int(spans[:, 1].max(initial=0))):
            chosen = (spans[:, 0] > dx) & (spans[:, 1] > dy)
            _cross(crossings, places[chosen], low[chosen] + [dx, dy], count)
    return (crossings.cumsum(axis=2)[..., :count] % 2).astype(bool)


def _cross(crossings: np.ndarray, places: np.ndarray, columns: np.ndarray, count: int) -> None:
    """Mark where rays through whole columns (x, y) meet their triangles, at the first grid point behind."""
    a, b, c = places[:, 0], places[:, 1], places[:, 2]
    first, second = b - a, c - a
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    offset = columns - a[:, :2]
    safe = np.where(area == 0, 1, area)
    s = (offset[:, 0] * second[:, 1] - offset[:, 1] * second[:, 0]) / safe
    t = (first[:, 0] * offset[:, 1] - first[:, 1] * offset[:, 0]) / safe
    hit = (area != 0) & (s >= 0) & (t >= 0) & (s + t <= 1) & (columns >= 0).all(axis=1) & (columns < count).all(axis=1)
    depth = np.ceil(a[:, 2] + s * first[:, 2] + t * second[:, 2]).clip(0, count).astype(int)
    np.add.at(crossings, (columns[hit, 0], columns[hit, 1], depth[hit]), 1)
