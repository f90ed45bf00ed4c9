"""The VAE stage: standardised latents change no picture."""

from __future__ import annotations

import torch

from trainer.tabletop import models
from trainer.tabletop.autoencoder import standardise


def test_standardised_latents_have_mean_0_and_variance_1_and_decode_to_the_same_picture() -> None:
    torch.manual_seed(0)
    vae = models.new_vae().eval()
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        picture = vae.decode(before.mean).sample
        spread = before.std / before.mean.std((0, 2, 3), keepdim=True)
        standardise(vae, before.parameters)
        after = vae.encode(pixels).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, picture, atol=1e-4)
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(after.std, spread, rtol=1e-3)
