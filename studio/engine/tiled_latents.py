"""The latents of a picture that is drawn in tiles: one noise for all of it, and one canvas for each timestep.

A tile is drawn with all its steps before the next begins. After each step what it shares with neighbours that are
drawn already is blended, by a linear ramp, with what those had at that same timestep; so both go on from the same
latents and no seam arises. All of it lies in the machine's memory, and only the tile at work on the device.
Shapes: 1 C H W latents of the whole canvas, 1 C h w of a tile, fp32. Time: timestep 1000 is noise, 0 the picture.
It does not know what predicts, nor pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LCMScheduler

from studio.engine.beginning import Beginning, schedule_of
from studio.engine.tcd import TCD
from studio.upscaling.tiles import Tile

SEED_STRIDE = 1_000_003


class TiledLatents:
    """Noise and canvases of one picture; `scale` is how many pixels a latent stands for."""

    def __init__(self, size: tuple[int, int], num_channels: int, scale: int, seed: int) -> None:
        width, height = size
        self._shape = (1, num_channels, height // scale, width // scale)
        self._scale, self._seed = scale, seed
        self._noises: dict[int, torch.Tensor] = {}
        self._canvases: dict[int, torch.Tensor] = {}

    def noise(self, tile: Tile, number: int = 0) -> torch.Tensor:
        """A tile's part of the noise that the picture begins with (0), or of the one that is added after a step."""
        if number not in self._noises:
            generator = torch.Generator("cpu").manual_seed(self._seed + SEED_STRIDE * number)
            self._noises[number] = torch.randn(self._shape, generator=generator)
        return self._part(self._noises[number], tile.box).clone()

    def join(self, tile: Tile, latents: torch.Tensor, timestep: int) -> torch.Tensor:
        """A tile's latents at a timestep, blended with its neighbours' and remembered for the next ones."""
        if timestep not in self._canvases:
            self._canvases[timestep] = torch.zeros(self._shape)
        part = self._part(self._canvases[timestep], tile.box)
        weights = torch.from_numpy(tile.weights(self._scale))
        part.copy_(torch.lerp(part, latents.to(part), weights))
        return part.to(latents)

    def clean(self, box: tuple[int, int, int, int]) -> torch.Tensor:
        """What is drawn of a box (in pixels)."""
        return self._part(self._canvases[0], box)

    def _part(self, canvas: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
        left, top, right, bottom = (edge // self._scale for edge in box)
        return canvas[:, :, top:bottom, left:right]


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedTile(Beginning):
    """The beginning of one tile, which after each step meets its neighbours."""

    tile: Tile
    latents_of_all: TiledLatents

    def hold(self, latents: torch.Tensor, sampler: Any, noise: torch.Tensor, timestep: int) -> torch.Tensor:  # noqa: ARG002
        """The tile's latents, blended where it lies over neighbours."""
        return self.latents_of_all.join(self.tile, latents, timestep)


def share_noise(sampler: Any, tile: Tile, latents_of_all: TiledLatents) -> None:
    """Let a sampler that adds noise after its steps (LCM, TCD) take it from the picture's own, as its beginning is."""
    if isinstance(sampler, LCMScheduler | TCD):
        sampler.step = _sharing(sampler, tile, latents_of_all)


def _sharing(sampler: Any, tile: Tile, latents_of_all: TiledLatents) -> Callable[..., Any]:
    step = sampler.step

    def shared(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, generator: Any = None,
               return_dict: bool = True) -> Any:  # fmt: skip
        output: Any = step(model_output, timestep, sample, generator=generator, return_dict=True)
        place = sampler.step_index or 0
        if place < len(sampler.timesteps):
            output.prev_sample = _noised_again(sampler, output, latents_of_all.noise(tile, place).to(sample), place)
        return output if return_dict else (output.prev_sample,)

    return shared


def _noised_again(sampler: Any, output: Any, noise: torch.Tensor, place: int) -> torch.Tensor:
    """What a step ended with, with this noise up to the grid's step `place`."""
    if isinstance(sampler, TCD):
        return sampler.renoised(output.pred_noised_sample, noise, place)
    return schedule_of(sampler).add_noise(output.denoised, noise, int(sampler.timesteps[place]) + 1)
