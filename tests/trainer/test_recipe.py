"""The whole recipe, in miniature: from seeds to folders that the studio loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from studio.networks.wonder3d import read_wonder3d
from studio.perflow import DeltaWeights, KeptBase, weights_sha256
from studio.runs.exports import LORA_FILE
from trainer.tabletop import data, multiview, objects, recipe
from trainer.tabletop.distillation import RACE, folder_of
from trainer.tabletop.recipe import STAGES, Recipe

SECONDS = 0.5


@pytest.mark.slow
def test_every_stage_runs_and_the_result_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CHUNK", 4)
    monkeypatch.setattr(recipe, "NUM_JUDGE_SCENES", 4)
    monkeypatch.setattr(recipe, "NUM_TEST_SCENES", 4)
    made = Recipe(device="cpu", work=tmp_path / "work", assets=tmp_path / "assets", num_scenes=8, workers=1)
    monkeypatch.setattr(data, "render_chunks", _render_here)
    monkeypatch.setattr(objects, "CHUNK", 2)
    monkeypatch.setattr(objects, "render_objects", _render_objects_here)
    monkeypatch.setattr(multiview, "NUM_OBJECTS", 4)
    for stage in STAGES:
        made.run(stage, SECONDS / 60)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "assets" / "tabletop", dtype=torch.float32)
    delta = DeltaWeights.read(tmp_path / "assets" / "perflow-tabletop")
    assert delta.spec.base_sha256 == weights_sha256(pipe.unet)
    assert max(float(value.abs().max()) for value in delta.tensors.values()) > 0
    picture = pipe("a red cube", num_inference_steps=1, output_type="np").images[0]
    assert picture.shape == (128, 128, 3)
    _check_views(tmp_path / "assets", delta)
    for stage in RACE:
        pipe.load_lora_weights(str(tmp_path / "assets" / folder_of(stage)), weight_name=LORA_FILE)
        assert pipe("a red cube", num_inference_steps=1, output_type="np").images[0].shape == (128, 128, 3)
        pipe.unload_lora_weights()
    card = (tmp_path / "assets" / "perflow-tabletop" / "README.md").read_text()
    assert "endpoint_errors" in card
    again = Recipe(device="cpu", work=tmp_path / "elsewhere", assets=tmp_path / "assets", num_scenes=8, workers=1)
    again.run("take-up")
    assert weights_sha256(again.teacher()) == weights_sha256(pipe.unet)
    assert again.result("multiview").exists()
    assert again.facts()["teacher"]["steps_before"] == made.facts()["teacher"]["steps"]
    assert torch.allclose(again.embed(["a red cube"]), made.embed(["a red cube"]), atol=0.05)


def _render_here(cache: Path, first_seed: int, count: int, workers: int):
    """Chunks in this process, where the smaller CHUNK is known."""
    for start in range(first_seed, first_seed + count, data.CHUNK):
        data._render_chunk(cache, start)
        yield start - first_seed + data.CHUNK


def _render_objects_here(cache: Path, first_seed: int, count: int, size: int, workers: int):
    for start in range(first_seed, first_seed + count, objects.CHUNK):
        objects.render_chunk(cache, start, size)
        yield start - first_seed + objects.CHUNK


def _check_views(assets: Path, delta: DeltaWeights) -> None:
    """The multiview network ships in small files, is read as the studio reads it, and takes the family's ΔW by name."""
    folder = assets / "tabletop-multiview" / "unet"
    shards = sorted(folder.glob("*.safetensors"))
    assert max(shard.stat().st_size for shard in shards) < 10_000_000
    unet = read_wonder3d(folder, {name: value for shard in shards for name, value in load_file(shard).items()})
    report = KeptBase(unet).compare(delta)
    assert (report.unexpected, report.misshapen) == ((), ("conv_in.weight",))
    assert float(unet.conv_in.weight[:, 4:].abs().max()) > 0, "the stage trained what is new"


def test_a_stage_says_which_one_must_come_first(tmp_path: Path) -> None:
    made = Recipe(device="cpu", work=tmp_path, assets=tmp_path / "assets")
    with pytest.raises(SystemExit, match=r"trainer\.tabletop latents"):
        made.run("teacher")
