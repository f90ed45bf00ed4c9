"""What can be chosen: base models, accelerators, controls and request presets, from the TOML files of `presets/`.

    models.toml, accelerators.toml, controls.toml    one table per entry: its name is the id, its keys the spec's fields
    multiview.toml                                   the same, for networks that draw several views of one object
    upscaling.toml                                   one table per family: how its models best enlarge pictures
    generation/<id>.toml                             title, description and a `[request]` table of request defaults

Strict on purpose: an unknown key, a missing one, a wrong type or a reference to nothing is a `CatalogError` that names
file, entry and key. Later files win over earlier ones entry by entry, so an owner can add or replace models.
This module does not know what is on disk, nor how anything is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path, PurePosixPath
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from studio.errors import CatalogError, InvalidRequest, StudioError
from studio.specs import AcceleratorSpec, ControlSpec, DeltaSpec, ModelSpec, MultiviewSpec, UpscaleSpec
from studio.types import GenerationRequest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Spec = TypeVar("Spec", ModelSpec, AcceleratorSpec, ControlSpec, MultiviewSpec, UpscaleSpec)


@dataclass(frozen=True, kw_only=True)
class GenerationPreset:
    """Request defaults under a name. `request` holds fields of `GenerationRequest`, already checked."""

    id: str
    title: str
    description: str
    request: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """What stands in a catalogue at one moment."""

    models: tuple[ModelSpec, ...]
    accelerators: tuple[AcceleratorSpec, ...]
    controls: tuple[ControlSpec, ...]


class Catalog:
    """All that can be chosen, in the order of the files (the first model is the one to begin with), and behind it what
    was trained here. Entries are values; `show_results` replaces the trained ones whole, from any thread, and
    `revision` then counts one further."""

    def __init__(
        self,
        *,
        models: tuple[ModelSpec, ...],
        accelerators: tuple[AcceleratorSpec, ...],
        controls: tuple[ControlSpec, ...] = (),
        presets: tuple[GenerationPreset, ...] = (),
        multiview: tuple[MultiviewSpec, ...] = (),
        upscaling: tuple[UpscaleSpec, ...] = (),
    ) -> None:
        self.presets = presets
        self._upscaling = {each.id: each for each in upscaling}
        self.multiview = multiview
        self._of_files = self._shown = _Entries(models=models, accelerators=accelerators, controls=controls)
        self.revision = 0

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Every base model."""
        return self._shown.models

    @property
    def accelerators(self) -> tuple[AcceleratorSpec, ...]:
        """Every way to draw in few steps."""
        return self._shown.accelerators

    @property
    def controls(self) -> tuple[ControlSpec, ...]:
        """Every ControlNet and IP-Adapter."""
        return self._shown.controls

    def show_results(
        self, *, models: Iterable[ModelSpec], accelerators: Iterable[AcceleratorSpec],
        controls: Iterable[ControlSpec] = (),
    ) -> None:  # fmt: skip
        """List these, and only these, behind the entries of the files; an id of the files is never replaced."""
        fixed = self._of_files
        taken = {each.id for each in (*fixed.models, *fixed.accelerators, *fixed.controls)}
        shown = _Entries(
            models=(*fixed.models, *(each for each in models if each.id not in taken)),
            accelerators=(*fixed.accelerators, *(each for each in accelerators if each.id not in taken)),
            controls=(*fixed.controls, *(each for each in controls if each.id not in taken)),
        )
        if shown != self._shown:
            self._shown = shown
            self.revision += 1

    @classmethod
    def load(cls, folder: Path | str, extra_folders: Iterable[Path | str] = ()) -> Catalog:
        """Read `folder` and then any extra folders of the owner. Raises `CatalogError`."""
        folders = [Path(folder), *map(Path, extra_folders)]
        models: dict[str, ModelSpec] = {}
        accelerators: dict[str, AcceleratorSpec] = {}
        controls: dict[str, ControlSpec] = {}
        multiview: dict[str, MultiviewSpec] = {}
        upscaling: dict[str, UpscaleSpec] = {}
        presets: dict[str, GenerationPreset] = {}
        for each in folders:
            models.update(_read_specs(each / "models.toml", ModelSpec))
            accelerators.update(_read_specs(each / "accelerators.toml", AcceleratorSpec))
            controls.update(_read_specs(each / "controls.toml", ControlSpec))
            multiview.update(_read_specs(each / "multiview.toml", MultiviewSpec))
            upscaling.update(_read_specs(each / "upscaling.toml", UpscaleSpec))
            for path in sorted((each / "generation").glob("*.toml")):
                presets[path.stem] = _read_preset(path)
        if not models:
            raise CatalogError(f"{folders[0]}: expected a models.toml with at least one model, found none.")
        catalog = cls(
            models=tuple(models.values()), accelerators=tuple(accelerators.values()),
            controls=tuple(controls.values()), presets=tuple(presets.values()), multiview=tuple(multiview.values()),
            upscaling=tuple(upscaling.values()),
        )  # fmt: skip
        catalog._check_references()
        return catalog

    def model(self, id: str) -> ModelSpec:
        """The model of that id. Raises `InvalidRequest` naming the choices."""
        return _choose("model", id, self.models)

    def accelerator(self, id: str) -> AcceleratorSpec:
        """The accelerator of that id. Raises `InvalidRequest` naming the choices."""
        return _choose("accelerator", id, self.accelerators)

    def control(self, id: str) -> ControlSpec:
        """The ControlNet or IP-Adapter of that id. Raises `InvalidRequest` naming the choices."""
        return _choose("control", id, self.controls)

    def controls_for(self, model: ModelSpec | str) -> tuple[ControlSpec, ...]:
        """What fits a model: everything made for its family."""
        spec = self.model(model) if isinstance(model, str) else model
        return tuple(each for each in self.controls if each.family == spec.family)

    def multiview_model(self, id: str) -> MultiviewSpec:
        """The multiview network of that id. Raises `InvalidRequest` naming the choices."""
        return _choose("model", id, self.multiview)

    def upscaling(self, model: ModelSpec) -> UpscaleSpec:
        """How a model best enlarges pictures; where nobody wrote it down, in tiles of the size it learnt."""
        side = min(model.native_width, model.native_height)
        return self._upscaling.get(model.family) or UpscaleSpec(id=model.family, tile=side, overlap=side // 4)

    def is_merged(self, model: ModelSpec) -> bool:
        """Whether a PeRFlow ΔW is already part of the model's published weights."""
        return any(each.kind == "perflow_merged" and model.id in each.models for each in self.accelerators)

    def accelerators_for(self, model: ModelSpec | str) -> tuple[AcceleratorSpec, ...]:
        """What makes sense on a model: of its family, made for it if made for some, and never a ΔW applied twice.

        A merged model predicts for PeRFlow's sampler alone, so it offers nothing else.
        """
        spec = self.model(model) if isinstance(model, str) else model
        allowed = {"perflow_merged"} if self.is_merged(spec) else {"perflow_delta", "lora", "none"}
        return tuple(
            each
            for each in self.accelerators
            if spec.family in each.families and each.kind in allowed and (not each.models or spec.id in each.models)
        )

    def _check_references(self) -> None:
        known = {model.id for model in self.models}
        for accelerator in self.accelerators:
            named = [("models", id) for id in accelerator.models]
            if accelerator.minus:
                named.append(("minus", accelerator.minus))
            for key, id in named:
                if id not in known:
                    raise CatalogError(
                        f"accelerators.toml, {accelerator.id}, {key}: expected an id of models.toml, got {id!r}."
                    )
        entries = [("models", each) for each in self.models] + [("multiview", each) for each in self.multiview]
        for file, model in entries:
            choices = [each.id for each in self.accelerators_for(model)]
            if model.default_accelerator not in choices:
                raise CatalogError(
                    f"{file}.toml, {model.id}, default_accelerator: expected one that fits the model "
                    f"({', '.join(choices) or 'none is listed'}), got {model.default_accelerator!r}."
                )


def _choose(field: str, id: str, specs: tuple[Spec, ...]) -> Spec:
    for spec in specs:
        if spec.id == id:
            return spec
    raise InvalidRequest(field, f"one of {', '.join(spec.id for spec in specs)}", id)


# --- reading ----------------------------------------------------------------------------------------------------


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path}: expected a readable TOML file; {error}.") from error


