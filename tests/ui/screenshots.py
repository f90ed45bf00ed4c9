"""Make the README's pictures: `python -m tests.ui.screenshots [--engine fake] [--out docs/images]`.

Starts a studio of its own with an empty data folder, draws with fixed seeds, and looks at it as a person would: at a
desktop and on a phone, in light and dark, empty, while drawing, with a result, and in the gallery; follows a map,
enlarges, draws views, compares; then trains for real (`--train-steps 0` leaves that out) and looks at the run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.ui.running import BROWSER_ARGUMENTS, REPOSITORY, find_chromium, open_tab, start_studio
from trainer.tabletop.objects import frame_of, object_scene, views_of

DESKTOP, PHONE = {"width": 1440, "height": 960}, {"width": 390, "height": 844}
PROMPTS = (
    "a glossy red cube to the left of a small blue cone",
    "a green tree to the right of a small orange house",
    "a metal yellow ball on top of a purple box",
    "a small white mug on top of a blue cylinder at sunset",
    "a small red house and a green tree under a blue sky",
    "a blue figure to the left of a glossy orange ball",
)
HOUSE_SEED = 20_000_037  # of the test seeds: no network ever saw it
RESULT = "document.querySelector('img.result')?.src"


@contextlib.contextmanager
def page_of(browser: Browser, url: str, viewport: Any, scheme: Any = "light") -> Iterator[Page]:
    """A page that is ready to be used, with two device pixels per pixel."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=2)
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_selector(".generate-button")
    page.wait_for_timeout(800)
    yield page
    context.close()


def draw(page: Page, prompt: str, seed: int) -> None:
    """One picture, up to its result."""
    if not page.locator("#text-to-image-seed input").is_visible():
        page.click(".fold button:has-text('Size, seed and batch')")
    page.fill("#text-to-image-seed input", str(seed))
    page.fill("#text-to-image-prompt textarea", prompt)
    before = page.evaluate(RESULT)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(f"before => {RESULT} !== before && {RESULT}", arg=before)  # too quick to see Cancel come
    page.wait_for_selector(".generate-button:visible")


def take_all(browser: Browser, url: str, out: Path) -> None:
    """Every picture the README shows."""
    with page_of(browser, url, DESKTOP) as page:
        page.screenshot(path=out / "empty.png")
        for seed, prompt in enumerate(PROMPTS, 1):
            draw(page, prompt, seed)
        draw(page, PROMPTS[0], 3)
        page.click(".fold button:has-text('Size, seed and batch')")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=out / "result.png")
        page.click("role=tab[name='Gallery']")
        page.wait_for_selector(".tile")
        page.wait_for_timeout(500)
        page.screenshot(path=out / "gallery.png")
    with page_of(browser, url, DESKTOP, "dark") as page:
        draw(page, PROMPTS[1], 2)
        page.click(".fold button:has-text('Size, seed and batch')")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=out / "result-dark.png")
    with page_of(browser, url, PHONE) as page:
        page.screenshot(path=out / "phone.png")
        page.click("[data-pick=example]")
        page.wait_for_selector("img.result")
        page.locator(".stage").scroll_into_view_if_needed()
        page.wait_for_timeout(800)
        page.screenshot(path=out / "phone-result.png")


def take_following(browser: Browser, url: str, out: Path) -> None:
    """Control, Upscale and Multiview at work on the pictures drawn before: at a desktop, then on a phone."""
    with tempfile.TemporaryDirectory() as folder, page_of(browser, url, DESKTOP) as page:
        page.click("role=tab[name='Control']")
        page.click("#control-examples [data-pick=tabletop-pose]")
        page.wait_for_selector("#control-unit-1-map img:visible")
        page.wait_for_timeout(1500)
        page.click("#control-generate")
        shoot(page, "img.result:visible", out / "control.png")
        page.click("role=tab[name='Gallery']")
        send(page, "Enlarge it")
        page.click("#upscale-factor label:has-text('4')")
        page.click("#upscale-generate")
        shoot(page, "#upscale-slider img:visible", out / "upscale.png")
        page.click("role=tab[name='Multiview']")
        page.set_input_files("#multiview-picture input[type=file]", one_thing(Path(folder)))
        page.wait_for_selector("#multiview-seen img")
        page.click("#multiview-generate")
        page.click("#multiview-make:visible")
        shoot(page, "#multiview-turntable img", out / "multiview.png")
    take_comparing(browser, url, out)
    for name in ("control", "upscale", "multiview"):
        with page_of(browser, url, PHONE) as page:
            open_tab(page, name.title())
            page.wait_for_timeout(1500)
            page.screenshot(path=out / f"{name}-phone.png")


