"""One run from its folder to its result: what it tells, what it heeds, how it fails, and what others can load of it."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from studio.perflow import DeltaWeights, KeptBase, weights_sha256
from studio.runs.events import (
    Failed,
    Finished,
    Phase,
    SampleSaved,
    Started,
    Stopped,
    TrainingEvent,
    Validated,
    Warned,
    read_events,
)
from studio.runs.exports import LORA_FILE, read_export
from studio.runs.folder import RunFolder
from studio.runs.preflight import PreflightReport, read_report
from tests.trainer.little import little_run
from tests.trainer.zygote import Zygote
from trainer.exporting import KOHYA_FILE, in_order, lora
from trainer.lora_layouts import diffusers_layout, kohya_layout, lora_of_delta
from trainer.preflight import _no_space, seconds_to_encode
from trainer.publishing import publish
from trainer.run import in_words, verdict
from trainer.sampling import Spread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def finished(zygote: Zygote, folder: Path) -> RunFolder:
    """A full student's run to its end."""
    run = little_run(folder, "finished")
    assert zygote.run(run.path) == 0, run.log_path.read_text()
    return run


def events_of(run: RunFolder) -> list[TrainingEvent]:
    return read_events(run.events_path)[0]


def last_of(run: RunFolder, kind: type) -> TrainingEvent:
    return [event for event in events_of(run) if isinstance(event, kind)][-1]


# --- what it tells ---


def test_it_is_measured_from_step_0(finished: RunFolder) -> None:
    found = [event for event in events_of(finished) if isinstance(event, Validated)]
    assert [event.step for event in found] == [0, 3, 6]
    for event in found:
        assert len(event.endpoint_errors) == len(event.untrained) == 4
        assert all(math.isfinite(each) for each in (*event.endpoint_errors, *event.untrained))
    assert found[0].endpoint_errors == pytest.approx(found[0].untrained, rel=0.05)
    assert found[2].endpoint_errors != found[0].endpoint_errors


def test_the_samples_lie_beside_the_teachers(finished: RunFolder) -> None:
    found = [event for event in events_of(finished) if isinstance(event, SampleSaved)]
    assert [(event.step, event.num_steps) for event in found] == [(0, 0), (0, 2), (0, 4), (6, 2), (6, 4)]
    assert all((finished.samples_dir / event.file).read_bytes().startswith(b"\x89PNG") for event in found)
    assert found[0].prompts == ("square 1", "square 2")
    first, last = ((finished.samples_dir / f"0000000{step}-4.png").read_bytes() for step in (0, 6))
    assert first != last


def test_the_end_says_honestly_whether_it_was_worth_it(finished: RunFolder) -> None:
    end = events_of(finished)[-1]
    assert isinstance(end, Finished)
    assert end.beats_untrained == (sum(end.endpoint_errors) < sum(end.untrained))
    assert end.words.startswith("Better" if end.beats_untrained else "Not better")


def test_the_verdict_does_not_flatter() -> None:
    assert verdict((0.1, 0.3), (0.2, 0.3), None, 1.0)[0] is True
    worse = verdict((0.3, 0.3), (0.2, 0.3), None, 1.0)
    assert worse[0] is False
    assert "0.3000, untrained 0.2500" in worse[1]
    assert verdict((), (), 0.5, 0.4)[0] is False
    assert verdict((), (), 0.3, 0.4)[0] is True


# --- what others can load ---


def test_the_delta_makes_the_student_of_the_base(finished: RunFolder) -> None:
    delta = DeltaWeights.read(finished.export_dir)
    config = finished.config()
    base = UNet2DConditionModel.from_pretrained(config.base.source, subfolder="unet")
    assert delta.spec.base_sha256 == weights_sha256(base)
    assert (delta.spec.num_time_windows, delta.spec.prediction_type, delta.spec.license) == (4, "ddim_eps", "mit")
    average = {
        name.removeprefix("ema."): value
        for name, value in load_file(finished.checkpoints_dir / "step-00000006" / "state.safetensors").items()
        if name.startswith("ema.")
    }
    KeptBase(base).apply(delta, 1.0)
    for name, value in base.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=0, atol=2e-5)


def test_the_export_describes_itself_without_this_machines_paths(finished: RunFolder) -> None:
    found = read_export(finished)
    assert found is not None
    assert (found.kind, found.sampler, found.recommended_steps, found.step) == ("perflow_delta", "perflow", 4, 6)
    with safe_open(finished.export_dir / "perflow_delta.safetensors", "pt") as file:
        notes = file.metadata()
    assert json.loads(notes["recipe"])["num_time_windows"] == 4
    assert notes["base_sha256"] == found.delta.base_sha256
    text = (finished.export_dir / "README.md").read_text() + json.dumps(notes)
    assert str(finished.path.parents[1]) not in text
    assert "held-out endpoint error" in text
    assert "license: mit" in text


