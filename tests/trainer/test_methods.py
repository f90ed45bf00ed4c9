"""Networks, students and methods on tiny pipelines of every family."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from studio.errors import IncompatibleWeights, InvalidRequest, ModelUnavailable
from studio.perflow import DeltaWeights, KeptBase
from studio.runs.config import BaseModel, DatasetRef, TrainingConfig
from studio.specs import DeltaSpec
from tests.tiny import tiny_pipeline_folder
from trainer import distilling, probe
from trainer.facts import facts_of
from trainer.method import seeded
from trainer.methods import method_of
from trainer.networks import Networks
from trainer.students import Student

DISTILLING = ("perflow", "rectified", "lcm", "pcm")


@pytest.fixture(autouse=True)
def few_reference_steps(monkeypatch) -> None:
    """What is true of ends that many steps found is true of ends that three found, and sooner."""
    monkeypatch.setattr(distilling, "REFERENCE_STEPS", 3)
    monkeypatch.setattr(distilling, "CONSISTENCY_REFERENCE_STEPS", 3)
    monkeypatch.setattr(probe, "REFERENCE_STEPS", 8)


@dataclass
class Batch:
    latents: torch.Tensor
    condition: dict[str, torch.Tensor]
    full_condition: dict[str, torch.Tensor] | None = None


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny_pipeline_folder(root / family, family) for family in ("sd15", "sd21", "sdxl")}


def config_of(folders: dict[str, Path], family: str = "sd15", **changes: Any) -> TrainingConfig:
    is_v = family == "sd21"
    base = BaseModel(id=f"tiny-{family}", family=family, source=str(folders[family]), kind="folder",
                     prediction_type="v_prediction" if is_v else "epsilon")  # fmt: skip
    values = {"prediction_type": "v_prediction" if is_v else "ddim_eps", "batch_size": 4, "num_solver_steps": 2}
    return TrainingConfig(name="t", base=base, dataset=DatasetRef(id="d"), **{**values, **changes})


def made(config: TrainingConfig) -> tuple[Networks, Student, Any]:
    networks = Networks.load(config.base, "cpu", "fp32")
    student = Student.of(config, networks)
    return networks, student, method_of(config, networks, student)


def batch_of(networks: Networks, texts: tuple[str, ...] = ("a b", "", "cube", "d"), seed: int = 0) -> Batch:
    latents = torch.randn(len(texts), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    control = torch.rand(len(texts), 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return Batch(latents, networks.embed(list(texts)) | {"control": control})


def moved(student: Student, by: float = 0.02) -> dict[str, torch.Tensor]:
    """Weights as a training would leave them, somewhere else."""
    generator = torch.Generator().manual_seed(9)
    return {
        name: p.detach() + by * torch.randn(p.shape, generator=generator) for name, p in student.trainable().items()
    }


def answer(network: Any, networks: Networks) -> torch.Tensor:
    batch = batch_of(networks)
    with torch.no_grad():
        return network(batch.latents, torch.tensor([999, 700, 400, 10]), batch.condition)


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_condition_is_what_the_pipeline_would_give_the_unet(folders, family: str) -> None:
    networks = Networks.load(config_of(folders, family).base, "cpu")
    condition = networks.embed(["a cube", ""])
    encoded = networks.pipe.encode_prompt("a cube", device="cpu", num_images_per_prompt=1,
                                           do_classifier_free_guidance=False)  # fmt: skip
    assert torch.allclose(condition["prompt_embeds"][:1], encoded[0], atol=1e-5)
    if family == "sdxl":
        assert torch.allclose(condition["text_embeds"][:1], encoded[2], atol=1e-5)
        assert condition["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2
        assert float(condition["prompt_embeds"][1].abs().sum() + condition["text_embeds"][1].abs().sum()) == 0
    nothing = networks.nothing(condition | {"control": torch.ones(2, 3, 8, 8)})
    assert torch.equal(nothing["prompt_embeds"][0], condition["prompt_embeds"][1])
    assert nothing["control"].shape == (2, 3, 8, 8)
    networks.release_text()
    assert torch.equal(networks.nothing(condition)["prompt_embeds"], nothing["prompt_embeds"])
    with pytest.raises(RuntimeError, match="they were released"):
        networks.embed(["more"])


def test_pictures_become_latents_and_back_as_in_the_pipeline(folders) -> None:
    networks = Networks.load(config_of(folders).base, "cpu")
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    parameters = networks.encode(pixels)
    assert parameters.shape == (2, 8, 8, 8)
    factor = networks.vae.config.scaling_factor
    mean = networks.latents(parameters, torch.zeros(2, 4, 8, 8))
    assert torch.allclose(mean, networks.vae.encode(pixels).latent_dist.mean * factor, atol=1e-5)
    spread = networks.latents(parameters, torch.ones(2, 4, 8, 8)) - mean
    assert torch.allclose(spread, networks.vae.encode(pixels).latent_dist.std * factor, atol=1e-4)
    assert torch.allclose(networks.decode(mean), networks.vae.decode(mean / factor).sample.clamp(-1, 1), atol=1e-5)


def test_the_base_has_the_hash_the_studio_gives_it(folders) -> None:
    networks = Networks.load(config_of(folders).base, "cpu")
    assert networks.base_sha256 == KeptBase(StableDiffusionPipeline.from_pretrained(folders["sd15"]).unet).sha256


def test_what_cannot_be_loaded_says_why(folders, tmp_path: Path) -> None:
    missing = BaseModel(id="gone", family="sd15", source=str(tmp_path / "gone"), kind="folder")
    with pytest.raises(ModelUnavailable, match="gone cannot be trained"):
        Networks.load(missing, "cpu")
    wrong = BaseModel(id="wrong", family="sdxl", source=str(folders["sd15"]), kind="folder")
    with pytest.raises(IncompatibleWeights, match="expected a sdxl pipeline"):
        Networks.load(wrong, "cpu")
    pickled = tmp_path / "model.safetensors"
    pickled.write_bytes(b"\x80\x02pickled bytes")
    with pytest.raises(IncompatibleWeights, match="expected a safetensors file"):
        Networks.load(BaseModel(id="p", family="sd15", source=str(pickled), kind="single_file"), "cpu")
    with pytest.raises(InvalidRequest, match="precision"):
        Networks.load(missing, "cpu", "fp16")


# --- students -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_teacher_stays_the_base_and_the_delta_makes_the_student(folders, kind: str) -> None:
    config = config_of(folders, student=kind, lora_rank=2)
    networks = Networks.load(config.base, "cpu", "fp32")
    base = answer(networks.network(), networks)
    student = Student.of(config, networks)
    assert torch.allclose(answer(student.network(), networks), base, atol=1e-5)
    average = moved(student)
    with student.wearing(average):
        trained = answer(student.network(), networks)
        assert torch.allclose(answer(student.teacher(), networks), base, atol=1e-5)
    assert not torch.allclose(trained, base, atol=1e-2)
    assert torch.allclose(answer(student.network(), networks), base, atol=1e-5)  # wearing was taken off
    fresh = Networks.load(config.base, "cpu", "fp32")
    spec = DeltaSpec(family="sd15")
    KeptBase(fresh.unet).apply(DeltaWeights(tensors=student.delta(average), spec=spec))
    assert torch.allclose(answer(fresh.network(), fresh), trained, atol=1e-4)


def test_a_lora_trains_nothing_else_and_is_saved_as_pipelines_read_it(folders, tmp_path: Path) -> None:
    config = config_of(folders, student="lora", lora_rank=2)
    networks = Networks.load(config.base, "cpu", "fp32")
    student = Student.of(config, networks)
    assert student.trainable()
    assert all("lora_" in name for name in student.trainable())
    average = moved(student)
    with student.wearing(average):
        trained = answer(student.network(), networks)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=student.lora_layers(average))
    fresh = Networks.load(config.base, "cpu", "fp32")
    fresh.pipe.load_lora_weights(tmp_path)
    assert torch.allclose(answer(fresh.network(), fresh), trained, atol=1e-4)


def test_the_switch_between_lora_and_teacher_keeps_gradients(folders) -> None:
    networks, student, _ = made(config_of(folders, student="lora", lora_rank=2))
    batch, at = batch_of(networks), torch.tensor([999, 700, 400, 10])
    loss = student.network()(batch.latents, at, batch.condition).square().mean()
    student.teacher()(batch.latents, at, batch.condition)  # in between
    loss.backward()
    assert all(p.requires_grad for p in student.trainable().values())
    assert sum(float(p.grad.abs().sum()) for p in student.trainable().values() if p.grad is not None) > 0


def test_a_controlnet_starts_without_effect_and_alone_is_trained(folders) -> None:
    networks, student, method = made(config_of(folders, method="controlnet", control="tile"))
    assert torch.allclose(answer(student.network(), networks), answer(networks.network(), networks), atol=1e-5)
    method.loss(batch_of(networks), 0, seeded(0, 0, 0)).backward()
    assert all(p.grad is None for p in networks.unet.parameters())
    assert sum(float(p.grad.abs().sum()) for p in student.trainable().values() if p.grad is not None) > 0
    with pytest.raises(InvalidRequest, match="ControlNet"):
        student.delta({})


def test_a_full_student_of_another_head_starts_scaled_and_a_lora_is_refused(folders) -> None:
    config = config_of(folders, prediction_type="diff_eps")
    networks, student, _ = made(config)
    ratio = answer(student.network(), networks) / answer(student.teacher(), networks)
    assert float(ratio.median()) == pytest.approx(0.75, abs=1e-3)
    assert float(student.delta(student.trainable())["conv_out.weight"].abs().sum()) > 0  # the scale is in the artefact
    with pytest.raises(InvalidRequest, match="starts re-scaled"):
        Student.of(config_of(folders, prediction_type="diff_eps", student="lora"), Networks.load(config.base, "cpu"))


# --- methods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("method", [*DISTILLING, "diffusion"])
def test_every_method_has_finite_gradients_on_every_family(folders, family: str, method: str) -> None:
    networks, student, bound = made(config_of(folders, family, method=method))
    measured = bound.held_out(batch_of(networks), seeded(0, 0, 0))
    loss = bound.loss(batch_of(networks), 0, seeded(0, 0, 0))
    loss.backward()
    grads = [p.grad for p in student.trainable().values() if p.grad is not None]
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)
    assert sum(float(grad.abs().sum()) for grad in grads) > 0
    assert bound.held_out_loss(bound.network, measured) == bound.held_out_loss(bound.network, measured) > 0
    errors = bound.endpoint_errors(bound.network, measured)
    assert len(errors) == len(measured.untrained) == (4 if method in DISTILLING else 0)
    assert bound.state() == {}


def test_the_untrained_error_is_that_of_the_student_before_training(folders) -> None:
    for method in ("rectified", "perflow"):
        networks, _, bound = made(config_of(folders, method=method))
        measured = bound.held_out(batch_of(networks, ("a", "b", "c", "d") * 2), seeded(0, 0, 0))
        errors = bound.endpoint_errors(bound.network, measured)
        tolerance = 1e-5 if method == "rectified" else 0.02  # PeRFlow asks one timestep above the teacher's index
        assert errors == pytest.approx(list(measured.untrained), abs=tolerance)


def test_solved_pairs_are_used_again_and_solved_again_to_the_bit(folders) -> None:
    config = config_of(folders, pair_reuse=2)
    networks, student, running = made(config)
    calls: list[int] = []
    student._teacher.register_forward_hook(lambda *_: calls.append(1))
    batch = batch_of(networks)
    assert [running.data_step(step) for step in range(5)] == [0, 0, 2, 2, 4]
    losses = [running.loss(batch, step, seeded(0, step, 0)).detach() for step in (2, 3)]
    assert len(calls) == config.num_solver_steps
    resumed = method_of(config, networks, student)
    assert torch.equal(resumed.loss(batch, 3, seeded(0, 3, 0)).detach(), losses[1])
    assert not torch.equal(losses[0], losses[1])  # the same windows at fresh times


@pytest.mark.parametrize("method", ["perflow", "rectified"])
def test_windows_may_begin_on_the_teachers_own_way(folders, method: str) -> None:
    """From pure noise; the parts of a batch hold each window of each sample once, and are solved again to the bit."""
    config = config_of(folders, method=method, window_starts="teacher", num_time_windows=4, pair_reuse=2)
    networks, student, running = made(config)
    calls: list[int] = []
    student._teacher.register_forward_hook(lambda *_: calls.append(1))
    batch = batch_of(networks)
    assert [running.data_step(step) for step in (0, 7, 8, 17)] == [0, 0, 8, 16]
    losses = [running.loss(batch, step, seeded(0, step, 0)).detach() for step in range(8)]
    assert len(calls) == 4 * config.num_solver_steps  # one way for all eight steps
    parts = running._pool[0]
    windows = torch.stack([part.window for part in parts])
    assert all(sorted(row) == [0, 1, 2, 3] for row in [*windows.tolist(), *windows.T.tolist()])
    for sample in range(4):
        way = sorted((int(part.window[sample]), part) for part in parts)
        for (_, before), (_, after) in itertools.pairwise(way):
            assert torch.equal(before.z_e[sample], after.z_s[sample])
        assert float(way[0][1].z_s[sample].std()) == pytest.approx(1.0, abs=0.15)
    drawn = torch.randn(batch.latents.shape, generator=seeded(config.seed, 0, 0))
    assert all(torch.equal(part.z_s[part.window == 0], drawn[part.window == 0]) for part in parts)
    resumed = method_of(config, networks, student)
    assert torch.equal(resumed.loss(batch, 5, seeded(0, 5, 0)).detach(), losses[5])


def test_slots_have_their_own_noise_and_share_out_the_windows(folders) -> None:
    networks, _, method = made(config_of(folders, batch_size=2, num_time_windows=4))
    batch = batch_of(networks, ("a", "b"))
    for slot in (0, 1):
        method.loss(batch, 0, seeded(0, 0, slot), slot)
    (first,), (second,) = method._pool[0], method._pool[1]
    assert torch.cat([first.window, second.window]).tolist() == [0, 1, 2, 3]
    assert not torch.equal(first.z_s, second.z_s)


def test_a_teacher_at_fixed_guidance_is_asked_with_the_caption(folders) -> None:
    networks, _, method = made(config_of(folders, guidance_mode="fixed", trained_guidance=4.0))
    full, dropped = networks.embed(["a cube"] * 4), networks.embed([""] * 4)
    latents = batch_of(networks).latents
    method.loss(Batch(latents, dropped, full), 0, seeded(0, 0, 0))
    asked_full = method._pool[0][0]
    again = method_of(method.config, networks, method.student)
    again.loss(Batch(latents, full), 0, seeded(0, 0, 0))
    assert torch.equal(asked_full.z_e, again._pool[0][0].z_e)
    assert torch.equal(asked_full.condition["prompt_embeds"], dropped["prompt_embeds"])
    sync = method_of(config_of(folders), networks, method.student)
    sync.loss(Batch(latents, dropped, full), 0, seeded(0, 0, 0))
    assert not torch.allclose(sync._pool[0][0].z_e, asked_full.z_e, atol=1e-4)


def test_a_probe_comes_before_the_first_loss_and_is_told(folders) -> None:
    networks, _, method = made(config_of(folders, teacher_solver="probe"))
    with pytest.raises(RuntimeError, match="expected held_out before"):
        method.loss(batch_of(networks), 0, seeded(0, 0, 0))
    method.held_out(batch_of(networks), seeded(0, 0, 0))
    assert "DPM-Solver++" in method.notes[0]
    assert bool(torch.isfinite(method.loss(batch_of(networks), 0, seeded(0, 0, 0))))


def test_large_held_out_sets_are_taken_in_pieces_with_every_window_in_turn(folders) -> None:
    networks, _, method = made(config_of(folders, batch_size=3, num_time_windows=4))
    measured = method.held_out(batch_of(networks, ("a", "b", "c", "d", "e", "f", "g", "h")), seeded(0, 0, 0))
    assert [piece.window.tolist() for piece in measured.pieces] == [[0, 1, 2], [3, 0, 1], [2, 3]]
    assert all(error == error for error in measured.untrained)


# --- facts --------------------------------------------------------------------------------------------------------


def test_facts_follow_from_the_configuration(folders) -> None:
    perflow = facts_of(config_of(folders, num_time_windows=6, sample_guidance=3.0), base_sha256="abc")
    assert (perflow.sampler, perflow.delta.num_time_windows, perflow.recommended_steps) == ("perflow", 6, 6)
    assert (perflow.delta.guidance_mode, perflow.recommended_guidance, perflow.delta.base_sha256) == ("sync", 3, "abc")
    fixed = facts_of(config_of(folders, method="rectified", guidance_mode="fixed", trained_guidance=7.5))
    assert (fixed.sampler, fixed.delta.trained_guidance, fixed.recommended_guidance) == ("ddim", 7.5, 1.5)
    lcm = facts_of(config_of(folders, "sd21", method="lcm", trained_guidance=15.0))
    assert (lcm.sampler, lcm.delta.prediction_type, lcm.delta.trained_guidance) == ("lcm", "v_prediction", 10)
    assert (lcm.delta.num_time_windows, lcm.recommended_steps) == (1, 4)
    assert facts_of(config_of(folders, method="pcm")).sampler == "ddim"
