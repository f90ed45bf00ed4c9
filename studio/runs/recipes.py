"""Recipes for training, read from `presets/training/*.toml`: where to begin, by goal and by machine.

A recipe is a title, a description and a `[config]` table of `TrainingConfig` defaults, besides the ids of the model and
the dataset it has in mind; it is no second schema. Strict like the catalogue: whatever a recipe says must make a valid
configuration. Knows nothing of what a machine really holds: the preflight measures that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from studio.errors import CatalogError, InvalidRequest
from studio.runs.config import BaseModel, DatasetRef, TrainingConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Goal = Literal["accelerate", "style", "lcm"]
Machine = Literal["cpu", "8gb", "12gb", "24gb", "80gb"]
GOALS: Mapping[str, str] = MappingProxyType({
    "accelerate": "Accelerate my base", "style": "Make a style", "lcm": "LCM baseline",
})  # fmt: skip
MACHINES: Mapping[str, str] = MappingProxyType({
    "cpu": "CPU, a quick look", "8gb": "8 GB GPU", "12gb": "12 GB GPU", "24gb": "24 GB GPU", "80gb": "80 GB GPU",
})  # fmt: skip
_KEYS = {"title", "description", "goal", "machine", "model", "dataset", "config"}


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Defaults under a name. `config` holds fields of `TrainingConfig`, already checked; `dataset` may be empty."""

    id: str
    title: str
    description: str
    goal: Goal
    machine: Machine
    model: str
    dataset: str
    config: Mapping[str, Any]


def load_recipes(presets_dir: Path) -> tuple[TrainingRecipe, ...]:
    """Every recipe, by goal and then by machine. Raises `CatalogError` naming file and key."""
    found = [_read(path) for path in sorted((presets_dir / "training").glob("*.toml"))]
    goals, machines = get_args(Goal), get_args(Machine)
    return tuple(sorted(found, key=lambda each: (goals.index(each.goal), machines.index(each.machine), each.id)))


def _read(path: Path) -> TrainingRecipe:
    try:
        entry = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path}: expected a readable TOML file; {error}.") from error
    if unknown := sorted(set(entry) - _KEYS):
        raise CatalogError(f"{path}, {unknown[0]}: expected only {', '.join(sorted(_KEYS))}.")
    texts = {key: _text(path, entry, key) for key in ("title", "description", "goal", "machine", "model", "dataset")}
    for key, choices in (("goal", get_args(Goal)), ("machine", get_args(Machine))):
        if texts[key] not in choices:
            raise CatalogError(f"{path}, {key}: expected one of {', '.join(choices)}, got {texts[key]!r}.")
    config = entry.get("config", {})
    _check(path, config)
    return TrainingRecipe(id=path.stem, config=MappingProxyType(config), **texts)  # pyright: ignore[reportArgumentType]


def _text(path: Path, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key, "" if key == "dataset" else None)
    if not isinstance(value, str):
        raise CatalogError(f"{path}, {key}: expected text, got {value!r}.")
    return value


def _check(path: Path, config: object) -> None:
    """The table together with any base and dataset makes a configuration."""
    if not isinstance(config, dict):
        raise CatalogError(f"{path}, config: expected a table [config], got {config!r}.")
    if taken := sorted({"name", "base", "dataset"} & set(config)):
        raise CatalogError(f"{path}, config, {taken[0]}: expected no such key, the person chooses it.")
    base = BaseModel(id="any", family="sd15", source="any")
    given = TrainingConfig(name="any", base=base, dataset=DatasetRef(id="any")).to_json()
    try:
        TrainingConfig.from_json({**given, **config})
    except InvalidRequest as error:
        raise CatalogError(f"{path}, config: {error}") from error
