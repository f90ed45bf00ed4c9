"""Views over HTTP and in a browser: a real studio process with a tiny network of random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageDraw

from studio.multiview.views import ViewSet
from tests.multiview.tiny_views import SIZE, write_studio
from tests.studio_process import StudioProcess
from tests.ui.running import BROWSER_ARGUMENTS, find_chromium


@pytest.fixture(scope="module")
def with_views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    folder = tmp_path_factory.mktemp("views")
    write_studio(folder / "studio")
    program = ("-m", "tests.multiview.studio_with_views", str(folder / "studio"))
    with StudioProcess(folder / "data", program=program) as process:
        yield process


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "thing.png"
    image = Image.new("RGB", (200, 160), "white")
    ImageDraw.Draw(image).rectangle((60, 30, 120, 130), fill=(30, 90, 200))
    image.save(path)
    return path


@pytest.fixture(scope="module")
def client(with_views: StudioProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(with_views.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


@pytest.mark.slow
def test_a_picture_becomes_views_over_the_api(client: Client, picture: Path) -> None:
    files, report = client.predict(
        handle_file(picture), steps=1, seed=5, mesh=False, api_name="/multiview"
    )  # fmt: skip
    assert len(files) == 1
    with Image.open(files[0]) as sheet:
        assert ViewSet.of_sheet(sheet).size == SIZE
    report = report if isinstance(report, dict) else json.loads(report)
    assert (report["num_network_calls"], report["background"]) == (1, "plain")
    assert "spans several windows" in report["grid"]["notes"][0]
    assert [entry["id"] for entry in client.predict(api_name="/history", tab="multiview")] == [report["history_id"]]


@pytest.mark.slow
def test_the_api_refuses_in_sentences_and_then_works(client: Client, picture: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    for file, words in (("empty.png", "no object found"), ("text.png", "expected a PNG, JPEG or WEBP")):
        with pytest.raises(AppError, match=words):
            client.predict(handle_file(tmp_path / file), api_name="/multiview")
    with pytest.raises(AppError, match="one that fits"):
        client.predict(handle_file(picture), accelerator="lcm", api_name="/multiview")
    files, _ = client.predict(handle_file(picture), steps=1, seed=5, mesh=False, api_name="/multiview")
    assert files


@pytest.mark.browser
@pytest.mark.slow
def test_the_tab_prepares_draws_and_tells_the_calls(with_views: StudioProcess, picture: Path) -> None:
    executable = find_chromium()
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if executable is None:
        pytest.skip("no Chromium here: install Debian's package `chromium` to run the browser tests")
    with playwright.sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS).new_page()
        page.set_default_timeout(60_000)
        page.goto(with_views.url)
        page.click("role=tab[name='Multiview']")
        page.set_input_files("#multiview-picture input[type=file]", str(picture))
        page.wait_for_selector("#multiview-seen img")
        assert "4 network calls" in page.inner_text("#multiview-grid")
        page.click("#multiview-generate")
        page.wait_for_selector("#multiview-stage img.result")
        assert "network call" in page.inner_text("#multiview-words")
        page.wait_for_selector("#multiview-make:visible")


def test_without_a_network_the_tab_is_not_there(studio: StudioProcess) -> None:
    config = httpx.get(f"{studio.url}/config", timeout=60).json()
    assert "Multiview" not in json.dumps(config["components"])
    assert "multiview" not in {each.get("api_name") for each in config["dependencies"]}
