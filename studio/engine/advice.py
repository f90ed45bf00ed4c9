"""What a person should know about a combination that is allowed but odd: sentences for the receipt. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from studio.perflow.guidance import is_guided
from studio.specs import AcceleratorSpec, DeltaSpec, ModelSpec
from studio.types import GenerationRequest, StepPlan

# METHOD section 8: weights that learnt the teacher's guidance work from 1 to 2.5; LCM-LoRA's card says 1 to 2.
FIXED_GUIDANCE_LIMIT = 3.0
LCM_GUIDANCE_LIMIT = 2.0
OFF = (1.0,)


def odd_choices(
    request: GenerationRequest, model: ModelSpec, accelerator: AcceleratorSpec, facts: DeltaSpec | None, plan: StepPlan
) -> Iterator[str]:
    """The sentences that apply, one for each thing that is odd."""
    strongest = max(plan.guidance)
    if facts and facts.guidance_mode == "fixed" and strongest > FIXED_GUIDANCE_LIMIT:
        yield (
            f"Guidance {strongest:g} on weights that learnt their guidance from the teacher ({facts.trained_guidance:g}"
            f") overdoes it; 1 to 2.5 is what they were made for."
        )
    if accelerator.sampler == "lcm" and strongest > LCM_GUIDANCE_LIMIT:
        yield f"Guidance {strongest:g} is a lot for LCM; 1 to 2 is what it was made for."
    elif _is_made_for_none(accelerator) and strongest > LCM_GUIDANCE_LIMIT:
        yield (
            f"Guidance {strongest:g} on {accelerator.title}, which was made for none: colours burn; leave it at 1, or "
            f"up to {LCM_GUIDANCE_LIMIT:g} for the sake of a negative prompt."
        )
    if accelerator.kind in ("none", "perflow_merged") and request.accelerator_strength != 1:
        yield f"The strength {request.accelerator_strength:g} has no effect: {accelerator.title} adds no weights."
    if accelerator.kind in ("perflow_delta", "lora") and request.accelerator_strength == 0:
        yield f"Strength 0 is the bare model under the sampler of {accelerator.title}."
    if request.negative_prompt.strip() and not any(map(is_guided, plan.guidance)):
        yield "The negative prompt has no effect without guidance (every scale is 1)."
    upscale = request.upscale
    width, height = (upscale.tile, upscale.tile) if upscale else (request.width, request.height)
    if (width, height) != (model.native_width, model.native_height):
        yield (
            f"{width}x{height} is not the size this model learnt "
            f"({model.native_width}x{model.native_height}); objects may repeat or melt."
        )


def _is_made_for_none(accelerator: AcceleratorSpec) -> bool:
    """Whether its authors recommend drawing without guidance, because it is in the weights."""
    return accelerator.kind == "lora" and accelerator.delta is None and accelerator.recommended_guidance == OFF
