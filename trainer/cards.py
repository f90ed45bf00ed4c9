"""The model card of a run's result: what it is, from what, by which recipe, and how good it measured. No praise."""

from __future__ import annotations

import dataclasses
import json

from studio.runs.config import METHODS, TrainingConfig
from studio.runs.exports import RESULTS, Export
from trainer.facts import licence_of

_CARD = """---
license: {license}
tags:
- perflow-studio
- {family}
---

# {title}

{what}, trained by PeRFlow Studio on {base}. {method}

{measured}

## How to sample

{sampling}

## Data

{data}

## Facts

| | |
|---|---|
| base | {base} |
| base's UNet, sha256 | `{base_sha256}` |
| step | {step:,} |
| configuration, sha256 | `{config_sha256}` |

## Recipe

```json
{recipe}
```
"""
_SAMPLED = {
    "perflow": "`PeRFlowScheduler` (studio.perflow) with {windows} time windows and the head `{head}`",
    "lcm": "diffusers' `LCMScheduler`",
    "ddim": 'diffusers\' `DDIMScheduler` with `timestep_spacing="trailing"`',
    "dpmpp": "any solver of the base, such as DPM-Solver++",
}


def card(config: TrainingConfig, export: Export, *, base_sha256: str, words: str) -> str:
    """README.md."""
    sampled = _SAMPLED[export.sampler].format(windows=config.num_time_windows, head=config.prediction_type)
    recipe = {key: value for key, value in config.to_json().items() if key not in ("base", "dataset", "format")}
    return _CARD.format(
        license=export.license if export.license != "unknown" else "other",
        family=config.base.family,
        title=export.title,
        what=RESULTS[export.kind].capitalize(),
        base=config.base.id,
        method=METHODS[config.method],
        measured=words or "Nothing was measured on held-out pictures.",
        sampling=f"With {sampled}, {export.recommended_steps} steps and guidance "
        f"{', '.join(f'{scale:g}' for scale in export.recommended_guidance)}.",
        data=_data(config),
        base_sha256=base_sha256,
        step=export.step,
        config_sha256=config.sha256,
        recipe=json.dumps(recipe, indent=1),
    )


def _data(config: TrainingConfig) -> str:
    if config.dataset.kind == "tabletop":
        return "Endless scenes of the built-in tabletop world."
    title = config.dataset.title or config.dataset.id
    print_ = f" (fingerprint `{config.dataset.fingerprint}`)" if config.dataset.fingerprint else ""
    return f"{title}, {config.dataset.kind}{print_}."


def metadata(config: TrainingConfig, *, base_sha256: str, step: int) -> dict[str, str]:
    """What every exported file says of itself: recipe, base and licence, as texts."""
    public = dataclasses.replace(config, base=dataclasses.replace(config.base, source=config.base.id),
                                 dataset=dataclasses.replace(config.dataset, source=""))  # fmt: skip
    return {
        "recipe": json.dumps(public.to_json(), sort_keys=True),
        "base": config.base.id,
        "base_sha256": base_sha256,
        "license": licence_of(config),
        "step": str(step),
    }
