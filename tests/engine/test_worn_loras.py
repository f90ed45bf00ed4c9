"""A LoRA that is worn is part of the weights: it acts as its layers beside them would, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

from studio.catalog import Catalog
from studio.conditions import Reference
from studio.engine.diffusion import DiffusionEngine
from studio.engine.hub import LORA_NAME
from studio.engine.loader import Resident
from studio.errors import IncompatibleWeights
from studio.inputs import PictureStore
from studio.perflow import weights_sha256
from studio.specs import AcceleratorSpec
from studio.types import GenerationRequest
from tests.engine.conftest import result_of
from tests.test_inputs import photo
from tests.tiny import tiny_lora

Ask = Callable[..., GenerationRequest]
FAMILIES = ("sd15", "sdxl")
BROKEN = {"torn": "Torn does not fit Tiny sd15", "strange": "Strange does not fit", "scaled": "expected a plain LoRA"}


@pytest.fixture
def lora_folders(assets: Path, tmp_path: Path) -> Path:
    """Where a LoRA with text-encoder layers lies for each family, and those that cannot be worn."""
    for family in FAMILIES:
        tiny_lora(tmp_path / family, assets / family, family=family, reads_too=True)
    layers = load_file(assets / "lora-sd15" / LORA_NAME)
    up = [name for name in layers if "lora_B" in name]
    broken = {
        "torn": {**layers, up[0]: torch.zeros(3, 2)},
        "strange": {f"unet.elsewhere.{name}": weight for name, weight in layers.items()},
        "scaled": layers
        | {name.replace("lora_B.weight", "lora_magnitude_vector"): layers[name].norm(dim=1) for name in up},
    }
    for name, tensors in broken.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / LORA_NAME)
    return tmp_path


@pytest.fixture
def new_engine(
    catalog: Catalog, assets: Path, lora_folders: Path, pictures: PictureStore
) -> Callable[[], DiffusionEngine]:
    """Engines that know these LoRAs as well."""
    common: dict[str, Any] = {"kind": "lora", "sampler": "lcm", "families": FAMILIES}
    loras = [
        AcceleratorSpec(id=id, title=id.title(), source=str(lora_folders / id.removeprefix("reads-")), **common)
        for id in (*(f"reads-{family}" for family in FAMILIES), *BROKEN)
    ]
    more = Catalog(
        models=catalog.models, accelerators=(*catalog.accelerators, *loras), controls=catalog.controls
    )  # fmt: skip
    return lambda: DiffusionEngine(
        more, assets_dir=assets, device="cpu", dtype="fp32", offline=True, open_picture=pictures.open
    )


@pytest.fixture
def engine(new_engine: Callable[[], DiffusionEngine]) -> Iterator[DiffusionEngine]:
    with closing(new_engine()) as engine:
        yield engine


def resident_of(engine: DiffusionEngine) -> Resident:
    resident = engine._loader._resident
    assert resident is not None
    return resident


def layers_on(part: torch.nn.Module) -> int:
    return sum(isinstance(each, BaseTunerLayer) for each in part.modules())


def drawn(engine: DiffusionEngine, request: GenerationRequest) -> Image.Image:
    return result_of(engine.generate(request)).images[0].image


def levels(one: Image.Image, other: Image.Image) -> int:
    """How far apart two pictures are at most; 1 of 255 is another memory layout's rounding."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


@torch.no_grad()
def answer(unet: Any, family: str) -> torch.Tensor:
    """What a tiny UNet says to fixed noise at a fixed time."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 4, 8, 8), (2, 24, unet.config.cross_attention_dim))
    latents, words = (torch.randn(shape, generator=generator) for shape in shapes)
    more = {"time_ids": torch.ones(2, 6), "text_embeds": torch.ones(2, 16)} if family == "sdxl" else None
    return unet(latents, torch.tensor(500), words, added_cond_kwargs=more).sample


@pytest.mark.parametrize("family", FAMILIES)
def test_it_acts_as_its_layers_beside_the_weights_do(engine: DiffusionEngine, ask: Ask, assets: Path, family: str):
    """At every strength, against diffusers' own adapter on a network of its own."""
    beside = UNet2DConditionModel.from_pretrained(assets / family, subfolder="unet")
    bare = answer(beside, family)
    beside.load_lora_adapter(load_file(assets / f"lora-{family}" / LORA_NAME), prefix="unet", adapter_name="lora")
    assert layers_on(beside)
    for strength in (1.0, 0.5, 1.5, 0.0):
        drawn(engine, ask(family, accelerator=f"lcm-{family}", accelerator_strength=strength, steps=1))
        beside.set_adapters(["lora"], weights=[strength])
        expected, worn = answer(beside, family), answer(resident_of(engine).pipe.unet, family)
        torch.testing.assert_close(worn, expected, atol=2e-6, rtol=2e-5)
        assert torch.allclose(worn, bare, atol=1e-4) == (strength == 0)


