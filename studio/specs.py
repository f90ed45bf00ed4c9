"""Facts of weights, as files and presets state them: models, accelerators, controls, and what is true of delta weights.

How many time windows, which head, how guidance was trained: no slider can contradict these. A person's choices are
`studio.types`. This module knows no torch, no folder and no catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.conditions import Annotator

Family = Literal["tabletop", "sd15", "sd21", "sdxl"]


@dataclass(frozen=True, kw_only=True)
class DeltaSpec:
    """What is true of a set of delta weights, whatever anyone chooses (METHOD: stored with the artefact).

    `prediction_type` is the head the student was trained with, `num_time_windows` is K, `guidance_mode` says how
    classifier-free guidance met the teacher ("sync": teacher at w = 1; "fixed": teacher at `trained_guidance`).
    """

    family: Family
    prediction_type: str = "ddim_eps"
    num_time_windows: int = 4
    guidance_mode: Literal["sync", "fixed"] = "sync"
    trained_guidance: float = 1.0
    base_sha256: str | None = None
    license: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A base model of the catalogue. `source` is a hub id, a folder below `assets/`, or a path the owner configured."""

    id: str
    title: str
    family: Family
    source: str
    kind: Literal["builtin", "hub", "folder", "single_file"]
    variant: str | None = None
    revision: str | None = None
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    native_width: int = 512
    native_height: int = 512
    size_multiple: int = 8
    download_bytes: int | None = None
    license: str = "unknown"
    description: str = ""
    hint: str = ""
    default_accelerator: str = "dpmpp"


@dataclass(frozen=True, kw_only=True)
class MultiviewSpec(ModelSpec):
    """A multiview network of the catalogue; its native size is one view's.

    `vae` and `image_encoder` name folders as `source` does, for a network that ships without its own; `base` that of
    the UNet it grew from, for one that stores only what differs. With `begins_near` drawing begins from noise with a
    trace of what is known of the views in it, as the noisiest step was trained.
    """

    vae: str | None = None
    image_encoder: str | None = None
    base: str | None = None
    begins_near: bool = False


@dataclass(frozen=True, kw_only=True)
class AcceleratorSpec:
    """A way to draw in few steps: a delta, a LoRA, or a plain solver. Recommended values carry a short reason.

    `source` is a hub id, a folder below `assets/`, or a path the owner configured. `file` is the safetensors file of a
    LoRA in it that is not called by the usual name. With `minus` the source is a whole pipeline and the delta is its
    UNet less the UNet of the model of that id.
    """

    id: str
    title: str
    kind: Literal["perflow_delta", "perflow_merged", "lora", "none"]
    sampler: Literal["perflow", "lcm", "tcd", "ddim", "euler", "dpmpp"]
    families: tuple[Family, ...]
    models: tuple[str, ...] = ()
    source: str | None = None
    file: str = ""
    variant: str | None = None
    minus: str | None = None
    delta: DeltaSpec | None = None
    recommended_steps: int = 4
    recommended_guidance: tuple[float, ...] = (1.0,)
    reason: str = ""
    download_bytes: int | None = None
    license: str = "unknown"
    description: str = ""

    @property
    def teachers_guidance(self) -> tuple[float, ...]:
        """The scales at which the bare model draws what this is to come near to: those in its weights, if any."""
        if self.delta is not None and self.delta.guidance_mode == "fixed":
            return (self.delta.trained_guidance,)
        return self.recommended_guidance


@dataclass(frozen=True, kw_only=True)
class ControlSpec:
    """Something that makes drawings follow a picture: a ControlNet, or an IP-Adapter with its image encoder.

    `source` is a hub id, a folder below `assets/`, or a path the owner named. `file` is a ControlNet's subfolder or an
    IP-Adapter's safetensors file in it, `image_encoder` a folder in the source or a source of its own. `annotator`
    makes its maps from ordinary pictures; `example` is a picture below `assets/` to try it on, with its prompt.
    """

    id: str
    title: str
    kind: Literal["controlnet", "ip_adapter"]
    family: Family
    source: str
    origin: Literal["builtin", "hub", "folder"] = "hub"
    file: str = ""
    image_encoder: str = ""
    variant: str | None = None
    revision: str | None = None
    annotator: Annotator = "none"
    example: str = ""
    example_prompt: str = ""
    recommended_weight: float = 1.0
    reason: str = ""
    download_bytes: int | None = None
    license: str = "unknown"
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class UpscaleSpec:
    """How pictures are best enlarged by the models of a family; `id` is the family's name.

    `creativity` is for tiles that a tile ControlNet holds, `creativity_alone` for those that nothing holds but their
    own beginning. Steps and guidance are the accelerator's where none are given.
    """

    id: str
    tile: int
    overlap: int
    creativity: float = 0.5
    creativity_alone: float = 0.25
    weight: float = 1.0
    steps: int | None = None
    guidance: tuple[float, ...] = ()
    reason: str = ""
