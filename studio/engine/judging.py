"""Judges of pictures: the built-in classifier of a family's world, and CLIP where its weights are on disk.

Both look at finished pictures and know nothing of who drew them. Neither ever downloads: a judge that is not there
says nothing, and the page shows nothing. Networks are read once, when first asked, and run on the processor in fp32,
so that a picture's verdict is the same wherever it was drawn. Libraries are imported when first used.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from studio.adherence import Seen, Vocabulary
from studio.engine.hub import Hub

if TYPE_CHECKING:
    import torch

    from studio.networks.judge import Judge

FAMILIES: Mapping[str, str] = {"tabletop": "judge"}
LABELS_FILE, WEIGHTS_FILE = "labels.json", "judge.safetensors"
CLIP_MODEL = "openai/clip-vit-large-patch14"
CLIP_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    network: Judge
    vocabulary: Vocabulary


class Judges:
    """The judges below `assets_dir`, and CLIP in the hub's cache; any thread may ask."""

    def __init__(self, assets_dir: Path, hub_cache: Path | None = None) -> None:
        self._assets_dir, self._hub = assets_dir, Hub(hub_cache, offline=True)
        self._reading = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._clip: tuple[Any, Any] | None = None

    def vocabulary(self, family: str) -> Vocabulary | None:
        """The words of a family's judge; `None` where it has none."""
        known = self._judge(family)
        return None if known is None else known.vocabulary

    def see(self, family: str, pictures: Sequence[Image.Image]) -> list[Seen] | None:
        """What a family's judge makes of pictures of any size; `None` where it has no judge."""
        known = self._judge(family)
        if known is None:
            return None
        import torch

        with torch.inference_mode():
            found = known.network(_pixels(pictures))
        arrays = {name: found[name].numpy() for name in ("pairs", "surfaces", "floor", "sky", "features")}
        return [Seen(**{name: values[row] for name, values in arrays.items()}) for row in range(len(pictures))]

    def clip_score(self, prompt: str, pictures: Sequence[Image.Image]) -> list[float] | None:
        """100 * max(cosine, 0) of each picture and the prompt (CLIPScore, arXiv 2104.08718, without its 2.5); `None`
        without weights."""
        clip = self._read_clip()
        if clip is None:
            return None
        import torch

        model, processor = clip
        inputs = processor(text=[prompt], images=list(pictures), return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            found = model(**inputs)
            cosines = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
        return [100 * max(0.0, float(each)) for each in cosines]

    def _judge(self, family: str) -> _Known | None:
        folder = self._assets_dir / FAMILIES.get(family, "")
        if family not in FAMILIES or not (folder / WEIGHTS_FILE).is_file() or not (folder / LABELS_FILE).is_file():
            return None
        with self._reading:
            if family not in self._known:
                self._known[family] = _read_judge(folder)
            return self._known[family]

    def _read_clip(self) -> tuple[Any, Any] | None:
        weights = self._hub.cached(CLIP_MODEL, CLIP_WEIGHTS)
        if weights is None:
            return None
        with self._reading:
            if self._clip is None:
                import torch
                from transformers import CLIPModel, CLIPProcessor

                where: dict[str, Any] = {"local_files_only": True}
                model = CLIPModel.from_pretrained(weights.parent, dtype=torch.float32, use_safetensors=True, **where)
                self._clip = (model.eval(), CLIPProcessor.from_pretrained(weights.parent, **where))
            return self._clip


def _read_judge(folder: Path) -> _Known:
    from studio.networks.judge import Judge
    from studio.perflow.safefile import read_tensors

    vocabulary = Vocabulary.from_json(json.loads((folder / LABELS_FILE).read_text(encoding="utf-8")))
    network = Judge(vocabulary)
    network.load_state_dict({name: value.float() for name, value in read_tensors(folder / WEIGHTS_FILE).items()})
    return _Known(network=network.eval().requires_grad_(False), vocabulary=vocabulary)


def _pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """`[B, 3, 128, 128]` in [-1, 1]."""
    import torch

    from studio.networks.judge import IMAGE_SIZE

    side = (IMAGE_SIZE, IMAGE_SIZE)
    sized = [each.convert("RGB") if each.size == side else each.convert("RGB").resize(side) for each in pictures]
    levels = torch.from_numpy(np.stack([np.asarray(each) for each in sized]))
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1
