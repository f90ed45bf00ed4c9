"""A catalogue of tiny models, one per family, on disk for the whole test session, and engines that run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.catalog import Catalog
from studio.engine.diffusion import DiffusionEngine
from studio.inputs import PictureStore
from studio.types import GenerationRequest, GenerationResult, Guidance
from tests.multiview.tiny_views import write_views
from tests.tiny import tiny_controlnet, tiny_delta, tiny_ip_adapter, tiny_lora, tiny_pipeline_folder

FAMILIES = ("sd15", "sd21", "sdxl", "tabletop")

MODEL = """
[tiny-{family}]
title = "Tiny {family}"
family = "{family}"
kind = "builtin"
source = "{family}"
native_width = 64
native_height = 64
prediction_type = "{prediction_type}"
default_accelerator = "perflow-{family}"
"""

ACCELERATORS = """
[perflow-{family}]
title = "Tiny PeRFlow for {family}"
kind = "perflow_delta"
sampler = "perflow"
families = ["{family}"]
source = "perflow-{family}"
[perflow-{family}.delta]
family = "{family}"
prediction_type = "{head}"

[lcm-{family}]
title = "Tiny LCM for {family}"
kind = "lora"
sampler = "lcm"
families = ["{family}"]
source = "lora-{family}"
"""

PLAIN = """
[{id}]
title = "{id}"
kind = "none"
sampler = "{id}"
families = ["sd15", "sd21", "sdxl", "tabletop"]
"""

MERGED = """
[merged-sd15]
title = "Tiny merged"
family = "sd15"
kind = "builtin"
source = "sd15"
native_width = 64
native_height = 64
default_accelerator = "merged"
"""

MERGED_ACCELERATOR = """
[merged]
title = "PeRFlow (merged)"
kind = "perflow_merged"
sampler = "perflow"
families = ["sd15"]
models = ["merged-sd15"]
[merged.delta]
family = "sd15"
prediction_type = "diff_eps"
"""

CONTROLS = """
[canny-{family}]
title = "Tiny canny for {family}"
kind = "controlnet"
origin = "builtin"
family = "{family}"
source = "control-{family}"
file = "one"
annotator = "canny"

[depth-{family}]
title = "Tiny depth for {family}"
kind = "controlnet"
origin = "builtin"
family = "{family}"
source = "control-{family}"
file = "two"
annotator = "depth"

[ip-{family}]
title = "Tiny IP-Adapter for {family}"
kind = "ip_adapter"
origin = "builtin"
family = "{family}"
source = "ip-{family}"
file = "adapter.safetensors"
image_encoder = "image_encoder"
"""

SECOND_ADAPTER = """
[ip2-{family}]
title = "Another tiny IP-Adapter for {family}"
kind = "ip_adapter"
origin = "builtin"
family = "{family}"
source = "ip2-{family}"
file = "adapter.safetensors"
image_encoder = "image_encoder"
"""

VIEWS = """
[views-sd15]
title = "Tiny views"
family = "sd15"
kind = "builtin"
source = "views-sd15"
vae = "sd15/vae"
native_width = 64
native_height = 64
default_accelerator = "perflow-sd15"
"""

MINUS_ACCELERATOR = """
[perflow-minus]
title = "PeRFlow by subtraction"
kind = "perflow_delta"
sampler = "perflow"
families = ["sd15"]
source = "sd15-student"
minus = "tiny-sd15"
[perflow-minus.delta]
family = "sd15"
"""


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipelines, delta weights and LoRAs of every family."""
    folder = tmp_path_factory.mktemp("assets")
    for family in FAMILIES:
        pipeline = tiny_pipeline_folder(folder / family, family)
        head = "v_prediction" if family == "sd21" else "ddim_eps"
        tiny_delta(folder / f"perflow-{family}", pipeline, family=family, prediction_type=head)
        tiny_lora(folder / f"lora-{family}", pipeline, family=family)
        tiny_controlnet(folder / f"control-{family}" / "one", pipeline)
        tiny_controlnet(folder / f"control-{family}" / "two", pipeline, seed=13)
        tiny_ip_adapter(folder / f"ip-{family}", pipeline)
        tiny_ip_adapter(folder / f"ip2-{family}", pipeline, seed=14)
    tiny_pipeline_folder(folder / "sd15-student", "sd15", seed=7)
    write_views(folder / "views-sd15", folder / "sd15")
    return folder


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("presets")
    models, accelerators = MERGED, MERGED_ACCELERATOR + MINUS_ACCELERATOR
    for family in FAMILIES:
        is_v = family == "sd21"
        models += MODEL.format(family=family, prediction_type="v_prediction" if is_v else "epsilon")
        accelerators += ACCELERATORS.format(family=family, head="v_prediction" if is_v else "ddim_eps")
    for id in ("ddim", "dpmpp", "euler", "tcd"):
        accelerators += PLAIN.format(id=id)
    controls = "".join((CONTROLS + SECOND_ADAPTER).format(family=family) for family in FAMILIES)
    (folder / "multiview.toml").write_text(VIEWS, encoding="utf-8")
    (folder / "controls.toml").write_text(controls, encoding="utf-8")
    (folder / "models.toml").write_text(models, encoding="utf-8")
    (folder / "accelerators.toml").write_text(accelerators, encoding="utf-8")
    return Catalog.load(folder)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PictureStore:
    """Where requests' pictures are kept."""
    return PictureStore(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def engine(catalog: Catalog, assets: Path, pictures: PictureStore) -> Iterator[DiffusionEngine]:
    """An engine in fp32 on the processor that never asks a network."""
    engine = DiffusionEngine(
        catalog, assets_dir=assets, device="cpu", dtype="fp32", offline=True, open_picture=pictures.open
    )
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def ask() -> Callable[..., GenerationRequest]:
    """A request for a tiny picture; keyword arguments replace its fields."""

    def make(family: str = "sd15", guidance: Any = 3.0, **fields: Any) -> GenerationRequest:
        defaults = {
            "prompt": "a red cube",
            "model": f"tiny-{family}",
            "accelerator": f"perflow-{family}",
            "width": 64,
            "height": 64,
            "seed": 5,
        }
        return GenerationRequest(guidance=Guidance.of(guidance), **{**defaults, **fields})

    return make


def result_of(events: Any) -> GenerationResult:
    """The last event of a generation, which must be its result."""
    last = list(events)[-1]
    assert isinstance(last, GenerationResult)
    return last
