"""The published SDXL and Wonder3D networks layer by layer, thin and random: found by name, delta weights on, one step.

SD 1.5 and its seven ControlNets are in `test_published_layouts`. Thin means fewer channels: every parameter has the
name that it has at full width, which is checked against networks of the published sizes that take no memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from studio.catalog import Catalog
from studio.conditions import ControlUnit, Reference
from studio.engine.diffusion import DiffusionEngine
from studio.engine.multiview import WonderEngine
from studio.inputs import PictureStore
from studio.networks.wonder3d import grown_from
from studio.perflow import DeltaWeights, weights_sha256
from studio.specs import DeltaSpec
from studio.types import GenerationRequest, GenerationResult, Guidance
from tests.engine.conftest import result_of
from tests.engine.test_published_layouts import snapshot, thin_unet
from tests.studio_process import ROOT
from tests.test_inputs import photo
from tests.tiny import TEXT_WIDTH, ip_adapter_tensors, tiny_image_encoder, tiny_pipeline

CATALOG = Catalog.load(ROOT / "presets")
SDXL_BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "layers_per_block": 2, "use_linear_projection": True,
    "addition_embed_type": "text_time",
}  # fmt: skip
SDXL: dict[str, Any] = {
    **SDXL_BLOCKS, "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048, "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
THIN_SDXL: dict[str, Any] = {
    **SDXL_BLOCKS, "block_out_channels": (32, 64, 128), "attention_head_dim": (2, 4, 8), "sample_size": 8,
    "cross_attention_dim": 2 * TEXT_WIDTH, "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
}  # fmt: skip
VIEW_PIXELS = 64  # of 256: multiview attention costs the square of all places
HINT_CHANNELS = (16, 32, 96, 256)
# What the published multiview configuration says beyond Stable Diffusion's own, in the words of the 2023 code.
OF_WONDER3D: dict[str, Any] = {
    "_class_name": "UNetMV2DConditionModel", "_diffusers_version": "0.19.3",
    "down_block_types": [*["CrossAttnDownBlockMV2D"] * 3, "DownBlock2D"],
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlockMV2D"] * 3],
    "num_views": 6, "cd_attention_mid": True, "cd_attention_last": False, "multiview_attention": True,
    "sparse_mv_attention": False, "mvcd_attention": False, "joint_attention_twice": True,
}  # fmt: skip


def names(network: Any) -> set[str]:
    return set(network.state_dict())


def control_of(unet: UNet2DConditionModel, **options: Any) -> ControlNetModel:
    """A ControlNet as the published ones are built."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=HINT_CHANNELS, **options)


def perturbed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A student a little away from its teacher."""
    return {name: value + 0.02 * torch.randn_like(value) for name, value in weights.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache with SDXL, PeRFlow's SDXL, ControlNets and the IP-Adapter by their published names."""
    torch.manual_seed(0)
    cache = tmp_path_factory.mktemp("hub")
    pipe = tiny_pipeline(tmp_path_factory.mktemp("tokenizer"), "sdxl")
    pipe.unet = UNet2DConditionModel(**THIN_SDXL)
    pipe.save_pretrained(snapshot(cache, CATALOG.model("sdxl").source))
    _write_controls(cache, pipe.unet)
    pipe.unet.load_state_dict(perturbed(pipe.unet.state_dict()))
    accelerated = snapshot(cache, CATALOG.accelerator("perflow-sdxl").source or "")
    pipe.save_pretrained(accelerated)
    pipe.unet.save_pretrained(accelerated / "unet", variant="v0-fix")
    return cache


def _write_controls(cache: Path, unet: UNet2DConditionModel) -> None:
    """SDXL's ControlNets in half precision, its IP-Adapter beside the encoder that it shares with SD 1.5's."""
    for id in ("sdxl-canny", "sdxl-depth"):
        network = control_of(unet)
        for name, weight in network.named_parameters():
            if "controlnet_" in name:  # else the zero convolutions would hide everything
                weight.data.normal_(0, 0.1)
        network.half().save_pretrained(snapshot(cache, CATALOG.control(id).source), variant="fp16")
    spec, encoder = CATALOG.control("sdxl-ip"), tiny_image_encoder()
    folder = snapshot(cache, spec.source)
    encoder.save_pretrained(folder / spec.image_encoder)
    (folder / spec.file).parent.mkdir()
    save_file(ip_adapter_tensors(unet, encoder.config.projection_dim), folder / spec.file)


@pytest.fixture
def cache_of_views(tmp_path: Path) -> Path:
    """SD 1.5's delta weights, and the multiview network in its published configuration, as safetensors."""
    torch.manual_seed(0)
    cache, base = tmp_path / "hub", thin_unet()
    student, teacher = perturbed(base.state_dict()), base.state_dict()
    folder = snapshot(cache, CATALOG.accelerator("perflow-sd15").source or "")
    DeltaWeights.from_models(student, teacher, spec=DeltaSpec(family="sd15", prediction_type="diff_eps")).write(
        folder / "ours.safetensors"
    )
    save_file(load_file(folder / "ours.safetensors"), folder / "diffusion_pytorch_model.v0-1.safetensors")
    (folder / "ours.safetensors").unlink()
    wonder = snapshot(cache, CATALOG.multiview_model("wonder3d").source)
    grown = grown_from(base)
    grown.load_state_dict(perturbed(grown.state_dict()))
    grown.save_pretrained(wonder / "unet")
    config = json.loads((wonder / "unet" / "config.json").read_text())
    (wonder / "unet" / "config.json").write_text(json.dumps({**config, **OF_WONDER3D}))
    tiny_pipeline(tmp_path / "tokenizer").vae.save_pretrained(wonder / "vae")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=TEXT_WIDTH, intermediate_size=32, projection_dim=TEXT_WIDTH, num_hidden_layers=1,
            num_attention_heads=2, image_size=32, patch_size=16,
        )
    ).save_pretrained(wonder / "image_encoder")  # fmt: skip
    DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        wonder / "scheduler"
    )
    return cache


