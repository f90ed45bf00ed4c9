"""Objects for the multiview stage: views that agree with each other and their mirror images, rows in order."""

from __future__ import annotations

import numpy as np
import torch

from studio.multiview.views import VIEWS, ViewSet
from trainer.tabletop.multiview import DROPOUT, ObjectSet, in_order, mirrored
from trainer.tabletop.objects import frame_of, object_scene, perspective_picture, pictures_of, views_of

SIZE = 32


def test_the_front_view_is_framed_as_uploads_are_and_opposite_views_mirror() -> None:
    for seed in (1, 2, 3):
        scene = object_scene(seed)
        masks = views_of(scene, frame_of(scene), SIZE).masks()
        rows, columns = np.nonzero(masks[0])
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 0.75 * SIZE) <= 2
        for one, other in ((0, 3), (2, 4)):
            assert (masks[one] ^ masks[other][:, ::-1]).mean() < 0.05


def test_normals_face_the_camera_that_sees_them() -> None:
    scene = object_scene(4)
    views = views_of(scene, frame_of(scene), SIZE)
    for view, vectors, mask in zip(VIEWS, views.vectors(), views.masks(), strict=True):
        assert float((vectors[mask] @ view.toward > -0.02).mean()) > 0.99


def test_a_mirror_image_is_the_mirrored_worlds_own_rendering() -> None:
    """Left and right views change places and normals turn their x; twice is where it began."""
    pictures = np.stack([pictures_of(seed, SIZE) for seed in (5, 6)])
    there = mirrored(pictures)
    assert np.array_equal(mirrored(there), pictures)
    views = ViewSet(
        normals=there[0, :6].transpose(0, 2, 3, 1) / 255, colours=there[0, 6:12].transpose(0, 2, 3, 1) / 255
    )
    for view, vectors, mask in zip(VIEWS, views.vectors(), views.masks(), strict=True):
        assert float((vectors[mask] @ view.toward > -0.05).mean()) > 0.98


def test_the_perspective_picture_shows_the_thing_framed() -> None:
    scene = object_scene(7)
    picture = perspective_picture(scene, frame_of(scene), SIZE)
    rows, columns = np.nonzero((picture < 0.97).any(axis=-1))
    assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 0.75 * SIZE) <= 3


def test_rows_are_all_normals_then_all_colours_with_each_objects_views_together() -> None:
    views = torch.arange(3 * 12).reshape(3, 12, 1, 1, 1)
    rows = in_order(views).flatten().tolist()
    assert rows[:6] == list(range(6))
    assert rows[6:12] == list(range(12, 18))
    assert rows[18:24] == list(range(6, 12))
    data = ObjectSet(views=views.half(), pictures=torch.ones(3, 2, 4, 1, 1).half(), tokens=torch.ones(3, 2, 5).half())
    latents, told = data.draw(64, torch.Generator().manual_seed(0), "cpu")
    assert told["labels"].shape == (12 * 64, 10)
    assert told["labels"][0].tolist() == told["labels"][6].tolist() != told["labels"][6 * 64].tolist()
    dropped = told["prompt_embeds"][:, 0, 0] == 0
    assert torch.equal(dropped, told["pictures"][:, 0, 0, 0] == 0)
    assert 0 < float(dropped.float().mean()) < 3 * DROPOUT
    assert torch.equal(dropped[: 6 * 64], dropped[6 * 64 :])
    of_objects = (latents.flatten() // 12).reshape(2, 64, 6)
    assert torch.equal(of_objects[0], of_objects[1])
    assert (of_objects == of_objects[..., :1]).all()
