"""Drawings that follow pictures: every condition acts, alone and together, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw

from studio.catalog import Catalog
from studio.conditions import ControlUnit, InitialImage, Reference
from studio.engine.diffusion import DiffusionEngine
from studio.errors import IncompatibleWeights, InvalidRequest, NotFound
from studio.inputs import PictureStore
from studio.types import GenerationRequest, StepPreview
from tests.engine.conftest import FAMILIES, result_of

Ask = Callable[..., GenerationRequest]


@pytest.fixture(scope="session")
def lines(pictures: PictureStore) -> str:
    """A map with a square and a line."""
    image = Image.new("RGB", (64, 64))
    draw = ImageDraw.Draw(image)
    draw.rectangle([12, 12, 40, 44], outline="white", width=2)
    draw.line([0, 63, 63, 20], fill="white", width=2)
    return pictures.keep(image)


@pytest.fixture(scope="session")
def photo(pictures: PictureStore) -> str:
    """A smooth coloured picture."""
    across, down = np.meshgrid(np.linspace(0, 255, 80), np.linspace(0, 255, 80))
    return pictures.keep(Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)))


@pytest.fixture(scope="session")
def left_half(pictures: PictureStore) -> str:
    """A mask: white at the left."""
    mask = Image.new("L", (80, 80))
    mask.paste(255, (0, 0, 40, 80))
    return pictures.keep(mask)


def drawn(engine: DiffusionEngine, request: GenerationRequest) -> np.ndarray:
    return np.asarray(result_of(engine.generate(request)).images[0].image).astype(int)


# --- each acts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_follows_controls_and_references_together(engine, ask: Ask, lines: str, photo: str, family: str):
    plain = drawn(engine, ask(family))
    unit = ControlUnit(control=f"canny-{family}", image=lines)
    other = ControlUnit(control=f"depth-{family}", image=photo, weight=0.5)
    reference = Reference(adapter=f"ip-{family}", image=photo)
    seen = [plain]
    for fields in (
        {"controls": (unit,)},
        {"controls": (unit, other)},
        {"references": (reference,)},
        {"controls": (unit,), "references": (reference, reference)},
    ):
        result = result_of(engine.generate(ask(family, **fields)))
        picture = np.asarray(result.images[0].image).astype(int)
        assert all((picture != before).any() for before in seen)
        assert len(result.receipt.controls_sha256) == len(
            {each.control for each in fields.get("controls", ())} | {e.adapter for e in fields.get("references", ())}
        )
        seen.append(picture)
    assert (drawn(engine, ask(family)) == plain).all()


def test_weight_zero_and_scale_zero_change_nothing(engine, ask: Ask, lines: str, photo: str):
    plain = drawn(engine, ask())
    unit = ControlUnit(control="canny-sd15", image=lines, weight=0.0)
    assert np.abs(drawn(engine, ask(controls=(unit,))) - plain).max() <= 1
    reference = Reference(adapter="ip-sd15", image=photo, scale=0.0)
    assert np.abs(drawn(engine, ask(references=(reference,))) - plain).max() <= 1


def test_start_and_end_are_snapped_to_the_real_steps(engine, ask: Ask, lines: str):
    def unit(start: float, end: float) -> ControlUnit:
        return ControlUnit(control="canny-sd15", image=lines, start=start, end=end)

    assert [unit(*span).steps(4) for span in ((0, 1), (0.1, 0.6), (0.3, 0.31), (0.9, 1))] == [
        (0, 4), (0, 2), (1, 2), (3, 4),
    ]  # fmt: skip
    whole, snapped, first_half = (
        drawn(engine, ask(controls=(unit(*span),))) for span in ((0, 1), (0.1, 0.95), (0, 0.5))
    )
    assert (whole == snapped).all()
    assert (whole != first_half).any()


def test_guidance_off_in_a_window_asks_all_networks_for_one_half(engine, ask: Ask, lines: str, photo: str):
    asked: list[tuple[str, int]] = []
    fields: dict[str, Any] = {
        "controls": (ControlUnit(control="canny-sd15", image=lines),),
        "references": (Reference(adapter="ip-sd15", image=photo),),
    }
    result_of(engine.generate(ask(**fields, steps=1, guidance=1)))
    resident = engine._loader._resident
    assert resident is not None
    control = next(iter(resident.controls._kept.values()))[0]
    watch = {
        "unet": resident.pipe.unet.conv_in,
        "controlnet": control.conv_in,
        "image": resident.pipe.unet.encoder_hid_proj.image_projection_layers[0],
    }
    handles = [
        module.register_forward_hook(lambda _m, args, _o, name=name: asked.append((name, args[0].shape[0])))
        for name, module in watch.items()
    ]
    mixed = drawn(engine, ask(**fields, guidance=[3, 3, 1, 1]))
    for handle in handles:
        handle.remove()
    for name in watch:
        assert [rows for each, rows in asked if each == name] == [2, 2, 1, 1]
    # The last steps without guidance are what a batch of one gives: draw them by the fixed scale 1 from the same point.
    assert (mixed != drawn(engine, ask(**fields, guidance=[3, 3, 3, 3]))).any()


def test_cropped_steps_equal_the_single_batch(engine, ask: Ask, lines: str, photo: str):
    """Guidance 1 everywhere needs no doubling; forced doubling with every step cropped must give the same."""
    fields: dict[str, Any] = {
        "controls": (ControlUnit(control="canny-sd15", image=lines),),
        "references": (Reference(adapter="ip-sd15", image=photo),),
    }
    single = drawn(engine, ask(**fields, guidance=1, steps=8))
    barely = drawn(engine, ask(**fields, guidance=[1.0000001, 1, 1, 1], steps=8))
    assert np.abs(single - barely).max() <= 1


def test_a_reference_acts_where_its_mask_is_white(engine, ask: Ask, photo: str, left_half: str):
    whole = Reference(adapter="ip-sd15", image=photo, scale=1.0)
    masked = Reference(adapter="ip-sd15", image=photo, scale=1.0, mask=left_half)
    assert (drawn(engine, ask(references=(masked,))) != drawn(engine, ask(references=(whole,)))).any()
    both = drawn(engine, ask(references=(masked, whole)))
    assert (both != drawn(engine, ask(references=(whole,)))).any()


def test_every_image_of_a_batch_comes_out_the_same_alone(engine, ask: Ask, lines: str, photo: str, left_half: str):
    fields: dict[str, Any] = {
        "controls": (ControlUnit(control="canny-sd15", image=lines),),
        "references": (Reference(adapter="ip-sd15", image=photo),),
        "initial": InitialImage(image=photo, strength=0.8, mask=left_half),
    }
    batch = result_of(engine.generate(ask(**fields, num_images=3, seed=20))).images
    alone = result_of(engine.generate(ask(**fields, seed=22))).images[0]
    assert [each.seed for each in batch] == [20, 21, 22]
    assert ImageChops.difference(batch[2].image, alone.image).getbbox() is None
    assert ImageChops.difference(batch[0].image, batch[1].image).getbbox() is not None


# --- image to image, inpainting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerator", ["perflow-sd15", "lcm-sd15", "ddim", "dpmpp", "euler", "tcd"])
def test_image_to_image_runs_the_last_steps_with_every_sampler(engine, ask: Ask, photo: str, accelerator: str):
    request = ask(accelerator=accelerator, steps=8, initial=InitialImage(image=photo, strength=0.5))
    events = list(engine.generate(request))
    assert [event.step for event in events if isinstance(event, StepPreview)] == [1, 2, 3, 4]
    result = result_of(events)
    whole = engine.plan(ask(accelerator=accelerator, steps=8))
    assert result.receipt.plan.timesteps == whole.timesteps[4:]
    assert result.receipt.num_network_calls == 8
    assert "the last 4 of 8 steps run" in result.receipt.plan.notes[-1]


def test_low_strength_stays_near_the_picture_and_full_strength_is_text_to_image(engine, ask: Ask, photo: str):
    near, far, all_of_it = (
        drawn(engine, ask(steps=20, accelerator="ddim", initial=InitialImage(image=photo, strength=strength)))
        for strength in (0.05, 0.7, 1.0)
    )
    resident = engine._loader._resident
    assert resident is not None
    beginning = _round_trip(engine, photo)
    assert np.abs(near - beginning).mean() < np.abs(far - beginning).mean()
    assert (all_of_it == drawn(engine, ask(steps=20, accelerator="ddim"))).all()


def _round_trip(engine: DiffusionEngine, photo: str) -> np.ndarray:
    """What the random VAE makes of the picture: where a strength of 0 would end."""
    from studio.engine.beginning import to_pixels
    from studio.engine.fitting import fit
    from studio.engine.preview import to_image

    vae = engine._loader._resident.pipe.vae  # type: ignore[union-attr]
    with torch.inference_mode():
        latents = vae.encode(to_pixels(fit(engine._open_picture(photo), (64, 64), "crop"))).latent_dist.mode()
        return np.asarray(to_image(vae.decode(latents).sample[0])).astype(int)


@pytest.mark.parametrize("accelerator", ["ddim", "euler", "tcd"])
def test_an_untrained_walk_from_a_noised_picture_is_the_stock_image_to_image(
    engine, ask: Ask, photo: str, accelerator: str
):
    """The same latents as diffusers' own image-to-image pipeline, given the same encoded picture and noise."""
    from diffusers import StableDiffusionImg2ImgPipeline

    from studio.engine.beginning import to_pixels
    from studio.engine.fitting import fit

    request = ask(accelerator=accelerator, steps=8, guidance=3.0, initial=InitialImage(image=photo, strength=0.5))
    ours = drawn(engine, request)
    resident = engine._loader._resident
    assert resident is not None
    stock = StableDiffusionImg2ImgPipeline(**resident.pipe.components, requires_safety_checker=False)
    from studio.engine.samplers import make_sampler

    catalog = engine._catalog
    stock.scheduler = make_sampler(
        resident.noise_schedule, catalog.model("tiny-sd15"), catalog.accelerator(accelerator), None
    )
    stock.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        pixels = to_pixels(fit(engine._open_picture(photo), (64, 64), "crop"))
        latents = resident.pipe.vae.encode(pixels).latent_dist.mode() * resident.pipe.vae.config.scaling_factor
        theirs = stock(
            prompt_embeds=resident.prompts.encode(request.prompt).embeds,
            negative_prompt_embeds=resident.prompts.encode("", negative=True).embeds,
            image=latents, strength=0.5, num_inference_steps=8, guidance_scale=3.0,
            generator=torch.Generator().manual_seed(request.seed), output_type="pil",
        ).images[0]  # fmt: skip
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1


