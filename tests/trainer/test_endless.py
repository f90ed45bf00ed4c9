"""Tabletop as data: scenes by seed, rendered by whoever, with captions and controls that fit them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from studio.errors import InvalidRequest
from studio.runs.config import DatasetRef
from tests.trainer.data_fakes import FakeEncoder, config_for
from trainer.controls import control_of_scene
from trainer.data import TrainingData
from trainer.endless import TabletopSource, rendered_pixels
from trainer.tabletop.captions import caption
from trainer.tabletop.data import JUDGE_SEEDS, TEST_SEEDS
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

ROOT = Path(__file__).resolve().parents[2]


def data_of(folder: Path, source: str, encoder: FakeEncoder | None = None, world: int = 1, **changes: object):
    config = config_for(DatasetRef(id="tabletop", kind="tabletop", source=source), **changes)
    return TrainingData.of(config, encoder or FakeEncoder(), cache_dir=folder, world=world)


def seed_of(name: str) -> int:
    return int(name.removeprefix("scene "))


@pytest.mark.parametrize("source", ["endless", "pool:6"])
def test_batches_are_functions_of_their_place(tmp_path: Path, source: str) -> None:
    one, other = data_of(tmp_path / "a", source), data_of(tmp_path / "b", source, num_workers=2)
    try:
        for step in (0, 1, 4, 0):
            first, second = one.batch(step), other.batch(step)
            assert first.names == second.names
            assert first.captions == second.captions
            assert torch.equal(first.latents, second.latents)
    finally:
        other.close()
    two = [data_of(tmp_path / "a", source, world=2, batch_size=2).batch(3, rank, 2) for rank in range(2)]
    assert sum((batch.names for batch in two), ()) == one.batch(3).names
    assert torch.equal(torch.cat([batch.latents for batch in two]), one.batch(3).latents)


def test_endless_scenes_are_all_different_and_keep_to_their_range(tmp_path: Path) -> None:
    data = data_of(tmp_path, "endless", batch_size=8)
    seeds = [seed_of(name) for step in range(3) for name in data.batch(step).names]
    assert len(set(seeds)) == 24
    assert all(0 <= seed < JUDGE_SEEDS for seed in seeds)
    held_out = data.held_out(3)
    assert [seed_of(name) for name in held_out.names] == [TEST_SEEDS, TEST_SEEDS + 1, TEST_SEEDS + 2]
    assert not list(tmp_path.rglob("*.part"))


def test_a_pool_is_rendered_once_and_its_captions_vary(tmp_path: Path) -> None:
    encoder, told = FakeEncoder(), []
    data = data_of(tmp_path, "pool:5", encoder, caption_dropout=0.0)
    data.build(report=told.append)
    assert encoder.num_encoded == 5
    assert told[-1] == 1.0
    batches = [data.batch(step) for step in range(20)]
    assert encoder.num_encoded == 5
    names = [name for batch in batches for name in batch.names]
    assert {names.count(name) for name in set(names)} == {16}
    texts = {name: set() for name in names}
    for batch in batches:
        for name, text in zip(batch.names, batch.captions, strict=True):
            texts[name].add(text)
            scene = random_scene(seed_of(name))
            assert all(thing.colour in text for thing in scene.things)
    assert all(1 < len(said) <= 4 for said in texts.values())


def test_what_is_trained_on_is_what_the_renderer_draws(tmp_path: Path) -> None:
    held_out = data_of(tmp_path, "pool:2", resolution=128).held_out(2)
    scene = random_scene(TEST_SEEDS)
    assert held_out.images is not None
    assert torch.allclose((held_out.images[0] + 1) / 2, render(scene, 128).rgb, atol=0.003)
    assert held_out.captions[0] == caption(scene, TEST_SEEDS)


@pytest.mark.parametrize("control", ["depth", "pose", "tile", "canny"])
def test_scenes_give_their_controls(tmp_path: Path, control: str) -> None:
    if control == "canny":
        pytest.importorskip("cv2")
    changes = {"method": "controlnet", "control": control}
    data = data_of(tmp_path, "pool:3", **changes)
    batch = data.batch(0)
    assert batch.condition["control"].shape == (4, 3, 64, 64)
    again = data_of(tmp_path, "endless", **changes).batch(0)
    assert again.condition["control"].shape == (4, 3, 64, 64)
    for name, shown in zip(batch.names, batch.condition["control"], strict=True):
        direct = rendered_pixels(seed_of(name), 64, control)["control"]
        assert torch.equal((shown * 255).round().to(torch.uint8), direct)


def test_depth_is_white_near_and_black_in_the_sky() -> None:
    seen = render(random_scene(3), 64)
    shown = control_of_scene("depth", seen, (seen.rgb * 255).to(torch.uint8))[0].float()
    assert shown.max() == 255
    assert bool((shown[seen.depth.isinf()] == 0).all())
    ground = seen.owner == -1
    near, far = shown[-1][ground[-1]].mean(), shown[ground].min()
    assert near > far


def test_a_pose_is_drawn_where_the_figure_is() -> None:
    seed = next(seed for seed in range(200) if [thing.shape for thing in random_scene(seed).things] == ["figure"])
    seen = render(random_scene(seed), 128)
    shown = control_of_scene("pose", seen, (seen.rgb * 255).to(torch.uint8)).float().amax(0) > 0
    assert shown.sum() > 100
    grown = torch.nn.functional.max_pool2d(seen.mask[None].float(), 9, 1, 4)[0] > 0
    assert (shown & grown).sum() / shown.sum() > 0.95


@pytest.mark.parametrize("source", ["pool:0", "pool:x", "many", "pool:2000000"])
def test_a_source_that_means_nothing_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidRequest, match="endless, or pool:N"):
        data_of(tmp_path, source)


def test_scenes_are_not_mirrored(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="left and right"):
        data_of(tmp_path, "endless", random_flip=True)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """A trainer killed outright leaves no renderer behind."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.trainer.test_endless import data_of\n"
        "if __name__ == '__main__':\n"
        "    data = data_of(Path(sys.argv[1]), 'pool:4', num_workers=2)\n"
        "    data.build()\n"
        "    print(*data.source._workers._processes, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert workers
        assert all(is_alive(pid) for pid in workers)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 60
        while any(is_alive(pid) for pid in workers):
            assert time.monotonic() < deadline, "the workers live on"
            time.sleep(0.1)


def is_alive(pid: int) -> bool:
    """Whether a process runs; the dead whom nobody has buried do not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_the_default_is_a_pool(tmp_path: Path) -> None:
    source = data_of(tmp_path, "").source
    assert isinstance(source, TabletopSource)
    assert source.pool_size == 512
