"""Distances between sets: known distributions give known values."""

from __future__ import annotations

import pytest
import torch

from trainer.tabletop.captions import vocabulary
from trainer.tabletop.judge import asked, pair_index
from trainer.tabletop.measures import frechet_distance, kernel_distance
from trainer.tabletop.models import write_tokenizer
from trainer.tabletop.scenes import random_scene


def test_frechet_distance_of_two_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40000, 3, generator=generator)
    b = 2 * torch.randn(40000, 3, generator=generator) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(1 + 3 * (1 - 2) ** 2, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_unbiased_at_zero_and_grows_with_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(300, 4, generator=generator) for _ in range(10)]
    same = torch.tensor([kernel_distance(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)])
    assert float(same.mean().abs()) < 0.02
    assert kernel_distance(sets[0], sets[1] + 1) > kernel_distance(sets[0], sets[1] + 0.5) > 0.05


def test_labels_tell_what_is_there() -> None:
    scene = random_scene(11, num_things=2)
    labels = asked([scene])
    assert labels["pairs"].sum() == 2
    assert all(labels["pairs"][0, pair_index(t.shape, t.colour)] == 1 for t in scene.things)


def test_every_word_of_the_world_is_one_token_and_any_text_is_accepted(tmp_path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 3, word
    odd = tokenizer("Zebra, naïve 猫 \x00!").input_ids
    assert tokenizer.unk_token_id not in odd[1:-1] or tokenizer.unk_token_id == tokenizer.eos_token_id
    assert len(odd) > 10