def test_inpainting_by_euler_keeps_to_the_pictures_path_in_its_own_coordinates(
    engine, ask: Ask, photo: str, left_half: str
):
    """Euler and DDIM are one solver, so inpainting by them is one picture, up to where they begin and end."""
    fields = {"steps": 20, "guidance": 1.0, "initial": InitialImage(image=photo, strength=0.8, mask=left_half)}
    euler, ddim, other = (
        drawn(engine, ask(accelerator=accelerator, seed=seed, **fields))
        for accelerator, seed in (("euler", 5), ("ddim", 5), ("ddim", 6))
    )
    assert np.abs(euler - ddim).mean() < 0.1 * np.abs(other - ddim).mean()


def test_inpainting_leaves_what_the_mask_leaves(engine, ask: Ask, photo: str, left_half: str):
    request = ask(initial=InitialImage(image=photo, strength=1.0, mask=left_half))
    picture = drawn(engine, request)
    original = np.asarray(engine._open_picture(photo).resize((64, 64), Image.Resampling.LANCZOS)).astype(int)
    assert (picture[:, 44:] == original[:, 44:]).all()
    assert (picture[:, :28] != original[:, :28]).any()
    assert (picture != drawn(engine, ask())).any()


def test_a_strength_below_one_step_is_refused_with_what_to_raise(ask: Ask, photo: str):
    with pytest.raises(InvalidRequest, match=r"at least 0\.25 with 4 steps, or at least 10 steps with 0\.1") as caught:
        ask(steps=4, initial=InitialImage(image=photo, strength=0.1))
    assert caught.value.field == "strength"
    assert ask(steps=10, initial=InitialImage(image=photo, strength=0.1)).first_step == 9
    with pytest.raises(InvalidRequest, match=r"at least 0\.25 with 4 steps"):
        ask(steps=4, initial=InitialImage(image=photo, strength=0.0))


