"""The API as programs meet it: gradio_client against a real server process with the fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from PIL import Image, PngImagePlugin

from studio.parameters import read_parameters
from tests.studio_process import StudioProcess


@pytest.fixture(scope="module")
def client(studio: StudioProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(studio.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


def test_the_endpoints_are_typed_documented_and_need_only_the_first_argument(client: Client) -> None:
    told = client.view_api(return_format="dict", print_info=False)
    assert isinstance(told, dict)
    endpoints = told["named_endpoints"]
    assert {"/text_to_image", "/models", "/history", "/picture"} <= set(endpoints)
    parameters = endpoints["/text_to_image"]["parameters"]
    assert [each["parameter_name"] for each in parameters] == [
        "prompt", "negative_prompt", "model", "accelerator", "accelerator_strength", "steps", "guidance", "width",
        "height", "seed", "num_images",
    ]  # fmt: skip
    assert [each["parameter_has_default"] for each in parameters] == [False] + [True] * 10
    assert all(each["type"] for each in parameters)
    assert "recommended value" in endpoints["/text_to_image"]["description"]


def test_a_prompt_alone_draws_the_original_file_with_its_parameters(client: Client, studio: StudioProcess) -> None:
    files, report = client.predict("a glossy red cube", api_name="/text_to_image")
    assert len(files) == 1
    with Image.open(files[0]) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.size == (128, 128)
        assert image.text["parameters"].startswith("a glossy red cube\nSteps: 4")
    assert read_parameters(Path(files[0])).to_json() == json.loads(json.dumps(report["parameters"])) | {
        "guidance": {"scales": tuple(report["parameters"]["guidance"]["scales"]), "per": "window"}
    }
    assert report["state"] == "finished"
    assert report["grid"]["timesteps"] == [1000, 750, 500, 250]
    assert report["grid"]["windows"] == [0, 1, 2, 3]
    assert len(report["timings"]["seconds_steps"]) == 4
    assert report["receipt"]["warnings"]
    assert studio.process.poll() is None


def test_guidance_is_a_number_or_one_per_window(client: Client) -> None:
    _, constant = client.predict("x", guidance=2.5, api_name="/text_to_image")
    assert constant["grid"]["guidance"] == [2.5] * 4
    _, scheduled = client.predict("x", guidance=[7.5, 4, 1, 1], steps=8, api_name="/text_to_image")
    assert scheduled["grid"]["guidance"] == [7.5, 7.5, 4, 4, 1, 1, 1, 1]
    assert scheduled["grid"]["num_network_calls"] == 12


def test_the_same_seed_gives_the_same_picture_and_batches_count_up(client: Client) -> None:
    batch, report = client.predict("x", seed=41, num_images=2, api_name="/text_to_image")
    alone, _ = client.predict("x", seed=42, api_name="/text_to_image")
    assert [image["seed"] for image in report["images"]] == [41, 42]
    with Image.open(batch[1]) as one, Image.open(alone[0]) as other:
        assert one.tobytes() == other.tobytes()


def test_history_finds_what_was_drawn_and_picture_gives_the_file_back(client: Client) -> None:
    files, report = client.predict("a rare periwinkle mug", seed=5, api_name="/text_to_image")
    entry, *rest = client.predict(text="PERIWINKLE", api_name="/history")
    assert rest == []
    assert entry["id"] == report["images"][0]["history_id"]
    assert entry["parameters"]["seed"] == 5
    assert "path" not in entry
    again = client.predict(entry["id"], api_name="/picture")
    assert Path(again).read_bytes() == Path(files[0]).read_bytes()
    older = client.predict(limit=1, before=entry["id"], api_name="/history")
    assert len(older) == 1
    assert older[0]["id"] < entry["id"]


def test_models_tell_accelerators_and_recommended_values(client: Client) -> None:
    models = {each["id"]: each for each in client.predict(api_name="/models")}
    tabletop = models["tabletop"]
    offered = {each["id"]: each for each in tabletop["accelerators"]}
    assert offered[tabletop["default_accelerator"]]["recommended_steps"] >= 1
    assert {"license", "on_disk", "native_width"} <= set(tabletop)


def test_events_arrive_while_it_draws_and_a_cancelled_job_stops(client: Client, studio: StudioProcess) -> None:
    job = client.submit("x", steps=32, num_images=16, api_name="/text_to_image")
    states = []
    for _, state in job:
        states.append(state)
        if len(states) == 4:
            break
    assert [state["state"] for state in states] == ["loading", "drawing", "drawing", "drawing"]
    assert states[-1]["num_steps"] == 32
    job.cancel()
    # The device is free at once: 16 x 32 steps of 50 ms would be 25 s.
    _, report = client.predict("y", api_name="/text_to_image")
    assert report["timings"]["seconds"] < 5
    assert client.predict(text="x", limit=500, api_name="/history") is not None
    assert "Traceback" not in studio.log


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("steps", {"steps": 0}),
        ("steps", {"steps": 10_000}),
        ("steps", {"steps": "four"}),
        ("width", {"width": 7}),
        ("height", {"height": 130}),
        ("accelerator_strength", {"accelerator_strength": "NaN"}),
        ("accelerator_strength", {"accelerator_strength": 2}),
        ("prompt", {"prompt": "x" * 1_000_000}),
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": {"path": "/etc/passwd"}}),
        ("model", {"model": "no-such-model"}),
        ("model", {"model": "../../etc/passwd"}),
        ("accelerator", {"accelerator": "perflow-sd15"}),
        ("guidance", {"guidance": [1, 2]}),
        ("guidance", {"guidance": "strong"}),
        ("seed", {"seed": 2**40}),
        ("num_images", {"num_images": 1000}),
    ],
)
def test_nonsense_is_refused_in_a_sentence_that_names_the_field(
    client: Client, field: str, choices: dict[str, Any]
) -> None:
    with pytest.raises(Exception, match=f"^{field}: expected .+, got ") as refused:
        client.predict(**{"prompt": "x", **choices}, api_name="/text_to_image")
    assert len(str(refused.value)) < 500


def call(studio: StudioProcess, endpoint: str, body: str) -> str:
    """The REST way in, for bodies that gradio_client would not send."""
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{studio.url}/gradio_api/call/{endpoint}", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return httpx.get(f"{studio.url}/gradio_api/call/{endpoint}/{answer.json()['event_id']}", timeout=20).text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_are_none_are_refused(studio: StudioProcess, number: str) -> None:
    body = f'{{"data": ["x", "", null, null, {number}, null, null, null, null, -1, 1]}}'
    assert "accelerator_strength: expected a number from 0 to 1.5" in call(studio, "text_to_image", body)


@pytest.mark.parametrize(
    ("endpoint", "data"),
    [("picture", ["../../studio.lock"]), ("picture", ["/etc/passwd"]), ("picture", [{"path": "/etc/passwd"}]),
     ("picture", [None]), ("history", ["", None, 10**9, None]), ("history", [5, None, 10, None])],
)  # fmt: skip
def test_other_endpoints_refuse_nonsense_too(studio: StudioProcess, endpoint: str, data: list[Any]) -> None:
    said = call(studio, endpoint, json.dumps({"data": data}))
    assert "event: error" in said
    assert "expected" in said or "There is no picture" in said


def test_what_breaks_inside_is_logged_and_never_told(studio: StudioProcess) -> None:
    # Too many arguments is gradio's own error, not one of ours: its text must not leave.
    said = call(studio, "history", json.dumps({"data": ["", None, 10, None, "secret-extra", 6]}))
    assert "event: error" in said or "event: complete" in said
    assert "Traceback" not in said
    assert "/studio/" not in said
