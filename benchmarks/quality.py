"""How good four steps are: `python -m benchmarks.quality` draws with the shipped Tabletop models and measures.

On prompts of scenes that no model ever saw (TEST_SEEDS):
* paired error: the same noise and caption, against the teacher's 200-step ODE at the same guidance (latent RMSE over
  the reference's own RMS, over all pictures and as their median, since a few that flip to another scene outweigh the
  rest; and PSNR of the decoded pictures);
* FD of the judge's features against teacher samples from other noise, with the floor (teacher against teacher);
* attribute accuracy: does the judge find the things that were asked for, single and double.

Baselines are the teacher itself with DDIM and DPM-Solver++ (2M), no training, at the same number of steps; rivals are
the LoRAs of `trainer.tabletop.distillation`, trained for equal time: PeRFlow, Rectified Diffusion, PCM and LCM. Writes
`benchmarks/results/quality.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from studio.perflow import DeltaWeights, KeptBase, PeRFlowScheduler
from studio.runs.exports import LORA_FILE
from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.captions import full_caption
from trainer.tabletop.data import TEST_SEEDS, image_of
from trainer.tabletop.judge import Judge, accuracies
from trainer.tabletop.measures import frechet_distance
from trainer.tabletop.precision import autocast
from trainer.tabletop.scenes import Scene, random_scene

REFERENCE_STEPS = 200
TEACHER_STEPS = 25
RESULTS = Path(__file__).parent / "results"
NOISE_SEED = 20240507
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "perflow": (PeRFlowScheduler, {"prediction_type": "ddim_eps", "num_time_windows": 4}),
    "ddim": (DDIMScheduler, {"timestep_spacing": "trailing"}),
    "dpmpp": (DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
    "lcm": (LCMScheduler, {}),
}
SHARES = ("single", "double", "material", "floor", "sky")


class Bench:
    """The shipped models, the prompts, and one way to draw with any scheduler."""

    def __init__(self, assets: Path, num_prompts: int, device: str) -> None:
        self.device = device
        self.pipe = StableDiffusionPipeline.from_pretrained(assets / "tabletop", dtype=torch.float32).to(device)
        self.pipe.unet.to(memory_format=torch.channels_last)
        self.assets, self.worn = assets, ""
        self.base = KeptBase(self.pipe.unet)
        self.judge = Judge()
        self.judge.load_state_dict({k: v.float() for k, v in load_file(assets / "judge" / "judge.safetensors").items()})
        self.judge.to(device).eval()
        half = num_prompts // 2
        self.scenes = [scene for pair in zip(*(_scenes_with(n, half) for n in (1, 2)), strict=True) for scene in pair]
        texts = [full_caption(scene) for scene in self.scenes]
        self.prompts, self.empty = self._embed(texts), self._embed([""])
        generator = torch.Generator().manual_seed(NOISE_SEED)
        self.noise_a, self.noise_b = (torch.randn(len(texts), 4, 16, 16, generator=generator) for _ in range(2))

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> torch.Tensor:
        ids = self.pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return torch.cat([self.pipe.text_encoder(part.to(self.device))[0] for part in ids.split(100)])

    @torch.inference_mode()
    def draw(
        self, contestant: Contestant, steps: int, guidance: float, noise: torch.Tensor, batch: int = 64
    ) -> torch.Tensor:
        """Latents for the first `len(noise)` prompts; two network rows a step when guidance is not 1."""
        self._wear(contestant)
        torch.manual_seed(NOISE_SEED)  # of the noise that LCM adds between steps
        done = []
        for start in range(0, len(noise), batch):
            scheduler = self._scheduler(contestant)
            scheduler.set_timesteps(steps)
            z = noise[start : start + batch].to(self.device) * scheduler.init_noise_sigma
            prompts = self.prompts[start : start + len(z)]
            for t in scheduler.timesteps:
                z = scheduler.step(
                    self._noise(scheduler.scale_model_input(z, t), t, prompts, guidance), t, z, return_dict=False
                )[0]
            done.append(z)
        return torch.cat(done)

    def _wear(self, contestant: Contestant) -> None:
        if contestant.source == self.worn:
            return
        self.pipe.unload_lora_weights()
        self.base.restore()
        if contestant.is_lora:
            self.pipe.load_lora_weights(str(self.assets / contestant.source), weight_name=LORA_FILE)
        elif contestant.source:
            self.base.apply(DeltaWeights.read(self.assets / contestant.source), 1.0)
        self.worn = contestant.source

    def _scheduler(self, contestant: Contestant) -> Any:
        kind, more = SCHEDULERS[contestant.sampler]
        return kind.from_config(self.pipe.scheduler.config, **more)

    def _noise(self, z: torch.Tensor, t: torch.Tensor, prompts: torch.Tensor, guidance: float) -> torch.Tensor:
        with autocast(self.device):
            if guidance == 1:
                return self.pipe.unet(z, t, prompts, return_dict=False)[0].float()
            both = torch.cat([self.empty.expand_as(prompts), prompts])
            without, with_it = self.pipe.unet(torch.cat([z, z]), t, both, return_dict=False)[0].float().chunk(2)
        return without + guidance * (with_it - without)

    @torch.inference_mode()
    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Decoded `[N, 3, 128, 128]` in [-1, 1]."""
        scale = self.pipe.vae.config.scaling_factor
        return torch.cat(
            [self.pipe.vae.decode(part / scale, return_dict=False)[0].clamp(-1, 1) for part in latents.split(32)]
        )

    def true_accuracies(self) -> dict[str, float]:
        """What the judge makes of the scenes themselves: the most that any generator can reach."""
        pictures = to_pixels(np.stack([image_of(scene) for scene in self.scenes]))
        return accuracies(self.judge, pictures.to(self.device), self.scenes)

    @torch.inference_mode()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.judge.features(part) for part in pixels.split(64)]).cpu()