# --- nothing stays ----------------------------------------------------------------------------------------------------


def test_taking_everything_off_leaves_the_unet_as_it_was(engine, ask: Ask, lines: str, photo: str):
    result_of(engine.generate(ask(accelerator="ddim", steps=1)))
    resident = engine._loader._resident
    assert resident is not None
    unet = resident.pipe.unet
    before = (set(unet.state_dict()), dict(unet.config), dict(unet.attn_processors), set(resident.pipe.components))
    fields: dict[str, Any] = {
        "controls": (ControlUnit(control="canny-sd15", image=lines),),
        "references": (Reference(adapter="ip-sd15", image=photo),) * 2,
    }
    for accelerator in ("ddim", "perflow-sd15", "lcm-sd15"):
        result_of(engine.generate(ask(**fields, accelerator=accelerator, steps=1)))
        assert any("to_k_ip" in name for name in set(unet.state_dict()) - before[0])
    result_of(engine.generate(ask(accelerator="ddim", steps=1)))
    after = (set(unet.state_dict()), dict(unet.config), dict(unet.attn_processors), set(resident.pipe.components))
    assert before == after
    assert not unet._forward_pre_hooks
    assert not unet._forward_hooks


def test_delta_weights_stay_through_an_adapter_and_are_replaced_under_it(engine, ask: Ask, photo: str):
    """ΔW put on before or after the IP-Adapter: the same picture."""
    reference = (Reference(adapter="ip-sd15", image=photo),)
    result_of(engine.generate(ask(steps=1)))
    delta_first = drawn(engine, ask(references=reference))
    engine.close()
    result_of(engine.generate(ask(accelerator="ddim", steps=1, references=reference)))
    adapter_first = drawn(engine, ask(references=reference))
    assert np.abs(delta_first - adapter_first).max() <= 1


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_controls_of_another_family_or_kind_are_refused_before_work(engine, ask: Ask, lines: str):
    with pytest.raises(IncompatibleWeights, match="is made for sdxl, and Tiny sd15 is sd15"):
        engine.plan(ask(controls=(ControlUnit(control="canny-sdxl", image=lines),)))
    with pytest.raises(InvalidRequest, match="an IP-Adapter for a reference"):
        engine.plan(ask(controls=(ControlUnit(control="ip-sd15", image=lines),)))
    with pytest.raises(InvalidRequest, match="control: expected one of"):
        engine.plan(ask(controls=(ControlUnit(control="nothing", image=lines),)))
    assert engine._loader._resident is None


