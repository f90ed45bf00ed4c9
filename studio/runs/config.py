"""A training run's configuration: one validated value, JSON both ways, that form, command line, API and trainer share.

Every field says what it is, its range and its default in its metadata, which is what the form shows and the refusals
quote. `base` and `dataset` are resolved before a run begins (the trainer knows no catalogue): folders or hub ids.
Shapes, torch and files of data are not this module's business.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import typing
from dataclasses import dataclass, field
from types import MappingProxyType, UnionType
from typing import Any, Literal

from studio.errors import InvalidRequest
from studio.specs import Family

Method = Literal["perflow", "rectified", "lcm", "pcm", "diffusion", "controlnet"]
FORMAT = 1
WINDOW_METHODS = ("perflow", "rectified")  # whose teacher solves whole windows

METHODS: typing.Mapping[str, str] = MappingProxyType({
    "perflow": "PeRFlow: straighten the flow inside each time window (arXiv 2405.07510).",
    "rectified": "Rectified Diffusion, phased: the same target on the DDIM curve (arXiv 2410.07303).",
    "lcm": "Latent Consistency: every point jumps to the picture, and noise is added again (arXiv 2310.04378).",
    "pcm": "Phased Consistency without an adversary: every point jumps to its window's end (arXiv 2405.18407).",
    "diffusion": "Fine-tune the base itself: make a style first, then accelerate it.",
    "controlnet": "Train a ControlNet beside the frozen base (arXiv 2302.05543).",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The base a run starts from. `source` is a folder (absolute) or a hub id."""

    id: str
    family: Family
    source: str
    kind: Literal["builtin", "hub", "folder", "single_file"] = "builtin"
    variant: str | None = None
    revision: str | None = None
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    license: str = "unknown"


@dataclass(frozen=True, kw_only=True)
class DatasetRef:
    """Where the pictures come from.

    `stored`: a dataset the studio imported, `source` its folder, `fingerprint` its manifest's hash. `tabletop`: endless
    scenes of the built-in world. `webdataset` and `hub`: streamed shards (a URL pattern) or a `datasets` id.
    """

    id: str
    kind: Literal["stored", "tabletop", "webdataset", "hub"] = "stored"
    source: str = ""
    fingerprint: str = ""
    title: str = ""


