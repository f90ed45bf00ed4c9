"""Drawing Tabletop in batches with any accelerator of the catalogue and any scheduler, for benchmarks.

What the UNet wears, which sampler walks and how guidance enters are the studio's own (engine, perflow); only the batch
and the fixed noise are different: latents `[N, 4, 16, 16]` for N prompts of unseen scenes, the same noise for everyone.
Prompts are of test scenes (TEST_SEEDS), half with one thing and half with two, that no model ever saw.
Knows no measure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from studio.catalog import Catalog
from studio.engine.accelerator import AcceleratedUNet
from studio.engine.hub import Hub
from studio.engine.samplers import RULER, make_sampler
from studio.engine.weights import Weights
from studio.perflow.guidance import num_network_calls, scales_per_step
from studio.perflow.safefile import read_header
from studio.perflow.windows import TimeWindows
from studio.runs.config import TrainingConfig
from studio.specs import AcceleratorSpec, DeltaSpec, ModelSpec
from studio.types import Guidance
from trainer.facts import facts_of
from trainer.tabletop.captions import full_caption
from trainer.tabletop.data import TEST_SEEDS
from trainer.tabletop.precision import autocast
from trainer.tabletop.scenes import Scene, random_scene

PRESETS = Path(__file__).resolve().parents[1] / "presets"
MODEL = "tabletop"
NOISE_SEED = 20240507
LATENT_SHAPE = (4, 16, 16)
Scales = float | tuple[float, ...]
Steps = int | tuple[int, ...]  # a number, or PeRFlow's timesteps themselves


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way to draw: an accelerator of the catalogue, the facts of its weights, and (of a LoRA) how it was trained.

    `baked` is the guidance that is in the weights already; `None` where the sampler's is all there is.
    """

    spec: AcceleratorSpec
    facts: DeltaSpec | None = None
    recipe: TrainingConfig | None = None

    @property
    def id(self) -> str:
        """The accelerator's."""
        return self.spec.id

    @property
    def name(self) -> str:
        """The accelerator's title; of a bare solver only what stands in brackets."""
        title = self.spec.title
        return title.removeprefix("None (").removesuffix(")") if self.spec.kind == "none" else title

    @property
    def is_trained(self) -> bool:
        """Whether it has weights of its own."""
        return self.spec.kind != "none"

    @property
    def baked(self) -> float | None:
        """The teacher's guidance that training put into the weights."""
        return self.facts.trained_guidance if self.facts and self.facts.guidance_mode == "fixed" else None

    @property
    def windows(self) -> TimeWindows:
        """Its time windows; the ruler's where it has none."""
        is_perflow = self.spec.sampler == "perflow" and self.facts is not None
        return TimeWindows(num_time_windows=self.facts.num_time_windows) if is_perflow and self.facts else RULER


def contestants(assets: Path, presets: Path = PRESETS) -> list[Contestant]:
    """Every accelerator of Tabletop whose weights are there, in the catalogue's order, plain solvers last."""
    catalog = Catalog.load(presets)
    found = [each for each in catalog.accelerators_for(MODEL) if not each.source or _file(assets, each)]
    return [_contestant(assets, each) for each in found]


def _file(assets: Path, spec: AcceleratorSpec) -> Path | None:
    return next(iter(sorted((assets / str(spec.source)).glob("*.safetensors"))), None)


def _contestant(assets: Path, spec: AcceleratorSpec) -> Contestant:
    """Facts are what the catalogue says; of a LoRA else what its own recipe says."""
    path = _file(assets, spec) if spec.kind == "lora" else None
    written = read_header(path).metadata.get("recipe") if path else None
    recipe = TrainingConfig.from_json(json.loads(written)) if written else None
    facts = spec.delta or (facts_of(recipe).delta if recipe else None)
    return Contestant(spec=spec, facts=facts, recipe=recipe)


def quieten() -> None:
    """Libraries tell of errors only, and draw no bars of their own into a benchmark's."""
    for each in (diffusers_logging, transformers_logging):
        each.set_verbosity_error()
        each.disable_progress_bar()


def unseen_scenes(num_things: int, count: int, first: int = 0) -> list[Scene]:
    """Scenes whose prompts are measured with: no network and no reference ever saw them."""
    start = TEST_SEEDS + 1_000_000 * num_things + first
    return [random_scene(start + i, num_things=num_things) for i in range(count)]


