"""A student whose weights, gradients, moments and average are split over the processes of a run: torch's FSDP2.

For bases too large for one GPU (every weight of SDXL). A split tensor is a `DTensor`; on disk and in exports there are
whole ones only, so that a run may go on with another number of processes. Reading a whole tensor is something all
processes do together. Knows no loop; who starts the processes is torchrun or accelerate.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

# Gathered one at a time as a forward reaches them; the rest of a UNet is one more piece.
BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock")


def shard(module: nn.Module, device: torch.device) -> None:
    """Split a module's parameters in place, over all processes; call it before anything holds on to them."""
    nn.Module.to(module, memory_format=torch.contiguous_format)  # FSDP2 knows no other
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for each in list(module.modules()):
        if type(each).__name__ in BLOCKS:
            fully_shard(each, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # or its own weights stay whole after a measurement


def whole(value: torch.Tensor) -> torch.Tensor:
    """All of a tensor, on every process; together with all others where it is split."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def placed_like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, split as another one is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)


def own_part(value: torch.Tensor) -> torch.Tensor:
    """What of a tensor lies in this process; all of it where it is not split. Shares its memory."""
    return value.to_local() if isinstance(value, DTensor) else value