def _scenes_with(num_things: int, count: int) -> list[Scene]:
    return [random_scene(TEST_SEEDS + 1_000_000 * num_things + i, num_things=num_things) for i in range(count)]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way to draw: what the UNet wears (`source` below assets), by which sampler, at which guidance scales.

    `baked` is the guidance that is in the weights: such a contestant is drawn without any, and compared with the
    teacher at that scale only.
    """

    name: str
    sampler: str
    source: str = ""
    is_lora: bool = False
    most_steps: int = 1000
    baked: float | None = None


CONTESTANTS = (
    Contestant(name="PeRFlow", sampler="perflow", source="perflow-tabletop"),
    Contestant(name="DDIM", sampler="ddim"),
    Contestant(name="DPM-Solver++", sampler="dpmpp"),
    Contestant(name="PeRFlow LoRA", sampler="perflow", source="perflow-lora-tabletop", is_lora=True, most_steps=8),
    Contestant(name="Rectified LoRA", sampler="ddim", source="rectified-tabletop", is_lora=True, most_steps=8),
    Contestant(name="PCM LoRA", sampler="ddim", source="pcm-tabletop", is_lora=True, most_steps=8, baked=1.5),
    Contestant(name="LCM LoRA", sampler="lcm", source="lcm-tabletop", is_lora=True, most_steps=8, baked=1.5),
)


def present(assets: Path, guidance: float) -> list[Contestant]:
    """Who can be drawn and compared at a guidance scale."""
    return [
        each
        for each in CONTESTANTS
        if (not each.source or any((assets / each.source).glob("*.safetensors"))) and each.baked in (None, guidance)
    ]


def measure(bench: Bench, guidance: float, steps: tuple[int, ...], num_paired: int) -> list[dict]:
    """One guidance scale: every contestant at every number of steps."""
    plain = {each.sampler: each for each in CONTESTANTS if not each.source}
    reference = bench.draw(plain["ddim"], REFERENCE_STEPS, guidance, bench.noise_a[:num_paired])
    pixels = bench.pixels(reference)
    others = bench.features(bench.pixels(bench.draw(plain["dpmpp"], TEACHER_STEPS, guidance, bench.noise_b)))
    yardstick = Yardstick(latents=reference, pixels=pixels, features=others)
    runs = [(each, TEACHER_STEPS) for each in plain.values()]
    runs += [(each, n) for n in steps for each in present(bench.assets, guidance) if n <= each.most_steps]
    rows = []
    for each, n in runs:
        start = time.perf_counter()
        latents = bench.draw(each, n, guidance if each.baked is None else 1.0, bench.noise_a)
        seconds = (time.perf_counter() - start) / len(latents)
        rows.append({"method": each.name, "steps": n, "guidance": guidance, "seconds_per_image": seconds,
                     **yardstick.distances(bench, latents)})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Yardstick:
    """The teacher's own pictures at one guidance scale: paired ones, and the features of others."""

    latents: torch.Tensor
    pixels: torch.Tensor
    features: torch.Tensor

    def distances(self, bench: Bench, latents: torch.Tensor) -> dict[str, float]:
        """Everything that is measured of a contestant's latents; the first ones are the paired ones."""
        pixels, count = bench.pixels(latents), len(self.latents)
        features = bench.features(pixels)
        errors = (latents[:count] - self.latents).square().mean(dim=(1, 2, 3)) / self.latents.square().mean()
        mse = ((pixels[:count] - self.pixels) / 2).square().mean(dim=(1, 2, 3))
        return {
            "paired_error": float(errors.mean().sqrt()),
            "paired_median": float(errors.sqrt().median()),
            "psnr_db": float((-10 * torch.log10(mse)).mean()),
            "fd": frechet_distance(features, self.features),
            **accuracies(bench.judge, pixels, bench.scenes),
        }


COLUMNS = ("method", "steps", "CFG", "paired error", "its median", "PSNR dB", "FD", *SHARES)


def table(rows: list[dict]) -> str:
    """Markdown."""
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*head, *map(_line, rows)])


def _line(row: dict) -> str:
    shares = " | ".join(f"{row[name]:.1%}" for name in SHARES)
    if "steps" not in row:
        return f"| {row['method']} |" + " |" * (len(COLUMNS) - len(SHARES) - 1) + f" {shares} |"
    return (
        f"| {row['method']} | {row['steps']} | {row['guidance']:g} | {row['paired_error']:.3f} "
        f"| {row['paired_median']:.3f} | {row['psnr_db']:.1f} "
        f"| {row['fd']:.2f} | {shares} |"
    )


def setting(arguments: argparse.Namespace, minutes: float) -> str:
    """What the table's figures were measured on and with, in a sentence or two."""
    return (
        f"{arguments.prompts} prompts of unseen scenes, half with one thing, half with two; {arguments.paired} of them "
        f"paired with the teacher's {REFERENCE_STEPS}-step ODE. FD against {TEACHER_STEPS}-step DPM-Solver++ "
        f"samples of the teacher from other noise, so the DPM-Solver++ {TEACHER_STEPS} rows are the floor. "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {minutes:.0f} minutes."
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--paired", type=int, default=128)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.5])
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bench = Bench(arguments.assets, arguments.prompts, arguments.device)
    start = time.perf_counter()
    rows = [row for w in arguments.guidance for row in measure(bench, w, tuple(arguments.steps), arguments.paired)]
    rows.append({"method": "the scenes themselves", **bench.true_accuracies()})
    head = setting(arguments, (time.perf_counter() - start) / 60)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quality.json").write_text(json.dumps(rows, indent=1))
    (arguments.out / "quality.md").write_text(f"{head}\n\n{table(rows)}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
