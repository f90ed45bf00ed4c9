"""One click that shows what a control does: its example picture and prompt as a request, taken like any other.

Examples ship beside the weights they show (`ControlSpec.example`). This module does not know the tab's fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.conditions import ControlUnit, Reference
from studio.specs import ControlSpec
from studio.types import GenerationRequest
from studio.ui.form_layout import chips_html

if TYPE_CHECKING:
    from studio.services import Services


def examples(services: Services) -> list[ControlSpec]:
    """The controls of the starting model that can be shown: their weights and their picture are there."""
    found = (status.spec for status in services.controls(services.default_model) if status.on_disk)
    return [spec for spec in found if spec.example and (services.settings.assets_dir / spec.example).is_file()]


def examples_html(services: Services) -> str:
    """A chip for each, or nothing."""
    specs = examples(services)
    if not specs:
        return ""
    chips = chips_html("Examples", ((spec.id, spec.title, f"Set up: {spec.description}") for spec in specs))
    return f'<p class="facts"><span>One click sets up an example to follow:</span></p>{chips}'


def example_request(services: Services, id: str) -> GenerationRequest:
    """The request behind a chip, its picture kept. Raises `InvalidRequest` for an unknown control."""
    spec = services.catalog.control(id)
    picture = services.keep(services.settings.assets_dir / spec.example, "control_image")
    if spec.kind == "ip_adapter":
        reference = Reference(adapter=id, image=picture, scale=spec.recommended_weight)
        return services.resolve(prompt=spec.example_prompt, references=(reference,))
    unit = ControlUnit(control=id, image=picture, weight=spec.recommended_weight)
    return services.resolve(prompt=spec.example_prompt, controls=(unit,))
