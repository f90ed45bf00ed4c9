"""The whole recipe, in miniature: from seeds to folders that the studio loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from studio.errors import IncompatibleWeights
from studio.networks.wonder3d import on_base, read_wonder3d
from studio.perflow import DeltaWeights, KeptBase, weights_sha256
from studio.perflow.safefile import read_header
from studio.perflow.schedule import NoiseSchedule
from studio.runs.exports import LORA_FILE
from trainer.tabletop import data, models, multiview, objects, recipe
from trainer.tabletop.control import (
    CONTROLS,
    IP_ADAPTER,
    ControlTask,
    IPAdapter,
    IPAdapterTask,
    Maps,
    new_controlnet,
)
from trainer.tabletop.diffusion import LatentSet
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
    _controls_work_beside(tmp_path / "assets", pipe)
    _check_views(tmp_path / "assets", pipe.unet, delta)
    for stage in RACE:
        pipe.load_lora_weights(str(tmp_path / "assets" / folder_of(stage)), weight_name=LORA_FILE)
        assert pipe("a red cube", num_inference_steps=1, output_type="np").images[0].shape == (128, 128, 3)
        pipe.unload_lora_weights()
    card = (tmp_path / "assets" / "perflow-tabletop" / "README.md").read_text()
    assert "endpoint_errors" in card
    again = Recipe(device="cpu", work=tmp_path / "elsewhere", assets=tmp_path / "assets", num_scenes=8, workers=1)
    again.run("take-up")
    assert weights_sha256(again.teacher()) == weights_sha256(pipe.unet)
    was, now = load_file(made.result("multiview")), load_file(again.result("multiview"))
    assert all(torch.allclose(now[name], value, atol=1e-3, rtol=1e-3) for name, value in was.items())
    assert again.facts()["teacher"]["steps_before"] == made.facts()["teacher"]["steps"]
    assert torch.allclose(again.embed(["a red cube"]), made.embed(["a red cube"]), atol=0.05)
    assert all(again.result(stage).exists() for stage in (*CONTROLS, IP_ADAPTER))


def _controls_work_beside(assets: Path, pipe: StableDiffusionPipeline) -> None:
    """diffusers' own classes load what ships, and it changes the picture."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
    from PIL import Image

    pipe.set_progress_bar_config(disable=True)
    plain = pipe("a red cube", num_inference_steps=1, output_type="np", generator=_seed()).images[0]
    for control in CONTROLS:
        folder = assets / "tabletop-controls" / control
        network = ControlNetModel.from_pretrained(folder, dtype=torch.float32)
        assert (folder / "diffusion_pytorch_model.safetensors").stat().st_size < 6_000_000
        controlled = StableDiffusionControlNetPipeline(
            **pipe.components, controlnet=network, requires_safety_checker=False
        )
        with Image.open(folder / "example.png") as example:
            assert example.getextrema() != ((0, 0), (0, 0), (0, 0)), control
            seen = controlled("a red cube", image=example.convert("RGB"), num_inference_steps=1, output_type="np",
                              generator=_seed()).images[0]  # fmt: skip
        assert (seen != plain).any(), control
    folder = assets / "tabletop-ip-adapter"
    pipe.load_ip_adapter(str(folder), subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None)
    embeds = torch.randn(2, 1, 192, generator=torch.Generator().manual_seed(0))
    pictures = [
        pipe("a red cube", num_inference_steps=1, output_type="np", generator=_seed(),
             ip_adapter_image_embeds=[each]).images[0]
        for each in (embeds, 4 * embeds.flip(0))
    ]  # fmt: skip
    assert (pictures[0] != pictures[1]).any()
    pipe.unload_ip_adapter()


