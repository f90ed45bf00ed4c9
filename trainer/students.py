"""The student: what is trained, the teacher it is compared with, and the weights that come out.

| trained | teacher | comes out |
|---|---|---|
| full UNet | a frozen copy of the base, in the precision forwards are computed in | ΔW = average - base, fp32 |
| LoRA (peft) | the same UNet with the adapter off | its layers; ΔW = the products B A, merged in fp32 |
| ControlNet | none: the base stays as it is beside it | the ControlNet |

Weights that are trained are fp32. `average` everywhere is the loop's EMA, by the names of `trainable()`.
Knows no loss, no optimizer and no file.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from diffusers import ControlNetModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import nn

from studio.errors import InvalidRequest
from studio.perflow.delta import base_weights
from studio.perflow.windows import TimeWindows
from studio.runs.config import TrainingConfig
from trainer.networks import Networks, controlled_network_of
from trainer.objectives import start_scale
from trainer.precision import half_dtype
from trainer.sharding import own_part, shard
from trainer.teacher import Network

ADAPTER = "default"
# Every linear and convolution that LCM-LoRA adapts.
LORA_TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
]  # fmt: skip
WITHOUT_TEACHER = ("diffusion", "controlnet")


@dataclass(kw_only=True, eq=False)
class Student:
    """`module` is what is trained: the UNet (bare or wearing a LoRA) or a ControlNet."""

    module: Any
    networks: Networks
    is_lora: bool = False
    is_control: bool = False
    is_sharded: bool = False
    _teacher: Any = None
    _base: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, config: TrainingConfig, networks: Networks) -> Student:
        """What a configuration trains, ready: on the device, in training mode, weights fp32."""
        unet = networks.unet
        if config.method == "controlnet":
            student = cls._control(networks)
        elif config.student == "lora":
            student = cls._lora(config, networks)
        else:
            student = cls._full(networks, with_teacher=config.method not in WITHOUT_TEACHER)
            if config.method == "perflow":
                windows = TimeWindows(num_time_windows=config.num_time_windows)
                _scale_output(unet, start_scale(networks.head, config.prediction_type, networks.schedule, windows))
        if config.gradient_checkpointing:
            student.module.enable_gradient_checkpointing()
            unet.enable_gradient_checkpointing()  # a frozen UNet under a ControlNet keeps activations too
        student.module.train()
        return student

    @classmethod
    def _full(cls, networks: Networks, *, with_teacher: bool) -> Student:
        unet = networks.unet
        base = {name: _compact(weight) for name, weight in base_weights(unet).items()}
        teacher = None
        if with_teacher:
            dtype = half_dtype(networks.device, networks.precision) if networks.device.startswith("cuda") else None
            teacher = copy.deepcopy(unet).requires_grad_(False).eval()
            nn.Module.to(teacher, dtype or torch.float32)
        unet.requires_grad_(True)
        return cls(module=unet, networks=networks, _teacher=teacher, _base=base)

    @classmethod
    def _lora(cls, config: TrainingConfig, networks: Networks) -> Student:
        if config.method == "perflow" and config.prediction_type != networks.head:
            raise InvalidRequest(
                "student",
                f"full with {config.prediction_type}, whose output layer starts re-scaled; or "
                f"prediction_type {networks.head}",
                config.student,
            )
        rank = config.lora_rank
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            networks.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_TARGETS,
                                                 init_lora_weights="gaussian"), ADAPTER)  # fmt: skip
        for name, parameter in networks.unet.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return cls(module=networks.unet, networks=networks, is_lora=True)

    @classmethod
    def _control(cls, networks: Networks) -> Student:
        control = ControlNetModel.from_unet(networks.unet, conditioning_embedding_out_channels=_embedding(networks))
        nn.Module.to(control, torch.device(networks.device), torch.float32).requires_grad_(True)
        nn.Module.to(control, memory_format=torch.channels_last)
        return cls(module=control, networks=networks, is_control=True)

    def shard(self, device: torch.device) -> None:
        """Split what is trained over the processes of the run (`trainer.sharding`), before anybody holds on to it."""
        shard(self.module, device)
        self.is_sharded = True

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def network(self) -> Network:
        """What is trained, as a callable: the UNet, or the frozen UNet with the ControlNet beside it."""
        parts = self.networks
        if self.is_control:
            return controlled_network_of(parts.unet, self.module, parts.device, parts.precision)
        return parts.network()

    def teacher(self) -> Network:
        """The base's UNet as it was, as a callable without gradients; `network(...)` may be called in between."""
        if self.is_lora:
            bare = self.networks.network()

            @torch.no_grad()
            def without_adapter(z: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
                with self.bare():
                    return bare(z, timesteps, condition)

            return without_adapter
        return torch.no_grad()(self.networks.network(self._teacher))

    def others(self) -> tuple[Any, ...]:
        """Networks of its own beside the module: the frozen copy that is the teacher of a full student."""
        return () if self._teacher is None else (self._teacher,)

    @contextlib.contextmanager
    def bare(self) -> Iterator[None]:
        """The UNet with its LoRA off; gradients that are already recorded are not touched."""
        layers = [layer for layer in self.module.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in layers:
            layer._disable_adapters = True  # peft's own switch also freezes the adapter's parameters
        try:
            yield
        finally:
            for layer in layers:
                layer._disable_adapters = False

    @contextlib.contextmanager
    def wearing(self, average: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """The module with other values in its trained parameters, such as the EMA's; afterwards as it was."""
        parameters = self.trainable()
        if self.is_sharded:
            with _written_over(parameters, average):
                yield
            return
        kept = {name: value.data for name, value in parameters.items()}
        try:
            for name, value in parameters.items():
                value.data = average[name].to(value.device, value.dtype)
            yield
        finally:
            for name, value in parameters.items():
                value.data = kept[name]

    @torch.no_grad()
    def delta(self, average: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """average - base in fp32 on the CPU, by the plain UNet's names; for a LoRA only the layers it touches.

        Full students answer for every name of the UNet's state, so that it is `DeltaWeights.tensors` as it stands.
        """
        if self.is_control:
            raise InvalidRequest("student", "a UNet's student: a ControlNet has no difference to a base", "controlnet")
        if not self.is_lora:
            return {name: _after(average, name, before) - before.float() for name, before in self._base.items()}
        with self.wearing(average):
            return {
                f"{name}.weight": cast(Any, layer).get_delta_weight(ADAPTER).float().cpu()
                for name, layer in self.module.named_modules()
                if isinstance(layer, BaseTunerLayer)
            }

    @torch.no_grad()
    def lora_layers(self, average: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The LoRA's layers as `save_lora_weights(unet_lora_layers=...)` takes them; alpha equals the rank."""
        with self.wearing(average):
            layers = get_peft_model_state_dict(self.module, adapter_name=ADAPTER)
            return {name: value.detach().float().cpu().clone() for name, value in layers.items()}


@contextlib.contextmanager
def _written_over(parameters: Mapping[str, nn.Parameter], average: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Split parameters with other values: FSDP2 holds on to their memory, so that is what must change."""
    with torch.no_grad():
        kept = {name: own_part(value).clone() for name, value in parameters.items()}
        for name, value in parameters.items():
            own_part(value).copy_(own_part(average[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in parameters.items():
                own_part(value).copy_(kept[name])


@torch.no_grad()
def _scale_output(unet: Any, scale: float) -> None:
    """Let the UNet answer `scale` times what it did; its last layer is linear, so this is exact."""
    if scale != 1:
        unet.conv_out.weight.mul_(scale)
        unet.conv_out.bias.mul_(scale)


def _after(average: Mapping[str, torch.Tensor], name: str, before: torch.Tensor) -> torch.Tensor:
    return average[name].detach().to("cpu", torch.float32) if name in average else before.float()


def _compact(weight: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, in fp16 where that loses nothing (bases come as fp16 files)."""
    value = weight.detach().to("cpu", torch.float32)
    half = value.half()
    return half if torch.equal(half.float(), value) else value.clone()


def _embedding(networks: Networks) -> tuple[int, ...]:
    """Widths of a ControlNet's picture encoder: one stage for each halving down to the latents."""
    widths = (16, 32, 96, 256)
    halvings = networks.downscale.bit_length() - 1
    return widths[: halvings + 1]
