"""TrainingServices: what a person typed becomes a run or a refusal; runs as real processes of the fake trainer."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio.catalog import Catalog
from studio.engine.fake import FakeEngine
from studio.errors import Busy, InvalidRequest, NeedsConfirmation, NotFound, QueueFull, StudioError, TurnedOff
from studio.gpu import DeviceLease
from studio.history import History
from studio.runs.exports import NAME
from studio.runs.jobs import ENDED
from studio.runs.launch import Launcher
from studio.services import Services
from studio.settings import Settings
from studio.training import RunStatus, TrainingServices
from studio.types import GenerationResult
from tests.runs import fake_trainer
from tests.runs.waiting import ENDLESS, until

SHORT = {"name": "a run", "base": "tabletop", "dataset": "tabletop", "num_steps": 5}
LONG = {**SHORT, "num_steps": ENDLESS}


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[TrainingServices]:
    """A studio's training with the fake trainer; whatever still runs at the end is killed."""
    launcher = Launcher(command=fake_trainer.COMMAND)
    with TrainingServices(settings, Catalog.load(settings.presets_dir), launcher=launcher) as services:
        try:
            yield services
        finally:
            for job in services._jobs.in_state("queued"):
                services._jobs.remove(job.run_id)
            for job in services._jobs.all():
                if job.process is not None:
                    job.process.signal_group(signal.SIGKILL)
            until(lambda: services.at_work is None)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", offline=True, hub_cache=tmp_path / "hub")


@pytest.fixture
def training(settings: Settings) -> Iterator[TrainingServices]:
    with opened(settings) as services:
        yield services


def begin(training: TrainingServices, values: dict[str, Any], does: str = "") -> RunStatus:
    given = {**values, "sample_prompts": (does,)} if does else values
    return training.start(training.choices.config_of(given))


def ended(training: TrainingServices, run_id: str) -> RunStatus:
    return until(lambda: (status := training.status(run_id)).state in ENDED and status)


def at_work(training: TrainingServices, run_id: str) -> RunStatus:
    return until(lambda: (status := training.status(run_id)).state == "running" and status.step > 2 and status)


# --- what a person typed ----------------------------------------------------------------------------------------


def test_only_what_can_be_trained_is_offered_and_the_rest_says_why(training: TrainingServices) -> None:
    reasons = {each.spec.id: each.reason for each in training.choices.bases()}
    assert reasons["tabletop"] == ""
    assert "hf download" in reasons["sd15"]
    assert "part of its weights already" in reasons["perflow-sd15-dreamshaper"]


def test_ids_become_folders_and_a_recipe_gives_what_nobody_typed(training: TrainingServices) -> None:
    recipe = next(each for each in training.choices.recipes() if each.id == "cpu-accelerate")
    config = training.choices.config_of({"name": "mine", "recipe": recipe.id, "num_steps": 7})
    assert config.base.id == "tabletop"
    assert Path(config.base.source).is_dir()
    assert config.base.license == config.license == "mit"
    assert config.dataset.kind == "tabletop"
    assert config.num_steps == 7
    assert config.batch_size == recipe.config["batch_size"]
    assert config.resolution == 128


