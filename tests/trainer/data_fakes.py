"""An encoder that needs no weights, and configurations and datasets for the tests of training data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from studio.datasets.store import DatasetStore, StoredDataset
from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from tests.datasets.making import Content, folder_of


@dataclass
class FakeEncoder:
    """Posteriors are pooled pixels with a log-variance of -6, conditions are letters; counts what it is asked."""

    device: str = "cpu"
    vae_sha256: str = "v" * 64
    text_sha256: str = "t" * 64
    num_encoded: int = 0
    embedded: list[str] = field(default_factory=list)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[0] == 1
        assert pixels.min() >= -1
        assert pixels.max() <= 1
        self.num_encoded += 1
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        mean = torch.cat([mean, mean.mean(1, keepdim=True)], 1)
        return torch.cat([mean, torch.full_like(mean, -6.0)], 1)

    def latents(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        mean, log_variance = parameters.chunk(2, dim=1)
        return 0.5 * (mean + noise * (0.5 * log_variance).exp())

    def embed(self, texts: list[str], sizes: Any = None) -> dict[str, torch.Tensor]:
        self.embedded += texts
        rows = [[byte / 255 for byte in hashlib.sha256(text.encode()).digest()] for text in texts]
        return {"prompt_embeds": torch.tensor(rows).reshape(len(texts), 4, 8)}


def config_for(dataset: DatasetRef, **changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {"batch_size": 4, "resolution": 64, "num_held_out": 3, "pair_reuse": 1, "num_steps": 20}
    base = BaseModel(id="tiny", family="tabletop", source="/nowhere")
    return TrainingConfig(name="test", base=base, dataset=dataset, **(values | changes))


def stored(folder: Path, files: dict[str, Content], title: str = "Set") -> StoredDataset:
    """A dataset imported from these files."""
    source = folder_of(folder / f"source-{title}", files)
    return DatasetStore(folder / "datasets").import_folder(source, title)


def ref_to(dataset: StoredDataset) -> DatasetRef:
    return DatasetRef(id=dataset.id, kind="stored", source=str(dataset.path), fingerprint=dataset.fingerprint)
