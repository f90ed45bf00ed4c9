"""LoRAs in the other layout they are published in, as SDXL-Lightning's are: kohya's names, with an alpha each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.catalog import Catalog
from studio.engine.diffusion import DiffusionEngine
from studio.engine.hub import LORA_NAME
from studio.specs import AcceleratorSpec
from tests.engine.conftest import result_of

FAMILIES = ("sd15", "sdxl")


def kohya(layers: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """Layers of diffusers' names under kohya's; each acts by alpha / rank."""
    renamed: dict[str, torch.Tensor] = {}
    for name, weight in layers.items():
        module, _, matrix = name.removeprefix("unet.").rpartition(".lora_")
        stem = "lora_unet_" + module.replace(".", "_")
        renamed[f"{stem}.lora_{'down' if matrix.startswith('A') else 'up'}.weight"] = weight.contiguous()
        renamed[f"{stem}.alpha"] = torch.tensor(alpha)
    return renamed


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def engine(catalog: Catalog, assets: Path, tmp_path: Path, family: str) -> Iterator[DiffusionEngine]:
    """The tiny LoRA of a family in kohya's layout, at its full and at half its alpha."""
    layers = load_file(assets / f"lora-{family}" / LORA_NAME)
    rank = next(weight for name, weight in layers.items() if "lora_A" in name).shape[0]
    for name, alpha in (("full", float(rank)), ("half", rank / 2)):
        save_file(kohya(layers, alpha), tmp_path / f"{name}_4step_lora.safetensors")
    loras = [
        AcceleratorSpec(
            id=name, title=name, kind="lora", sampler="lcm", families=("sd15", "sdxl"), source=str(tmp_path),
            file=f"{name}_4step_lora.safetensors",
        )
        for name in ("full", "half")
    ]  # fmt: skip
    both = Catalog(models=catalog.models, accelerators=(*catalog.accelerators, *loras))
    engine = DiffusionEngine(both, assets_dir=assets, device="cpu", dtype="fp32", offline=True)
    yield engine
    engine.close()


def test_kohyas_layout_acts_by_its_alpha(engine: DiffusionEngine, ask, family: str):
    def drawn(accelerator: str, strength: float = 1.0) -> np.ndarray:
        asked = ask(family, accelerator=accelerator, accelerator_strength=strength)
        return np.asarray(result_of(engine.generate(asked)).images[0].image).astype(int)

    known, bare = drawn(f"lcm-{family}"), drawn(f"lcm-{family}", 0.0)
    assert np.abs(known - bare).max() > 1
    assert np.abs(drawn("full") - known).max() <= 1
    assert np.abs(drawn("half") - drawn(f"lcm-{family}", 0.5)).max() <= 1
    assert np.abs(drawn("half", 0.0) - bare).max() <= 1
