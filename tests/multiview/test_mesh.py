"""From true views of the world to a mesh: closed, the right shape, the right colours, and a file others can read."""

from __future__ import annotations

import io
import json
import struct
from functools import cache

import numpy as np
import pytest
from PIL import Image

from studio.errors import InvalidRequest
from studio.multiview.glb import glb
from studio.multiview.hull import surface, visual_hull
from studio.multiview.mesh import Mesh, is_inside
from studio.multiview.sculpt import Sculpture, sculpt
from studio.multiview.turntable import turntable
from studio.multiview.views import VIEWS, ViewSet, labels
from trainer.tabletop.objects import Frame, frame_of, solid_of, views_of
from trainer.tabletop.scenes import Scene, Thing

GRID = 44
AXIS = np.linspace(-1, 1, 40)


def true_views(shape: str, colour: str = "red") -> tuple[ViewSet, Scene, Frame]:
    scene = Scene(things=(Thing(shape=shape, colour=colour, yaw=0.4),), sky="studio")
    frame = frame_of(scene)
    return views_of(scene, frame, 64), scene, frame


@cache
def sculpted(shape: str) -> tuple[Sculpture, np.ndarray, ViewSet]:
    views, scene, frame = true_views(shape)
    return sculpt(views, grid=GRID), solid_of(scene, frame, AXIS), views


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(("shape", "least"), [("ball", 0.93), ("house", 0.83)])
def test_true_views_give_a_closed_mesh_of_the_true_shape(shape: str, least: float) -> None:
    made, truth, _ = sculpted(shape)
    assert made.is_watertight
    assert made.mesh.volume > 0
    assert overlap(is_inside(made.mesh, AXIS), truth) > least


@pytest.mark.parametrize("shape", ["ball", "house"])
def test_normals_make_round_what_is_round_and_flat_what_is_flat(shape: str) -> None:
    """The hull has eight sides whatever it was: a house that stands askew fills only 0.7 of its own."""
    made, truth, views = sculpted(shape)
    assert made.normal_error_degrees < 0.4 * made.hull_normal_error_degrees
    hull = visual_hull(views.masks(), grid=GRID)
    assert overlap(is_inside(made.mesh, AXIS), truth) > overlap(is_inside(hull, AXIS), truth)


def test_the_mesh_is_painted_in_the_views_colours() -> None:
    made, _, _ = sculpted("ball")
    red, green, blue = made.mesh.colours.T
    assert float((red > 1.5 * np.maximum(green, blue)).mean()) > 0.9


def test_inside_is_counted_right_on_a_known_solid() -> None:
    x, y, z = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")
    field = np.maximum(0.5 - np.sqrt((x - 0.3) ** 2 + y**2 + z**2), 0.2 - np.abs(np.stack([x + 0.6, y, z])).max(axis=0))
    two = surface(field)
    assert two.is_watertight
    assert overlap(is_inside(two, AXIS), field > 0) > 0.97
    assert two.volume == pytest.approx(4 / 3 * np.pi * 0.5**3 + 0.4**3, rel=0.05)


def test_a_mesh_with_a_face_missing_is_not_watertight() -> None:
    made, _, _ = sculpted("ball")
    open_one = Mesh(vertices=made.mesh.vertices, faces=made.mesh.faces[1:], colours=made.mesh.colours)
    assert not open_one.is_watertight


def test_the_glb_is_one_that_a_reader_of_the_standard_understands() -> None:
    mesh = sculpted("house")[0].mesh
    content = glb(mesh)
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    described = json.loads(content[20 : 20 + size])
    binary_size, binary_kind = struct.unpack_from("<I4s", content, 20 + size)
    binary = content[28 + size :]
    assert (kind, binary_kind, binary_size, size % 4) == (b"JSON", b"BIN\0", len(binary), 0)
    accessors, views = described["accessors"], described["bufferViews"]
    positions, _, colours, indices = (
        np.frombuffer(binary[view["byteOffset"] :][: view["byteLength"]], dtype)
        for view, dtype in zip(views, ("<f4", "<f4", "<u2", "<u4"), strict=True)
    )
    assert np.allclose(positions.reshape(-1, 3), mesh.vertices, atol=1e-6)
    assert np.array_equal(indices.reshape(-1, 3), mesh.faces)
    assert accessors[0]["min"] == positions.reshape(-1, 3).min(axis=0).tolist()
    assert (colours.reshape(-1, 4)[:, 3] == 65535).all()
    assert all(view["byteOffset"] % 4 == 0 for view in views)


def test_the_turntable_turns() -> None:
    with Image.open(io.BytesIO(turntable(sculpted("house")[0].mesh, num_frames=4))) as picture:
        assert (picture.n_frames, picture.format) == (4, "WEBP")  # pyright: ignore[reportAttributeAccessIssue]
        first = np.asarray(picture.convert("RGB"), dtype=float)
        picture.seek(1)
        quarter = np.asarray(picture.convert("RGB"), dtype=float)
    assert np.abs(first - quarter).mean() > 2
    assert (first < 250).any(axis=-1).mean() > 0.1


def test_a_sheet_holds_the_views_and_gives_them_back() -> None:
    views, _, _ = true_views("mug")
    again = ViewSet.of_sheet(views.sheet())
    assert np.abs(again.normals - views.normals).max() <= 0.5 / 255 + 1e-6
    assert np.abs(again.colours - views.colours).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(InvalidRequest, match="6 x 2 square views"):
        ViewSet.of_sheet(Image.new("RGB", (300, 300)))


def test_masks_come_from_normals_whatever_the_colour() -> None:
    """A white thing on white: its outline is that of a red one."""
    seen = true_views("ball", "white")[0].masks()
    assert np.array_equal(seen, true_views("ball")[0].masks())
    assert seen.any(axis=(1, 2)).all()
    rows, columns = np.nonzero(seen[0])
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(0.75 * 64, abs=2)


def test_views_without_an_object_are_refused_in_a_sentence() -> None:
    nothing = np.ones((6, 32, 32, 3), dtype=np.float32)
    with pytest.raises(InvalidRequest, match="empty views"):
        sculpt(ViewSet(normals=nothing, colours=nothing))


def test_labels_tell_twelve_rows_apart() -> None:
    rows = labels()
    assert rows.shape == (12, 10)
    assert len({tuple(row) for row in rows.round(5).tolist()}) == 12
    assert rows[0].tolist() == pytest.approx([0, 0, 0, np.sin(1), 0, 1, 1, 1, np.cos(1), 1])
    assert [view.yaw_degrees for view in VIEWS] == [0, 45, 90, 180, 270, 315]
