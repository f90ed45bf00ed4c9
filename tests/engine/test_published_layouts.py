"""Folders and files in the layouts of the published SD 1.5 weights, thin and random: found, loaded, one step each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from studio.catalog import Catalog
from studio.conditions import ControlUnit, Reference
from studio.engine.diffusion import DiffusionEngine
from studio.errors import ModelUnavailable
from studio.inputs import PictureStore
from studio.types import GenerationRequest, Guidance
from tests.engine.conftest import result_of
from tests.studio_process import ROOT
from tests.test_inputs import photo
from tests.tiny import TEXT_WIDTH, ip_adapter_tensors, tiny_delta, tiny_image_encoder, tiny_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTROLS = ("sd15-canny", "sd15-depth", "sd15-openpose", "sd15-tile", "sd15-normal", "sd15-lineart", "sd15-softedge")

pytestmark = pytest.mark.slow


def snapshot(cache: Path, source: str) -> Path:
    """The folder where the hub's cache keeps a repository."""
    root = cache / f"models--{source.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def thin_unet() -> UNet2DConditionModel:
    """SD 1.5's UNet layer by layer, 686 parameters by name, with a tenth of its channels."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64, 128, 128), layers_per_block=2, cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache with pipeline, delta weights, seven ControlNets and an IP-Adapter, by their published names."""
    torch.manual_seed(0)
    cache = tmp_path_factory.mktemp("hub")
    catalog = Catalog.load(ROOT / "presets")
    pipe = tiny_pipeline(tmp_path_factory.mktemp("tokenizer"))
    pipe.unet = thin_unet()
    base = snapshot(cache, catalog.model("sd15").source)
    pipe.save_pretrained(base)
    delta = snapshot(cache, catalog.accelerator("perflow-sd15").source or "")
    written = tiny_delta(delta / "ours.safetensors", base, prediction_type="diff_eps")
    save_file(load_file(written), delta / "diffusion_pytorch_model.v0-1.safetensors")
    written.unlink()
    network = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 96, 256))
    for id in CONTROLS:
        for name, weight in network.named_parameters():
            if "controlnet_" in name:
                weight.data.normal_(0, 0.1)
        network.half().save_pretrained(snapshot(cache, catalog.control(id).source), variant="fp16")
        network.float()
    adapter = snapshot(cache, "h94/IP-Adapter") / "models"
    encoder = tiny_image_encoder()
    encoder.save_pretrained(adapter / "image_encoder")
    save_file(ip_adapter_tensors(pipe.unet, encoder.config.projection_dim), adapter / "ip-adapter_sd15.safetensors")
    return cache


@pytest.fixture(scope="module")
def engine(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusionEngine]:
    store = PictureStore(tmp_path_factory.mktemp("inputs"))
    engine = DiffusionEngine(
        Catalog.load(ROOT / "presets"), assets_dir=ROOT / "assets", device="cpu", dtype="fp32", hub_cache=cache,
        offline=True, open_picture=store.open,
    )  # fmt: skip
    engine.store = store  # type: ignore[attr-defined]
    yield engine
    engine.close()


def ask(**fields: Any) -> GenerationRequest:
    return GenerationRequest(
        prompt="a red cube", model="sd15", accelerator="perflow-sd15", steps=1, guidance=Guidance(scales=(4.5,)),
        width=64, height=64, **fields,
    )  # fmt: skip


def test_the_layout_is_the_published_one(cache: Path) -> None:
    adapter = load_file(snapshot(cache, "h94/IP-Adapter") / "models" / "ip-adapter_sd15.safetensors")
    layers = {int(name.split(".")[1]) for name in adapter if name.startswith("ip_adapter.")}
    assert layers == set(range(1, 32, 2))
    assert len(adapter) == 2 * 16 + 4
    assert len(thin_unet().state_dict()) == 686
    config = json.loads((snapshot(cache, "lllyasviel/control_v11p_sd15_canny") / "config.json").read_text())
    assert config["_class_name"] == "ControlNetModel"


def test_all_controls_are_on_disk_and_draw_one_step_under_the_published_delta(engine: DiffusionEngine) -> None:
    picture = engine.store.keep(photo(64, 64))  # type: ignore[attr-defined]
    plain = result_of(engine.generate(ask()))
    assert plain.receipt.delta_sha256 is not None
    for id in CONTROLS:
        assert engine.is_on_disk(id)
        unit = ControlUnit(control=id, image=picture)
        seen = result_of(engine.generate(ask(controls=(unit,))))
        assert _differ(seen.images[0].image, plain.images[0].image)
        assert seen.receipt.delta_sha256 == plain.receipt.delta_sha256
        assert list(seen.receipt.controls_sha256) == [id]
    assert engine.is_on_disk("sd15-ip")
    reference = Reference(adapter="sd15-ip", image=picture)
    units = tuple(ControlUnit(control=id, image=picture) for id in CONTROLS[:3])
    all_of_it = result_of(engine.generate(ask(controls=units, references=(reference, reference))))
    assert _differ(all_of_it.images[0].image, plain.images[0].image)
    again = result_of(engine.generate(ask()))
    assert not _differ(again.images[0].image, plain.images[0].image)


def test_what_is_not_in_the_cache_names_the_command(engine: DiffusionEngine) -> None:
    assert not engine.is_on_disk("sdxl-canny")
    with pytest.raises(ModelUnavailable, match="hf download diffusers/controlnet-canny-sdxl"):
        engine._weights.controlnet(engine._catalog.control("sdxl-canny"), lambda *_: None)
    with pytest.raises(ModelUnavailable, match="hf download h94/IP-Adapter"):
        engine._weights.ip_adapter(engine._catalog.control("sdxl-ip"), lambda *_: None)


def _differ(one: Image.Image, other: Image.Image) -> bool:
    return one.tobytes() != other.tobytes()