# --- SDXL -------------------------------------------------------------------------------------------------------------


def test_thin_networks_have_the_names_of_the_published_ones() -> None:
    with torch.device("meta"):
        full, thin = UNet2DConditionModel(**SDXL), UNet2DConditionModel(**THIN_SDXL)
        controls = [control_of(each, load_weights_from_unet=False) for each in (full, thin)]
    assert len(names(full)) == 1680
    assert names(full) == names(thin)
    assert names(controls[0]) == names(controls[1])
    tensors = ip_adapter_tensors(thin, 12)
    layers = {int(name.split(".")[1]) for name in tensors if name.startswith("ip_adapter.")}
    assert layers == set(range(1, 140, 2))  # the 70 cross-attention layers of ip-adapter_sdxl_vit-h.safetensors


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PictureStore:
    return PictureStore(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def engine(cache: Path, store: PictureStore) -> Iterator[DiffusionEngine]:
    with closing(
        DiffusionEngine(
            CATALOG, assets_dir=ROOT / "assets", device="cpu", dtype="fp32", hub_cache=cache, offline=True,
            open_picture=store.open,
        )
    ) as engine:  # fmt: skip
        yield engine


@pytest.mark.slow
def test_sdxl_wears_subtracted_delta_weights_controlnets_and_the_adapter_and_takes_them_off(
    engine: DiffusionEngine, store: PictureStore
) -> None:
    def drawn(accelerator: str = "perflow-sdxl", **fields: Any) -> GenerationResult:
        request = GenerationRequest(
            prompt="a red cube", model="sdxl", accelerator=accelerator, steps=1, guidance=Guidance(scales=(2.0,)),
            width=64, height=64, **fields,
        )  # fmt: skip
        return result_of(engine.generate(request))

    picture = store.keep(photo(64, 64))
    bare, plain = drawn("ddim"), drawn()
    assert (bare.receipt.delta_sha256, plain.receipt.delta_sha256 is not None) == (None, True)
    canny, depth = (ControlUnit(control=id, image=picture) for id in ("sdxl-canny", "sdxl-depth"))
    reference = Reference(adapter="sdxl-ip", image=picture)
    seen = [plain]
    for fields in (
        {"controls": (canny,)},
        {"references": (reference,)},
        {"controls": (canny, depth), "references": (reference,)},
    ):
        result = drawn(**fields)  # pyright: ignore[reportArgumentType]
        assert result.receipt.delta_sha256 == plain.receipt.delta_sha256
        assert result.receipt.base_sha256 == bare.receipt.base_sha256
        assert all(_differ(result, other) for other in seen)
        seen.append(result)
    assert list(seen[-1].receipt.controls_sha256) == ["sdxl-canny", "sdxl-depth", "sdxl-ip"]
    assert not _differ(drawn(), plain)
    assert not _differ(drawn("ddim"), bare)
    assert {each for each in ("sdxl-canny", "sdxl-depth", "sdxl-ip") if engine.is_on_disk(each)} == set(
        seen[-1].receipt.controls_sha256
    )


# --- Wonder3D ---------------------------------------------------------------------------------------------------------


def test_wonder3d_is_read_by_its_802_names_and_wears_sd15s_delta_weights_but_for_conv_in(cache_of_views: Path) -> None:
    small = replace(CATALOG.multiview_model("wonder3d"), native_width=VIEW_PIXELS, native_height=VIEW_PIXELS)
    catalog = Catalog(models=CATALOG.models, accelerators=CATALOG.accelerators, multiview=(small,))
    with closing(
        WonderEngine(
            catalog, assets_dir=ROOT / "assets", device="cpu", dtype="fp32", hub_cache=cache_of_views, offline=True
        )
    ) as engine:
        assert engine.is_on_disk("wonder3d")
        bare = _sheet(engine, "ddim")
        resident = engine._resident
        assert resident is not None
        unet = resident.networks.unet
        before = {name: value.clone() for name, value in unet.state_dict().items()}
        assert len(before) == 802
        fast = _sheet(engine, "perflow-sd15")
        delta = resident.delta
        assert delta is not None
        assert len(delta.tensors) == 686
        changed = {name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == set(delta.tensors) - {"conv_in.weight"}
        for name in changed:
            assert torch.allclose(unet.state_dict()[name], before[name] + delta.tensors[name].float(), atol=1e-6)
        assert (bare.receipt.num_network_calls, fast.receipt.num_network_calls) == (1, 1)
        assert fast.images[0].image.size == (6 * VIEW_PIXELS, 2 * VIEW_PIXELS)
        assert _differ(bare, fast)
        assert not _differ(_sheet(engine, "ddim"), bare)
        assert weights_sha256(unet) == bare.receipt.base_sha256 == fast.receipt.base_sha256


def _sheet(engine: WonderEngine, accelerator: str) -> GenerationResult:
    request = GenerationRequest(
        prompt="", model="wonder3d", accelerator=accelerator, steps=1, guidance=Guidance(scales=(1.0,)),
        width=6 * VIEW_PIXELS, height=2 * VIEW_PIXELS,
    )  # fmt: skip
    return result_of(engine.generate(request, photo(VIEW_PIXELS, VIEW_PIXELS), previews=False))


def _differ(one: GenerationResult, other: GenerationResult) -> bool:
    def pixels(result: GenerationResult) -> Image.Image:
        return result.images[0].image

    return pixels(one).tobytes() != pixels(other).tobytes()
