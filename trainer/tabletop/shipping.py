"""Between the recipe's results and what ships, both ways: Stable Diffusion's layout, fp16, below 10 MB a file.

assets/tabletop/          a StableDiffusionPipeline folder (text encoder, VAE, UNet, tokenizer, scheduler)
assets/tabletop-clip/     the image encoder of the same CLIP pair, and the text side's projection
assets/perflow-tabletop/  delta weights with their DeltaSpec
assets/tabletop-controls/ one ControlNet a folder (canny, depth, pose, tile), each with a map to try it on
assets/tabletop-ip-adapter/ an IP-Adapter in its published file layout; its encoder is tabletop-clip's
assets/tabletop-multiview/  the network of six views; its VAE and image encoder are those above
assets/<racer>-tabletop/  the LoRAs of the fair race: LCM, Rectified Diffusion, PCM, PeRFlow
assets/perflow-fixed-tabletop/  PeRFlow with guidance in its weights, as a LoRA
assets/judge/             the classifier that benchmarks ask, and the reader of depth and joints
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from studio.networks.wonder3d import BASE_SHA256, grown_from, on_base, read_wonder3d
from studio.perflow.delta import DeltaWeights, weights_sha256
from studio.perflow.merge import KeptBase
from studio.perflow.safefile import read_header
from studio.runs.exports import LORA_FILE
from trainer.cards import metadata
from trainer.controls import control_of_scene, image_from
from trainer.facts import facts_of
from trainer.lora_layouts import diffusers_layout
from trainer.tabletop import models
from trainer.tabletop.cards import write_cards
from trainer.tabletop.clip import ClipPair
from trainer.tabletop.control import CONTROLS, IP_ADAPTER, IPAdapter, new_controlnet
from trainer.tabletop.distillation import LORAS, PERFLOW, folder_of
from trainer.tabletop.judge import VOCABULARY, new_judge
from trainer.tabletop.multiview import is_trained
from trainer.tabletop.reader import Reader
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

if TYPE_CHECKING:
    from trainer.tabletop.recipe import Recipe

SHARD = "9MB"
SINGLE_FILE = "diffusion_pytorch_model.safetensors"
FACTS = "recipe.json"
IP_ADAPTER_FILE = "ip-adapter.safetensors"
EXAMPLE = "example.png"
EXAMPLE_SEED, REFERENCE_SEED = 20_000_006, 20_000_007  # test scenes: one with a figure, and another


def export(recipe: Recipe) -> None:
    """Write what exists of the family to `recipe.assets`."""
    if recipe.result("teacher").exists():
        _pipeline(recipe, recipe.assets / "tabletop")
    if recipe.result("perflow").exists():
        _delta(recipe, recipe.assets / "perflow-tabletop")
    for stage in LORAS:
        if recipe.result(stage).exists():
            _lora(recipe, stage, recipe.assets / folder_of(stage))
    _clip(recipe, recipe.assets / "tabletop-clip")
    _controls(recipe, recipe.assets / "tabletop-controls")
    _ip_adapter(recipe, recipe.assets / "tabletop-ip-adapter")
    if recipe.result("multiview").exists():
        _multiview(recipe, recipe.assets / "tabletop-multiview")
    _emptied(recipe.assets / "judge")
    for name, network in (("judge", new_judge()), ("reader", Reader())):
        if recipe.result(name).exists():
            tensors = recipe.read(name, network).state_dict()
            halves = {key: value.half().contiguous() for key, value in tensors.items()}
            save_file(halves, recipe.assets / "judge" / f"{name}.safetensors")
    if recipe.result("judge").exists():
        (recipe.assets / "judge" / "labels.json").write_text(json.dumps(VOCABULARY.to_json(), indent=1))
    if (recipe.assets / "tabletop").is_dir():
        (recipe.assets / "tabletop" / FACTS).write_text(json.dumps(recipe.facts(), indent=1, sort_keys=True))
    write_cards(recipe.assets, recipe.facts(), recipe.num_scenes)


def take_up(recipe: Recipe) -> None:
    """The inverse of `export`: what ships becomes results again (rounded to fp16), for training to go on from.

    Results that exist already are left alone. Raises SystemExit when nothing ships.
    """
    folder = recipe.assets / "tabletop"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: nothing ships yet, start with the stage `scenes`.")
    shipped = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    _write_if_new(recipe, "vae", shipped.vae)
    _write_if_new(recipe, "clip", _clip_pair(recipe, shipped))
    _write_if_new(recipe, "teacher", shipped.unet)
    for control in CONTROLS:
        if (shelf := recipe.assets / "tabletop-controls" / control).is_dir():
            _write_if_new(recipe, control, ControlNetModel.from_pretrained(shelf, dtype=torch.float32))
    if (shelf := recipe.assets / "tabletop-ip-adapter" / IP_ADAPTER_FILE).is_file():
        adapter = IPAdapter(models.new_unet())
        adapter.load_file(load_file(shelf))
        _write_if_new(recipe, IP_ADAPTER, adapter)
    if (shelf := recipe.assets / "tabletop-multiview" / "unet").is_dir():
        file = shelf / SINGLE_FILE
        own = {name: value.float() for name, value in load_file(file).items()}
        base = shipped.unet.state_dict()
        grown = on_base(own, read_header(file).metadata, base, weights_sha256(base))
        _write_if_new(recipe, "multiview", read_wonder3d(shelf, grown))
    if (recipe.assets / "perflow-tabletop").is_dir():
        KeptBase(shipped.unet).apply(DeltaWeights.read(recipe.assets / "perflow-tabletop"), 1.0)
        _write_if_new(recipe, "perflow", shipped.unet)
    for name, network in (("judge", new_judge()), ("reader", Reader())):
        if (file := recipe.assets / "judge" / f"{name}.safetensors").is_file():
            network.load_state_dict(load_file(file))
            _write_if_new(recipe, name, network)
    for stage, known in json.loads((folder / FACTS).read_text()).items():
        if stage in LORAS:
            continue  # they are trained anew: a race is run from one line, and a LoRA in fp16 is not what was trained
        spent = {f"{key}_before": known.pop(key, 0) + known.pop(f"{key}_before", 0) for key in ("minutes", "steps")}
        recipe.remember(stage, **known, **spent)


def _write_if_new(recipe: Recipe, name: str, module: nn.Module) -> None:
    if not recipe.result(name).exists():
        recipe.write(name, module)


def _clip_pair(recipe: Recipe, shipped: StableDiffusionPipeline) -> ClipPair:
    """The pair of encoders from the pipeline's text encoder and the folder beside it."""
    pair, folder = recipe.new_clip(), recipe.assets / "tabletop-clip"
    text = {name.removeprefix("text_model."): value for name, value in shipped.text_encoder.state_dict().items()}
    wanted = pair.text.state_dict()
    given = {name: text[name.removeprefix("text_model.")] for name in wanted if name != "text_projection.weight"}
    beside = load_file(folder / "text_projection.safetensors")
    pair.text.load_state_dict({**given, "text_projection.weight": beside["text_projection.weight"]})
    pair.image = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", dtype=torch.float32)
    pair.logit_scale.data.copy_(beside["logit_scale"])
    return pair


