"""The engine of views: twelve rows, the true number of calls, delta weights on and off, the batch's order, refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from studio.catalog import Catalog
from studio.engine.multiview import WonderEngine
from studio.engine.multiview_drawing import Given, predict
from studio.errors import IncompatibleWeights, InvalidRequest, ModelUnavailable
from studio.multiview.views import VIEWS, flat_normals
from studio.networks.wonder3d import BASE_SHA256
from studio.perflow import weights_sha256
from studio.types import GenerationRequest, GenerationResult, Guidance, StepPreview
from tests.multiview.tiny_views import SIZE, write_studio


def request(**more) -> GenerationRequest:
    chosen = {"accelerator": "perflow", "steps": 2, "guidance": Guidance.of(1.0), "seed": 3, **more}
    return GenerationRequest(prompt="", model="tiny-views", width=6 * SIZE, height=2 * SIZE, **chosen)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 56, 56), fill=(200, 40, 40))
    return image


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WonderEngine]:
    assets, presets = write_studio(tmp_path_factory.mktemp("views"))
    made = WonderEngine(Catalog.load(presets), assets_dir=assets, device="cpu", dtype="fp32", offline=True)
    with contextlib.closing(made):
        yield made


def drawn(engine: WonderEngine, picture: Image.Image, **more) -> GenerationResult:
    result = list(engine.generate(request(**more), picture, previews=False))[-1]
    assert isinstance(result, GenerationResult)
    return result


def pixels(result: GenerationResult) -> np.ndarray:
    return np.asarray(result.images[0].image, dtype=int)


def test_a_sheet_of_twelve_views_with_previews_and_a_true_receipt(engine: WonderEngine, picture: Image.Image) -> None:
    events = list(engine.generate(request(), picture))
    previews = [event for event in events if isinstance(event, StepPreview)]
    result = events[-1]
    assert isinstance(result, GenerationResult)
    assert result.images[0].image.size == (6 * SIZE, 2 * SIZE)
    assert [(preview.step, preview.timestep) for preview in previews] == [(1, 1000), (2, 500)]
    assert previews[0].image.width / previews[0].image.height == 3
    assert len(result.receipt.base_sha256) == 64
    assert result.receipt.delta_sha256 is not None


@pytest.mark.parametrize(("steps", "guidance", "calls"), [(1, 1.0, 1), (2, 1.0, 2), (4, 1.0, 4), (2, 2.0, 4)])
def test_the_number_of_calls_told_is_the_number_made(
    engine: WonderEngine, picture: Image.Image, steps: int, guidance: float, calls: int
) -> None:
    rows: list[int] = []
    resident = drawn(engine, picture) and engine._resident
    assert resident is not None
    hook = resident.networks.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        result = drawn(engine, picture, steps=steps, guidance=Guidance.of(guidance))
    finally:
        hook.remove()
    assert sum(rows) == 12 * calls
    assert result.receipt.num_network_calls == result.receipt.plan.num_network_calls == calls
    assert any("spans several windows" in warning for warning in result.receipt.warnings) == (steps < 4)


def test_one_seed_is_one_sheet_and_delta_weights_leave_nothing_behind(
    engine: WonderEngine, picture: Image.Image
) -> None:
    plain = pixels(drawn(engine, picture, accelerator="ddim"))
    base = engine._resident.base.sha256  # pyright: ignore[reportOptionalMemberAccess]
    fast = pixels(drawn(engine, picture))
    assert np.array_equal(fast, pixels(drawn(engine, picture)))
    assert not np.array_equal(fast, pixels(drawn(engine, picture, seed=4)))
    assert not np.array_equal(fast, pixels(drawn(engine, picture, accelerator_strength=0.0)))
    again = drawn(engine, picture, accelerator="ddim")
    assert np.array_equal(plain, pixels(again))
    assert again.receipt.base_sha256 == base


def test_a_closed_iterator_stops_the_work_and_the_next_request_works(
    engine: WonderEngine, picture: Image.Image
) -> None:
    events = engine.generate(request(steps=32), picture)
    for event in events:
        if isinstance(event, StepPreview):
            break
    events.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert drawn(engine, picture).images


def test_the_picture_given_matters(engine: WonderEngine, picture: Image.Image) -> None:
    other = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).convert("L").convert("RGB")
    assert not np.array_equal(pixels(drawn(engine, picture)), pixels(drawn(engine, other)))


def test_guidance_keeps_normals_in_the_first_half_of_the_batch() -> None:
    """A stand-in network that answers each row with its label and its picture: the mix must come out row by row."""

    class Telling(torch.nn.Linear):
        def forward(self, rows, _timestep, encoder_hidden_states, class_labels, return_dict):
            half = len(rows) // 2
            assert (class_labels[:half, 0] < 6).all()
            assert (class_labels[half:, 0] >= 6).all()
            assert torch.equal(encoder_hidden_states[:, 0, 0] != 0, rows[:, 4, 0, 0] != 0)
            return ((rows[:, :4] + class_labels[:, :1, None, None] + rows[:, 4:]),)

    latents, pictures = torch.randn(12, 4, 2, 2), torch.full((12, 4, 2, 2), 5.0)
    labels = torch.arange(12.0)[:, None].repeat(1, 10)
    given = Given(tokens=torch.ones(12, 1, 3), latents=pictures, labels=labels)
    answer = predict(Telling(1, 1), latents, torch.tensor(1), given, 3.0)
    assert torch.allclose(answer, latents + labels[:, :1, None, None] + 3 * pictures)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"accelerator": "lcm"}, "delta weights or a plain solver"), ({"steps": 0}, "steps"), ({"accelerator": "x"}, "x")],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(engine: WonderEngine, more: dict, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        engine.plan(request(**more))


def test_a_picture_of_another_size_is_refused(engine: WonderEngine) -> None:
    with pytest.raises(InvalidRequest, match="64 x 64"):
        list(engine.generate(request(), Image.new("RGB", (32, 32))))


def test_without_weights_it_is_not_listed_and_says_so(tmp_path: Path, picture: Image.Image) -> None:
    assets, presets = write_studio(tmp_path, with_weights=False)
    with contextlib.closing(
        WonderEngine(Catalog.load(presets), assets_dir=assets, device="cpu", offline=True)
    ) as engine:
        assert not engine.is_on_disk("tiny-views")
        with pytest.raises(ModelUnavailable, match="not on disk"):
            list(engine.generate(request(), picture))


def test_a_network_that_stores_only_its_own_draws_on_its_base_and_on_no_other(
    tmp_path: Path, picture: Image.Image
) -> None:
    assets, presets = write_studio(tmp_path)
    listed = presets / "multiview.toml"
    folder, base = assets / "tiny-views" / "unet", assets / "tiny" / "unet"
    [file], [below] = folder.glob("*.safetensors"), base.glob("*.safetensors")
    own, weights = load_file(file), load_file(below)
    shared = [name for name in own if name.startswith("mid_block.resnets")]
    save_file(own | {name: weights[name] for name in shared}, file, {"format": "pt"})
    whole = pixels(_drawn_by(assets, presets, picture))
    save_file({n: v for n, v in own.items() if n not in shared}, file, {BASE_SHA256: weights_sha256(weights)})
    listed.write_text(listed.read_text() + 'base = "tiny/unet"\n')
    assert np.array_equal(pixels(_drawn_by(assets, presets, picture)), whole)
    save_file({name: value + 1e-3 for name, value in weights.items()}, below, {"format": "pt"})
    with pytest.raises(IncompatibleWeights, match="use the one it was trained on"):
        _drawn_by(assets, presets, picture)


def _drawn_by(assets: Path, presets: Path, picture: Image.Image) -> GenerationResult:
    engine = WonderEngine(Catalog.load(presets), assets_dir=assets, device="cpu", dtype="fp32", offline=True)
    with contextlib.closing(engine):
        return drawn(engine, picture, accelerator="ddim")


def test_drawing_may_begin_near_the_picture_where_the_catalogue_says_so(tmp_path: Path, picture: Image.Image) -> None:
    """What is known of the views: the picture's outline, with normals that face each camera."""
    assets, presets = write_studio(tmp_path)
    listed = presets / "multiview.toml"
    plain = pixels(_drawn_by(assets, presets, picture))
    listed.write_text(listed.read_text() + "begins_near = true\n")
    assert not np.array_equal(plain, pixels(_drawn_by(assets, presets, picture)))
    maps = flat_normals(np.asarray(picture, dtype=np.float32) / 255)
    middle = maps[:, SIZE // 2, SIZE // 2] * 2 - 1
    assert np.allclose(middle, [view.toward for view in VIEWS], atol=1e-6)
    assert (maps[:, 0, 0] == 1).all()
