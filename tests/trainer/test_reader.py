"""The reader of depth and joints: it learns what it is shown, mirrors rightly, and finds places between cells."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.following import Subject, edge_f1, tile_psnr
from trainer.controls import control_of_scene, image_from
from trainer.tabletop.geometry import JOINTS
from trainer.tabletop.reader import (
    MIRRORED,
    PLACES,
    Labels,
    Reader,
    ReaderTask,
    depth_levels,
    has_one_figure,
    joint_error,
    joints_seen,
    rank_correlation,
    read,
)
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

SEEDS = [seed for seed in range(60) if has_one_figure(random_scene(seed))][:4]


class Pointing(torch.nn.Module):
    """Stands for a reader that sees every joint between two cells."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.full((len(pixels), len(JOINTS), PLACES, PLACES), -20.0)
        logits[..., 10, 4] = logits[..., 10, 5] = 10.0
        return torch.zeros(len(pixels), PLACES, PLACES), logits


def test_places_are_read_in_pixels_and_between_cells() -> None:
    _, joints = read(Pointing(), torch.zeros(1, 3, 128, 128))  # type: ignore[arg-type]
    assert np.allclose(joints[0], [(4.5 + 0.5) * 4, (10 + 0.5) * 4], atol=1e-3)


def test_joints_of_the_one_figure_are_where_the_renderer_saw_them() -> None:
    scene = random_scene(SEEDS[0])
    seen = render(scene, 128)
    table = joints_seen(scene, seen)
    [figure] = [each for each in seen.joints if each]
    expected = [[*map(float, figure[name])] if name in figure else [0, 0, 0] for name in JOINTS]
    assert np.allclose(table.numpy(), expected)
    assert table[:, 2].any()
    plain = next(each for each in map(random_scene, range(60)) if not has_one_figure(each))
    assert not joints_seen(plain, render(plain, 64)).any()
    assert [JOINTS[place] for place in MIRRORED][JOINTS.index("left_knee")] == "right_knee"
    assert tuple(MIRRORED[place] for place in MIRRORED) == tuple(range(len(JOINTS)))


def test_it_learns_a_few_scenes() -> None:
    torch.manual_seed(0)
    scenes = [random_scene(seed) for seed in SEEDS]
    seen = [render(scene, 128) for scene in scenes]
    labels = Labels(
        images=torch.stack([(each.rgb * 255).to(torch.uint8) for each in seen]),
        depth=torch.stack([depth_levels(each) for each in seen]),
        joints=torch.stack([joints_seen(*pair) for pair in zip(scenes, seen, strict=True)]),
    )
    task = ReaderTask(Reader(), labels, "cpu", batch=4)
    optimizer = torch.optim.Adam(task.module.parameters(), 3e-3)
    pixels = torch.stack([each.rgb for each in seen]) * 2 - 1

    def errors() -> tuple[float, float]:
        depth, joints = read(task.reader, pixels)
        found = [joint_error(at, truth.numpy()) for at, truth in zip(joints, labels.joints, strict=True)]
        ranks = [rank_correlation(one, other.numpy()) for one, other in zip(depth, labels.depth, strict=True)]
        return float(np.mean(ranks)), float(np.mean([each for each in found if each is not None]))

    before = errors()
    for step in range(60):
        optimizer.zero_grad()
        task.loss(step, torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    after = errors()
    assert after[0] > max(before[0], 0.6)
    assert after[1] < 0.7 * before[1]


def test_what_is_the_scene_itself_follows_perfectly_and_another_does_not() -> None:
    scene, other = random_scene(SEEDS[0]), random_scene(SEEDS[1])
    seen, else_seen = render(scene, 128), render(other, 128)
    pixels = (seen.rgb * 255).round().to(torch.uint8)
    edges = Subject(scene=scene, seen=seen, picture=image_from(control_of_scene("canny", seen, pixels)))
    strange = image_from((else_seen.rgb * 255).round().to(torch.uint8))
    assert edge_f1(edges.true, edges) == 1.0 > edge_f1(strange, edges) + 0.3
    assert tile_psnr(edges.true, edges) > 90 > tile_psnr(strange, edges) + 50