def _emptied(folder: Path) -> Path:
    """The folder without its old weights; a README.md in it stays."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".md":
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def text_encoder(recipe: Recipe) -> CLIPTextModel:
    """The CLIP text encoder without its projection, as pipelines want it."""
    pair = recipe.new_clip()
    recipe.read("clip", pair)
    encoder = CLIPTextModel(pair.text.config)
    wanted = encoder.state_dict()
    given = {name.removeprefix("text_model."): value for name, value in pair.text.state_dict().items()}
    encoder.load_state_dict({name: given[name.removeprefix("text_model.")] for name in wanted})
    return encoder


def pipeline(recipe: Recipe) -> StableDiffusionPipeline:
    """The base in fp32 with fp16-rounded weights."""
    vae = models.new_vae()
    recipe.read("decoder" if recipe.result("decoder").exists() else "vae", vae)
    vae.register_to_config(scaling_factor=recipe.facts()["vae"]["scaling_factor"])
    without_checker: dict[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
        "scheduler": models.new_scheduler(),
    }
    return StableDiffusionPipeline(
        vae=vae.half().float(),
        text_encoder=text_encoder(recipe).half().float(),
        tokenizer=recipe.tokenizer(),
        unet=recipe.teacher(),
        **without_checker,
    )


def _pipeline(recipe: Recipe, folder: Path) -> None:
    _emptied(folder)
    pipeline(recipe).to(dtype=torch.float16).save_pretrained(folder, max_shard_size=SHARD)


def _clip(recipe: Recipe, folder: Path) -> None:
    if not recipe.result("clip").exists():
        return
    _emptied(folder)
    pair = recipe.new_clip()
    recipe.read("clip", pair)
    pair.image.half().save_pretrained(folder / "image_encoder")
    projection = {
        "text_projection.weight": pair.text.text_projection.weight.half(),
        "logit_scale": pair.logit_scale.half(),
    }
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in projection.items()},
        folder / "text_projection.safetensors",
    )


def _controls(recipe: Recipe, folder: Path) -> None:
    """Every ControlNet that was trained, and beside it the map of a scene that no training saw."""
    for control in CONTROLS:
        if recipe.result(control).exists():
            network = recipe.read(control, new_controlnet()).half()
            _emptied(folder / control)
            network.save_pretrained(folder / control)
            _example_map(control).save(folder / control / EXAMPLE)


def _example_map(control: str) -> Image.Image:
    seen = render(random_scene(EXAMPLE_SEED))
    return image_from(control_of_scene(control, seen, (seen.rgb * 255).round().to(torch.uint8)))


def _ip_adapter(recipe: Recipe, folder: Path) -> None:
    if recipe.result(IP_ADAPTER).exists():
        _emptied(folder)
        adapter = recipe.read(IP_ADAPTER, IPAdapter(models.new_unet()))
        save_file(adapter.file(), folder / IP_ADAPTER_FILE)
        seen = render(random_scene(REFERENCE_SEED))
        image_from((seen.rgb * 255).round().to(torch.uint8)).save(folder / EXAMPLE)


def _multiview(recipe: Recipe, folder: Path) -> None:
    """Only what its training changed: the rest is the base's, which ships beside it."""
    teacher = recipe.teacher()
    unet = recipe.read("multiview", grown_from(teacher))
    _emptied(folder)
    unet.save_config(folder / "unet")
    own = {name: value.half().contiguous() for name, value in unet.state_dict().items() if is_trained(name)}
    notes = {"format": "pt", BASE_SHA256: weights_sha256(teacher)}
    save_file(own, folder / "unet" / SINGLE_FILE, notes)
    models.new_scheduler().save_pretrained(folder / "scheduler")


def _delta(recipe: Recipe, folder: Path) -> None:
    teacher = recipe.teacher()
    student = models.new_unet()
    recipe.read("perflow", student)
    spec = facts_of(PERFLOW, base_sha256=weights_sha256(teacher)).delta
    _emptied(folder)
    DeltaWeights.from_models(student, teacher, spec=spec).write(folder, max_shard_bytes=9_000_000)


def _lora(recipe: Recipe, stage: str, folder: Path) -> None:
    config = LORAS[stage]
    student = recipe.accelerator(stage, config).student
    steps = recipe.facts()[stage].get("steps", 0)
    notes = metadata(config, base_sha256=weights_sha256(recipe.teacher()), step=steps)
    _emptied(folder)
    save_file(diffusers_layout(student.lora_layers(student.trainable())), folder / LORA_FILE, {"format": "pt", **notes})
