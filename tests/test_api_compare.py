"""Contests and grids as programs meet them: gradio_client against a real server process with the fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from tests.studio_process import StudioProcess


@pytest.fixture(scope="module")
def client(studio: StudioProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(studio.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


def test_a_contest_comes_back_with_its_pictures_and_numbers(client: Client) -> None:
    job = client.submit("a red cube", seed=3, equal="calls", budget=8, rounds=1, api_name="/compare")
    files, report = job.result()
    assert len(files) == 3
    lcm, perflow, teacher = report["contestants"]
    assert report["reference"] == 2
    assert [lcm["parameters"]["accelerator"], perflow["parameters"]["accelerator"]] == [
        "lcm-tabletop", "perflow-tabletop",
    ]  # fmt: skip
    assert {each["parameters"]["seed"] for each in report["contestants"]} == {3}
    assert len(teacher["grid"]["timesteps"]) == 50
    assert all(len(each["seconds_rounds"]) == 1 for each in report["contestants"])
    assert set(perflow["numbers"]) <= {*report["explained"]}
    states = [state for _, state in job.outputs() if state["state"] == "drawing"]
    assert {(state["contestant"], state["round"]) for state in states} == {(i, r) for i in range(3) for r in range(2)}


def test_a_grid_comes_back_as_a_sheet_and_goes_on_where_it_was(client: Client) -> None:
    base = {"prompt": "a red cube", "seed": 5}
    axes = {"x": {"name": "steps", "values": [4, 5]}, "y": {"name": "guidance", "values": [1.0, 3.0]}}
    files, report = client.predict(base, axes["x"], axes["y"], api_name="/grid")
    with Image.open(files[0]) as sheet:
        assert json.loads(sheet.info["perflow-studio-grid"])["grid"] == report["grid"]
    assert [cell["where"] for cell in report["cells"]] == [
        "Steps 4, CFG 1", "Steps 5, CFG 1", "Steps 4, CFG 3", "Steps 5, CFG 3",
    ]  # fmt: skip
    job = client.submit(base, axes["x"], axes["y"], api_name="/grid")
    assert job.result()[1]["cells"] == report["cells"]
    prepared = next(state for _, state in job.outputs() if state["state"] == "prepared")
    assert (prepared["num_done"], prepared["num_network_calls"]) == (4, 0)


def test_refusals_are_sentences(client: Client) -> None:
    for words, call in (
        ("for number 2, steps", lambda: client.predict("x", [{}, {"steps": 99}], api_name="/compare")),
        ("equal: expected one of", lambda: client.predict("x", equal="luck", api_name="/compare")),
        ("budget: expected", lambda: client.predict("x", equal="steps", api_name="/compare")),
        ("axis: expected one of", lambda: client.predict({}, {"name": "luck", "values": [1]}, api_name="/grid")),
        ("colour: expected", lambda: client.predict({"colour": 1}, {"name": "steps", "values": [1]},
                                                    api_name="/grid")),
    ):  # fmt: skip
        with pytest.raises(AppError, match=words):
            call()