def take_comparing(browser: Browser, url: str, out: Path) -> None:
    """The Compare tab after a duel and a grid over seeds: at a desktop, all of it, then on a phone."""
    with page_of(browser, url, DESKTOP) as page:
        page.set_default_timeout(600_000)
        duel(page)
        page.click("[data-pick=seeds]")
        page.wait_for_selector("#compare-grid-sheet:visible")
        page.wait_for_timeout(2000)
        page.screenshot(path=out / "compare.png", full_page=True)
    with page_of(browser, url, PHONE) as page:
        page.set_default_timeout(600_000)
        duel(page)
        page.click("#compare-view label:has-text('Slider')")
        page.wait_for_selector(".ab")
        page.locator("#compare-looks").scroll_into_view_if_needed()
        page.wait_for_timeout(1500)
        page.screenshot(path=out / "compare-phone.png")


def duel(page: Page) -> None:
    """LCM against PeRFlow against the teacher, up to the numbers."""
    open_tab(page, "Compare")
    page.wait_for_timeout(1500)
    page.fill("#compare-prompt textarea", PROMPTS[0])
    page.fill("#compare-seed input", "1")
    page.press("#compare-seed input", "Tab")
    page.click("#compare-generate")
    page.wait_for_selector("#compare-looks:visible")


def shoot(page: Page, selector: str, path: Path) -> None:
    """The top of the page once a result is there and has settled."""
    page.wait_for_selector(selector)
    page.wait_for_timeout(3000)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path)


def send(page: Page, title: str) -> None:
    """Send the newest picture of the gallery to another tab."""
    page.click(".tile >> nth=1")
    page.click(f"button:visible:has-text('{title}')")
    page.wait_for_timeout(2500)


def one_thing(folder: Path) -> Path:
    """A picture of a house of the built-in world, as a file for the Multiview tab."""
    scene = object_scene(HOUSE_SEED)
    picture = views_of(scene, frame_of(scene), 256).colours[0]
    path = folder / "house.png"
    Image.fromarray((picture.clip(0, 1) * 255).round().astype("uint8")).save(path)
    return path


def open_train(page: Page) -> None:
    """The Train tab, ready."""
    open_tab(page, "Train")
    page.wait_for_selector("#train-start:visible")
    page.wait_for_timeout(2500)


def take_training(browser: Browser, url: str, out: Path, steps: int) -> None:
    """The Train tab before a run, and a real quick look at its end: at a desktop, in the dark, on a phone."""
    with page_of(browser, url, DESKTOP) as page:
        page.set_default_timeout(3_600_000)
        open_train(page)
        page.screenshot(path=out / "train-empty.png")
        page.fill("#train-num-steps input", str(steps))
        page.press("#train-num-steps input", "Tab")
        page.check("#train-skip input")
        page.click("#train-start:enabled")
        page.wait_for_selector("#train-try:visible")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(2500)
        page.screenshot(path=out / "train.png")
    for name, viewport, scheme in (("train-dark", DESKTOP, "dark"), ("train-phone", PHONE, "light")):
        with page_of(browser, url, viewport, scheme) as page:
            open_train(page)
            page.wait_for_selector("#train-try:visible")
            page.screenshot(path=out / f"{name}.png")


def main() -> None:
    """Parse the flags, run a studio, take the pictures, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", default="diffusion", choices=("diffusion", "fake"))
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "images")
    parser.add_argument("--train-steps", type=int, default=120)
    arguments = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        parser.exit(2, "No Chromium here: install Debian's package `chromium`.\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data_dir:
        process, url = start_studio(Path(data_dir), "--engine", arguments.engine, num_threads=os.cpu_count() or 1)
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
                take_all(browser, url, arguments.out)
                if arguments.engine == "diffusion":
                    take_following(browser, url, arguments.out)
                if arguments.train_steps:
                    take_training(browser, url, arguments.out, arguments.train_steps)
        finally:
            process.terminate()
            process.wait(timeout=30)


if __name__ == "__main__":
    main()