def noise_of(count: int, seed: int = NOISE_SEED) -> torch.Tensor:
    """`[count, 4, 16, 16]`; the first rows are the same whatever the count."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(1, *LATENT_SHAPE, generator=generator) for _ in range(count)]
    return torch.cat(rows) if rows else torch.zeros(0, *LATENT_SHAPE)


class Bench:
    """A Tabletop pipeline (or one fine-tuned from it), the prompts, and one way to draw with anything.

    `advance` is told after every batch how many rows of the network it took, and what is being drawn.
    """

    def __init__(self, assets: Path, num_prompts: int, device: str = "cpu", presets: Path = PRESETS,
                 base: Path | None = None) -> None:  # fmt: skip
        self.assets, self.device = assets, device
        self.advance: Callable[[int, str], None] = _silent
        catalog = Catalog.load(presets)
        self.model: ModelSpec = catalog.model(MODEL)
        self.weights = Weights(catalog, Hub(None, offline=True), assets)
        self.pipe: Any = StableDiffusionPipeline.from_pretrained(base or assets / "tabletop", dtype=torch.float32)
        self.pipe.to(device)
        self.pipe.unet.to(memory_format=torch.channels_last).requires_grad_(False)
        self.pipe.vae.to(memory_format=torch.channels_last).requires_grad_(False)
        self.worn = AcceleratedUNet(self.pipe, self.model, is_merged=False)
        half = num_prompts // 2
        self.scenes = [scene for pair in zip(*(unseen_scenes(n, half) for n in (1, 2)), strict=True) for scene in pair]

    @cached_property
    def prompts(self) -> torch.Tensor:
        """`[N, 64, 192]`: everything said of every scene."""
        return self.embed([full_caption(scene) for scene in self.scenes])

    @cached_property
    def empty(self) -> torch.Tensor:
        """`[1, 64, 192]`: no prompt."""
        return self.embed([""])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """`[N, 64, 192]`."""
        ids = self.pipe.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return torch.cat([self.pipe.text_encoder(part.to(self.device))[0] for part in ids.split(100)])

    def wear(self, contestant: Contestant) -> str | None:
        """Put its weights on; returns their hash, which none has that has no weights."""
        spec = contestant.spec
        read = self.weights.lora if spec.kind == "lora" else self.weights.delta
        return self.worn.wear(spec, 1.0, lambda: read(spec, _silent)).sha256

    def sampler(self, contestant: Contestant) -> Any:
        """A fresh scheduler, as the studio makes it."""
        return make_sampler(self.pipe.scheduler.config, self.model, contestant.spec, contestant.facts)

    def laid(self, contestant: Contestant, steps: Steps) -> Any:
        """A fresh scheduler on its grid."""
        sampler = self.sampler(contestant)
        if isinstance(steps, int):
            sampler.set_timesteps(steps)
        else:
            sampler.set_timesteps(timesteps=list(steps))
        return sampler

    def scales(self, contestant: Contestant, steps: Steps, guidance: Scales) -> tuple[float, ...]:
        """One guidance scale a step; `guidance` is one for all or one for each time window."""
        sampler = self.laid(contestant, steps)
        above = 0 if contestant.spec.sampler == "perflow" else 1
        windows = contestant.windows
        places = [windows.window_of(min(int(t) + above, 1000)) for t in sampler.timesteps]
        given = Guidance.of(guidance)
        return scales_per_step(given, step_windows=places, num_time_windows=windows.num_time_windows)

    def draw(self, contestant: Contestant, steps: Steps, guidance: Scales, noise: torch.Tensor, *,
             prompts: torch.Tensor | None = None, negative: torch.Tensor | None = None,
             batch: int = 32) -> torch.Tensor:  # fmt: skip
        """Latents for the first `len(noise)` prompts; two network rows at a step whose guidance is not 1.

        `negative` `[N or 1, 64, 192]` stands in the empty prompt's place.
        """
        return self.path(contestant, steps, guidance, noise, prompts=prompts, negative=negative, batch=batch)[-1]

    @torch.inference_mode()
    def path(self, contestant: Contestant, steps: Steps, guidance: Scales, noise: torch.Tensor, *,
             prompts: torch.Tensor | None = None, negative: torch.Tensor | None = None,
             batch: int = 32, whole: bool = False) -> torch.Tensor:  # fmt: skip
        """The latents after every step, `[steps + 1, N, 4, 16, 16]` from the noise on; without `whole` the last."""
        self.wear(contestant)
        scales = self.scales(contestant, steps, guidance)
        prompts = self.prompts if prompts is None else prompts
        negative = (self.empty if negative is None else negative).expand(len(noise), -1, -1)
        done = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(NOISE_SEED)  # of the noise that LCM adds between steps
            for start in range(0, len(noise), batch):
                rows = slice(start, start + batch)
                walk = self._walk(contestant, steps, scales, noise[rows], prompts[rows], negative[rows])
                done.append(torch.stack(list(walk) if whole else [list(walk)[-1]]))
                words = f"{contestant.name}, {len(scales)} steps"
                self.advance(len(noise[rows]) * num_network_calls(scales), words)
        return torch.cat(done, dim=1)

    def _walk(self, contestant: Contestant, steps: Steps, scales: tuple[float, ...], noise: torch.Tensor,
              prompts: torch.Tensor, negative: torch.Tensor) -> Iterator[torch.Tensor]:  # fmt: skip
        sampler = self.laid(contestant, steps)
        z = noise.to(self.device) * sampler.init_noise_sigma
        prompts, negative = prompts[: len(z)], negative[: len(z)]
        yield z
        for t, scale in zip(sampler.timesteps, scales, strict=True):
            answer = self.answer(sampler.scale_model_input(z, t), t, prompts, scale, negative)
            z = sampler.step(answer, t, z, return_dict=False)[0]
            yield z

    def answer(self, z: torch.Tensor, t: Any, prompts: torch.Tensor, scale: float = 1.0,
               negative: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
        """The network's noise prediction, guided; fp32."""
        with autocast(self.device):
            if scale == 1:
                return self.pipe.unet(z, t, prompts, return_dict=False)[0].float()
            without = self.empty.expand_as(prompts) if negative is None else negative
            both = self.pipe.unet(torch.cat([z, z]), t, torch.cat([without, prompts]), return_dict=False)[0].float()
        unguided, guided = both.chunk(2)
        return unguided + scale * (guided - unguided)

    @torch.inference_mode()
    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Decoded `[N, 3, 128, 128]` in [-1, 1]."""
        scale = self.pipe.vae.config.scaling_factor
        return torch.cat(
            [self.pipe.vae.decode(part / scale, return_dict=False)[0].clamp(-1, 1) for part in latents.split(8)]
        )


def _silent(_what: Any, _how_far: Any) -> None:
    """Nobody asked to be told; and nothing is downloaded here."""