def _choice(default: Any, explanation: str, **limits: Any) -> Any:
    """A field with its sentence; `low`, `high`, `multiple_of`, `unit` as limits; `advanced` folds it away."""
    return field(default=default, metadata={"help": explanation, **limits})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that decides how a run goes; immutable, and valid once it exists. Raises `InvalidRequest`.

    Two equal configurations on the same data and hardware give the same weights, bit for bit.
    """

    name: str
    base: BaseModel
    dataset: DatasetRef
    method: Method = _choice("perflow", "What is learnt.")  # noqa: RUF009
    resolution: int = _choice(128, "Side of the training pictures' area: 512 means 512 x 512 or another shape of "
                              "about as many pixels.", low=64, high=2048, multiple_of=64, unit="pixels")  # fmt: skip

    # the objective
    prediction_type: Literal["ddim_eps", "diff_eps", "velocity", "v_prediction"] = _choice(
        "ddim_eps", "The head the student is trained with; ddim_eps starts as DDIM and is right for epsilon bases, "
        "v_prediction for v bases.", advanced=True)  # fmt: skip
    num_time_windows: int = _choice(4, "K: into how many time windows sampling is cut; as many steps are enough "
                                    "afterwards.", low=1, high=16)  # fmt: skip
    guidance_mode: Literal["sync", "fixed"] = _choice(
        "sync", "sync: the teacher is followed without guidance and any CFG may be chosen later; fixed: its guidance "
        "is baked in.", advanced=True)  # fmt: skip
    trained_guidance: float = _choice(7.5, "The teacher's guidance scale when guidance is fixed, and the highest one "
                                      "LCM and PCM draw.", low=1.0, high=15.0, advanced=True)  # fmt: skip
    window_starts: Literal["pictures", "teacher"] = _choice(
        "pictures", "Where windows begin: at pictures with noise added, as in the paper; or on the teacher's own way "
        "from pure noise, to which the pictures lend only their captions. Both came out alike on Tabletop.",
        advanced=True)  # fmt: skip
    error_at: Literal["end", "answer"] = _choice(
        "end", "Where PeRFlow's error counts: at the window's end that the answer leads to, so that noisy windows "
        "weigh more; or in the answer itself, as in the paper.", advanced=True)  # fmt: skip
    teacher_solver: Literal["ddim", "dpmpp", "probe"] = _choice(
        "ddim", "How the teacher walks a window; probe measures both at equal network calls before the first step and "
        "takes the better.", advanced=True)  # fmt: skip
    num_solver_steps: int = _choice(8, "Teacher steps in a window.", low=1, high=50, advanced=True)
    share_at_start: float = _choice(0.5, "Share of samples at the window's start, where the network is asked when "
                                    "steps equal windows.", low=0.0, high=1.0, advanced=True)  # fmt: skip
    share_at_grid: float = _choice(0.4, "Share of samples at the other points that grids of `grid_steps` steps "
                                   "visit; the rest is uniform, as in the paper.", low=0.0, high=1.0,
                                   advanced=True)  # fmt: skip
    grid_steps: tuple[int, ...] = _choice((5, 6, 8), "Step counts whose grid points `share_at_grid` covers.",
                                          low=1, high=32, advanced=True)  # fmt: skip
    pair_reuse: int = _choice(2, "How many training steps use each solved window, at fresh times; the teacher is the "
                              "costly part.", low=1, high=16, advanced=True)  # fmt: skip
    caption_dropout: float = _choice(0.1, "Share of captions left out, so that guidance keeps working.",
                                     low=0.0, high=0.9, advanced=True)  # fmt: skip
    random_flip: bool = _choice(False, "Mirror half of the pictures; wrong where captions say left and right, or "
                                "pictures hold writing.", advanced=True)  # fmt: skip
    min_snr: float = _choice(5.0, "Weight of low-noise samples in diffusion training (gamma of min-SNR); 0 is plain.",
                             low=0.0, high=100.0, advanced=True)  # fmt: skip
    control: Literal["none", "canny", "depth", "pose", "tile"] = _choice(
        "none", "The condition a ControlNet learns; none for every other method.", advanced=True
    )

    # the student
    student: Literal["full", "lora"] = _choice("full", "Train every weight, or a LoRA beside them: less memory, a "
                                               "smaller file.")  # fmt: skip
    lora_rank: int = _choice(32, "Rank of the LoRA.", low=1, high=256, advanced=True)

    # optimization
    num_steps: int = _choice(400, "Optimizer steps.", low=1, high=1_000_000)
    batch_size: int = _choice(32, "Samples in one forward, on each process.", low=1, high=4096)
    gradient_accumulation: int = _choice(1, "Forwards in one optimizer step.", low=1, high=1024, advanced=True)
    learning_rate: float = _choice(5e-5, "Peak learning rate (AdamW).", low=1e-8, high=1e-2)
    warmup_steps: int = _choice(50, "Steps over which the learning rate rises; it falls along a cosine afterwards.",
                                low=0, high=100_000, advanced=True)  # fmt: skip
    final_rate_share: float = _choice(0.05, "Where the cosine ends, as a share of the peak.", low=0.0, high=1.0,
                                      advanced=True)  # fmt: skip
    ema_decay: float = _choice(0.995, "Decay of the averaged weights that are exported.", low=0.0, high=0.99999,
                               advanced=True)  # fmt: skip
    weight_decay: float = _choice(0.0, "AdamW's weight decay.", low=0.0, high=1.0, advanced=True)
    max_gradient_norm: float = _choice(1.0, "Gradients are clipped to this norm.", low=0.01, high=100.0, advanced=True)
    seed: int = _choice(0, "Seed of everything random in the run.", low=0, high=2**31 - 1, advanced=True)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _choice(
        "auto", "Of the forwards; master weights, moments and averages are always fp32.", advanced=True
    )
    gradient_checkpointing: bool = _choice(False, "Trade a quarter of the speed for memory.", advanced=True)
    sharding: Literal["none", "split"] = _choice(
        "none", "split: weights, gradients, moments and average are divided among the run's processes (torch's "
        "FSDP2), for bases too large for one GPU; none: each process has them all.", advanced=True)  # fmt: skip
    device: Literal["auto", "cpu", "cuda"] = _choice("auto", "Where to train.", advanced=True)
    num_workers: int = _choice(0, "Processes that read pictures ahead; 0 reads in the trainer itself.", low=0, high=16,
                               advanced=True)  # fmt: skip

    # what is kept
    checkpoint_every_steps: int = _choice(200, "Steps between checkpoints.", low=1, high=100_000, advanced=True)
    checkpoint_every_minutes: float = _choice(5.0, "Minutes after which one is written anyway; 0 leaves it to the "
                                              "steps.", low=0.0, high=1440.0, advanced=True)  # fmt: skip
    num_checkpoints_kept: int = _choice(2, "How many of the newest checkpoints stay on disk.", low=1, high=1000,
                                        advanced=True)  # fmt: skip
    validate_every_steps: int = _choice(50, "Steps between measurements on held-out pictures.", low=1, high=100_000,
                                        advanced=True)  # fmt: skip
    num_held_out: int = _choice(32, "Pictures kept out of training for the measurements.", low=1, high=4096,
                                advanced=True)  # fmt: skip
    sample_every_steps: int = _choice(100, "Steps between sample grids.", low=1, high=100_000, advanced=True)
    sample_steps: tuple[int, ...] = _choice((2, 4, 8), "Step counts of the sample grids.", low=1, high=32,
                                            advanced=True)  # fmt: skip
    sample_prompts: tuple[str, ...] = _choice(
        (), "What the samples show; empty takes held-out captions.", advanced=True
    )
    sample_guidance: float = _choice(1.5, "Guidance scale of the samples.", low=1.0, high=15.0, advanced=True)
    license: str = _choice("unknown", "Licence written into the exported weights.", advanced=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name.strip()) <= 80 or not self.name.isprintable():
            raise InvalidRequest("name", "1 to 80 printable characters", self.name)
        hints = typing.get_type_hints(type(self))
        for each in dataclasses.fields(self):
            if each.metadata:
                _check(each.name, getattr(self, each.name), hints[each.name], each.metadata)
        self._check_together()

    def _check_together(self) -> None:
        if self.share_at_start + self.share_at_grid > 1 + 1e-9:
            raise InvalidRequest("share_at_grid", f"at most {1 - self.share_at_start:g} beside share_at_start",
                                 self.share_at_grid)  # fmt: skip
        needs_v = self.prediction_type == "v_prediction"
        if (
            self.method != "diffusion"
            and needs_v != (self.base.prediction_type == "v_prediction")
            and (self.prediction_type != "velocity")
        ):
            right = "v_prediction" if self.base.prediction_type == "v_prediction" else "ddim_eps"
            raise InvalidRequest("prediction_type", f"{right}, since {self.base.id} predicts "
                                 f"{self.base.prediction_type}", self.prediction_type)  # fmt: skip
        if (self.method == "controlnet") != (self.control != "none"):
            raise InvalidRequest("control", "canny, depth, pose or tile with method controlnet, none without",
                                 self.control)  # fmt: skip
        if self.sharding == "split" and (self.student == "lora" or self.method == "controlnet"):
            raise InvalidRequest("sharding", "none: only a student of every weight is large enough to be split",
                                 self.sharding)  # fmt: skip
        if self.method == "controlnet" and self.student == "lora":
            raise InvalidRequest("student", "full: a ControlNet is a network of its own", self.student)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal configuration."""
        return {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(self)))}

    @classmethod
    def from_json(cls, values: object) -> TrainingConfig:
        """The inverse of `to_json`; unknown, missing and mistyped keys raise `InvalidRequest`."""
        if not isinstance(values, dict):
            raise InvalidRequest("config", "a JSON object", values)
        given = dict(values)
        if (version := given.pop("format", FORMAT)) != FORMAT:
            raise InvalidRequest("format", f"{FORMAT}, the one this version reads", version)
        nested = {"base": BaseModel, "dataset": DatasetRef}
        for key, kind in nested.items():
            if key in given:
                given[key] = read_fields(kind, key, given[key])
        return read_fields(cls, "config", given)

    @property
    def steps_per_batch(self) -> int:
        """How many steps in a row use one batch: as many as use what the teacher found for it.

        A way through all windows gives each sample of the batch one pair a window.
        """
        if self.method not in WINDOW_METHODS:
            return 1
        return self.pair_reuse * (self.num_time_windows if self.window_starts == "teacher" else 1)

    @property
    def sha256(self) -> str:
        """The hash of everything that decides the result; the name and how often things are kept do not."""
        decisive = {key: value for key, value in self.to_json().items() if key not in IDLE_FIELDS}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


