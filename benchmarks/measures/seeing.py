"""What the judge sees: features, attribute accuracy, and whether a negative prompt was obeyed.

The judge is `studio.networks.judge`, trained on seeds that no generator saw; the sha256 of its file stands in every
report, for features and accuracies alike.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from studio.adherence import Vocabulary
from studio.networks.judge import Judge
from trainer.tabletop.judge import accuracies, things_found
from trainer.tabletop.scenes import Scene

BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Eye:
    """The judge, its words, and the hash of its file."""

    judge: Judge
    vocabulary: Vocabulary
    sha256: str
    device: str = "cpu"

    @classmethod
    def load(cls, assets: Path, device: str = "cpu") -> Eye:
        """From `assets/judge`."""
        folder = assets / "judge"
        vocabulary = Vocabulary.from_json(json.loads((folder / "labels.json").read_text(encoding="utf-8")))
        judge = Judge(vocabulary)
        judge.load_state_dict({k: v.float() for k, v in load_file(folder / "judge.safetensors").items()})
        sha256 = hashlib.sha256((folder / "judge.safetensors").read_bytes()).hexdigest()
        return cls(
            judge=judge.to(device).eval().requires_grad_(False), vocabulary=vocabulary, sha256=sha256, device=device
        )

    @torch.inference_mode()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """`[N, 160]` on the CPU, of pixels in [-1, 1]."""
        return torch.cat([self.judge.features(part.to(self.device)) for part in pixels.split(BATCH)]).cpu()

    @torch.inference_mode()
    def logits(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The judge's logits on the CPU, by what they tell of."""
        parts = [self.judge(part.to(self.device)) for part in pixels.split(BATCH)]
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}

    def accuracies(self, pixels: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
        """Shares of pictures in which what their scenes have was found (trainer.tabletop.judge)."""
        return accuracies(self.judge, pixels.to(self.device), scenes)


def things_right(eye: Eye, pixels: torch.Tensor, scenes: list[Scene]) -> list[bool]:
    """For each picture whether all its scene's things were found in their colours."""
    return things_found(eye.logits(pixels)["pairs"], scenes)


def still_finding(eye: Eye, pixels: torch.Tensor, part: str, unwanted: list[str]) -> float:
    """The share of pictures in which the judge finds what each one's negative prompt named.

    `part` is `floor` or `sky`, `unwanted` has a label for each picture.
    """
    labels = {"floor": list(eye.vocabulary.floors), "sky": list(eye.vocabulary.skies)}[part]
    found = eye.logits(pixels)[part].argmax(-1)
    wanted = torch.tensor([labels.index(each) for each in unwanted])
    return float((found == wanted).double().mean())