def _read_specs(path: Path, kind: type[Spec]) -> dict[str, Spec]:
    specs = {}
    for id, entry in _read_toml(path).items():
        where = f"{path}, {id}"
        if not isinstance(entry, dict):
            raise CatalogError(f"{where}: expected a table [{id}], got {entry!r}.")
        if "id" in entry:
            raise CatalogError(f"{where}, id: expected no such key, the table's name is the id.")
        spec = _build(kind, {"id": id, **entry}, where)
        if isinstance(spec, AcceleratorSpec):
            _check_accelerator(spec, where)
        if isinstance(spec, ControlSpec) and spec.kind == "ip_adapter" and not (spec.file and spec.image_encoder):
            raise CatalogError(f"{where}, file and image_encoder: expected both for an IP-Adapter, got none of one.")
        specs[id] = spec
    return specs


def _check_accelerator(spec: AcceleratorSpec, where: str) -> None:
    """Rules that join several fields of an accelerator."""
    is_perflow = spec.sampler == "perflow"
    if is_perflow != (spec.kind in ("perflow_delta", "perflow_merged")) and not (is_perflow and spec.kind == "lora"):
        raise CatalogError(
            f"{where}, sampler: expected 'perflow' for PeRFlow weights and for them only, "
            f"got {spec.sampler!r} with kind {spec.kind!r}."
        )
    if is_perflow and spec.delta is None:
        raise CatalogError(f"{where}, delta: expected a table with the facts of the weights, got none.")
    if spec.delta and spec.delta.family not in spec.families:
        raise CatalogError(f"{where}, families: expected to contain {spec.delta.family!r}, the family of the delta.")
    if spec.kind in ("perflow_delta", "lora") and not spec.source:
        raise CatalogError(f"{where}, source: expected where the weights come from, got none.")
    path = PurePosixPath(spec.file)
    is_inside = path.suffix == ".safetensors" and not path.is_absolute() and ".." not in path.parts
    if spec.file and not (spec.kind == "lora" and is_inside):
        raise CatalogError(
            f"{where}, file: expected the .safetensors file of a LoRA, inside its source, got {spec.file!r} "
            f"with kind {spec.kind!r}."
        )


