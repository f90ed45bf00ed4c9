"""Training's API as programs meet it: gradio_client against a real server process; ids and sentences, never paths."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from studio.runs.folder import RunsFolder
from tests.studio_process import StudioProcess
from tests.ui.written_runs import UNTRAINED, append, config, measured, write_end, write_start, write_steps

ENDPOINTS = {
    "/datasets": ("resolution", "batch_size"), "/dataset_import": ("files", "title", "caption"),
    "/train_preflight": ("name", "recipe", "base", "dataset", "settings", "hourly_rate"),
    "/train_start": ("name", "recipe", "base", "dataset", "settings"), "/train_runs": (),
    "/train_status": ("run", "num_log_lines"), "/train_stop": ("run",),
    "/train_resume": ("run", "settings", "confirmed"),
}  # fmt: skip


def a_zip(path: Path, num_pictures: int = 5) -> Path:
    """Pictures with captions, one file that is none, and one picture twice."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(num_pictures):
            picture = io.BytesIO()
            Image.new("RGB", (128 + 64 * (number % 2), 128), (40 * number, 90, 200)).save(picture, "PNG")
            archive.writestr(f"{number}.png", picture.getvalue())
            archive.writestr(f"{number}.txt", f"a plain picture, the {number}th")
        archive.writestr("again.png", picture.getvalue())
        archive.writestr("broken.png", b"no picture")
    return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    folder = tmp_path_factory.mktemp("studio")
    run = RunsFolder(folder / "runs").create(config(name="Finished"))
    write_start(run, when=0.0)
    write_steps(run, 1, 60, when=0.0)
    append(run, measured(60, 60, when=0.0))
    write_end(run)
    with StudioProcess(folder) as process:
        yield process


@pytest.fixture(scope="module")
def client(studio: StudioProcess) -> Iterator[Client]:
    client = Client(studio.url, verbose=False)
    yield client
    client.close()


def refusal(client: Client, *arguments: Any, api_name: str, **named: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (gradio_client raises its own kinds)
        client.predict(*arguments, api_name=api_name, **named)
    return str(caught.value)


def test_the_endpoints_are_typed_documented_and_need_only_the_first_argument(client: Client) -> None:
    told = client.view_api(return_format="dict", print_info=False)
    assert isinstance(told, dict)
    for name, arguments in ENDPOINTS.items():
        endpoint = told["named_endpoints"][name]
        assert tuple(each["parameter_name"] for each in endpoint["parameters"]) == arguments
        assert all(each["parameter_has_default"] for each in endpoint["parameters"][name not in ("/datasets",) :])
        assert all(each["type"] for each in endpoint["parameters"])
        assert len(endpoint["description"]) > 20


def test_a_zip_becomes_a_dataset_that_says_what_is_used_and_why(client: Client, tmp_path: Path) -> None:
    kept = client.predict([handle_file(a_zip(tmp_path / "mine.zip"))], title="My five", api_name="/dataset_import")
    assert (kept["id"], kept["num_files"], kept["num_kept"]) == ("my-five", 7, 5)
    assert {each["kind"]: each["count"] for each in kept["reasons"]} == {"duplicate": 1, "format": 1}
    assert "a plain picture, the 0th" in kept["captions"]
    (listed,) = client.predict(128, 2, api_name="/datasets")
    assert listed["fingerprint"] == kept["fingerprint"]
    assert sum(bucket["count"] for bucket in listed["buckets"]) == 5
    assert all("/" not in str(value) for key, value in listed.items() if key in ("id", "title"))


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_file_of_the_server_is_never_read_for_a_program(studio: StudioProcess, meta: dict) -> None:
    secret = Path(studio.process.args[-1]) / "secret.png"  # pyright: ignore
    Image.new("RGB", (64, 64)).save(secret)
    asked = httpx.post(f"{studio.url}/gradio_api/call/dataset_import", timeout=30,
                       json={"data": [[{"path": str(secret), **meta}], "Stolen", ""]})  # fmt: skip
    told = asked.text
    if asked.status_code == 200:
        told = httpx.get(f"{studio.url}/gradio_api/call/dataset_import/{asked.json()['event_id']}", timeout=30).text
        assert "event: error" in told
    datasets = Client(studio.url, verbose=False).predict(api_name="/datasets")
    assert "Stolen" not in [each["title"] for each in datasets]


def test_a_finished_run_tells_its_errors_beside_the_untrained_ones(client: Client) -> None:
    told = client.predict("finished", api_name="/train_status")
    assert (told["state"], told["step"], told["num_steps"]) == ("finished", 60, 60)
    assert told["held_out"][0]["endpoint_errors"] == list(UNTRAINED)
    assert told["held_out"][-1]["step"] == 60
    assert told["beats_untrained"] is True
    assert told["error_ratio"] < 1
    assert told["config"]["base"] == "tabletop"
    assert "/" not in json.dumps(told["config"])
    assert "finished" in [each["id"] for each in client.predict(api_name="/train_runs")]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 1e3}, "learning_rate: expected a number from 1e-08 to 0.01"),
        ({"num_steps": 0}, "num_steps"),
        ({"batch_sise": 3}, "batch_sise"),
        ({"base": "elsewhere"}, "argument of its own"),
        ({"prediction_type": "v_prediction"}, "prediction_type"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_in_the_pages_words(client: Client, settings: dict, named: str) -> None:
    assert named in refusal(client, "x", settings=settings, api_name="/train_start")
    assert named in refusal(client, "x", settings=settings, api_name="/train_preflight")


@pytest.mark.parametrize(
    ("argument", "named"), [("recipe", "cpu-accelerate"), ("dataset", "tabletop"), ("base", "tabletop")]
)
def test_an_unknown_id_is_answered_with_those_there_are(client: Client, argument: str, named: str) -> None:
    said = refusal(client, "x", **{argument: "../../etc"}, api_name="/train_start")
    assert argument in said
    assert named in said


@pytest.mark.parametrize("endpoint", ["/train_status", "/train_stop", "/train_resume"])
@pytest.mark.parametrize("run", ["../runs/finished", "/etc", "nobody", ""])
def test_a_run_is_an_id_and_never_a_path(client: Client, endpoint: str, run: str) -> None:
    assert "There is no training run" in refusal(client, run, api_name=endpoint)


def test_a_finished_run_is_neither_stopped_nor_resumed(client: Client) -> None:
    assert "not at work" in refusal(client, "finished", api_name="/train_stop")
    assert "is finished" in refusal(client, "finished", api_name="/train_resume")
    said = refusal(client, "finished", settings={"num_steps": 90}, api_name="/train_resume")
    assert "num_steps: 60 -> 90" in said


def test_nothing_runs_where_the_owner_turned_training_off(tmp_path: Path) -> None:
    with StudioProcess(tmp_path, "--training", "off") as studio:
        client = Client(studio.url, verbose=False)
        assert "--training on" in refusal(client, "x", recipe="cpu-accelerate", api_name="/train_start")
        said = refusal(client, [handle_file(a_zip(tmp_path / "mine.zip"))], api_name="/dataset_import")
        assert "--training on" in said
        client.close()
