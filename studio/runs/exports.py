"""What a finished run hands over: `export/export.json`, which the trainer writes last and the catalogue reads.

    export/export.json                          this description; without it there is no export (yet)
           perflow_delta.safetensors (or shards) kind "perflow_delta": ΔW by `studio.perflow.DeltaWeights.write`
           pytorch_lora_weights.safetensors     kind "lora", diffusers keys
           model_index.json, unet/, ...         kind "model": a whole pipeline folder, stock classes only
           controlnet/                          kind "controlnet": config.json and its weights
           README.md                            the card

`kind` says what the files are, `sampler` how they are sampled: a full LCM student is a "perflow_delta" (a ΔW) with
sampler "lcm", a PeRFlow LoRA is a "lora" with sampler "perflow" and the same facts as a ΔW.
Knows no tensors; whoever reads the weights checks them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from studio.conditions import Annotator
from studio.errors import CatalogError, InvalidRequest
from studio.runs.config import read_fields
from studio.runs.folder import RunFolder
from studio.specs import AcceleratorSpec, ControlSpec, DeltaSpec, Family, ModelSpec
from studio.storage import write_whole
from studio.types import MAX_GUIDANCE, MAX_STEPS

NAME = "export.json"
FORMAT = 1
PREFIX = "run-"
LORA_FILE = "pytorch_lora_weights.safetensors"

Kind = Literal["perflow_delta", "lora", "model", "controlnet"]
Sampler = Literal["perflow", "lcm", "ddim", "dpmpp"]
RESULTS: dict[Kind, str] = {
    "perflow_delta": "delta weights",
    "lora": "a LoRA",
    "model": "a model of its own",
    "controlnet": "a ControlNet",
}
# Poses of the built-in world are bones of its own figures, which no annotator finds in a picture.
ANNOTATORS: dict[str, Annotator] = {"canny": "canny", "tile": "tile", "depth": "depth"}


@dataclass(frozen=True, kw_only=True)
class Export:
    """The description of a run's result. Raises `InvalidRequest` naming the field.

    `base_id` is the catalogue's id of the base. `delta` holds the facts of the weights, needed whenever the sampler is
    "perflow". `step` and `sha256` (of the weights, any stable hash) tell one export of a run from a later one.
    `prediction_type` and the sizes are a model's, of no use for the other kinds.
    """

    kind: Kind
    family: Family
    sampler: Sampler
    base_id: str
    title: str
    step: int
    sha256: str
    recommended_steps: int = 4
    recommended_guidance: tuple[float, ...] = (1.5,)
    reason: str = ""
    description: str = ""
    license: str = "unknown"
    delta: DeltaSpec | None = None
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    native_width: int = 512
    native_height: int = 512
    size_multiple: int = 8
    control: str = "none"

    def __post_init__(self) -> None:
        if not 1 <= len(self.title) <= 120 or not self.title.isprintable():
            raise InvalidRequest("title", "1 to 120 printable characters", self.title)
        if not 1 <= self.recommended_steps <= MAX_STEPS:
            raise InvalidRequest("recommended_steps", f"1 to {MAX_STEPS}", self.recommended_steps)
        scales = self.recommended_guidance
        if not 1 <= len(scales) <= MAX_STEPS or not all(0 <= scale <= MAX_GUIDANCE for scale in scales):
            raise InvalidRequest("recommended_guidance", f"numbers from 0 to {MAX_GUIDANCE:g}", scales)
        if (self.sampler == "perflow" or self.kind == "perflow_delta") and self.delta is None:
            raise InvalidRequest("delta", "the facts of the weights, since they are sampled by time windows", None)
        if self.delta is not None and self.delta.family != self.family:
            raise InvalidRequest("delta", f"facts of the family {self.family}", self.delta.family)


def write_export(run: RunFolder, export: Export) -> None:
    """Last of all that the trainer writes: from here on the studio lists the result."""
    values = {"format": FORMAT, **dataclasses.asdict(export)}
    write_whole(run.export_dir / NAME, (json.dumps(values, indent=1) + "\n").encode())


def read_export(run: RunFolder) -> Export | None:
    """The description of a run's result, `None` while there is none. Raises `CatalogError` for a broken one."""
    path = run.export_dir / NAME
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CatalogError(f"{run.id}, {NAME}: expected a readable JSON file, got something else ({error}).") from error
    try:
        return _parse(values)
    except InvalidRequest as error:
        raise CatalogError(f"{run.id}, {NAME}, {error}") from error


def _parse(values: Any) -> Export:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InvalidRequest("format", f"a JSON object of format {FORMAT}", values)
    given = {key: value for key, value in values.items() if key != "format"}
    if given.get("delta") is not None:
        given["delta"] = read_fields(DeltaSpec, "delta", given["delta"])
    return read_fields(Export, NAME, given)


def accelerator_of(run: RunFolder, export: Export) -> AcceleratorSpec | None:
    """The catalogue's entry for a ΔW or a LoRA; it belongs to its base and all of the same family. Else `None`."""
    if export.kind not in ("perflow_delta", "lora"):
        return None
    return AcceleratorSpec(
        id=f"{PREFIX}{run.id}",
        title=f"{export.title} (trained here)",
        kind=export.kind,
        sampler=export.sampler,
        families=(export.family,),
        source=str(run.export_dir),
        delta=export.delta,
        recommended_steps=export.recommended_steps,
        recommended_guidance=export.recommended_guidance,
        reason=export.reason,
        license=export.license,
        description=_description(export),
    )


def model_of(run: RunFolder, export: Export, *, default_accelerator: str) -> ModelSpec | None:
    """The catalogue's entry for a fine-tuned base, else `None`."""
    if export.kind != "model":
        return None
    return ModelSpec(
        id=f"{PREFIX}{run.id}",
        title=f"{export.title} (trained here)",
        family=export.family,
        source=str(run.export_dir),
        kind="folder",
        prediction_type=export.prediction_type,
        native_width=export.native_width,
        native_height=export.native_height,
        size_multiple=export.size_multiple,
        license=export.license,
        description=_description(export),
        default_accelerator=default_accelerator,
    )


def control_of(run: RunFolder, export: Export) -> ControlSpec | None:
    """The catalogue's entry for a ControlNet, else `None`."""
    if export.kind != "controlnet":
        return None
    return ControlSpec(
        id=f"{PREFIX}{run.id}",
        title=f"{export.title} (trained here)",
        kind="controlnet",
        family=export.family,
        source=str(run.export_dir),
        origin="folder",
        file="controlnet",
        annotator=ANNOTATORS.get(export.control, "none"),
        license=export.license,
        description=_description(export),
    )


def _description(export: Export) -> str:
    """Ends with what tells this export from a later one of the same run, so that nobody keeps stale weights."""
    words = export.description or f"{RESULTS[export.kind].capitalize()}, trained here on {export.base_id}."
    return f"{words} Step {export.step}, {export.sha256[:8]}."
