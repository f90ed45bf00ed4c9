"""The page in a real browser: what a person does, and what they must see."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.ui.running import LateLists, open_tab, watched

pytestmark = pytest.mark.browser
PROMPT = "#text-to-image-prompt textarea"
WATCH_PREVIEWS = """() => {
  window.previews = new Set();
  new MutationObserver(() => {
    const image = document.querySelector('img.preview');
    if (image) window.previews.add(image.src);
  }).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


@pytest.fixture(scope="session")
def desktop(browser) -> Iterator:
    """One desktop profile: pages share its cache, as a person's tabs do."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture
def page(browser, desktop, studio_url: str) -> Iterator:
    """A fresh page, with every request it makes in `page.requested` and every script error in `page.broken`."""
    page = watched(desktop.new_page(), 40_000)
    open_studio(page, studio_url)
    yield page
    page.close()


def open_studio(page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector(".generate-button")
    page.wait_for_timeout(300)


def open_fold(page, title: str) -> None:
    page.click(f".fold button:has-text('{title}')")


def set_number(page, field: str, value: object) -> None:
    page.fill(f"#text-to-image-{field} input[type=number]", str(value))
    page.press(f"#text-to-image-{field} input[type=number]", "Tab")


def draw(page, prompt: str) -> None:
    page.fill(PROMPT, prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("img.result")


def test_draws_and_finds_it_again_after_a_reload(page, studio_url: str) -> None:
    page.evaluate(WATCH_PREVIEWS)
    page.fill(PROMPT, "a red cube & a <blue> cone")
    open_fold(page, "Size, seed and batch")
    set_number(page, "seed", 4711)
    page.click(".generate-button")
    page.wait_for_selector("img.result")
    assert page.evaluate("window.previews.size") >= 3
    assert "a red cube & a <blue> cone" in page.get_attribute("img.result", "alt")
    assert page.locator(".lens-card").count() == 4
    assert "network call" in page.inner_text("#text-to-image-words")

    open_studio(page, studio_url)
    assert page.input_value(PROMPT) == ""
    page.click("role=tab[name='Gallery']")
    page.click(".tile >> nth=0")
    page.wait_for_selector(".detail-card")
    assert "4711" in page.inner_text(".detail-card")
    page.click("button:visible:has-text('Use these settings')")
    page.wait_for_selector(f"{PROMPT}:visible")
    page.wait_for_function(f"document.querySelector('{PROMPT}').value === 'a red cube & a <blue> cone'")
    open_fold(page, "Size, seed and batch")
    assert page.input_value("#text-to-image-seed input") == "4711"
    assert page.broken == []


def test_escape_cancels_and_the_next_one_works(page) -> None:
    set_steps(page, 50)
    page.fill(PROMPT, "a long one")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".cancel-button:visible")
    page.wait_for_selector("img.preview")
    page.keyboard.press("Escape")
    page.wait_for_selector(".generate-button:visible")
    page.wait_for_function("document.querySelector('#text-to-image-words').innerText.startsWith('Cancelled')")
    page.wait_for_timeout(400)
    assert page.locator("img.result").count() == 0
    set_steps(page, 2)
    draw(page, "a short one")


def set_steps(page, count: int) -> None:
    set_number(page, "steps", count)
    page.wait_for_function(f"document.querySelector('.cost').innerText.startsWith('{count} steps')")


def test_errors_stand_beside_their_field(page) -> None:
    page.click(".generate-button")
    page.wait_for_selector("#text-to-image-error-prompt .field-error")
    assert page.locator(".field-error").count() == 1
    open_fold(page, "Size, seed and batch")
    set_number(page, "width", 7)
    page.wait_for_selector("#text-to-image-error-width .field-error")
    assert "7" in page.inner_text("#text-to-image-error-width")
    page.fill(PROMPT, "anything")
    open_fold(page, "Size, seed and batch")
    page.wait_for_selector("#text-to-image-width", state="hidden")
    page.click(".generate-button")
    page.wait_for_selector("#text-to-image-error-width .field-error:visible")
    assert page.locator("img.result").count() == 0
    set_number(page, "width", 128)
    page.wait_for_selector("#text-to-image-error-width .field-error", state="detached")


def test_the_plan_and_its_cost_stand_before_the_click(page) -> None:
    assert page.inner_text(".cost") == "4 steps, 8 network calls"
    assert page.locator(".grid-window").count() == 4
    open_fold(page, "CFG schedule")
    page.click("#text-to-image-cfg-schedule label:has-text('Off')")
    page.wait_for_function("document.querySelector('.cost').innerText === '4 steps, 4 network calls'")
    page.click("#text-to-image-cfg-schedule label:has-text('CFG-sync')")
    page.wait_for_function("document.querySelector('.grid-window small').innerText === 'CFG 7.5'")
    page.click("#text-to-image-cfg-schedule label:has-text('Per window')")
    page.wait_for_selector(".window-slider:visible >> nth=3")
    assert page.locator(".window-slider:visible").count() == 4


def test_recommendations_are_offered_and_never_overwrite(page) -> None:
    set_steps(page, 7)
    choose(page, "accelerator", "None (DDIM)")
    page.wait_for_function("document.querySelector('#text-to-image-advice').innerText.includes('25 steps')")
    assert page.input_value("#text-to-image-steps input[type=number]") == "7"
    page.click("#text-to-image-follow-advice")
    page.wait_for_function("document.querySelector('#text-to-image-steps input[type=number]').value === '25'")


def choose(page, field: str, title: str) -> None:
    page.click(f"#text-to-image-{field} input")
    page.click(f"[role=option]:has-text('{title}')")


def test_lists_that_come_late_undo_no_choice_and_are_then_of_its_model(page) -> None:
    late = LateLists(page)
    page.reload()
    late.wait()
    choose(page, "model", "Stable Diffusion XL")
    shown = "document.querySelector('#text-to-image-accelerator input').value"
    page.wait_for_function(f"{shown} === 'PeRFlow for SDXL'")
    late.release()
    assert page.input_value("#text-to-image-model input").startswith("Stable Diffusion XL")
    page.wait_for_function(f"{shown} === 'PeRFlow for SDXL'")
    page.click("#text-to-image-accelerator input")
    assert "PeRFlow (4 windows)" not in page.locator("[role=option]").all_inner_texts()
    assert page.locator(".toast-body").count() == 0
    assert page.broken == []


def test_examples_presets_and_seeds_are_one_click_away(page) -> None:
    page.click(".chip:has-text('green tree')")
    page.wait_for_function(f"document.querySelector('{PROMPT}').value.startsWith('a green tree')")
    page.click(".chip:has-text('Careful')")
    page.wait_for_function("document.querySelector('#text-to-image-steps input[type=number]').value === '8'")
    open_fold(page, "Size, seed and batch")
    page.click(".generate-button")
    page.wait_for_selector("img.result")
    page.click("#text-to-image-reuse-seed")
    page.wait_for_function("Number(document.querySelector('#text-to-image-seed input').value) >= 0")
    page.click("#text-to-image-dice")
    page.wait_for_function("document.querySelector('#text-to-image-seed input').value === '-1'")


def test_keys_never_steal_typing(page) -> None:
    page.fill(PROMPT, "")
    page.type(PROMPT, "what?")
    assert page.input_value(PROMPT) == "what?"
    assert page.locator("dialog[open]").count() == 0
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Shift+?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")


def test_a_batch_shows_every_picture_and_its_originals_can_be_downloaded(page) -> None:
    open_fold(page, "Size, seed and batch")
    set_number(page, "seed", 100)
    set_number(page, "num-images", 3)
    draw(page, "three of them")
    assert page.locator(".stage-batch button").count() == 3
    page.click(".stage-batch button >> nth=2")
    page.wait_for_selector("img.result[alt*='seed 102']")
    with page.expect_download() as waiting:
        page.click("#text-to-image-download")
    image = Image.open(io.BytesIO(waiting.value.path().read_bytes()))
    assert image.format == "PNG"
    assert "three of them" in image.info["parameters"]
    assert "Seed: 102" in image.info["parameters"]


def test_the_gallery_searches_deletes_and_restores_from_a_file(page, tmp_path) -> None:
    draw(page, "a unicorn to be deleted")
    with page.expect_download() as waiting:
        page.click("#text-to-image-download")
    waiting.value.save_as(tmp_path / "kept.png")
    page.click("role=tab[name='Gallery']")
    page.fill("#gallery-search textarea, #gallery-search input", "unicorn")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    page.click(".tile")
    page.click("#gallery-delete")
    page.click("#gallery-delete-now")
    page.wait_for_selector("text=Nothing here matches")
    open_fold(page, "Restore settings from a picture file")
    page.set_input_files("#gallery-dropped input[type=file]", tmp_path / "kept.png")
    page.wait_for_selector(f"{PROMPT}:visible")
    assert page.input_value(PROMPT) == "a unicorn to be deleted"


def test_asks_no_other_host_for_anything(page, studio_url: str) -> None:
    draw(page, "a quiet page")
    page.click("role=tab[name='Gallery']")
    page.wait_for_selector(".tile")
    outside = [url for url in page.requested if not url.startswith((studio_url, "data:", "blob:"))]
    assert outside == []
    assert page.broken == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone(browser, studio_url: str, scheme) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(40_000)
    open_studio(page, studio_url)
    page.click("[data-pick=example]")
    page.wait_for_selector("img.result")
    for tab in ("Text to image", "Gallery"):
        open_tab(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