def test_a_lora_of_a_delta_says_what_it_loses(finished: RunFolder) -> None:
    small, large = lora(finished, 1), lora(finished, 1024)
    assert 0 < large < small < 1
    with safe_open(finished.export_dir / "lora-1" / LORA_FILE, "pt") as file:
        assert file.metadata()["lora_loses"].startswith(f"{small:.4f}")
    shutil.rmtree(finished.export_dir / "lora-1")
    shutil.rmtree(finished.export_dir / "lora-1024")


def test_a_full_rank_lora_holds_all_but_norms_and_biases() -> None:
    generator = torch.Generator().manual_seed(0)
    delta = {
        "a.to_q.weight": torch.randn(6, 4, generator=generator),
        "b.conv1.weight": torch.randn(5, 3, 3, 3, generator=generator),
        "c.norm.weight": torch.randn(7, generator=generator),
    }
    layers, lost = lora_of_delta(delta, 64)
    for name in ("a.to_q", "b.conv1"):
        up, down = layers[f"{name}.lora_B.weight"], layers[f"{name}.lora_A.weight"]
        product = (up.flatten(1) @ down.flatten(1)).reshape(delta[f"{name}.weight"].shape)
        torch.testing.assert_close(product, delta[f"{name}.weight"])
    total = sum(float(value.square().sum()) for value in delta.values())
    assert lost == pytest.approx((float(delta["c.norm.weight"].square().sum()) / total) ** 0.5, rel=1e-4)


