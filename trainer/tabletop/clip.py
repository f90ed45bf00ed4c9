"""The CLIP stage: a text and an image encoder trained together, contrastively, on the world.

Beside the other captions of the batch each picture meets one hard negative: its own caption with a detail wrong
(colours swapped between two things, left for right, another shape). Without those, word order never matters to CLIP.
Source of the loss: Radford et al., arXiv 2103.00020; hard negatives: Yuksekgonul et al., arXiv 2210.01936.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.captions import caption, wrong_caption
from trainer.tabletop.precision import autocast
from trainer.tabletop.scenes import Scene

MAX_LOGIT_SCALE = 100.0
# the statistics that transformers' CLIPImageProcessor applies; the pair is used with them everywhere
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipPair(nn.Module):
    """Both encoders and the temperature."""

    def __init__(self, text: CLIPTextModelWithProjection, image: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.text, self.image = text, image
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))


def mirrored(scene: Scene) -> Scene:
    """The words' side of a picture flipped left to right: relations change, nothing else that captions say."""
    turned = {"left of": "right of", "right of": "left of"}
    return replace(scene, relations=tuple(turned.get(name, name) for name in scene.relations))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """`[N, 64]` token ids, padded to the full length as the pipelines pad."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def clip_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 `[N, 3, H, W]` as the image encoder wants it."""
    mean = torch.tensor(CLIP_MEAN)[:, None, None]
    std = torch.tensor(CLIP_STD)[:, None, None]
    return ((to_pixels(images) + 1) / 2 - mean) / std


class ClipTask:
    """Match pictures and captions; half the pictures are flipped, with captions to match."""

    def __init__(
        self,
        pair: ClipPair,
        tokenizer: CLIPTokenizer,
        images: np.ndarray,
        scenes: list[Scene],
        device: str,
        batch: int = 64,
    ) -> None:
        self.pair = pair.to(device)
        for encoder in (pair.text, pair.image):  # torch's fused attention is slow going backward on a CPU
            encoder.set_attn_implementation("sdpa" if device.startswith("cuda") else "eager")
        self.module: nn.Module = self.pair
        self.tokenizer, self.images, self.scenes = tokenizer, images, scenes
        self.device, self.batch = device, batch

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """InfoNCE in both directions, hard negatives on the text side."""
        picks = torch.randint(len(self.images), (self.batch,), generator=generator).tolist()
        flips = (torch.rand(self.batch, generator=generator) < 0.5).tolist()
        pictures = np.stack(
            [self.images[i, :, :, ::-1] if flip else self.images[i] for i, flip in zip(picks, flips, strict=True)]
        )
        scenes = [mirrored(self.scenes[i]) if flip else self.scenes[i] for i, flip in zip(picks, flips, strict=True)]
        texts = [caption(scene, step * self.batch + k) for k, scene in enumerate(scenes)]
        texts += [wrong_caption(scene, step * self.batch + k) for k, scene in enumerate(scenes)]
        ids = tokenize(self.tokenizer, texts)
        ids = ids[:, : int((ids != ids[0, -1]).sum(1).max()) + 2].to(self.device)
        with autocast(self.device):
            image = self.pair.image(pixel_values=clip_pixels(pictures).to(self.device)).image_embeds
            text = self.pair.text(input_ids=ids).text_embeds
        scores = F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        scores = scores * self.pair.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        truth = torch.arange(self.batch, device=self.device)
        return (F.cross_entropy(scores, truth) + F.cross_entropy(scores[:, : self.batch].T, truth)) / 2


@torch.no_grad()
def hard_choice_accuracy(
    pair: ClipPair, tokenizer: CLIPTokenizer, images: np.ndarray, scenes: list[Scene], device: str
) -> float:
    """How often a picture prefers its caption to the same caption with a detail wrong (chance is 0.5)."""
    right = 0
    for start in range(0, len(images), 50):
        some = scenes[start : start + 50]
        texts = [caption(scene, start + k) for k, scene in enumerate(some)]
        texts += [wrong_caption(scene, start + k) for k, scene in enumerate(some)]
        image = pair.image(pixel_values=clip_pixels(images[start : start + 50]).to(device)).image_embeds
        text = pair.text(input_ids=tokenize(tokenizer, texts).to(device)).text_embeds
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        right += int(((image * text[: len(some)]).sum(-1) > (image * text[len(some) :]).sum(-1)).sum())
    return right / len(images)