# Fields that may change between a run and its resumption without changing what is learnt.
IDLE_FIELDS = frozenset({
    "name", "num_workers", "checkpoint_every_steps", "checkpoint_every_minutes", "num_checkpoints_kept",
    "validate_every_steps", "sample_every_steps", "sample_steps", "sample_prompts", "sample_guidance", "license",
})  # fmt: skip


def differences(old: TrainingConfig, new: TrainingConfig) -> tuple[str, ...]:
    """What a resumption under another configuration would change, a line for each field that decides the result."""
    before, after = old.to_json(), new.to_json()
    return tuple(
        f"{key}: {before[key]!r} -> {after[key]!r}"
        for key in before
        if key not in IDLE_FIELDS and before[key] != after[key]
    )


def read_fields(kind: Any, where: str, values: object) -> Any:
    """A frozen dataclass from a JSON object: every key known, lists as tuples, numbers as their field's type."""
    if not isinstance(values, dict):
        raise InvalidRequest(where, "a JSON object", values)
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, 3) or sorted(hints)
            raise InvalidRequest(str(key)[:80], f"no such field, but perhaps {', '.join(close)}", values[key])
    for each in dataclasses.fields(kind):
        if each.name not in values and each.default is dataclasses.MISSING:
            raise InvalidRequest(each.name, "a value: it has no default", None)
    ready = {key: _natural(hints[key], value) for key, value in values.items()}
    for key, value in ready.items():
        if not _is_of(hints[key], value):
            raise InvalidRequest(key, _in_words(hints[key]), value)
    return kind(**ready)


