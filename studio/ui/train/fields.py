"""The training form's fields, made from the configuration's own metadata: one component each, its sentence, its default
and its range, and a place beside it for an error.

`TrainingConfig` is the only schema: a field added there appears here. This module does not know recipes, datasets or
runs, nor where the fields stand.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import gradio as gr
from gradio.components import Component

from studio.errors import InvalidRequest
from studio.runs.config import METHODS, TrainingConfig
from studio.ui.feedback import field_error_html
from studio.ui.plain_html import plain_html

Values = Mapping[Any, Any]
Updates = dict[Any, Any]

MAIN = ("method", "num_time_windows", "control", "student", "resolution", "num_steps", "batch_size", "learning_rate")
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "The objective": (
        "prediction_type", "guidance_mode", "trained_guidance", "window_starts", "error_at", "teacher_solver",
        "num_solver_steps",
        "share_at_start", "share_at_grid", "grid_steps", "pair_reuse", "caption_dropout", "min_snr",
    ),
    "Student and optimizer": (
        "lora_rank", "gradient_accumulation", "warmup_steps", "final_rate_share", "ema_decay", "weight_decay",
        "max_gradient_norm", "seed", "precision", "gradient_checkpointing", "sharding", "device", "num_workers",
    ),
    "Checkpoints, measurements, samples": (),
})  # fmt: skip
"""Folded groups; the last takes every advanced field that no other names."""
LABELS: Mapping[str, str] = MappingProxyType({
    "num_time_windows": "Time windows (K)", "num_steps": "Steps", "prediction_type": "Head",
    "student": "What is trained", "error_at": "Error counted at", "window_starts": "Windows begin",
    "control": "Condition",
    "ema_decay": "EMA decay", "lora_rank": "LoRA rank", "min_snr": "Min-SNR gamma",
    "method": "Method", "num_workers": "Reading processes", "num_held_out": "Held-out pictures",
})  # fmt: skip
CHOICES: Mapping[str, str] = MappingProxyType({
    "perflow": "PeRFlow", "rectified": "Rectified Diffusion", "lcm": "LCM", "pcm": "PCM",
    "diffusion": "Diffusion (style)",
    "controlnet": "ControlNet", "full": "Every weight", "lora": "LoRA", "dpmpp": "DPM-Solver++", "ddim": "DDIM",
    "split": "Split", "end": "The window's end", "answer": "The answer",
    "pictures": "At noised pictures", "teacher": "On the teacher's way",
})  # fmt: skip
WINDOWED = ("perflow", "rectified", "pcm")
# Fields that mean something to some methods only; all others mean something to every method.
ONLY_FOR: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "num_time_windows": WINDOWED, "control": ("controlnet",),
    "prediction_type": ("perflow",), "error_at": ("perflow",), "window_starts": ("perflow", "rectified"),
    "guidance_mode": ("perflow", "rectified"),
    "trained_guidance": ("perflow", "rectified", "lcm", "pcm"), "teacher_solver": ("perflow",),
    "num_solver_steps": ("perflow",), "share_at_start": ("perflow", "rectified"),
    "share_at_grid": ("perflow", "rectified"), "grid_steps": ("perflow", "rectified"), "pair_reuse": ("perflow",),
    "min_snr": ("diffusion",), "student": tuple(each for each in METHODS if each != "controlnet"),
    "sharding": tuple(each for each in METHODS if each != "controlnet"),
})  # fmt: skip


@dataclass(frozen=True)
class FieldSpec:
    """One field of the configuration as the page sees it."""

    name: str
    hint: Any
    default: Any
    limits: Mapping[str, Any]

    @property
    def label(self) -> str:
        return LABELS.get(self.name) or self.name.replace("_", " ").capitalize()

    @property
    def info(self) -> str:
        """The sentence, then the default and the range."""
        words = self.limits["help"]
        if self.is_choice or self.hint is bool:
            return words
        told = [f"Default {self._shown}" if self.default != () else ""]
        if "low" in self.limits:
            told.append(f"{_plain(self.limits['low'])} to {_plain(self.limits['high'])}")
        return " ".join([words, f"{', '.join(each for each in told if each)}." if any(told) else ""]).strip()

    @property
    def _shown(self) -> str:
        return ", ".join(map(_plain, self.default if isinstance(self.default, tuple) else (self.default,)))

    @property
    def is_choice(self) -> bool:
        return typing.get_origin(self.hint) is Literal

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.hint) is tuple

    def to_page(self, value: Any) -> Any:
        """A value as its component shows it."""
        if not self.is_list:
            return value
        return "\n".join(value) if self.hint == tuple[str, ...] else ", ".join(map(str, value))

    def from_page(self, value: Any) -> Any:
        """What the component holds as the configuration wants it. Raises `InvalidRequest` for an empty or odd entry."""
        if self.hint == tuple[str, ...]:
            return tuple(line.strip() for line in str(value or "").splitlines() if line.strip())
        if self.is_list:
            return tuple(self._whole(part) for part in str(value or "").replace(",", " ").split())
        if value is None or value == "":
            raise InvalidRequest(self.name, "a value", "an empty field")
        if self.hint is int and isinstance(value, float) and value.is_integer():
            return int(value)
        return float(value) if self.hint is float and isinstance(value, int) else value

    def _whole(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise InvalidRequest(self.name, "whole numbers with commas between them", text) from None


def _plain(value: Any) -> str:
    """`1,000,000`, `0.05`, `5e-05`, `unknown`."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def specs() -> dict[str, FieldSpec]:
    """Every field a person may set, in the configuration's order."""
    hints = typing.get_type_hints(TrainingConfig)
    found = [each for each in dataclasses.fields(TrainingConfig) if each.metadata]
    return {each.name: FieldSpec(each.name, hints[each.name], each.default, each.metadata) for each in found}