def test_both_layouts_name_the_same_layers() -> None:
    layers = {"down.0.to_q.lora_A.weight": torch.ones(2, 4), "down.0.to_q.lora_B.weight": torch.ones(6, 2)}
    assert set(diffusers_layout(layers)) == {f"unet.{name}" for name in layers}
    kohya = kohya_layout(layers)
    assert set(kohya) == {f"lora_unet_down_0_to_q.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert float(kohya["lora_unet_down_0_to_q.alpha"]) == 2


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    files = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_file({"w": torch.ones(3)}, path, {name: "ö" * 3 for name in "abcdefgh"})
        files.add(in_order(path).read_bytes())
        assert load_file(path)["w"].tolist() == [1, 1, 1]
    assert len(files) == 1


METHODS = {
    "lora": {"student": "lora", "lora_rank": 2},
    "diffusion": {"method": "diffusion"},
    "controlnet": {"method": "controlnet", "control": "canny"},
    "lcm": {"method": "lcm", "sample_guidance": 1.0},
    "pcm": {"method": "pcm"},
    "rectified": {"method": "rectified"},
    "fixed": {"guidance_mode": "fixed", "teacher_solver": "probe"},
    "sd21": {"family": "sd21"},
    "sdxl": {"family": "sdxl"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_every_kind_of_run_ends_in_what_others_load(zygote: Zygote, folder: Path, kind: str) -> None:
    run = little_run(folder, kind, num_steps=2, **METHODS[kind])
    assert zygote.run(run.path) == 0, run.log_path.read_text()
    found, base = read_export(run), run.config().base.source
    assert found is not None
    if found.kind == "perflow_delta":
        unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        KeptBase(unet).apply(DeltaWeights.read(run.export_dir), 1.0)
    elif found.kind == "lora":
        pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
        before = pipe.unet(torch.ones(1, 4, 8, 8), 500, torch.ones(1, 24, 16)).sample
        pipe.load_lora_weights(run.export_dir, weight_name=LORA_FILE)
        assert not torch.equal(pipe.unet(torch.ones(1, 4, 8, 8), 500, torch.ones(1, 24, 16)).sample, before)
        assert (run.export_dir / KOHYA_FILE).is_file()
    elif found.kind == "model":
        StableDiffusionPipeline.from_pretrained(run.export_dir, safety_checker=None)
    else:
        ControlNetModel.from_pretrained(run.export_dir / "controlnet")
    validated = last_of(run, Validated)
    assert math.isfinite(validated.loss)


# --- what it heeds ---


def test_sigterm_saves_and_ends_with_0(zygote: Zygote, folder: Path, finished: RunFolder) -> None:
    """And a stopped run goes on to the same end."""
    run = little_run(folder, "stopped")
    assert zygote.run_killed_at(run.path, '"step": 1, "loss"', signal.SIGTERM) == 0
    end = events_of(run)[-1]
    assert isinstance(end, Stopped)
    assert 1 <= end.step < 6
    run.ask("stop")
    assert zygote.run(run.path) == 0
    assert events_of(run)[-1] == Stopped(step=end.step, time=events_of(run)[-1].time)
    assert zygote.run(run.path) == 0
    assert last_of(run, Started).step == end.step
    assert (run.export_dir / "perflow_delta.safetensors").read_bytes() == (
        finished.export_dir / "perflow_delta.safetensors"
    ).read_bytes()


def test_sigterm_while_it_loads_ends_it_too(zygote: Zygote, folder: Path) -> None:
    run = little_run(folder, "early")
    assert zygote.run_killed_at(run.path, "loading the base", signal.SIGTERM) == 0
    assert events_of(run)[-1] == Stopped(step=0, time=events_of(run)[-1].time)


# --- how it fails ---


def failed(zygote: Zygote, run: RunFolder) -> str:
    assert zygote.run(run.path) == 1
    end = events_of(run)[-1]
    assert isinstance(end, Failed), end
    return end.reason


def test_what_is_missing_is_named(zygote: Zygote, folder: Path) -> None:
    run = little_run(folder, "missing")
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("base-sd15", "no-such-base"))
    assert "tiny-sd15 cannot be trained" in failed(zygote, run)
    run.config_path.write_text(text.replace("/datasets/", "/no-such-datasets/"))
    assert "There is no dataset" in failed(zygote, run)
    print_ = run.config().dataset.fingerprint
    run.config_path.write_text(text.replace(print_, "0" * 64))
    assert "dataset: expected" in failed(zygote, run)
    run.config_path.write_text(text.replace('"device": "cpu"', '"device": "cuda"'))
    assert "there is no CUDA device here" in failed(zygote, run)
    run.config_path.write_text("{}")
    assert failed(zygote, run).startswith("name: expected")


def test_errors_become_sentences() -> None:
    import errno

    assert "ran out of memory" in in_words(torch.OutOfMemoryError("CUDA out of memory"))
    assert "ran out of memory" in in_words(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert "disk is full" in in_words(OSError(errno.ENOSPC, "No space left on device"))
    assert "Read-only" in in_words(OSError(errno.EROFS, "Read-only file system"))
    assert "its log has the details" in in_words(KeyError("x"))


def test_noise_is_told_from_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 4, 16, 16, generator=generator)
    smooth = torch.nn.functional.interpolate(torch.randn(4, 4, 4, 4, generator=generator), scale_factor=4.0)
    teacher = Spread.of(smooth)
    assert Spread.of(noise).complaint(teacher).startswith("The samples tend to noise")
    assert Spread.of(smooth.flip(0) * 1.2).complaint(teacher) == ""
    assert "flat" in Spread.of(smooth * 0.3).complaint(teacher)
    assert "too strong" in Spread.of(smooth * 3).complaint(teacher)
    assert "no numbers" in Spread.of(smooth * math.nan).complaint(teacher)


# --- preflight and publishing ---


def test_a_preflight_measures_and_keeps_nothing(zygote: Zygote, folder: Path) -> None:
    run = little_run(folder, "preflight")
    assert zygote.run(run.path, "preflight") == 0
    report = read_report(run)
    assert report.is_possible, report.refusals
    assert 0 < report.seconds_per_step < report.seconds_total
    assert report.seconds_total > 6 * report.seconds_per_step
    assert report.peak_memory_bytes >= report.resident_memory_bytes > 0
    assert report.disk_needed_bytes > 3_000_000
    assert report.cost(3600.0) == pytest.approx(report.seconds_total)
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "log.txt", "preflight.json"]


def test_the_time_to_encode_is_estimated_from_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = [0.0], list[int]()
    monkeypatch.setattr("trainer.preflight.time.monotonic", lambda: now[0])

    def build(report) -> None:
        for number in range(100):
            report(number / 100)
            made.append(number)
            now[0] += 2.0  # seconds a picture
        report(1.0)

    assert seconds_to_encode(build) == pytest.approx(200.0)
    assert len(made) < 10
    assert seconds_to_encode(lambda report: report(1.0)) == 0.0  # all of it is there already


def test_a_preflight_refuses_in_a_sentence(zygote: Zygote, folder: Path) -> None:
    run = little_run(folder, "refused")
    run.config_path.write_text(run.config_path.read_text().replace("base-sd15", "no-such-base"))
    assert zygote.run(run.path, "preflight") == 0
    report = read_report(run)
    assert not report.is_possible
    assert "tiny-sd15 cannot be trained" in report.refusals[0]


def test_too_little_disk_is_refused_before_a_step() -> None:
    short = PreflightReport(disk_needed_bytes=5 * 2**30, disk_free_bytes=5 * 2**30)
    assert "needs 5.2 GB on disk" in _no_space(short)
    assert "5.0 GB are free" in _no_space(short)
    assert _no_space(PreflightReport(disk_needed_bytes=5 * 2**30, disk_free_bytes=6 * 2**30)) == ""


def test_publishing_needs_a_result_and_a_token(
    finished: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert publish(finished.path, "someone/something", "") == 2
    assert "set HF_TOKEN" in caplog.text
    assert publish(tmp_path, "someone/something", "hf_x") == 1
    assert "no result yet" in caplog.text


def test_nothing_is_phrased_as_a_warning_that_is_none(finished: RunFolder) -> None:
    warned = [event for event in events_of(finished) if isinstance(event, Warned)]
    assert [event.kind for event in warned] == ["data"]  # a small dataset holds fewer pictures out
    assert any(isinstance(event, Phase) for event in events_of(finished))
