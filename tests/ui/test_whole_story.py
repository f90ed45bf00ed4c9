"""The whole story, for real: 200 pictures in a zip become a style, the style its accelerator, and that a picture.

The style is made on the page, its accelerator through the API; both by the quick CPU recipes as they stand. It takes
about half an hour on two cores and prints what it took and reached.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from PIL import Image

from tests.pictures import style_zip
from tests.ui.running import start_studio
from tests.ui.test_train_browser import open_train, wait_for_value, wait_for_words

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(2 * 3600)]
NUM_PICTURES = 200
PATIENCE_SECONDS = 3600
PROMPT = "an ink drawing of a red cube and a blue ball on a plain grey floor"


def test_two_hundred_pictures_become_a_style_and_its_accelerator(browser, tmp_path: Path) -> None:
    archive = style_zip(tmp_path / "ink.zip", NUM_PICTURES)
    process, url = start_studio(tmp_path / "data", num_threads=os.cpu_count() or 1)
    began = time.monotonic()
    try:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        style = style_on_the_page(page, url, archive)
        print(f"style: {style['words']} {minutes(began)}")
        client = Client(url, verbose=False)
        accelerator = accelerator_through_the_api(client, style)
        print(f"accelerator: {accelerator['words']} {minutes(began)}")
        first, last = accelerator["held_out"][0], accelerator["held_out"][-1]
        print("held-out endpoint errors by window:", first["untrained"], "->", last["endpoint_errors"])
        assert accelerator["beats_untrained"], accelerator["words"]
        assert drawn(client, style["result"], accelerator["result"]).size == (128, 128)
        draw_on_the_page(page, url)
        page.close()
    finally:
        process.terminate()
        process.wait(timeout=60)


def minutes(began: float) -> str:
    return f"({(time.monotonic() - began) / 60:.1f} minutes since the zip)"


def style_on_the_page(page: Any, url: str, archive: Path) -> dict[str, Any]:
    """Drop the zip, take the style recipe, look at the estimate, start, and wait for the end."""
    open_train(page, url)
    page.click("#train-bring button:has-text('Bring pictures')")
    page.set_input_files("#train-files input[type=file]", archive)
    wait_for_value(page, "files-title", "ink")
    page.click("#train-import")
    wait_for_words(page, "#train-dataset-card", f"{NUM_PICTURES} pictures kept")
    page.click("#train-goal label:has-text('style')")
    wait_for_words(page, "#train-recipe-facts", "your pictures")
    page.click("#train-estimate")
    wait_for_words(page, "#train-report", "measured just now")
    print("estimate:", page.inner_text("#train-report").replace("\n", " "))
    page.wait_for_selector("#train-start:enabled")
    page.click("#train-start")
    page.wait_for_selector("#train-try:visible")
    assert "Better than before" in page.inner_text(".run-end")
    client = Client(url, verbose=False)
    (run,) = client.predict(api_name="/train_runs")
    return client.predict(run["id"], api_name="/train_status")


def accelerator_through_the_api(client: Client, style: dict[str, Any]) -> dict[str, Any]:
    """PeRFlow for the style, on the same pictures."""
    begun = client.predict(
        "PeRFlow for ink", recipe="cpu-accelerate", base=style["result"], dataset=style["config"]["dataset"],
        api_name="/train_start",
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (status := client.predict(begun["id"], api_name="/train_status"))["state"] != "finished":
        assert status["state"] in ("queued", "starting", "running"), status
        assert time.monotonic() < deadline, status
        time.sleep(2)
    return status


def drawn(client: Client, model: str, accelerator: str) -> Image.Image:
    files, told = client.predict(PROMPT, model=model, accelerator=accelerator, steps=4, api_name="/text_to_image")
    assert told["parameters"]["accelerator"] == accelerator
    return Image.open(files[0])


def draw_on_the_page(page: Any, url: str) -> None:
    """The newest run is shown; its button opens text-to-image with it."""
    open_train(page, url)
    page.wait_for_selector("#train-try:visible")
    page.click("#train-try")
    page.wait_for_selector("#text-to-image-accelerator:visible")
    page.click(".generate-button")
    page.wait_for_selector("img.result")