def test_tabletop_is_a_pool_of_scenes_or_endless(training: TrainingServices) -> None:
    sources = {id: training.choices.dataset_of(id).source for id in ("tabletop", "tabletop:500", "tabletop:endless")}
    assert sources == {"tabletop": "", "tabletop:500": "pool:500", "tabletop:endless": "endless"}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("dataset", {"dataset": "tabletop:/etc"}),
        ("dataset", {"dataset": "tabletop:0"}),
        ("base", {"base": "no-such-model"}),
        ("base", {"base": "/etc"}),
        ("base", {"base": {"id": "x", "family": "sd15", "source": "/etc"}}),
        ("base", {"base": "sd15"}),
        ("base", {"base": "perflow-sd15-dreamshaper"}),
        ("dataset", {"dataset": "../../etc"}),
        ("dataset", {"dataset": "no-such-dataset"}),
        ("dataset", {"dataset": ["tabletop"]}),
        ("recipe", {"recipe": "no-such-recipe"}),
        ("learning_rate", {"learning_rate": 1e3}),
        ("learning_rate", {"learning_rate": float("nan")}),
        ("num_steps", {"num_steps": 0}),
        ("batch_size", {"batch_size": "many"}),
        ("learnng_rate", {"learnng_rate": 1e-4}),
        ("name", {"name": ""}),
        ("prediction_type", {"prediction_type": "v_prediction"}),
        ("control", {"method": "controlnet"}),
        ("control", {"control": "depth"}),
        ("student", {"method": "controlnet", "control": "depth", "student": "lora"}),
        ("name", {"name": "x" * 200}),
        ("name", {"name": "two\nlines"}),
        ("name", {"name": 7}),
        ("method", {"method": "magic"}),
        ("mehtod", {"mehtod": "lcm"}),
        ("resolution", {"resolution": 100}),
        ("resolution", {"resolution": 1 << 20}),
        ("num_time_windows", {"num_time_windows": 0}),
        ("num_time_windows", {"num_time_windows": 17}),
        ("guidance_mode", {"guidance_mode": "baked"}),
        ("trained_guidance", {"trained_guidance": 0.5}),
        ("num_solver_steps", {"num_solver_steps": 0}),
        ("share_at_start", {"share_at_start": 1.5}),
        ("share_at_grid", {"share_at_start": 0.8, "share_at_grid": 0.5}),
        ("grid_steps", {"grid_steps": [0]}),
        ("grid_steps", {"grid_steps": "5, 6"}),
        ("pair_reuse", {"pair_reuse": 0}),
        ("caption_dropout", {"caption_dropout": 1.0}),
        ("min_snr", {"min_snr": -1}),
        ("student", {"student": "half"}),
        ("lora_rank", {"lora_rank": 0}),
        ("num_steps", {"num_steps": 1.5}),
        ("num_steps", {"num_steps": True}),
        ("batch_size", {"batch_size": 0}),
        ("gradient_accumulation", {"gradient_accumulation": -1}),
        ("learning_rate", {"learning_rate": float("inf")}),
        ("learning_rate", {"learning_rate": "fast"}),
        ("warmup_steps", {"warmup_steps": -1}),
        ("ema_decay", {"ema_decay": 1.0}),
        ("seed", {"seed": 1 << 40}),
        ("precision", {"precision": "int4"}),
        ("device", {"device": "tpu"}),
        ("num_workers", {"num_workers": 99}),
        ("sharding", {"sharding": "split", "student": "lora"}),
        ("checkpoint_every_steps", {"checkpoint_every_steps": 0}),
        ("sample_prompts", {"sample_prompts": "one"}),
    ],
)
def test_nonsense_is_refused_by_field_and_leaves_nothing(
    training: TrainingServices, field: str, values: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        training.start(training.choices.config_of({**SHORT, **values}))
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: expected ")
    assert len(str(refused.value)) < 500
    assert training.runs() == ()
    assert list(training.settings.runs_dir.glob("*")) == []


def test_where_it_is_turned_off_nothing_works_or_is_written(settings: Settings) -> None:
    with opened(replace(settings, training=False)) as training:
        config = training.choices.config_of(SHORT)
        calls = (
            lambda: training.start(config), lambda: training.preflight(config), lambda: training.ask("a-run", "stop"),
            lambda: training.resume("a-run"), lambda: training.delete("a-run"),
            lambda: training.import_dataset([], "x"), lambda: training.delete_dataset("x"),
        )  # fmt: skip
        for call in calls:
            with pytest.raises(TurnedOff, match="--training on"):
                call()
        assert training.runs() == ()


def test_on_a_space_training_is_off_unless_its_owner_turns_it_on() -> None:
    assert Settings.load([], {}).training
    assert not Settings.load([], {"SPACE_ID": "someone/studio"}).training
    assert Settings.load(["--training", "on"], {"SPACE_ID": "someone/studio"}).training
    assert not Settings.load([], {"PERFLOW_STUDIO_TRAINING": "off"}).training
    with pytest.raises(InvalidRequest, match="training: expected one of on, off"):
        Settings.load(["--training", "maybe"], {})


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_run_from_the_click_to_every_tabs_list(training: TrainingServices) -> None:
    status = begin(training, SHORT)
    assert status.state in ("queued", "starting", "running")
    status = ended(training, status.id)
    assert (status.state, status.step, status.num_steps, status.checkpoint_step) == ("finished", 5, 5, 5)
    assert status.export is not None
    accelerator = training.catalog.accelerator(status.catalog_id)
    assert accelerator in training.catalog.accelerators_for("tabletop")
    assert accelerator.title == "a run (trained here)"
    assert accelerator.source == str(training.export_dir(status.id))
    events, offset = training.events(status.id)
    assert len(events) == 5 + 3
    assert training.events(status.id, offset) == ([], offset)
    assert training.log_tail(status.id) == ("training a-run",)


def test_a_fine_tune_appears_as_a_model_with_accelerators_and_can_be_trained_on(training: TrainingServices) -> None:
    style = ended(training, begin(training, {**SHORT, "name": "style", "method": "diffusion"}).id)
    model = training.catalog.model(style.catalog_id)
    assert model.kind == "folder"
    assert "perflow-tabletop" in [each.id for each in training.catalog.accelerators_for(model)]
    fast = ended(training, begin(training, {**SHORT, "name": "fast", "base": model.id}).id)
    assert fast.config.base.id == "run-style"
    assert training.catalog.accelerator("run-fast").families == ("tabletop",)


def test_a_result_draws_through_services_while_the_page_is_open(settings: Settings) -> None:
    with opened(settings) as training, History(settings.data_dir, served_dir=settings.served_dir) as history:
        engine = FakeEngine(training.catalog, step_seconds=0.0)
        services = Services(settings, training.catalog, engine, history, DeviceLease(), training)
        with pytest.raises(InvalidRequest):
            services.resolve(prompt="x", accelerator="run-a-run")
        ended(training, begin(training, SHORT).id)
        request = services.resolve(prompt="x", accelerator="run-a-run")
        assert request.steps == 4
        *_, result = services.generate(request)
        assert isinstance(result, GenerationResult)
        training.delete("a-run")
        with pytest.raises(InvalidRequest, match="accelerator"):
            services.resolve(prompt="x", accelerator="run-a-run")


def test_pictures_are_drawn_while_a_run_works_and_neither_ends_the_other(settings: Settings) -> None:
    with opened(settings) as training, History(settings.data_dir, served_dir=settings.served_dir) as history:
        engine = FakeEngine(training.catalog, step_seconds=0.0)
        services = Services(settings, training.catalog, engine, history, DeviceLease(), training)
        run = at_work(training, begin(training, LONG).id)
        for seed in range(3):
            *_, result = services.generate(services.resolve(prompt="x", seed=seed))
            assert isinstance(result, GenerationResult)
        step = training.status(run.id).step
        until(lambda: training.status(run.id).step > step)


def test_a_double_click_is_one_run(training: TrainingServices) -> None:
    config = training.choices.config_of(LONG)
    clicks = [threading.Thread(target=training.start, args=(config,)) for _ in range(8)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert len(training.runs()) == 1
    at_work(training, "a-run")
    assert training.start(config).id == "a-run"
    assert begin(training, {**LONG, "seed": 1}).id == "a-run-2"


def test_queued_runs_know_how_many_are_ahead_and_the_queue_has_an_end(
    training: TrainingServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.training.services.MAX_QUEUED", 4)
    at_work(training, begin(training, LONG).id)
    waiting = [begin(training, {**LONG, "seed": seed}) for seed in (1, 2, 3)]
    assert [training.status(each.id).num_ahead for each in waiting] == [1, 2, 3]
    training.ask(waiting[0].id, "stop")
    assert [training.status(each.id).num_ahead for each in waiting] == [None, 1, 2]
    begin(training, {**LONG, "seed": 4})
    with pytest.raises(QueueFull):
        begin(training, {**LONG, "seed": 5})


def test_save_and_sample_now(training: TrainingServices) -> None:
    run = at_work(training, begin(training, LONG).id)
    training.ask(run.id, "save")
    training.ask(run.id, "sample")
    until(lambda: training.status(run.id).checkpoint_step)
    (sample,) = until(lambda: training.samples(run.id))
    assert (training.samples_dir(run.id) / sample.file).is_file()
    with pytest.raises(InvalidRequest, match="one of stop, save, sample, pause"):
        training.ask(run.id, "../../stop")


def test_what_is_not_at_work_cannot_be_asked_and_what_works_not_deleted_nor_resumed(training: TrainingServices) -> None:
    run = at_work(training, begin(training, LONG).id)
    for call in (lambda: training.delete(run.id), lambda: training.resume(run.id)):
        with pytest.raises(Busy, match="running"):
            call()
    training.ask(run.id, "stop")
    ended(training, run.id)
    for request in ("stop", "save", "sample", "pause"):
        with pytest.raises(Busy, match="not at work"):
            training.ask(run.id, request)
    folder = training.samples_dir(run.id).parent
    training.delete(run.id)
    assert not folder.exists()
    for call in (
        lambda: training.status(run.id),
        lambda: training.delete(run.id),
        lambda: training.ask(run.id, "stop"),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_base_in_use_is_not_deleted(training: TrainingServices) -> None:
    style = ended(training, begin(training, {**SHORT, "name": "style", "method": "diffusion"}).id)
    fast = begin(training, {**LONG, "name": "fast", "base": style.catalog_id})
    with pytest.raises(Busy, match="is the base of fast"):
        training.delete(style.id)
    training.ask(fast.id, "stop")
    ended(training, fast.id)
    training.delete(style.id)
    assert style.catalog_id not in [each.id for each in training.catalog.models]
    with pytest.raises(InvalidRequest, match="base"):
        training.resume(fast.id)


def test_a_killed_trainer_says_why_and_one_call_resumes_it(training: TrainingServices) -> None:
    run = at_work(training, begin(training, LONG).id)
    training.ask(run.id, "save")
    saved = until(lambda: training.status(run.id).checkpoint_step)
    process = training._jobs.all()[0].process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    status = ended(training, run.id)
    assert (status.state, status.can_resume) == ("interrupted", True)
    assert "SIGKILL" in status.reason
    assert status.last_lines == ("training a-run",)
    training.resume(run.id)
    assert at_work(training, run.id).step > saved


def test_resuming_under_a_changed_configuration_shows_the_difference_and_asks(training: TrainingServices) -> None:
    run = at_work(training, begin(training, LONG).id)
    training.ask(run.id, "stop")
    status = ended(training, run.id)
    hotter = replace(status.config, learning_rate=1e-4, name="hotter")
    with pytest.raises(NeedsConfirmation) as asked:
        training.resume(run.id, hotter)
    assert asked.value.lines == (f"learning_rate: {status.config.learning_rate} -> 0.0001",)
    assert training.status(run.id).config == status.config
    assert training.resume(run.id, hotter, confirmed=True).config == hotter
    assert training._runs.run(run.id).is_confirmed(hotter)
    at_work(training, run.id)


def test_a_finished_run_goes_on_only_with_more_to_do(training: TrainingServices) -> None:
    run = ended(training, begin(training, SHORT).id)
    before = training.catalog.accelerator(run.catalog_id)
    with pytest.raises(Busy, match="finished"):
        training.resume(run.id)
    training.resume(run.id, replace(run.config, num_steps=9), confirmed=True)
    until(lambda: (status := training.status(run.id)).state == "finished" and status.step == 9)
    assert training.catalog.accelerator(run.catalog_id) != before  # so nobody keeps the old weights


def test_a_duplicate_is_a_configuration_with_changes(training: TrainingServices) -> None:
    run = ended(training, begin(training, SHORT).id)
    copy = training.duplicate(run.id, {"learning_rate": 1e-4, "dataset": "tabletop"})
    assert copy == replace(run.config, learning_rate=1e-4)
    assert training.start(copy).id == "a-run-2"
    for changes in ({"base": "/etc"}, {"learning_rate": 7.0}, {"nonsense": 1}):
        with pytest.raises(InvalidRequest):
            training.duplicate(run.id, changes)


def test_a_broken_run_hides_no_other(training: TrainingServices) -> None:
    good = ended(training, begin(training, SHORT).id)
    broken = ended(training, begin(training, {**SHORT, "name": "broken"}).id)
    (training.export_dir(good.id) / NAME).write_text("{")
    training._runs.run(broken.id).config_path.write_text("{")
    training.list_results()
    assert [each.id for each in training.runs()] == [good.id]
    assert training.status(good.id).export is None
    assert "run-a-run" not in [each.id for each in training.catalog.accelerators]


# --- estimates --------------------------------------------------------------------------------------------------


def test_an_estimate_is_measured_by_a_process_and_leaves_nothing(training: TrainingServices) -> None:
    report = training.preflight(training.choices.config_of(SHORT))
    assert report.is_possible
    assert report.seconds_per_step == 2.0
    assert report.cost(1.5) == 1.5
    assert list(training._preflights.path.iterdir()) == []
    assert training.runs() == ()
    assert training._device.is_free()


@pytest.mark.parametrize(("does", "words"), [("raise", "made of cheese"), ("killed", "Memory ran out")])
def test_an_estimate_that_breaks_is_a_refusal(training: TrainingServices, does: str, words: str) -> None:
    report = training.preflight(training.choices.config_of({**SHORT, "sample_prompts": (does,)}))
    assert not report.is_possible
    assert words in report.refusals[0]
    assert training._device.is_free()


def test_no_estimate_beside_a_run(training: TrainingServices) -> None:
    at_work(training, begin(training, LONG).id)
    with pytest.raises(Busy, match="waits its turn"):
        training.preflight(training.choices.config_of(SHORT))


def test_the_lines_for_elsewhere_run_the_same_trainer(training: TrainingServices) -> None:
    config = training.choices.config_of(SHORT)
    for processes, nodes in ((1, 1), (4, 1), (8, 2)):
        ways = training.command_line(config, processes, nodes)
        assert all(any("-m trainer" in line for line in way.lines) for way in ways)
    with pytest.raises(InvalidRequest, match="num_processes"):
        training.command_line(config, 0)


# --- datasets ---------------------------------------------------------------------------------------------------


def test_a_dataset_is_imported_trained_on_and_kept_while_it_is_needed(
    training: TrainingServices, tmp_path: Path
) -> None:
    archive = tmp_path / "upload"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(3):
            content = io.BytesIO()
            Image.new("RGB", (64, 64), (number * 40, 90, 10)).save(content, "PNG")
            file.writestr(f"{number}.png", content.getvalue())
            file.writestr(f"{number}.txt", f"colour {number}")
    dataset = training.import_dataset([("mine.zip", archive)], "Mine")
    assert [each.id for each in training.datasets()] == [dataset.id]
    run = begin(training, {**LONG, "dataset": dataset.id})
    assert (run.config.dataset.fingerprint, run.config.dataset.title) == (dataset.fingerprint, "Mine")
    with pytest.raises(Busy, match="needs mine"):
        training.delete_dataset(dataset.id)
    at_work(training, run.id)
    training.ask(run.id, "stop")
    ended(training, run.id)
    training.delete_dataset(dataset.id)
    with pytest.raises(StudioError):
        training.resume(run.id)