def test_while_it_is_worn_there_are_no_layers_and_then_every_weight_is_as_loaded(engine: DiffusionEngine, ask: Ask):
    base = result_of(engine.generate(ask(accelerator="ddim", steps=1))).receipt.base_sha256
    unet = resident_of(engine).pipe.unet
    loaded = {name: weight.clone() for name, weight in unet.state_dict().items()}
    for accelerator, strength in (("lcm-sd15", 1.0), ("lcm-sd15", 0.3), ("perflow-sd15", 1.0), ("lcm-sd15", 1.0)):
        result_of(engine.generate(ask(accelerator=accelerator, accelerator_strength=strength, steps=1)))
        assert not layers_on(unet)
        assert unet.state_dict().keys() == loaded.keys()
        assert weights_sha256(unet) != base
    resident_of(engine).unet.undress()
    assert all(torch.equal(weight, loaded[name]) for name, weight in unet.state_dict().items())
    assert weights_sha256(unet) == base


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_changes_of_the_reading_goes_with_it(
    engine: DiffusionEngine, new_engine: Callable[[], DiffusionEngine], ask: Ask, family: str
):
    plain, reading = ask(family, accelerator="ddim"), ask(family, accelerator=f"reads-{family}")
    before = drawn(engine, plain)
    pipe = resident_of(engine).pipe
    worn = drawn(engine, reading)
    assert (layers_on(pipe.unet), layers_on(pipe.text_encoder) > 0) == (0, True)
    with closing(new_engine()) as fresh:
        assert levels(drawn(fresh, reading), worn) <= 1  # no prompt is used as it was read without it
    unread = drawn(engine, ask(family, accelerator=f"lcm-{family}"))  # the same layers of the UNet
    assert levels(unread, worn) > 1
    assert not layers_on(pipe.text_encoder)
    assert levels(drawn(engine, plain), before) <= 1
    with closing(new_engine()) as fresh:
        assert levels(drawn(fresh, ask(family, accelerator=f"lcm-{family}")), unread) <= 1


def test_beside_an_ip_adapter_it_goes_on_and_off_as_without(
    engine: DiffusionEngine, new_engine: Callable[[], DiffusionEngine], ask: Ask, pictures: PictureStore
):
    references = (Reference(adapter="ip-sd15", image=pictures.keep(photo(64, 64))),)
    with_both = ask(accelerator="lcm-sd15", references=references)
    drawn(engine, ask(references=references))  # the adapter is there first
    both = drawn(engine, with_both)
    assert not layers_on(resident_of(engine).pipe.unet)
    with closing(new_engine()) as fresh:
        assert levels(drawn(fresh, with_both), both) <= 1  # it is there last
    assert levels(drawn(engine, ask(accelerator="lcm-sd15")), both) > 1


@pytest.mark.parametrize("accelerator", BROKEN)
def test_one_that_cannot_be_worn_leaves_the_bare_base_and_no_layer(engine: DiffusionEngine, ask: Ask, accelerator: str):
    before = result_of(engine.generate(ask(accelerator="lcm-sd15")))
    with pytest.raises(IncompatibleWeights, match=BROKEN[accelerator]):
        list(engine.generate(ask(accelerator=accelerator)))
    unet = resident_of(engine).pipe.unet
    assert not layers_on(unet)
    assert weights_sha256(unet) == before.receipt.base_sha256
    assert levels(drawn(engine, ask(accelerator="lcm-sd15")), before.images[0].image) <= 1


def test_the_sum_is_rounded_once(catalog: Catalog, assets: Path, ask: Ask):
    """In bf16, from the base as it is stored, and not from one that was rounded before: that doubles the deviation."""
    layers = load_file(assets / "lora-sd15" / LORA_NAME)
    with closing(DiffusionEngine(catalog, assets_dir=assets, device="cpu", dtype="bf16", offline=True)) as engine:
        drawn(engine, ask(accelerator="lcm-sd15", steps=1))
        worn = resident_of(engine).pipe.unet.state_dict()
    base = UNet2DConditionModel.from_pretrained(assets / "sd15", subfolder="unet").state_dict()
    for name in (each.removesuffix(".lora_A.weight") for each in layers if "lora_A" in each):
        down, up = (layers[f"{name}.lora_{factor}.weight"].bfloat16().float() for factor in "AB")
        weight = f"{name.removeprefix('unet.')}.weight"
        expected, twice = ((each + up @ down).bfloat16() for each in (base[weight], base[weight].bfloat16()))
        assert (worn[weight] != expected).float().mean() < 0.01 < (worn[weight] != twice).float().mean()