def _seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_new_controlnet_is_slim_begins_as_the_unet_and_changes_nothing() -> None:
    unet = models.new_unet()
    control = new_controlnet(unet)
    assert sum(weight.numel() for weight in control.parameters()) < 2_500_000
    own, base = control.state_dict(), unet.state_dict()
    assert torch.equal(own["down_blocks.1.resnets.0.conv1.weight"], base["down_blocks.1.resnets.0.conv1.weight"])
    z, prompt = torch.randn(1, 4, 16, 16), torch.randn(1, 64, 192)
    down, middle = control(z, 5, prompt, torch.rand(1, 3, 128, 128), return_dict=False)
    assert not any(each.abs().max() for each in (*down, middle))
    beside = unet(z, 5, prompt, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    assert torch.equal(beside, unet(z, 5, prompt).sample)


def test_an_ip_adapters_file_gives_the_same_adapter_again() -> None:
    unet = models.new_unet()
    adapter = IPAdapter(unet)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.normal_()
    again = IPAdapter(models.new_unet())
    again.load_file(adapter.file())
    assert all(torch.equal(value, adapter.file()[name]) for name, value in again.file().items())
    assert {name.split(".")[1] for name in adapter.file() if name.startswith("ip_adapter")} == {"1", "3", "5", "7"}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_stage_lowers_its_loss_and_leaves_the_base_alone(control: str) -> None:
    torch.manual_seed(0)
    unet, images = _small_unet(), _pictures(8)
    before = weights_sha256(unet)
    rendered = np.stack([images[i][:1] if control == "depth" else images[i] for i in range(8)])
    maps = Maps(control=control, images=images, rendered=rendered if control in ("depth", "pose") else None)
    assert len(maps.rows) == (8 if control == "pose" else 16)
    task = ControlTask(control=new_controlnet(unet), unet=unet, latents=_latents(), maps=maps, schedule=_schedule(),
                       device="cpu", batch=4)  # fmt: skip
    losses = _trained(task, 12)
    assert losses[-1] < losses[0]
    assert weights_sha256(unet) == before


def test_the_ip_adapter_stage_lowers_its_loss_and_leaves_the_base_alone() -> None:
    torch.manual_seed(0)
    unet = _small_unet()
    before = weights_sha256(unet)
    task = IPAdapterTask(adapter=IPAdapter(unet), unet=unet, latents=_latents(), embeds=torch.randn(16, 192).half(),
                         schedule=_schedule(), device="cpu", batch=4)  # fmt: skip
    losses = _trained(task, 12)
    assert losses[-1] < losses[0]
    assert weights_sha256(unet) == before


def _small_unet() -> Any:
    """Tabletop's UNet with a fourth of its channels."""
    config = {**models.new_unet().config, "block_out_channels": (32, 48)}
    return UNet2DConditionModel.from_config(config)


def _pictures(count: int) -> np.ndarray:
    across, down = np.meshgrid(np.arange(128), np.arange(128))
    return np.stack([((across // (8 + i) + down // 16) % 2 * 200)[None].repeat(3, 0) for i in range(count)]).astype(
        np.uint8
    )


def _latents() -> LatentSet:
    posteriors = torch.cat([torch.randn(16, 4, 16, 16), torch.full((16, 4, 16, 16), -8.0)], dim=1)
    return LatentSet(
        posteriors=posteriors, prompts=torch.randn(16, 2, 64, 192), empty=torch.zeros(64, 192), scaling_factor=1.0
    )


def _schedule() -> NoiseSchedule:
    return NoiseSchedule.of_diffusion(models.new_scheduler().alphas_cumprod)


def _trained(task: Any, steps: int) -> list[float]:
    """The loss on one and the same batch, before and after each step on it."""
    weights = [weight for weight in task.module.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=2e-3)
    losses = []
    for _ in range(steps):
        loss = task.loss(0, torch.Generator().manual_seed(1))
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def _render_here(cache: Path, first_seed: int, count: int, workers: int):
    """Chunks in this process, where the smaller CHUNK is known."""
    for start in range(first_seed, first_seed + count, data.CHUNK):
        data._render_chunk(cache, start)
        yield start - first_seed + data.CHUNK


def _render_objects_here(cache: Path, first_seed: int, count: int, size: int, workers: int):
    for start in range(first_seed, first_seed + count, objects.CHUNK):
        objects.render_chunk(cache, start, size)
        yield start - first_seed + objects.CHUNK


def _check_views(assets: Path, base: UNet2DConditionModel, delta: DeltaWeights) -> None:
    """The multiview network ships what its training changed, is read on its base, and takes the family's ΔW by name."""
    folder = assets / "tabletop-multiview" / "unet"
    [file] = folder.glob("*.safetensors")
    own, weights = load_file(file), {name: value.half() for name, value in base.state_dict().items()}
    assert file.stat().st_size < 7_000_000
    assert sum(not torch.equal(value, weights[name]) for name, value in own.items() if name in weights) > 0
    metadata = read_header(file).metadata
    with pytest.raises(IncompatibleWeights, match="use the one it was trained on"):
        on_base(own, metadata, weights, "0" * 64)
    unet = read_wonder3d(folder, on_base(own, metadata, weights, weights_sha256(base)))
    report = KeptBase(unet).compare(delta)
    assert (report.unexpected, report.misshapen) == ((), ("conv_in.weight",))
    assert float(unet.conv_in.weight[:, 4:].abs().max()) > 0, "the stage trained what is new"


def test_a_stage_says_which_one_must_come_first(tmp_path: Path) -> None:
    made = Recipe(device="cpu", work=tmp_path, assets=tmp_path / "assets")
    with pytest.raises(SystemExit, match=r"trainer\.tabletop latents"):
        made.run("teacher")
