"""LoRAs on disk: the key layouts others read, and the best LoRA of a rank for a full student's delta weights.

| layout | key |
|---|---|
| diffusers | `unet.down_blocks.0....to_q.lora_A.weight`, `.lora_B.weight`; alpha is the rank |
| kohya | `lora_unet_down_blocks_0_..._to_q.lora_down.weight`, `.lora_up.weight`, `.alpha` |

A delta keeps what its largest singular values hold; norms and biases have no place in a LoRA. What is lost is told as a
share of the delta's norm. Layers by plain names: `name.lora_A.weight` `[r, in, ...]`, `name.lora_B.weight` `[out, r]`.
Knows no run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

Layers = dict[str, torch.Tensor]
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def diffusers_layout(layers: Mapping[str, torch.Tensor]) -> Layers:
    """What `load_lora_weights` reads, in fp16."""
    return {f"unet.{name}": value.half().contiguous() for name, value in layers.items()}


def kohya_layout(layers: Mapping[str, torch.Tensor]) -> Layers:
    """What kohya's scripts, A1111 and ComfyUI read, in fp16."""
    found: Layers = {}
    for name, value in layers.items():
        module, end = (name.removesuffix(_DOWN), "lora_down") if name.endswith(_DOWN) else (
            name.removesuffix(_UP), "lora_up")  # fmt: skip
        key = "lora_unet_" + module.replace(".", "_")
        found[f"{key}.{end}.weight"] = value.half().contiguous()
        if end == "lora_down":
            found[f"{key}.alpha"] = torch.tensor(float(value.shape[0]), dtype=torch.float16)
    return found


@torch.no_grad()
def lora_of_delta(delta: Mapping[str, torch.Tensor], rank: int) -> tuple[Layers, float]:
    """The best LoRA of a rank (truncated SVD, layer by layer) and the share of the delta's norm that it loses."""
    layers: Layers = {}
    total = lost = 0.0
    for name, value in delta.items():
        change = value.float()
        total += float(change.square().sum())
        if change.ndim not in (2, 4) or not name.endswith(".weight"):
            lost += float(change.square().sum())
            continue
        left, sizes, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
        kept = min(rank, len(sizes))
        lost += float(sizes[kept:].square().sum())
        root = sizes[:kept].sqrt()
        module = name.removesuffix(".weight")
        layers[module + _DOWN] = (root[:, None] * right[:kept]).reshape(kept, *change.shape[1:]).clone()
        up = left[:, :kept] * root
        layers[module + _UP] = (up[..., None, None] if change.ndim == 4 else up).clone()
    return layers, (lost / total) ** 0.5 if total else 0.0