def _natural(hint: Any, value: Any) -> Any:
    """JSON's lists are our tuples, and 1 is as good as 1.0 (and 4.0 as 4) where a number is asked for."""
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_natural(typing.get_args(hint)[0], each) for each in value)
    if isinstance(hint, UnionType) and value is not None:  # X | None
        return _natural(typing.get_args(hint)[0], value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_of(hint: Any, value: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint) and isinstance(value, str)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_of(typing.get_args(hint)[0], each) for each in value)
    if typing.get_args(hint):  # X | None
        return any(_is_of(each, value) for each in typing.get_args(hint))
    return type(value) is hint


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if typing.get_origin(hint) is tuple:
        return f"a list, each entry {_in_words(typing.get_args(hint)[0])}"
    return words.get(hint, "an object or text")


def _check(name: str, value: Any, hint: Any, limits: typing.Mapping[str, Any]) -> None:
    """One field against its type and its limits."""
    expected = _in_words(hint)
    if "low" in limits:
        expected += f" from {limits['low']:g} to {limits['high']:g}"
    if "multiple_of" in limits:
        expected += f", a multiple of {limits['multiple_of']}"
    if not _is_of(hint, value):
        raise InvalidRequest(name, expected, value)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, str):
            if len(number) > 2000:
                raise InvalidRequest(name, "at most 2000 characters", f"{len(number)} characters")
            continue
        if not math.isfinite(number) or not limits.get("low", number) <= number <= limits.get("high", number):
            raise InvalidRequest(name, expected, number)
        if "multiple_of" in limits and number % limits["multiple_of"]:
            raise InvalidRequest(name, expected, number)
    if isinstance(value, tuple) and len(value) > 16:
        raise InvalidRequest(name, "at most 16 entries", f"{len(value)} entries")
