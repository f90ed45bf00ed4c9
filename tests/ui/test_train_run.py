"""The run's side and the form's without a browser: services over written folders, handlers from values to updates."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from studio.catalog import Catalog
from studio.errors import InvalidRequest, NotFound
from studio.runs.bundle import zip_folder
from studio.runs.folder import RunFolder, RunsFolder
from studio.runs.launch import Launcher
from studio.settings import Settings
from studio.training import TrainingServices
from studio.ui.train.run import RunActions, RunPanel, build_run, offered
from studio.ui.train.start import StartActions
from studio.ui.train.tab import _build_left
from studio.ui.uploads import uploaded_files
from tests.ui.written_runs import config, write_end, write_result, write_start, write_steps


@pytest.fixture
def training(tmp_path: Path) -> Iterator[TrainingServices]:
    settings = Settings(data_dir=tmp_path)
    stand_in = Launcher(command=(sys.executable, "-m", "tests.ui.written_runs", "0.05"))
    services = TrainingServices(settings, Catalog.load(settings.presets_dir), launcher=stand_in)
    yield services  # not entered: nobody watches the queue, so nothing in it is started
    services.__exit__()


@pytest.fixture
def run(training: TrainingServices) -> RunFolder:
    run = RunsFolder(training.settings.runs_dir).create(config(name="Mine"))
    write_start(run, when=0.0)
    write_steps(run, 1, 25, when=0.0)
    return run


@pytest.fixture(scope="module")
def panel() -> RunPanel:
    with gr.Blocks():
        return build_run()


@pytest.fixture
def start(training: TrainingServices) -> StartActions:
    with gr.Blocks():
        return StartActions(training, *_build_left(training))


def values_of(act: StartActions, **changes: object) -> dict:
    values = {each: each.value for each in act.inputs}
    return values | {act.form.fields.components[name]: value for name, value in changes.items()}


# --- looking ----------------------------------------------------------------------------------------------------


def test_a_second_look_at_the_same_run_makes_nothing_again(training, panel: RunPanel, run: RunFolder) -> None:
    act = RunActions(training, panel)
    first = act.look(None, {}, None)
    assert {panel.head, panel.windows, panel.samples, panel.loss, panel.picker} <= set(first)
    assert first[panel.picker]["value"] == run.id
    assert set(act.look(run.id, first[panel.seen], None)) == {panel.seen}


def test_a_step_changes_the_curves_and_leaves_the_pictures_alone(training, panel: RunPanel, run: RunFolder) -> None:
    act = RunActions(training, panel)
    seen = act.look(None, {}, None)[panel.seen]
    write_steps(run, 26, 26, when=40.0)
    second = act.look(run.id, seen, None)
    assert {panel.head, panel.loss, panel.numbers} <= set(second)
    assert not {panel.samples, panel.scrubber, panel.windows, panel.card} & set(second)


def test_a_look_never_chooses_for_the_person(training, panel: RunPanel, run: RunFolder) -> None:
    act = RunActions(training, panel)
    RunsFolder(training.settings.runs_dir).create(config(name="Another"))
    updates = act.look(run.id, {}, None)
    assert "value" not in updates[panel.picker]
    assert "Mine" in updates[panel.head]
    assert act.look("another", {}, None, choose=True)[panel.picker]["value"] == "another"


def test_a_run_that_was_deleted_elsewhere_gives_way_to_another_or_to_none(training, panel, run: RunFolder) -> None:
    act = RunActions(training, panel)
    seen = act.look(run.id, {}, None)[panel.seen]
    run.delete()
    updates = act.look(run.id, seen, None)
    assert updates[panel.picker]["value"] is None
    assert updates[panel.empty]["visible"] is True
    assert updates[panel.body]["visible"] is False


def test_the_buttons_fit_the_state_of_the_run(training, run: RunFolder) -> None:
    assert {"resume", "delete", "duplicate"} == offered(training.status(run.id))
    write_end(run)
    write_result(run)
    names = offered(training.status(run.id))
    assert {"try", "download", "delete", "duplicate"} <= names
    assert not {"stop", "save", "sample", "pause"} & names


def test_asking_the_wrong_thing_of_a_run_is_answered_in_a_sentence(training, panel, run: RunFolder) -> None:
    act = RunActions(training, panel)
    assert "not at work" in act.ask("stop", run.id)
    assert "There is no training run" in act.resume("../elsewhere")
    assert "There is no training run" in act.delete(None)[panel.words]


def test_a_result_is_published_by_a_process_that_alone_has_the_token(training, panel, run: RunFolder) -> None:
    act, token = RunActions(training, panel), "hf_" + "x" * 20
    assert "no result yet" in act.publish(run.id, "me/mine", token)[0]
    write_end(run)
    write_result(run)
    assert "owner/name" in act.publish(run.id, "https://elsewhere", token)[0]
    assert "a Hugging Face token" in act.publish(run.id, "me/mine", "secret")[0]
    assert "secret" not in act.publish(run.id, "me/mine", "secret")[0]
    told, field = act.publish(run.id, "me/mine", token)
    assert "https://huggingface.co/me/mine" in told
    assert field == ""
    told, _ = act.publish(run.id, "me/refused", token)
    assert "was not published: the hub says no to (secret)" in told
    assert token not in told


def test_lora_files_say_what_they_lose(training, panel, run: RunFolder) -> None:
    act = RunActions(training, panel)
    write_end(run)
    write_result(run)
    assert "a whole number from 1 to 1024" in act.lora(run.id, None)
    assert "a whole number from 1 to 1024" in act.lora(run.id, 1.5)
    assert "it loses 12.0 %" in act.lora(run.id, 32)


# --- starting ---------------------------------------------------------------------------------------------------


def test_nothing_starts_without_an_estimate_or_a_tick(start: StartActions, training) -> None:
    values = values_of(start)
    told, run_id = start.start(values)
    assert run_id is None
    assert "Estimate first" in told[start.part.words]
    assert training.runs() == ()
    _, run_id = start.start(values | {start.part.skip: True})
    assert [each.id for each in training.runs()] == [run_id]


def test_an_estimate_holds_for_exactly_these_values(start: StartActions) -> None:
    values = values_of(start)
    *_, last = start.estimate(values)
    mark = last[start.part.estimated]
    assert mark is not None
    measured = values | {start.part.estimated: mark}
    assert start.refresh(measured)[start.part.start]["interactive"] is True
    assert "4.00 at 2 an hour" in start.refresh(measured | {start.part.rate: 2})[start.part.report]
    changed = measured | {start.form.fields.components["num_steps"]: 77}
    updates = start.refresh(changed)
    assert updates[start.part.start]["interactive"] is False
    assert "changed since" in updates[start.part.report]
    assert start.start(changed)[1] is None
    assert start.start(measured)[1] is not None


def test_a_recipe_fills_the_form_with_what_it_says(start: StartActions, training) -> None:
    values = values_of(start) | {start.form.goal: "lcm"}
    updates = start.take_recipe(values)
    filled = values | {key: each["value"] if isinstance(each, dict) else each for key, each in updates.items()
                       if not isinstance(each, dict) or "value" in each}  # fmt: skip
    recipe = next(each for each in training.choices.recipes() if each.id == "cpu-lcm")
    made = start.config(filled)
    assert {name: getattr(made, name) for name in recipe.config} == dict(recipe.config)
    assert made.name == "LCM on Tabletop"


def test_a_name_that_a_person_gave_stays(start: StartActions) -> None:
    values = values_of(start) | {start.form.goal: "lcm", start.form.name: "My own"}
    assert start.form.name not in start.take_recipe(values)


def test_another_runs_settings_come_back_as_they_were(start: StartActions, training, run: RunFolder) -> None:
    updates = start.fill(run.config(), run.id, can_resume=True)
    filled = values_of(start) | {key: each["value"] if isinstance(each, dict) else each for key, each in updates.items()
                                 if not isinstance(each, dict) or "value" in each}  # fmt: skip
    again = start.config(filled).to_json() | {"base": None, "dataset": None, "license": None}
    assert again == run.config().to_json() | {"base": None, "dataset": None, "license": None}


def test_errors_about_pictures_stand_beside_the_pictures(start: StartActions) -> None:
    updates = start.error_updates(InvalidRequest("dataset", "pictures", "nothing"))
    assert updates[start.pictures.error]
    assert not updates[start.form.error]


# --- files ------------------------------------------------------------------------------------------------------


def test_a_result_is_one_archive_and_nothing_is_none(tmp_path: Path, run: RunFolder) -> None:
    write_result(run)
    with zipfile.ZipFile(zip_folder(run.export_dir, tmp_path / "served", "mine")) as archive:
        assert sorted(archive.namelist()) == ["mine/README.md", "mine/export.json", "mine/perflow_delta.safetensors"]
    with pytest.raises(NotFound):
        zip_folder(run.samples_dir / "nothing", tmp_path / "served", "mine")


def test_uploads_lie_in_the_upload_folder_or_nowhere(tmp_path: Path) -> None:
    served = tmp_path / "served"
    (served / "abc").mkdir(parents=True)
    good, secret = served / "abc" / "a.png", tmp_path / "secret.png"
    for path in (good, secret):
        path.write_bytes(b"x")
    link = served / "abc" / "link.png"
    link.symlink_to(secret)
    assert uploaded_files([str(good)], served) == [("a.png", good)]
    for path in (secret, link, served, served / "abc" / ".." / ".." / "secret.png", served / "gone.png"):
        with pytest.raises(InvalidRequest):
            uploaded_files([str(path)], served)
    with pytest.raises(InvalidRequest):
        uploaded_files([], served)
