"""The little world: scenes by seed, words that match them, geometry that agrees with itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.tabletop.captions import (
    FLOOR_WORDS,
    MATERIAL_WORDS,
    SKY_WORDS,
    caption,
    full_caption,
    vocabulary,
    wrong_caption,
)
from trainer.tabletop.clip import mirrored
from trainer.tabletop.geometry import JOINTS, parts_of
from trainer.tabletop.renderer import Camera, intersect, orthographic_views, render
from trainer.tabletop.scenes import COLOURS, MATERIALS, SHAPES, Scene, Thing, is_held_out, random_scene


def test_a_seed_is_a_scene_for_ever() -> None:
    assert random_scene(7) == random_scene(7)
    assert random_scene(7) != random_scene(8)
    first = render(random_scene(7), 32).rgb
    assert torch.equal(first, render(random_scene(7), 32).rgb)


def test_about_five_per_cent_of_combinations_never_occur_in_training() -> None:
    combinations = [(s, c, m) for s in SHAPES for c in COLOURS for m in MATERIALS]
    held_out = [combination for combination in combinations if is_held_out(*combination)]
    assert 0.02 < len(held_out) / len(combinations) < 0.08
    for seed in range(400):
        assert not any(is_held_out(t.shape, t.colour, t.material) for t in random_scene(seed).things)
    assert all(
        is_held_out(t.shape, t.colour, t.material)
        for seed in range(20)
        for t in random_scene(seed, held_out=True).things[:1]
    )


def test_captions_say_every_colour_and_shape_and_vary() -> None:
    for seed in range(60):
        scene = random_scene(seed)
        text = caption(scene, seed)
        assert all(thing.colour in text for thing in scene.things)
        assert text == caption(scene, seed)
        assert text.replace(",", "").split() == [word for word in text.split() if word in vocabulary()]
    assert len({caption(random_scene(3), wording) for wording in range(20)}) > 8


def test_a_full_caption_leaves_nothing_unsaid() -> None:
    for seed in range(40):
        scene = random_scene(seed, num_things=1 + seed % 2)
        text = full_caption(scene)
        assert FLOOR_WORDS[scene.floor][0] in text
        assert SKY_WORDS[scene.sky][0] in text
        assert all(MATERIAL_WORDS[thing.material][0] in text and thing.colour in text for thing in scene.things)
        assert set(text.split()) <= set(vocabulary())


def test_a_wrong_caption_differs_from_the_right_one() -> None:
    for seed in range(200):
        scene = random_scene(seed)
        assert wrong_caption(scene, seed) != caption(scene, seed)


def test_relations_hold_in_the_picture() -> None:
    """Left is left in pixels, behind is farther, on top is higher."""
    seen = set()
    for seed in range(120):
        scene = random_scene(seed, num_things=2)
        relation = scene.relations[0]
        if relation in seen and len(seen) == 4:
            break
        drawn = render(scene, 64)
        masks = [drawn.owner == index for index in range(2)]
        if min(int(mask.sum()) for mask in masks) < 30:
            continue
        (row0, col0), (row1, col1) = (mask.nonzero().float().mean(0).tolist() for mask in masks)
        depths = [float(drawn.depth[mask].mean()) for mask in masks]
        holds = {
            "left of": col1 < col0,
            "right of": col1 > col0,
            "behind": depths[1] > depths[0],
            "on top of": row1 < row0,
        }
        assert holds[relation], (seed, relation)
        seen.add(relation)
    assert seen == {"left of", "right of", "behind", "on top of"}


def test_a_mirrored_scene_swaps_left_and_right_only() -> None:
    scene = next(random_scene(s) for s in range(99) if random_scene(s).relations == ("left of",))
    assert mirrored(scene).relations == ("right of",)
    assert mirrored(mirrored(scene)) == scene


def test_sphere_hit_is_the_closed_form() -> None:
    (ball,) = parts_of(Thing(shape="ball", colour="red", size="medium"))
    radius, height = float(ball.half[0]), float(ball.offset[1])
    origin = torch.tensor([[0.0, height, 5.0], [radius / 2, height, 5.0], [2 * radius, height, 5.0]])
    ahead = torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3)
    hit = intersect(ball, origin, ahead)
    assert hit[0] == pytest.approx(5 - radius, abs=1e-4)
    assert hit[1] == pytest.approx(5 - radius * math.sqrt(0.75), abs=1e-4)
    assert hit[2] > 1e8


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_unit_and_face_the_camera(shape: str) -> None:
    scene = replace(random_scene(1, num_things=1), things=(Thing(shape=shape, colour="blue", yaw=0.4),))
    drawn = render(scene, 48)
    normals = drawn.normals[:, drawn.mask]
    assert drawn.mask.sum() > 40
    assert torch.allclose(normals.norm(dim=0), torch.ones(normals.shape[1]), atol=1e-3)
    assert (normals[2] > -0.35).float().mean() > 0.98  # perspective lets some lean away a little
    assert torch.isfinite(drawn.rgb).all()
    assert 0 <= float(drawn.rgb.min()) <= float(drawn.rgb.max()) <= 1


@pytest.mark.parametrize("shape", ["cube", "house", "cone", "figure"])
def test_orthographic_views_agree_from_opposite_sides(shape: str) -> None:
    """The silhouette from behind is the mirror image of that from the front; no ground is seen."""
    scene = Scene(things=(Thing(shape=shape, colour="red", yaw=0.3, pose="waving"),))
    front, back = orthographic_views(scene, (0, 180), size=64)
    agreement = (front.mask == back.mask.flip(1)).float().mean()
    assert agreement > 0.97
    assert 0.02 < front.mask.float().mean() < 0.8
    edge = torch.cat([front.mask[0], front.mask[-1], front.mask[:, 0], front.mask[:, -1]])
    assert not edge.any(), "the object fits its frame"


def test_normals_of_a_view_are_in_the_front_cameras_frame() -> None:
    """From the right (yaw 90) a cube shows its right face, whose normal is +x for the front camera."""
    right = orthographic_views(Scene(things=(Thing(shape="cube", colour="red"),)), (90,), size=32)[0]
    mean = right.normals[:, right.mask].mean(1)
    assert torch.allclose(mean, torch.tensor([1.0, 0.0, 0.0]), atol=0.05)


def test_joints_lie_on_the_figure_and_move_with_time() -> None:
    figure = Thing(shape="figure", colour="green", pose="walking")
    scene = replace(random_scene(2, num_things=1), things=(figure,), camera_yaw=0.0)
    drawn = render(scene, 96)
    joints = drawn.joints[0]
    assert tuple(sorted(joints)) == tuple(sorted(JOINTS))
    on_figure = [drawn.owner[int(y), int(x)] == 0 for x, y, visible in joints.values() if visible]
    assert np.mean(on_figure) > 0.8
    later = render(scene.at(0.25), 96).joints[0]
    assert later["left_knee"] != joints["left_knee"]


def test_time_loops_and_moves_things() -> None:
    scene = replace(random_scene(2), things=(Thing(shape="ball", colour="red", motion="bounce"),), relations=())
    assert scene.at(0.25).things[0].position[1] == pytest.approx(0.5)
    assert scene.at(1.0).things == scene.at(0.0).things


def test_camera_projects_to_where_it_looks() -> None:
    camera = Camera.looking(np.array([0.0, 0.5, 0.0]), 0.3, 0.2, 5.0)
    x, y, depth = camera.project(np.array([0.0, 0.5, 0.0]))
    assert (x, y, depth) == pytest.approx((0, 0, 5))
