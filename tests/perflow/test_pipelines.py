"""`PeRFlowScheduler` inside stock diffusers pipelines, with tiny random networks."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from studio.perflow import PeRFlowScheduler
from tests.tiny import tiny_pipeline

PICTURE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def with_perflow(pipe, head="ddim_eps"):
    pipe.scheduler = PeRFlowScheduler.from_config(pipe.scheduler.config, prediction_type=head, num_time_windows=4)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, **arguments):
    """Latents of a seeded run, and the timesteps its callback saw."""
    seen = []

    def note(_pipe, _step, timestep, values):
        seen.append(int(timestep))
        return values

    values = {"prompt": "a cone", "generator": torch.Generator().manual_seed(0), **arguments}
    output = pipe(**values, output_type="latent", callback_on_step_end=note).images
    assert bool(torch.isfinite(output).all())
    return output, seen


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    return with_perflow(tiny_pipeline(tmp_path_factory.mktemp("sd15")))


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_text_to_image(family, tmp_path):
    head = "v_prediction" if family == "sd21" else "ddim_eps"
    pipe = with_perflow(tiny_pipeline(tmp_path, family), head)
    first, seen = draw(pipe, height=64, width=64, num_inference_steps=5)
    again, _ = draw(pipe, height=64, width=64, num_inference_steps=5)
    assert seen == [1000, 875, 750, 500, 250]
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_text_to_image_at_four_steps_is_ddim(sd15):
    """An untrained student with N = K is DDIM, once DDIM asks the network one timestep higher too."""
    mine, _ = draw(sd15, height=64, width=64, num_inference_steps=4)
    ddim = DDIMScheduler.from_config(
        sd15.scheduler.config, prediction_type="epsilon", timestep_spacing="trailing", steps_offset=0
    )
    other = type(sd15)(**{**sd15.components, "scheduler": ddim}, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    shift = sd15.unet.register_forward_pre_hook(lambda _unet, inputs: (inputs[0], inputs[1] + 1, *inputs[2:]))
    reference, seen = draw(other, height=64, width=64, num_inference_steps=4)
    shift.remove()
    assert seen == [999, 749, 499, 249]
    torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-3)


def test_image_to_image_trims_the_grid(sd15):
    pipe = StableDiffusionImg2ImgPipeline(**sd15.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    _, seen = draw(pipe, image=PICTURE, strength=0.5, num_inference_steps=8)
    assert seen == [500, 375, 250, 125]


def test_inpainting(sd15):
    pipe = StableDiffusionInpaintPipeline(**sd15.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    mask = Image.new("L", (64, 64), 255)
    _, seen = draw(pipe, image=PICTURE, mask_image=mask, strength=1.0, height=64, width=64, num_inference_steps=4)
    assert seen == [1000, 750, 500, 250]


def test_sdxl_image_to_image(tmp_path):
    text = with_perflow(tiny_pipeline(tmp_path, "sdxl"))
    parts = {name: part for name, part in text.components.items() if name not in ("feature_extractor", "image_encoder")}
    pipe = StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    _, seen = draw(pipe, image=PICTURE, strength=0.75, num_inference_steps=4)
    assert seen == [750, 500, 250]


@pytest.mark.parametrize("cls", [StableDiffusionControlNetPipeline, StableDiffusionControlNetImg2ImgPipeline])
def test_controlnet(sd15, cls):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        control = ControlNetModel.from_unet(sd15.unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    pipe = cls(**sd15.components, controlnet=control, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    extra = {"control_image": PICTURE, "strength": 1.0} if "Img2Img" in cls.__name__ else {}
    _, seen = draw(pipe, image=PICTURE, height=64, width=64, num_inference_steps=4, **extra)
    assert seen == [1000, 750, 500, 250]
