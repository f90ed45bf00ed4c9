"""Enlarging as programs meet it: gradio_client against a real server process with the fake engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.studio_process import StudioProcess
from tests.test_inputs import photo


@pytest.fixture(scope="module")
def client(studio: StudioProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(studio.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


def test_a_picture_comes_back_larger_with_its_measures_and_refusals_are_sentences(
    client: Client, tmp_path: Path
) -> None:
    photo(96, 64).save(tmp_path / "small.png")
    picture = handle_file(tmp_path / "small.png")
    job = client.submit(picture, 4, seed=3, api_name="/upscale")
    files, report = job.result()
    with Image.open(files[0]) as image:
        assert image.size == (384, 256)
    states = [state for _, state in job.outputs() if state["state"] == "drawing"]
    assert (states[-1]["tile"], states[-1]["num_tiles"]) == (12, 12)
    measured = report["receipt"]["upscale"]
    assert measured["num_refined"] == 12
    assert measured["psnr"] > 15
    assert report["parameters"]["upscale"]["factor"] == 4
    id = report["images"][0]["history_id"]
    assert client.predict("", "upscale", api_name="/history")[0]["id"] == id
    for words, call in (
        ("factor: expected one of 2, 4, 8", lambda: client.predict(picture, 3, api_name="/upscale")),
        ("overlap: expected", lambda: client.predict(picture, overlap=120, api_name="/upscale")),
        ("below this picture's worst seam", lambda: client.predict(id, 99.0, api_name="/redo_seams")),
        ("no picture 'nobody'", lambda: client.predict("nobody", api_name="/redo_seams")),
    ):
        with pytest.raises(AppError, match=words):
            call()
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(AppError, match="PNG, JPEG or WEBP"):
        client.predict(handle_file(tmp_path / "text.png"), api_name="/upscale")
    assert client.predict(picture, api_name="/upscale")[0]
