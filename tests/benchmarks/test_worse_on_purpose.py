"""A generator made worse on purpose scores worse on the right measure, and not on the wrong one.

It is the shipped PeRFlow Tabletop at 4 steps; the reference is the same on other prompts from other noise. The judge's
features are of what is to be seen and little of how sharp: a blur that spares the things is for PSNR to find.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from benchmarks.drawing import NOISE_SEED, Bench, Contestant, contestants, noise_of, unseen_scenes
from benchmarks.measures import (
    Eye,
    coverage,
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    psnr_db,
    standardised,
    still_finding,
    vendi_score,
)
from trainer.tabletop.captions import full_caption

ASSETS = Path(__file__).resolve().parents[2] / "assets"
COUNT = 40
CFG = 1.5


class World:
    """Pictures of the generator as it is, and of other noise."""

    def __init__(self) -> None:
        self.bench, self.eye = Bench(ASSETS, COUNT), Eye.load(ASSETS)
        known = {each.id: each for each in contestants(ASSETS)}
        self.perflow, self.ddim = known["perflow-tabletop"], known["ddim"]
        self.noise = noise_of(COUNT)
        self.pixels = self.draw(self.perflow, 4)
        others = [scene for n in (1, 2) for scene in unseen_scenes(n, COUNT // 2, COUNT)]
        prompts = self.bench.embed([full_caption(scene) for scene in others])
        noise = noise_of(COUNT, NOISE_SEED + 1)
        self.reference = self.eye.features(self.draw(self.perflow, 4, noise=noise, prompts=prompts))
        self.fd = self.fd_of(self.pixels)

    def draw(self, contestant: Contestant, steps: int, *, noise: torch.Tensor | None = None,
             prompts: torch.Tensor | None = None, negative: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
        """Pixels; of the bench's own prompts from `self.noise` unless others are given."""
        noise = self.noise if noise is None else noise
        latents = self.bench.draw(contestant, steps, CFG, noise, prompts=prompts, negative=negative)
        return self.bench.pixels(latents)

    def fd_of(self, pixels: torch.Tensor) -> float:
        """Against the reference."""
        return frechet_distance(self.eye.features(pixels), self.reference)

    def things(self, pixels: torch.Tensor) -> float:
        """Single and double accuracy, their mean."""
        found = self.eye.accuracies(pixels, self.bench.scenes)
        return (found["single"] + found["double"]) / 2


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_one_step_instead_of_four_raises_fd_and_kid_and_lowers_recall(world: World) -> None:
    one, own = world.eye.features(world.draw(world.ddim, 1)), world.eye.features(world.pixels)
    assert frechet_distance(one, world.reference) > 1.2 * world.fd
    assert kernel_distance(one, world.reference) > kernel_distance(own, world.reference) + 0.4
    assert coverage(one, world.reference, 1).recall < coverage(own, world.reference, 1).recall - 0.1


def test_a_blur_lowers_psnr_and_one_that_hides_the_things_raises_fd(world: World) -> None:
    faint, strong = (interpolate(avg_pool2d(world.pixels, n), scale_factor=n, mode="bilinear") for n in (2, 16))
    assert psnr_db(strong, world.pixels) < psnr_db(faint, world.pixels) - 6
    assert world.fd_of(strong) > 1.15 * world.fd
    assert world.things(strong) < world.things(world.pixels) - 0.1


def test_shuffled_prompts_lower_adherence_and_leave_fd_where_it_was(world: World) -> None:
    shuffled = world.draw(world.perflow, 4, prompts=world.bench.prompts.roll(3, 0))
    assert world.things(shuffled) < world.things(world.pixels) - 0.3
    assert world.fd_of(shuffled) < 1.25 * world.fd


def test_noise_on_the_weights_raises_fd(world: World) -> None:
    world.bench.wear(world.perflow)
    generator = torch.Generator().manual_seed(0)
    weights = [value for value in world.bench.pipe.unet.parameters() if value.ndim > 1]
    kept = [value.data.clone() for value in weights]
    for value in weights:
        value.data += 0.25 * value.data.std() * torch.randn(value.shape, generator=generator)
    try:
        assert world.fd_of(world.draw(world.perflow, 4)) > 1.3 * world.fd
    finally:
        for value, before in zip(weights, kept, strict=True):
            value.data.copy_(before)


def test_one_noise_for_all_takes_the_diversity_and_leaves_the_adherence(world: World) -> None:
    prompt = world.bench.prompts[:1].expand(6, -1, -1)
    many = world.draw(world.perflow, 4, prompts=prompt, noise=noise_of(6))
    one = world.draw(world.perflow, 4, prompts=prompt, noise=noise_of(1).expand(6, -1, -1, -1))
    free, tied = (standardised(world.eye.features(each), world.reference) for each in (many, one))
    assert vendi_score(tied) == pytest.approx(1, abs=1e-3)
    assert vendi_score(free) > 1.5
    assert mean_pairwise_distance(tied) < 0.01 * mean_pairwise_distance(free)


def test_a_negative_prompt_is_seen_to_be_obeyed(world: World) -> None:
    texts = ["a red ball at night", "a blue cube at night", "a green cone at night", "a yellow mug at night"]
    prompts = world.bench.embed([text.removesuffix(" at night") for text in texts])
    at_night = world.bench.embed(texts)
    noise = world.noise[:4]
    plain = world.draw(world.perflow, 4, prompts=at_night, noise=noise)
    against = world.draw(
        world.perflow, 4, prompts=prompts, noise=noise, negative=world.bench.embed(["at night under a night sky"])
    )
    assert still_finding(world.eye, plain, "sky", ["night"] * 4) > 0.7
    assert still_finding(world.eye, against, "sky", ["night"] * 4) < 0.5
