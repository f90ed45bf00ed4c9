"""The one path: every family and accelerator draws, the same seed gives the same pixels, nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from studio.catalog import Catalog
from studio.engine import drawing
from studio.engine.diffusion import DiffusionEngine
from studio.errors import IncompatibleWeights, InvalidRequest, ModelUnavailable, OutOfMemory
from studio.perflow import weights_sha256
from studio.types import GenerationRequest, Loading, StepDone, StepPreview
from tests.engine.conftest import FAMILIES, result_of

Ask = Callable[..., GenerationRequest]


def differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_with_every_accelerator(engine: DiffusionEngine, ask: Ask, family: str):
    pictures = []
    plain = ("ddim", "dpmpp", "euler", "tcd")
    for accelerator in (f"perflow-{family}", f"lcm-{family}", *plain):
        request = ask(family, accelerator=accelerator)
        events = list(engine.generate(request))
        result = result_of(events)
        previews = [event for event in events if isinstance(event, StepPreview)]
        assert [preview.step for preview in previews] == [1, 2, 3, 4]
        assert result.images[0].lens == tuple(previews)
        assert result.receipt.plan == engine.plan(request)
        assert result.receipt.num_network_calls == result.receipt.plan.num_network_calls == 8
        assert (result.receipt.delta_sha256 is None) == (accelerator in plain)
        assert len(result.receipt.seconds_steps) == 4
        pictures.append(result.images[0].image)
    assert all(picture.size == (64, 64) for picture in pictures)
    assert all(differ(pictures[0], other) for other in pictures[1:])


def test_without_previews_the_steps_are_told_and_the_picture_is_the_same(engine: DiffusionEngine, ask: Ask):
    request = ask("tabletop")
    events = list(engine.generate(request, previews=False))
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3, 4]
    assert sum(isinstance(event, StepPreview) for event in events) == 1  # the finished picture
    assert not differ(result_of(events).images[0].image, result_of(engine.generate(request)).images[0].image)


def test_previews_name_their_window_and_the_last_one_is_the_picture(engine: DiffusionEngine, ask: Ask):
    events = list(engine.generate(ask("tabletop", steps=5, guidance=[7.5, 4, 4, 1])))
    previews = [event for event in events if isinstance(event, StepPreview)]
    assert [preview.window for preview in previews] == [0, 0, 1, 2, 3]
    assert [preview.timestep for preview in previews] == [1000, 875, 750, 500, 250]
    assert [preview.guidance for preview in previews] == [7.5, 7.5, 4, 4, 1]
    assert not differ(previews[-1].image, result_of(events).images[0].image)
    assert all(differ(one.image, other.image) for one, other in pairwise(previews))
    assert isinstance(events[0], Loading)


def test_an_image_is_the_same_alone_and_in_a_batch(engine: DiffusionEngine, ask: Ask):
    for accelerator in ("perflow-sd15", "lcm-sd15"):
        batch = result_of(engine.generate(ask(accelerator=accelerator, num_images=3, seed=40))).images
        assert [image.seed for image in batch] == [40, 41, 42]
        alone = result_of(engine.generate(ask(accelerator=accelerator, seed=42))).images[0]
        assert not differ(batch[2].image, alone.image)
        assert differ(batch[0].image, batch[1].image)


def test_switching_accelerators_twenty_times_leaves_the_base_and_the_pixels(engine: DiffusionEngine, ask: Ask):
    first = result_of(engine.generate(ask(steps=4)))
    for turn in range(20):
        accelerator = ("ddim", "lcm-sd15", "perflow-minus", "perflow-sd15")[turn % 4]
        strength = (1.0, 0.5, 1.5)[turn % 3]
        request = ask(accelerator=accelerator, accelerator_strength=strength, steps=1)
        assert result_of(engine.generate(request)).receipt.base_sha256 == first.receipt.base_sha256
    resident = engine._loader._resident
    assert resident is not None
    again = result_of(engine.generate(ask(steps=4)))
    assert not differ(first.images[0].image, again.images[0].image)
    resident.unet.undress()
    assert weights_sha256(resident.pipe.unet) == first.receipt.base_sha256


def test_a_lora_leaves_no_layer_behind(engine: DiffusionEngine, ask: Ask):
    before = result_of(engine.generate(ask(accelerator="ddim")))
    unet = engine._loader._resident.pipe.unet  # type: ignore[union-attr]
    names = set(unet.state_dict())
    result_of(engine.generate(ask(accelerator="lcm-sd15")))
    assert set(unet.state_dict()) == names
    after = result_of(engine.generate(ask(accelerator="ddim")))
    assert set(unet.state_dict()) == names
    assert not differ(before.images[0].image, after.images[0].image)


def test_strength_scales_the_delta_and_zero_is_the_bare_model(engine: DiffusionEngine, ask: Ask):
    bare, half, full = (
        result_of(engine.generate(ask(accelerator_strength=strength))).images[0].image for strength in (0, 0.5, 1)
    )
    assert differ(bare, half)
    assert differ(half, full)
    # Untrained, ddim_eps at N = K is DDIM (METHOD section 9), but for the network's timestep, one higher.
    ddim = result_of(engine.generate(ask(accelerator="ddim"))).images[0].image
    difference = ImageChops.difference(bare, ddim)
    assert max(high for _, high in difference.getextrema()) <= 8


def test_forming_a_delta_by_subtraction_gives_the_student_itself(engine: DiffusionEngine, ask: Ask, assets: Path):
    result_of(engine.generate(ask(accelerator="perflow-minus", steps=1)))
    from diffusers import UNet2DConditionModel

    student = UNet2DConditionModel.from_pretrained(assets / "sd15-student", subfolder="unet").state_dict()
    live = engine._loader._resident.pipe.unet.state_dict()  # type: ignore[union-attr]
    assert all(torch.allclose(live[name], student[name], atol=1e-6) for name in student)


def test_closing_stops_within_a_step_and_the_next_request_works(engine: DiffusionEngine, ask: Ask):
    reference = result_of(engine.generate(ask(steps=6, seed=9)))
    steps: list[int] = []
    resident = engine._loader._resident
    assert resident is not None
    handle = resident.pipe.unet.register_forward_hook(lambda *_: steps.append(1))
    events = engine.generate(ask(steps=32, num_images=16))
    while not isinstance(next(events), StepPreview):
        pass
    asked = len(steps)
    events.close()
    assert len(steps) - asked <= 2
    handle.remove()
    assert not resident.pipe.unet._forward_pre_hooks
    after = result_of(engine.generate(ask(steps=6, seed=9)))
    assert not differ(reference.images[0].image, after.images[0].image)


def test_two_requests_at_once_do_not_disturb_each_other(engine: DiffusionEngine, ask: Ask):
    alone = [result_of(engine.generate(ask(accelerator=id))).images[0].image for id in ("perflow-sd15", "ddim")]
    together: dict[int, Any] = {}

    def draw(index: int, accelerator: str) -> None:
        together[index] = result_of(engine.generate(ask(accelerator=accelerator))).images[0].image

    threads = [threading.Thread(target=draw, args=pair) for pair in enumerate(("perflow-sd15", "ddim"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(differ(alone[index], together[index]) for index in range(2))


def test_changing_models_frees_the_first_and_coming_back_is_the_same(engine: DiffusionEngine, ask: Ask):
    first = result_of(engine.generate(ask("sd15")))
    result_of(engine.generate(ask("sdxl")))
    again = result_of(engine.generate(ask("sd15")))
    assert first.receipt.base_sha256 == again.receipt.base_sha256
    assert not differ(first.images[0].image, again.images[0].image)
    assert again.receipt.seconds_load > 0


def test_the_receipt_tells_what_was_odd(engine: DiffusionEngine, ask: Ask):
    request = ask(prompt="a red cube and then a great many words", negative_prompt="fog", guidance=1, width=128)
    warnings = " ".join(result_of(engine.generate(request)).receipt.warnings)
    assert "The prompt was cut: this model reads 22 tokens" in warnings
    assert "negative prompt has no effect" in warnings
    assert "128x64 is not the size this model learnt" in warnings
    assert result_of(engine.generate(ask())).receipt.warnings == ()


def test_negative_prompt_and_guidance_change_the_picture(engine: DiffusionEngine, ask: Ask):
    pictures = [
        result_of(engine.generate(request)).images[0].image
        for request in (ask(), ask(negative_prompt="fog"), ask(guidance=8), ask(prompt="a cone"))
    ]
    assert all(differ(pictures[0], other) for other in pictures[1:])


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_delta_on_a_merged_model_is_refused_by_plan_and_generate(engine: DiffusionEngine, ask: Ask):
    twice = ask(model="merged-sd15", accelerator="perflow-sd15")
    for call in (engine.plan, lambda request: list(engine.generate(request))):
        with pytest.raises(IncompatibleWeights, match="would apply them twice"):
            call(twice)
    merged = result_of(engine.generate(ask(model="merged-sd15", accelerator="merged")))
    assert merged.receipt.delta_sha256 is None
    with pytest.raises(IncompatibleWeights, match="predicts for PeRFlow's sampler"):
        engine.plan(ask(model="merged-sd15", accelerator="ddim"))
    with pytest.raises(IncompatibleWeights, match="adds no weights"):
        engine.plan(ask(accelerator="merged"))


def test_another_familys_accelerator_is_refused(engine: DiffusionEngine, ask: Ask):
    with pytest.raises(IncompatibleWeights, match="is made for sdxl, and Tiny sd15 is sd15"):
        engine.plan(ask(accelerator="perflow-sdxl"))


def test_unknown_ids_and_wrong_schedules_are_refused_before_work(engine: DiffusionEngine, ask: Ask):
    with pytest.raises(InvalidRequest, match=r"model: expected one of"):
        next(engine.generate(ask(model="nothing")))
    with pytest.raises(InvalidRequest, match="guidance"):
        engine.plan(ask(guidance=[1, 2, 3]))
    assert engine._loader._resident is None


def test_a_missing_builtin_says_where_it_was_expected(catalog: Catalog, ask: Ask, tmp_path: Path):
    engine = DiffusionEngine(catalog, assets_dir=tmp_path, device="cpu", offline=True)
    assert not engine.is_on_disk("tiny-sd15")
    assert not engine.is_on_disk("perflow-sd15")
    with pytest.raises(ModelUnavailable, match="Tiny sd15 is not on disk"):
        list(engine.generate(ask()))


def test_plans_note_fewer_steps_than_windows(engine: DiffusionEngine, ask: Ask):
    plan = engine.plan(ask(steps=2))
    assert plan.timesteps == (1000, 500)
    assert "a step spans several" in plan.notes[0]


# --- memory -------------------------------------------------------------------------------------------------------

SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    MemoryError(),
)


@pytest.mark.parametrize("shortage", SHORTAGES, ids=["cuda", "cpu", "python"])
def test_out_of_memory_in_a_step_is_explained_and_recovered_from(engine, ask: Ask, shortage: BaseException):
    reference = result_of(engine.generate(ask()))

    def fail(*_: Any) -> None:
        raise shortage

    handle = engine._loader._resident.pipe.unet.register_forward_hook(fail)
    with pytest.raises(OutOfMemory, match=r"while drawing.*smaller size"):
        list(engine.generate(ask()))
    handle.remove()
    assert not differ(reference.images[0].image, result_of(engine.generate(ask())).images[0].image)


def test_out_of_memory_at_load_is_explained_and_recovered_from(engine, ask: Ask, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise SHORTAGES[0]

    with monkeypatch.context() as patch:
        patch.setattr("studio.engine.loader.place", fail)
        with pytest.raises(OutOfMemory, match="while loading Tiny sd15"):
            list(engine.generate(ask()))
    result_of(engine.generate(ask()))


def test_out_of_memory_at_decode_is_tried_once_more_in_tiles(engine, ask: Ask, monkeypatch: pytest.MonkeyPatch):
    attempts = []

    def decode(vae: Any, latents: torch.Tensor) -> Image.Image:
        attempts.append(vae.use_tiling)
        if not vae.use_tiling:
            raise SHORTAGES[0]
        return original(vae, latents)

    original = drawing.decode
    monkeypatch.setattr(drawing, "decode", decode)
    result = result_of(engine.generate(ask("sd15")))
    assert attempts == [False, True]
    assert any("decoded in tiles" in warning for warning in result.receipt.warnings)
    assert engine._loader._resident.pipe.vae.use_tiling is False


def test_other_errors_are_not_mistaken_for_a_shortage(engine: DiffusionEngine, ask: Ask):
    result_of(engine.generate(ask()))

    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    handle = engine._loader._resident.pipe.unet.register_forward_hook(fail)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(engine.generate(ask()))
    handle.remove()


def test_a_closed_engine_forgets_the_model_and_can_be_used_again(engine: DiffusionEngine, ask: Ask):
    result_of(engine.generate(ask(steps=1)))
    engine.close()
    assert engine._loader._resident is None
    result_of(engine.generate(ask(steps=1)))