def grouped() -> dict[str, tuple[str, ...]]:
    """The folded groups with their fields; nothing advanced is left out."""
    named = {name for names in GROUPS.values() for name in names} | set(MAIN)
    rest = tuple(name for name in specs() if name not in named)
    return {title: names or rest for title, names in GROUPS.items()}


def is_relevant(field: str, method: str) -> bool:
    """Whether a field means something to a method."""
    return field not in ONLY_FOR or method in ONLY_FOR[field]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The components of the generated fields and their error places, by the configuration's names."""

    components: Mapping[str, Component]
    errors: Mapping[str, gr.HTML]

    def read(self, values: Values) -> dict[str, Any]:
        """Arguments of `TrainingConfig`; what means nothing to the method stays at its default."""
        known, method = specs(), values[self.components["method"]]
        return {
            name: known[name].from_page(values[component])
            for name, component in self.components.items()
            if is_relevant(name, method)
        }

    def show(self, wanted: Mapping[str, Any], method: str) -> Updates:
        """Updates that make the fields say this; fields that are not named are left as they are."""
        known = specs()
        updates: Updates = {}
        for name, component in self.components.items():
            told: dict[str, Any] = {"value": known[name].to_page(wanted[name])} if name in wanted else {}
            if name in ONLY_FOR:
                told["visible"] = is_relevant(name, method)
            if told:
                updates[component] = gr.update(**told)
        return updates

    def error_updates(self, error: InvalidRequest | None, fallback: gr.HTML) -> Updates:
        """The sentence beside its field and no other; `fallback` takes what belongs to no field here."""
        updates: Updates = {**dict.fromkeys(self.errors.values(), ""), fallback: ""}
        if error is not None:
            updates[self.errors.get(error.field, fallback)] = field_error_html(error)
        return updates


def build_field(spec: FieldSpec, method: str, value: Any, prefix: str) -> tuple[Component, gr.HTML]:
    """One component in the current context, and the place for its error below it."""
    common: dict[str, Any] = {
        "label": spec.label, "info": spec.info, "elem_id": f"{prefix}-{spec.name.replace('_', '-')}",
        "visible": is_relevant(spec.name, method),
    }  # fmt: skip
    shown = spec.to_page(value)
    if spec.is_choice:
        choices = [(CHOICES.get(each, each), each) for each in typing.get_args(spec.hint)]
        component: Component = gr.Dropdown(choices, value=shown, filterable=False, **common)
    elif spec.hint is bool:
        component = gr.Checkbox(value=shown, **common)
    elif spec.is_list or spec.hint is str:
        lines = 3 if spec.hint == tuple[str, ...] else 1
        component = gr.Textbox(value=shown, lines=lines, max_lines=8, **common)
    else:
        component = gr.Number(value=shown, **common)
    error = plain_html(elem_classes="field-error-place", elem_id=f"{prefix}-error-{spec.name.replace('_', '-')}")
    return component, error


def build_group(names: Sequence[str], wanted: Mapping[str, Any], method: str, prefix: str) -> Fields:
    """Some fields beside each other, filled with what is wanted and else with their defaults."""
    known, built = specs(), {}
    for name in names:
        with gr.Column(min_width=0, elem_classes="field-cell"):
            built[name] = build_field(known[name], method, wanted.get(name, known[name].default), prefix)
    return Fields(
        components={name: component for name, (component, _) in built.items()},
        errors={name: error for name, (_, error) in built.items()},
    )
