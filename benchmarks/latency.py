"""How fast the studio draws, against the stock diffusers pipeline in the same run. Prints markdown.

    python -m benchmarks.latency                          Tabletop (its shipped weights, or random ones of its shape)
    python -m benchmarks.latency --model sd15-random      random weights of Stable Diffusion 1.5's true shape (slow)

The peer is `StableDiffusionPipeline.from_pretrained(folder)` as its documentation has it (fp32 on a processor, fp16 on
CUDA), without the safety checker, with the same scheduler class, steps, size, guidance and seed. Pairs are interleaved,
so that whatever else the machine does falls on both; medians, and the median of the pairs' ratios, are printed. CPU
seconds (of all threads) are printed too: on a shared machine they are the steadier figure. The API draws without
previews, as the stock pipeline does; the page draws with one at every step.
The delta table compares writing base + ΔW in place, and restoring, with a plain loop over state dicts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from studio.catalog import Catalog
from studio.engine.diffusion import DiffusionEngine
from studio.perflow import DeltaWeights, KeptBase, PeRFlowScheduler
from studio.specs import AcceleratorSpec, DeltaSpec, ModelSpec
from studio.types import GenerationRequest, GenerationResult, Guidance

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PROMPT = "a glossy red cube to the left of a small blue cone"
SEED = 0


Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Wall and CPU seconds of one call."""

    wall: float
    cpu: float


def aside(call: Callable[[], Made]) -> Made:
    """Run on a thread of its own, as the engine does, for both sides alike.

    OpenMP keeps a pool for every thread that ever computed; two live pools on two cores and the second is starved (half
    the speed was measured). So nothing is computed on the main thread here.
    """
    with ThreadPoolExecutor(max_workers=1) as worker:
        return worker.submit(call).result()


