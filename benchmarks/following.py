"""How well a drawing follows its picture: edges, depth, joints, coarse colours, likeness; what benchmarks ask.

Depth and joints are read off drawings by the reader, a network that saw no generator's scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from trainer.controls import CANNY_HIGH, CANNY_LOW, TILE_FACTOR, image_from
from trainer.tabletop.autoencoder import to_pixels
from trainer.tabletop.clip import clip_pixels
from trainer.tabletop.data import IMAGE_SIZE
from trainer.tabletop.reader import PLACES, Reader, joint_error, joints_seen, rank_correlation, read
from trainer.tabletop.renderer import Render
from trainer.tabletop.scenes import Scene


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A test scene as it really looks, and the picture that drawings of it are to follow."""

    scene: Scene
    seen: Render
    picture: Image.Image

    @property
    def true(self) -> Image.Image:
        """The scene itself."""
        return image_from((self.seen.rgb * 255).round().to(torch.uint8))


def edge_f1(drawn: Image.Image, subject: Subject) -> float:
    """F1 of the drawing's Canny edges against the map's, within one pixel."""
    found = cv2.Canny(np.asarray(drawn), CANNY_LOW, CANNY_HIGH) > 0
    wanted = np.asarray(subject.picture.convert("L")) > 0
    near_found, near_wanted = (cv2.dilate(each.astype(np.uint8), np.ones((3, 3))) > 0 for each in (found, wanted))
    precision = (found & near_wanted).sum() / max(found.sum(), 1)
    recall = (wanted & near_found).sum() / max(wanted.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def tile_psnr(drawn: Image.Image, subject: Subject) -> float:
    """PSNR of the drawing against the scene, both at the tile's own size."""
    small = IMAGE_SIZE // TILE_FACTOR, IMAGE_SIZE // TILE_FACTOR
    one, other = (np.asarray(each.resize(small, Image.Resampling.BOX), float) for each in (drawn, subject.true))
    return psnr_of(one, other)


def psnr_of(one: np.ndarray, other: np.ndarray) -> float:
    """In dB, of levels up to 255."""
    return float(-10 * np.log10(np.mean(((one - other) / 255) ** 2) + 1e-10))


class Eyes:
    """The reader and the CLIP image encoder."""

    def __init__(self, assets: Path) -> None:
        self.reader = Reader().eval()
        self.reader.load_state_dict(load_file(assets / "judge" / "reader.safetensors"))
        folder = assets / "tabletop-clip" / "image_encoder"
        self.clip: Any = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32)

    def depth(self, drawn: Image.Image, subject: Subject) -> float:
        """Rank correlation of the depth read off the drawing with the map, at 32 x 32."""
        wanted = np.asarray(subject.picture.convert("L").resize((PLACES, PLACES), Image.Resampling.BOX), float)
        return rank_correlation(read(self.reader, pixels_of(drawn))[0][0], wanted)

    def joints(self, drawn: Image.Image, subject: Subject) -> float | None:
        """Mean distance of the joints read off the drawing from the seen ones, in pixels."""
        truth = joints_seen(subject.scene, subject.seen).numpy()
        return joint_error(read(self.reader, pixels_of(drawn))[1][0], truth)

    @torch.inference_mode()
    def likeness(self, drawn: Image.Image, subject: Subject) -> float:
        """Cosine of the drawing's CLIP embedding with the reference's."""
        rows = np.stack([np.asarray(each.convert("RGB")).transpose(2, 0, 1) for each in (drawn, subject.picture)])
        one, other = self.clip(pixel_values=clip_pixels(rows)).image_embeds
        return float(torch.cosine_similarity(one, other, dim=0))


def pixels_of(image: Image.Image) -> torch.Tensor:
    """`[1, 3, H, W]` in [-1, 1]."""
    return to_pixels(np.asarray(image.convert("RGB")).transpose(2, 0, 1)[None].copy())
