"""The published PeRFlow training loop (SD1.5 layout), re-stated plainly: the peer `benchmarks.training` compares with.

Each step encodes its pictures and its captions, draws t uniformly, noises to the start of t's window, lets the frozen
teacher walk the window in 8 DDIM steps, and asks the student once on the straight line: arXiv 2405.07510, algorithm 1,
CFG-sync. AdamW and an EMA weight by weight; forwards in the same half precision as ours; diffusers' own attention.
It shares no code with `trainer` but autocast, so that nothing found there is given to it. The head is ddim_eps, the one
ours trains, so that both learn the same thing.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from trainer.precision import Precision, autocast

NUM_WINDOWS = 4
NUM_DDIM_STEPS = 8
CAPTION_DROPOUT = 0.1
MAX_NORM = 1.0


class PublishedLoop:
    """`step(pixels, captions)` is one optimizer step; `average` has the EMA's weights."""

    def __init__(self, pipe: Any, *, device: str, precision: Precision, learning_rate: float, warmup_steps: int,
                 ema_decay: float, seed: int) -> None:  # fmt: skip
        self.pipe, self.device = pipe, device
        self.precision: Precision = precision
        nn.Module.to(pipe.unet, memory_format=torch.contiguous_format)
        self.unet, self.teacher = pipe.unet.requires_grad_(True).train(), copy.deepcopy(pipe.unet)
        self.teacher.requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.rate, self.warmup_steps, self.ema_decay = learning_rate, warmup_steps, ema_decay
        self.average = {name: p.detach().clone() for name, p in self.unet.named_parameters()}
        self.generator = torch.Generator().manual_seed(seed)
        self.alphas_cumprod = pipe.scheduler.alphas_cumprod.to(device)
        self.num_steps = 0

    def step(self, pixels: torch.Tensor, captions: list[str]) -> float:
        """Pixels `[B, 3, H, W]` in [-1, 1]."""
        latents, prompts = self._encoded(pixels, captions)
        t = 1 - torch.floor(torch.rand(len(pixels), generator=self.generator) * 1000) / 1000
        start = torch.ceil(t * NUM_WINDOWS) / NUM_WINDOWS
        end = start - 1 / NUM_WINDOWS
        t, start, end = (each.to(self.device) for each in (t, start, end))
        noise = torch.randn(latents.shape, generator=self.generator).to(self.device)
        z_s = self._signal(start) * latents + self._noise(start) * noise
        z_e = self._walk(z_s, start, end, prompts)
        share = ((t - end) / (start - end)).view(-1, 1, 1, 1)
        z_t = share * z_s + (1 - share) * z_e
        lam = self._signal(end) / self._signal(start)
        target = (z_e - lam * z_s) / (self._noise(end) - lam * self._noise(start))
        with autocast(self.device, self.precision):
            answer = self.unet(z_t, t * 1000, prompts).sample
        loss = (answer.float() - target).square().mean()
        self._improve(loss)
        return float(loss.detach())

    @torch.no_grad()
    def _encoded(self, pixels: torch.Tensor, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self.pipe.vae.encode(pixels.to(self.device)).latent_dist.sample(self.generator)
        kept = torch.rand(len(captions), generator=self.generator) >= CAPTION_DROPOUT
        texts = [text if keep else "" for text, keep in zip(captions, kept, strict=True)]
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                        return_tensors="pt").input_ids  # fmt: skip
        return latents * self.pipe.vae.config.scaling_factor, self.pipe.text_encoder(ids.to(self.device))[0]

    @torch.no_grad()
    def _walk(self, z: torch.Tensor, start: torch.Tensor, end: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        for place in range(NUM_DDIM_STEPS):
            here = start + (end - start) * place / NUM_DDIM_STEPS
            there = start + (end - start) * (place + 1) / NUM_DDIM_STEPS
            with autocast(self.device, self.precision):
                eps = self.teacher(z, self._index(here), prompts).sample.float()
            clean = (z - self._noise(here) * eps) / self._signal(here)
            z = self._signal(there) * clean + self._noise(there) * eps
        return z

    def _improve(self, loss: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (self.num_steps + 1) / max(self.warmup_steps, 1))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), MAX_NORM)
        self.optimizer.step()
        decay = min(self.ema_decay, (self.num_steps + 1) / (self.num_steps + 10))
        with torch.no_grad():
            for name, parameter in self.unet.named_parameters():
                self.average[name].sub_((1 - decay) * (self.average[name] - parameter))
        self.num_steps += 1

    def _index(self, t: torch.Tensor) -> torch.Tensor:
        return (t * 1000 - 1).round().long().clamp(min=0)

    def _signal(self, t: torch.Tensor) -> torch.Tensor:
        return self.alphas_cumprod[self._index(t)].sqrt().view(-1, 1, 1, 1)

    def _noise(self, t: torch.Tensor) -> torch.Tensor:
        return (1 - self.alphas_cumprod[self._index(t)]).sqrt().view(-1, 1, 1, 1)