def test_a_picture_that_is_gone_is_said_and_the_next_request_works(engine, ask: Ask):
    gone = ControlUnit(control="canny-sd15", image="0" * 64)
    with pytest.raises(NotFound, match="is not kept in this studio"):
        list(engine.generate(ask(controls=(gone,))))
    result_of(engine.generate(ask(steps=1)))


def test_a_controlnet_of_another_shape_is_refused(engine, ask: Ask, lines: str, assets: Path):
    import json

    config = assets / "control-sd21" / "two" / "config.json"
    kept = config.read_text()
    config.write_text(json.dumps({**json.loads(kept), "block_out_channels": [8, 16]}))
    try:
        with pytest.raises(IncompatibleWeights):
            list(engine.generate(ask("sd21", controls=(ControlUnit(control="depth-sd21", image=lines),))))
    finally:
        config.write_text(kept)
    result_of(engine.generate(ask("sd21", controls=(ControlUnit(control="depth-sd21", image=lines),), steps=1)))


def test_a_missing_controlnet_says_where_it_was_expected(catalog: Catalog, assets: Path, engine, ask: Ask, lines: str):
    from studio.errors import ModelUnavailable

    folder = assets / "control-sd15" / "one"
    aside = folder.rename(folder.with_name("aside"))
    try:
        assert not engine.is_on_disk("canny-sd15")
        with pytest.raises(ModelUnavailable, match="Tiny canny for sd15 is not on disk"):
            list(engine.generate(ask(controls=(ControlUnit(control="canny-sd15", image=lines),))))
    finally:
        aside.rename(folder)
    assert engine.is_on_disk("canny-sd15")
    assert engine.is_on_disk("ip-sd15")


def test_the_request_round_trips_with_its_conditions(ask: Ask, lines: str, photo: str, left_half: str):
    import json

    request = ask(
        controls=(ControlUnit(control="canny-sd15", image=lines, end=0.5),),
        references=(Reference(adapter="ip-sd15", image=photo, mask=left_half),),
        initial=InitialImage(image=photo, mask=left_half),
    )
    assert GenerationRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
    assert request.pictures == (lines, photo, left_half)
    assert "controls" not in ask().to_json()
    with pytest.raises(InvalidRequest, match="controls"):
        GenerationRequest.from_json({**request.to_json(), "controls": [{"control": "x", "path": "/etc/passwd"}]})
    with pytest.raises(InvalidRequest, match="64 digits"):
        ControlUnit(control="canny-sd15", image="../../secret.png")