def _read_preset(path: Path) -> GenerationPreset:
    entry = _read_toml(path)
    unknown = sorted(set(entry) - {"title", "description", "request"})
    if unknown:
        raise CatalogError(f"{path}, {unknown[0]}: expected only title, description and [request].")
    for key in ("title", "description"):
        if not isinstance(entry.get(key), str):
            raise CatalogError(f"{path}, {key}: expected text, got {entry.get(key)!r}.")
    request = entry.get("request", {})
    try:
        GenerationRequest.from_json({"prompt": "", **request})
    except (StudioError, TypeError) as error:
        raise CatalogError(f"{path}, request: {error}") from error
    return GenerationPreset(
        id=path.stem, title=entry["title"], description=entry["description"], request=MappingProxyType(request)
    )


Built = TypeVar("Built")


def _build(kind: type[Built], values: dict[str, Any], where: str) -> Built:
    """A frozen dataclass from a TOML table; every key known, every required key there, every value of its type."""
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise CatalogError(f"{where}, {key}: unknown key, expected one of {', '.join(sorted(known))}.")
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise CatalogError(f"{where}, {name}: expected this key, it is missing.")
    hints = get_type_hints(kind)
    return kind(**{key: _convert(hints[key], value, f"{where}, {key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as the annotated type: text, whole numbers, numbers, choices, tuples, a nested `DeltaSpec`."""
    if get_origin(hint) is UnionType:
        hint = next(each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(get_args(hint)[0], each, where) for each in value)
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if hint is DeltaSpec and isinstance(value, dict):
        return _build(DeltaSpec, value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    expected = f"one of {', '.join(map(repr, get_args(hint)))}" if get_origin(hint) is Literal else _in_words(hint)
    raise CatalogError(f"{where}: expected {expected}, got {value!r}.")


def _in_words(hint: Any) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", DeltaSpec: "a table"}
    return words.get(hint, "a list")