def timed(call: Callable[[], Any]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Cost(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def interleaved(peer: Callable[[], Any], ours: Callable[[], Any], num_pairs: int) -> tuple[list[Cost], list[Cost]]:
    """Costs of both, in pairs whose order alternates; one warm-up each comes first."""
    peer()
    ours()
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    for pair in range(num_pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            costs[which].append(timed((peer, ours)[which]))
    return costs


def row(name: str, peer: list[Cost], ours: list[Cost]) -> str:
    def median(costs: list[Cost], kind: str) -> float:
        return statistics.median(getattr(cost, kind) for cost in costs)

    wall = statistics.median(a.wall / b.wall for a, b in zip(peer, ours, strict=True))
    cpu = statistics.median(a.cpu / b.cpu for a, b in zip(peer, ours, strict=True))
    return (
        f"| {name} | {median(peer, 'wall') * 1e3:,.0f} ms | {median(ours, 'wall') * 1e3:,.0f} ms | **{wall:.2f}x** "
        f"| {median(peer, 'cpu') * 1e3:,.0f} ms | {median(ours, 'cpu') * 1e3:,.0f} ms | {cpu:.2f}x |"
    )


HEADER = (
    "| what | stock | studio | studio is faster by | stock, CPU | studio, CPU | by CPU |\n|---|---|---|---|---|---|---|"
)


# --- models ---------------------------------------------------------------------------------------------------------


def tabletop_folder(scratch: Path) -> tuple[Path, str]:
    """The shipped Tabletop, or one of the same shape with random weights."""
    if (ASSETS / "tabletop" / "model_index.json").is_file():
        return ASSETS / "tabletop", "Tabletop"
    from trainer.tabletop import models

    torch.manual_seed(SEED)
    tokenizer = models.write_tokenizer(scratch / "tokenizer")
    text_encoder = models.new_text_encoder(len(tokenizer))
    encoder = CLIPTextModel(text_encoder.config)
    pipe = assemble(models.new_unet(), models.new_vae(), encoder, tokenizer, models.new_scheduler())
    return save(pipe, scratch / "random-tabletop"), "Tabletop's shape, random weights"


def sd15_folder(scratch: Path) -> tuple[Path, str]:
    """Random weights of SD1.5's true shape: a UNet of 860 M, CLIP-L's text encoder, the 84 M VAE."""
    from trainer.tabletop import models

    torch.manual_seed(SEED)
    text = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    layout: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    vae = AutoencoderKL(**layout, layers_per_block=2, sample_size=512)
    tokenizer = models.write_tokenizer(scratch / "tokenizer")
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    pipe = assemble(unet, vae, CLIPTextModel(text), tokenizer, DDIMScheduler(steps_offset=1, clip_sample=False))
    return save(pipe, scratch / "random-sd15"), "SD1.5's shape, random weights"


def assemble(unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def save(pipe: StableDiffusionPipeline, folder: Path) -> Path:
    pipe.to(dtype=torch.float16).save_pretrained(folder)
    return folder


def catalog_of(folder: Path, model: ModelSpec, delta: DeltaSpec) -> Catalog:
    spec = AcceleratorSpec(
        id="perflow",
        title="PeRFlow",
        kind="perflow_delta",
        sampler="perflow",
        families=(model.family,),
        source=str(folder),
        delta=delta,
    )
    return Catalog(models=(model,), accelerators=(spec,))


# --- measurements ---------------------------------------------------------------------------------------------------


def stock_pipeline(folder: Path, delta: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    stock = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, safety_checker=None)
    stock.to("cuda" if dtype == torch.float16 else "cpu").set_progress_bar_config(disable=True)
    KeptBase(stock.unet).apply(DeltaWeights.read(delta))
    stock.scheduler = PeRFlowScheduler.from_config(stock.scheduler.config, prediction_type="ddim_eps")
    return stock


def drawing_rows(folder: Path, delta: Path, args: argparse.Namespace) -> list[str]:
    family = "tabletop" if args.model == "tabletop" else "sd15"
    facts = DeltaSpec(family=family)
    model = ModelSpec(id="model", title="model", family=family, source=str(folder), kind="folder")
    catalog = catalog_of(delta, model, facts)
    engine = DiffusionEngine(catalog, assets_dir=ASSETS, device=args.device, dtype=args.dtype, offline=True)
    stock_dtype = torch.float16 if torch.cuda.is_available() and args.device != "cpu" else torch.float32
    stock = aside(lambda: stock_pipeline(folder, delta, stock_dtype))
    rows = []
    for guidance, previews in itertools.product((1.0, 3.0), (False, True)):
        request = GenerationRequest(
            prompt=PROMPT,
            model="model",
            accelerator="perflow",
            steps=args.steps,
            guidance=Guidance(scales=(guidance,)),
            width=args.size,
            height=args.size,
            seed=SEED,
        )
        peer, ours = interleaved(
            lambda r=request: aside(lambda: stock_image(stock, r)),
            lambda r=request, p=previews: draw(engine, r, p),
            args.pairs,
        )
        label = ("no CFG" if guidance == 1 else f"CFG {guidance:g}") + (", with previews" if previews else "")
        rows.append(row(f"{args.size}x{args.size}, {args.steps} steps, {label}", peer, ours))
    return [f"Precision: stock {stock_dtype}, studio {engine.dtype}.\n", HEADER, *rows]


def stock_image(pipe: Any, request: GenerationRequest) -> Any:
    return pipe(
        request.prompt,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance.scales[0],
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]


def draw(engine: DiffusionEngine, request: GenerationRequest, previews: bool = False) -> GenerationResult:
    last = list(engine.generate(request, previews=previews))[-1]
    assert isinstance(last, GenerationResult)
    return last


def delta_rows(folder: Path, delta: Path, args: argparse.Namespace) -> list[str]:
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=torch.float16)
    read = DeltaWeights.read(delta)
    base = {name: weight.clone() for name, weight in unet.state_dict().items()}
    kept = KeptBase(unet)

    def plain_apply() -> None:
        merged = {name: (weight.float() + read.tensors[name].float()).half() for name, weight in base.items()}
        unet.load_state_dict(merged)

    pairs = max(3, args.pairs // 2)
    apply = interleaved(plain_apply, lambda: kept.apply(read, 1.0), pairs)
    restore = interleaved(lambda: unet.load_state_dict(base), kept.restore, pairs)
    return [row("ΔW apply (fp16, in fp32)", *apply), row("ΔW restore", *restore)]


def delta_for(folder: Path, scratch: Path) -> Path:
    """The shipped ΔW of the shipped Tabletop, else a random one of the right shapes."""
    if folder == ASSETS / "tabletop" and (ASSETS / "perflow-tabletop").is_dir():
        return ASSETS / "perflow-tabletop"
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=torch.float16).state_dict()
    tensors = {name: 0.01 * torch.randn(weight.shape) for name, weight in unet.items()}
    family = "sd15" if "sd15" in folder.name else "tabletop"
    return DeltaWeights(tensors=tensors, spec=DeltaSpec(family=family)).write(scratch / "delta.safetensors")


def machine() -> str:
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores ({torch.get_num_threads()} threads), torch {torch.__version__}{device}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency against the stock diffusers pipeline.")
    parser.add_argument("--model", choices=("tabletop", "sd15-random"), default="tabletop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=None, help="pixels; default 128 for Tabletop, 512 for SD1.5")
    parser.add_argument("--pairs", type=int, default=None, help="default 15, and 2 for SD1.5 on a processor")
    args = parser.parse_args()
    is_tabletop = args.model == "tabletop"
    args.size = args.size or (128 if is_tabletop else 512)
    args.pairs = args.pairs or (15 if is_tabletop or args.device == "cuda" else 2)
    with tempfile.TemporaryDirectory() as scratch:
        folder, title = aside(lambda: (tabletop_folder if is_tabletop else sd15_folder)(Path(scratch)))
        delta = aside(lambda: delta_for(folder, Path(scratch)))
        print(f"### {title}\n\n{machine()}; medians of {args.pairs} interleaved pairs.\n")
        print("\n".join([*drawing_rows(folder, delta, args), *aside(lambda: delta_rows(folder, delta, args))]))


if __name__ == "__main__":
    main()
