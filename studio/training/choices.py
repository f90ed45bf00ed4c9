"""What can be trained on what, and how a person's choices become a `TrainingConfig`.

Bases are models of the catalogue that lie on disk whole; datasets are the stored ones and the built-in scenes; recipes
are `presets/training/*.toml`. Clients send ids, never paths, and every refusal comes before any work. Knows no runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.catalog import Catalog
from studio.datasets.store import DatasetStore
from studio.engine.hub import Hub, missing_parts
from studio.errors import InvalidRequest, NotFound
from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from studio.runs.recipes import TrainingRecipe, load_recipes
from studio.settings import Settings
from studio.specs import ModelSpec

TABLETOP = DatasetRef(id="tabletop", kind="tabletop", title="Tabletop scenes")
_TABLETOP_ID = re.compile(r"tabletop(?::(endless|[1-9][0-9]{0,6}))?")


@dataclass(frozen=True, kw_only=True)
class BaseStatus:
    """A model of the catalogue as a base for training; `reason` says why it cannot be one, empty when it can."""

    spec: ModelSpec
    reason: str = ""


class TrainingChoices:
    """What there is to choose from."""

    def __init__(self, settings: Settings, catalog: Catalog, store: DatasetStore) -> None:
        self._settings, self._catalog, self._store = settings, catalog, store
        self._hub = Hub(settings.hub_cache, settings.offline)
        self._recipes = load_recipes(settings.presets_dir)

    def bases(self) -> tuple[BaseStatus, ...]:
        """Every model of the catalogue, and why it cannot be trained where it cannot."""
        return tuple(BaseStatus(spec=spec, reason=self._why_not(spec)) for spec in self._catalog.models)

    def recipes(self) -> tuple[TrainingRecipe, ...]:
        """Where to begin, by goal and machine (`presets/training/*.toml`)."""
        return self._recipes

    def base_of(self, model_id: str) -> BaseModel:
        """A model of the catalogue as the trainer needs it. Raises `InvalidRequest` saying why it cannot be one."""
        bases = {each.spec.id: each for each in self.bases()}
        chosen = bases.get(_text("base", model_id))
        if chosen is None or chosen.reason:
            fitting = ", ".join(id for id, each in bases.items() if not each.reason)
            why = f" ({chosen.reason})" if chosen else ""
            raise InvalidRequest("base", f"a model that can be trained here: {fitting}{why}", model_id)
        spec = chosen.spec
        return BaseModel(
            id=spec.id, family=spec.family, source=str(self._folder(spec)), kind=spec.kind, variant=spec.variant,
            revision=spec.revision, prediction_type=spec.prediction_type, license=spec.license,
        )  # fmt: skip

    def dataset_of(self, dataset_id: str) -> DatasetRef:
        """A stored dataset as the trainer needs it, or the built-in scenes: "tabletop" (a pool of them, rendered once),
        "tabletop:500" (a pool of 500), "tabletop:endless" (never the same twice). Raises `InvalidRequest`."""
        if found := _TABLETOP_ID.fullmatch(_text("dataset", dataset_id)):
            how = found[1] or ""
            return replace(TABLETOP, id=dataset_id, source=f"pool:{how}" if how.isdigit() else how)
        try:
            found = self._store.get(dataset_id)
        except NotFound as error:
            known = [TABLETOP.id, *(each.id for each in self._store.all())]
            raise InvalidRequest("dataset", f"one of {', '.join(known[:20])}", dataset_id) from error
        return DatasetRef(
            id=found.id, kind="stored", source=str(found.path), fingerprint=found.fingerprint,
            title=found.manifest.title,
        )  # fmt: skip

    def config_of(self, values: Mapping[str, Any]) -> TrainingConfig:
        """The configuration of what a person typed: fields of `TrainingConfig`, with `base` and `dataset` as ids and
        optionally `recipe`, whose values stand where nothing was given. Raises `InvalidRequest` naming the field."""
        given = {key: value for key, value in values.items() if value is not None}
        recipe = self._recipe(given.pop("recipe", None))
        base = self.base_of(given.pop("base", recipe.model if recipe else self._catalog.models[0].id))
        dataset = self.dataset_of(given.pop("dataset", (recipe and recipe.dataset) or TABLETOP.id))
        defaults: dict[str, Any] = {
            "name": recipe.title if recipe else f"{given.get('method', 'perflow')} on {base.id}",
            "resolution": self._catalog.model(base.id).native_width,
            "license": base.license,
        }
        if base.prediction_type == "v_prediction":
            defaults["prediction_type"] = "v_prediction"
        return TrainingConfig.from_json({
            **defaults, **(recipe.config if recipe else {}), **given,
            "base": dataclasses.asdict(base), "dataset": dataclasses.asdict(dataset),
        })  # fmt: skip

    def changed(self, config: TrainingConfig, changes: Mapping[str, Any]) -> TrainingConfig:
        """A configuration with changes: fields, `base` and `dataset` as ids. Raises `InvalidRequest`."""
        values = config.to_json() | dict(changes)
        if "base" in changes:
            values["base"] = dataclasses.asdict(self.base_of(changes["base"]))
        if "dataset" in changes:
            values["dataset"] = dataclasses.asdict(self.dataset_of(changes["dataset"]))
        return TrainingConfig.from_json(values)

    def _why_not(self, spec: ModelSpec) -> str:
        if self._catalog.is_merged(spec):
            return "an accelerator is part of its weights already; train on its plain base"
        if self._folder(spec) is None:
            return f"it is not on disk; draw one picture with it, or run `hf download {spec.source}`"
        return ""

    def _folder(self, spec: ModelSpec) -> Path | None:
        """Where a base lies, complete, or `None`."""
        if spec.kind == "hub":
            index = self._hub.cached(spec.source, "model_index.json", spec.revision)
            return index.parent if index and not missing_parts(index.parent, spec.variant) else None
        for path in (self._settings.assets_dir / spec.source, Path(spec.source).expanduser()):
            if path.exists():
                return path.resolve()
        return None

    def _recipe(self, id: object) -> TrainingRecipe | None:
        if id is None:
            return None
        for recipe in self._recipes:
            if recipe.id == id:
                return recipe
        raise InvalidRequest("recipe", f"one of {', '.join(each.id for each in self._recipes)}", id)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(field, "an id", value)
    return value
