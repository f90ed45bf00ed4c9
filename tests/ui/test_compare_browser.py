"""The Compare tab in a real browser, drawing with Tabletop: the duel, three views, a vote, a grid, a cell restored."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from PIL import Image

from studio.parameters import read_parameters
from studio.types import GenerationRequest
from tests.ui.running import open_tab, start_studio, watched

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PROMPT = "a red cube to the left of a blue cone"
REFERENCE_STEPS = 16
WATCH_PREVIEWS = """() => {
  window.previews = new Set();
  new MutationObserver(() => {
    for (const image of document.querySelectorAll('.duel .preview')) window.previews.add(image.alt[0]);
  }).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


@pytest.fixture(scope="module")
def studio_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A studio with the shipped weights; its data folder starts empty."""
    process, url = start_studio(tmp_path_factory.mktemp("studio"))
    yield url
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture
def page(browser, studio_url: str) -> Iterator:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = watched(context.new_page(), 120_000)
    open_compare(page, studio_url)
    yield page
    context.close()


def open_compare(page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector(".generate-button")
    page.click("role=tab[name='Compare']")
    page.wait_for_selector("#compare-generate:visible")
    page.wait_for_selector(".sweep")  # what the page says by itself is there


def set_field(page, name: str, value: object) -> None:
    page.fill(f"#compare-{name} input", str(value))
    page.press(f"#compare-{name} input", "Tab")


def look(page, view: str) -> None:
    page.click(f"#compare-view label:has-text('{view}')")


def duel(page) -> None:
    """LCM against PeRFlow against the teacher, up to the numbers."""
    page.fill("#compare-prompt textarea", PROMPT)
    set_field(page, "seed", 11)
    set_field(page, "c-steps", REFERENCE_STEPS)
    page.click(".fold button:has-text('Timed rounds')")
    set_field(page, "rounds", 1)
    page.wait_for_function(
        f"document.querySelector('#compare-c-plan .cost').innerText.startsWith('{REFERENCE_STEPS} ')"
    )
    page.evaluate(WATCH_PREVIEWS)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#compare-looks:visible")
    assert "C" in page.evaluate("[...window.previews]")  # live, as it was drawn


def test_a_duel_is_drawn_looked_at_and_voted_on(page, studio_url: str, tmp_path: Path) -> None:
    duel(page)
    assert page.locator("#compare-stage .duel-card h3").all_inner_texts() == [
        "LCM LoRA", "PeRFlow (4 windows)", "None (DDIM)",
    ]  # fmt: skip
    assert all(PROMPT in each.get_attribute("alt") for each in page.locator("#compare-stage img.result").all())
    numbers = page.inner_text("#compare-numbers")
    for words in ("Latent error", "PSNR", "Kept to the prompt", "it is the reference", "Memory"):
        assert words in numbers
    assert re.search(r"\d (ms|s)\b", numbers)  # on a slow machine it is seconds
    check_pictures_are_those_of_text_to_image(page, studio_url, tmp_path)
    check_slider(page)
    check_flicker(page)
    look(page, "Difference")
    page.wait_for_selector(".difference .gap img")
    assert "85 of 255 levels" in page.inner_text("#compare-stage")
    check_vote(page, tmp_path)
    outside = [url for url in page.requested if not url.startswith((studio_url, "data:", "blob:"))]
    assert (outside, page.broken) == ([], [])


def check_pictures_are_those_of_text_to_image(page, studio_url: str, tmp_path: Path) -> None:
    """Each contestant's file, bit for bit: drawn again, alone, with the settings inside it."""
    with page.expect_download() as waiting:
        page.click("#compare-download-all")
    with zipfile.ZipFile(waiting.value.path()) as archive:
        archive.extractall(tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    assert {read_parameters(file).accelerator for file in files} == {"lcm-tabletop", "perflow-tabletop", "ddim"}
    client = Client(studio_url, verbose=False)
    for file in files:
        request = read_parameters(file)
        with Image.open(file) as compared, Image.open(drawn_alone(client, request)) as alone:
            assert compared.tobytes() == alone.tobytes(), request.accelerator
            assert compared.convert("L").getextrema() != (0, 0)


def drawn_alone(client: Client, request: GenerationRequest) -> str:
    files, told = client.predict(
        request.prompt, request.negative_prompt, request.model, request.accelerator, request.accelerator_strength,
        request.steps, list(request.guidance.scales), request.width, request.height, request.seed,
        api_name="/text_to_image",
    )  # fmt: skip
    assert told["parameters"]["accelerator"] == request.accelerator
    return files[0]


def check_slider(page) -> None:
    """The line follows the arrow keys and the pointer."""
    look(page, "Slider")
    page.wait_for_selector(".ab")
    at = "document.querySelector('.ab').style.getPropertyValue('--at')"
    page.focus("[data-ab]")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(at) == "49%"
    box = page.locator(".ab").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 60)
    page.mouse.up()
    assert page.evaluate(at) == "80%"
    page.mouse.move(box["x"] + 10, box["y"] + 50)
    assert page.evaluate(at) == "80%"


def check_flicker(page) -> None:
    """A key, a click and the pointer above it swap the pictures, and it says which one is seen."""
    look(page, "Flicker")
    page.wait_for_selector("[data-flicker]")
    page.mouse.move(1, 1)
    seen = page.locator(".seen-now")
    assert "A · LCM LoRA" in seen.inner_text()
    page.keyboard.press("x")
    assert "B · PeRFlow" in seen.inner_text()
    assert page.locator(".flicker .over").evaluate("each => getComputedStyle(each).visibility") == "visible"
    page.keyboard.press("x")
    page.hover("[data-flicker]")
    assert "B · PeRFlow" in seen.inner_text()
    page.mouse.move(1, 1)
    assert "A · LCM LoRA" in seen.inner_text()


def check_vote(page, tmp_path: Path) -> None:
    """Blind, by a key, revealed, counted, and taken away as a table."""
    look(page, "Blind vote")
    page.wait_for_selector("[data-pick=vote-left]")
    for telling in ("LCM LoRA", "PeRFlow ("):
        assert telling not in page.inner_html("#compare-stage")
    page.keyboard.press("2")
    page.wait_for_selector(".outcome")
    assert "You chose" in page.inner_text(".outcome")
    assert "1 vote in this session" in page.inner_text(".tally")
    with page.expect_download() as waiting:
        page.click("#compare-download-votes")
    waiting.value.save_as(tmp_path / "votes.csv")
    with (tmp_path / "votes.csv").open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert (row["prompt"], row["seed"], row["winner_side"]) == (PROMPT, "11", "right")
    assert row["winner"] == row["right"]


def test_a_grid_is_drawn_and_a_cell_restored(page) -> None:
    page.fill("#compare-prompt textarea", PROMPT)
    set_field(page, "seed", 12)
    page.click("#compare-grid-builder > button")
    page.fill("#compare-grid-x-values textarea, #compare-grid-x-values input", "2, 4, many")
    page.wait_for_selector("#compare-grid-x-error .field-error")
    page.fill("#compare-grid-x-values textarea, #compare-grid-x-values input", "1, 2, 4")
    page.wait_for_function("document.querySelector('#compare-grid-estimate').innerText.startsWith('9 pictures')")
    page.click("#compare-grid-run")
    page.wait_for_selector("#compare-grid-cancel:visible")
    page.wait_for_selector("#compare-grid-sheet:visible")
    assert page.locator(".xy-cell img").count() == 9
    assert page.locator(".xy thead th").all_inner_texts() == ["CFG \\ Steps", "1", "2", "4"]
    with page.expect_download() as waiting:
        page.click("#compare-grid-sheet")
    with Image.open(waiting.value.path()) as sheet:
        assert sheet.width > 3 * 128
        assert "perflow-studio-grid" in sheet.text  # type: ignore[attr-defined]
    page.click(".xy-cell[title='Steps 2, CFG 5']")
    page.wait_for_selector(".cell-card")
    page.click("#compare-grid-actions button:has-text('Use these settings')")
    page.wait_for_selector("#text-to-image-prompt textarea:visible")
    page.wait_for_function(f"document.querySelector('#text-to-image-prompt textarea').value === '{PROMPT}'")
    assert page.input_value("#text-to-image-steps input[type=number]") == "2"
    assert "CFG 5" in page.inner_text("#text-to-image-grid")
    assert page.broken == []


def test_it_fits_a_phone_where_touch_moves_the_slider(browser, studio_url: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(studio_url)
    page.wait_for_selector(".generate-button")
    open_tab(page, "Compare")
    page.wait_for_selector("#compare-generate:visible")
    set_field(page, "c-steps", 8)
    page.tap("[data-pick=example]:visible")
    page.wait_for_selector("#compare-looks:visible")
    look(page, "Slider")
    page.wait_for_selector(".ab")
    page.locator(".ab").scroll_into_view_if_needed()
    box = page.locator(".ab").bounding_box()
    page.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + 40)
    assert page.evaluate("document.querySelector('.ab').style.getPropertyValue('--at')") == "25%"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
