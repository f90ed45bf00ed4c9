"""The style that the trainer is tried on: made from what is installed, the same every time, unlike the world itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studio.datasets.store import DatasetStore
from tests.pictures import PHOTO_EVERY, STYLE, style_zip, styled_pictures
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene


def test_a_zip_of_them_becomes_a_whole_dataset(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    store = DatasetStore(tmp_path / "datasets")
    made = store.import_zip(style_zip(tmp_path / "ink.zip", 10, side=64), "Ink")
    assert len(made.manifest.kept) == len(made.manifest.entries) == 10
    assert all(entry.caption.startswith(STYLE) for entry in made.manifest.kept)
    assert made.manifest.kept[PHOTO_EVERY - 1].caption == "an ink drawing of an astronaut in an orange suit"
    assert made.summary(resolution=64).buckets[0].size == (64, 64)
    again = store.import_zip(style_zip(tmp_path / "again.zip", 10, side=64), "Again")
    assert again.fingerprint == made.fingerprint


def test_the_style_has_few_colours_and_dark_lines() -> None:
    image, _ = next(styled_pictures(1, 128))
    inked = np.asarray(image).astype(int)
    plain = (render(random_scene(20_500_000, num_things=1), 128).rgb * 255).permute(1, 2, 0).numpy()
    assert np.abs(inked - plain).mean() > 15
    assert (inked.max(-1) < 70).mean() > 0.01
