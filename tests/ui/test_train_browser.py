"""The Train tab in a real browser: what a person does from the first zip to the finished accelerator.

Trainers are stand-ins that write real run folders (`written_runs`), so that these tests are about the page; the last
one, marked slow, trains for real.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_api_training import a_zip
from tests.ui.running import LateLists, open_tab, start_studio, watched

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
WAIT_MILLISECONDS = 120_000
STAND_IN = ("-m", "tests.ui.stand_in_studio")
LOSS_POINTS = "(document.querySelector('#train-loss path.line')?.getAttribute('d').match(/[ML]/g) ?? []).length"


@pytest.fixture(scope="module")
def studio_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, url = start_studio(tmp_path_factory.mktemp("studio"), "--engine", "fake", program=STAND_IN)
    yield url
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture
def page(browser, studio_url: str) -> Iterator:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = watched(context.new_page(), WAIT_MILLISECONDS)
    open_train(page, studio_url)
    yield page
    context.close()


def open_train(page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector(".generate-button")
    open_tab(page, "Train")
    page.wait_for_selector("#train-start:visible")
    page.wait_for_timeout(500)


def set_field(page, name: str, value: object) -> None:
    page.fill(f"#train-{name} input", str(value))
    page.press(f"#train-{name} input", "Tab")


def choose(page, field: str, title: str) -> None:
    page.click(f"#train-{field} input")
    page.click(f"[role=option]:has-text('{title}')")


def start_run(page, name: str, *, steps: int) -> None:
    """Start the run at hand without an estimate."""
    set_field(page, "num-steps", steps)
    page.fill("#train-name input, #train-name textarea", name)
    if not page.is_checked("#train-skip input"):
        page.check("#train-skip input")
    page.wait_for_selector("#train-start:enabled")
    page.click("#train-start")
    page.wait_for_function(f"document.querySelector('.run-head h2')?.innerText === '{name}'")


def wait_for_words(page, selector: str, words: str) -> None:
    page.wait_for_function("([s, w]) => document.querySelector(s)?.innerText.includes(w)", arg=[selector, words])


def wait_for_value(page, name: str, value: str) -> None:
    field = f"document.querySelector('#train-{name} input, #train-{name} textarea')"
    page.wait_for_function(f"{field}.value === '{value}'")


def test_an_empty_tab_says_what_will_be_here(browser, tmp_path) -> None:
    process, url = start_studio(tmp_path, "--engine", "fake", program=STAND_IN)
    try:
        page = browser.new_page()
        open_train(page, url)
        page.wait_for_selector(".run-empty h2")
        assert page.inner_text(".run-empty h2") == "No run yet"
        assert "rendered when the run begins" in page.inner_text("#train-dataset-card")
        assert not page.is_enabled("#train-start")
        page.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_dropped_zip_shows_what_is_used_and_why(page, tmp_path: Path) -> None:
    page.click("#train-bring button:has-text('Bring pictures')")
    page.set_input_files("#train-files input[type=file]", a_zip(tmp_path / "my_first-zip.zip"))
    page.wait_for_function(
        "document.querySelector('#train-files-title input, #train-files-title textarea').value === 'my first zip'"
    )
    page.click("#train-import")
    wait_for_words(page, "#train-dataset-card", "5 pictures kept of 7 files")
    card = page.inner_text("#train-dataset-card")
    assert "2 files not used" in card
    assert "broken.png" in card
    assert "again.png: the same picture as" in card
    assert page.locator("#train-dataset-card .thumbnails img").count() == 5
    assert page.locator("#train-dataset-card .buckets li").count() >= 1
    assert page.locator("#train-dataset-card .histogram div").count() >= 3
    set_field(page, "resolution", 256)
    wait_for_words(page, "#train-dataset-card", "Shapes at 256 pixels")
    page.reload()
    page.click("role=tab[name='Train']")
    choose(page, "dataset", "my first zip")
    wait_for_words(page, "#train-dataset-card", "5 pictures kept of 7 files")
    assert page.broken == []


@pytest.mark.parametrize(("name", "content"), [("broken.zip", b"PK\x03\x04 torn"), ("words.zip", None)])
def test_a_zip_that_cannot_be_used_is_answered_with_a_sentence(page, tmp_path: Path, name: str, content) -> None:
    path = tmp_path / name
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no picture at all")
    else:
        path.write_bytes(content)
    page.click("#train-bring button:has-text('Bring pictures')")
    page.set_input_files("#train-files input[type=file]", path)
    page.wait_for_timeout(500)
    page.click("#train-import")
    page.wait_for_selector("#train-import-words .field-error")
    assert "broke on our side" not in page.inner_text("#train-import-words")
    assert page.is_enabled("#train-import")


def test_nothing_starts_before_the_estimate(page) -> None:
    assert not page.is_enabled("#train-start")
    set_field(page, "rate", 2)
    page.click("#train-estimate")
    wait_for_words(page, "#train-report", "about 2 h")
    report = page.inner_text("#train-report")
    assert "1.5 s" in report
    assert "2.0 GB of 8.0 GB" in report
    assert "4.00 at 2 an hour" in report
    page.wait_for_selector("#train-start:enabled")
    set_field(page, "num-steps", 77)
    wait_for_words(page, "#train-report", "changed since the estimate")
    page.wait_for_selector("#train-start:disabled")


def test_errors_stand_beside_their_field_and_a_recipe_mends_them(page) -> None:
    set_field(page, "learning-rate", 1000)
    page.wait_for_selector("#train-error-learning-rate .field-error")
    assert "from 1e-08 to 0.01" in page.inner_text("#train-error-learning-rate")
    assert page.locator(".field-error:visible").count() == 1
    assert not page.is_enabled("#train-start")
    page.click("#train-goal label:has-text('LCM baseline')")
    page.wait_for_selector("#train-error-learning-rate .field-error", state="detached")
    page.wait_for_selector("#train-num-time-windows", state="detached")
    wait_for_words(page, "#train-recipe-facts", "Latent consistency")
    page.wait_for_function(
        "document.querySelector('#train-name input, #train-name textarea').value === 'LCM on Tabletop'"
    )
    page.click("#train-machine label:has-text('24 GB')")
    wait_for_words(page, "#train-base-facts", "is not on disk")


def test_a_run_grows_survives_a_reload_stops_and_goes_on(page, studio_url: str) -> None:
    start_run(page, "Watch me", steps=5000)
    page.wait_for_function(f"{LOSS_POINTS} >= 4")
    first = page.evaluate(LOSS_POINTS)
    page.wait_for_function(f"{LOSS_POINTS} > {first + 3}")
    assert page.locator(".window-chart").count() == 4
    assert page.locator(".window-chart path.dashed").count() == 4
    assert page.locator("#train-samples figure").count() == 4

    open_train(page, studio_url)
    page.wait_for_function("document.querySelector('.run-head h2')?.innerText === 'Watch me'")
    page.wait_for_function(f"{LOSS_POINTS} > {first}")
    page.click("#train-stop")
    wait_for_words(page, ".run-phase", "Stopped")
    wait_for_words(page, ".run-end", "Resume goes on exactly there")
    stopped = page.evaluate(LOSS_POINTS)
    page.wait_for_selector("#train-resume:visible")
    page.click("#train-resume")
    page.wait_for_function(f"{LOSS_POINTS} > {stopped}")
    page.click("#train-stop")
    page.wait_for_selector("#train-resume:visible")
    assert page.broken == []


def test_two_viewers_see_the_same_and_a_deleted_run_is_gone_for_both(page, browser, studio_url: str) -> None:
    start_run(page, "Shared", steps=12)
    other = browser.new_page()
    other.set_default_timeout(WAIT_MILLISECONDS)
    open_train(other, studio_url)
    for each in (page, other):
        wait_for_words(each, ".run-end", "Better than untrained")
    same = "html => document.querySelector('.window-charts').innerHTML === html"
    page.wait_for_function(same, arg=other.inner_html(".window-charts"))
    page.click("#train-delete")
    page.click("#train-delete-now")
    for each in (page, other):
        each.wait_for_function("document.querySelector('.run-head h2')?.innerText !== 'Shared'")
    other.close()


def test_a_finished_run_is_tried_downloaded_and_listed_at_once(page) -> None:
    start_run(page, "My accelerator", steps=8)
    page.wait_for_selector("#train-try:visible")
    assert "below the untrained student" in page.inner_text(".run-end")
    page.click("button:has-text('Model card')")
    wait_for_words(page, "#train-card", "Trained here.")
    with page.expect_download() as waiting:
        page.click("#train-download")
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert "my-accelerator/perflow_delta.safetensors" in archive.namelist()
    page.click("#train-try")
    page.wait_for_selector("#text-to-image-accelerator:visible")
    page.wait_for_function(
        "document.querySelector('#text-to-image-accelerator input').value.startsWith('My accelerator')"
    )
    page.click(".generate-button")
    page.wait_for_selector("img.result")
    outside = [url for url in page.requested if not url.startswith(("http://127.0.0.1", "data:", "blob:"))]
    assert outside == []
    assert page.broken == []


def test_lists_asked_for_before_try_it_now_leave_what_it_has_chosen(page) -> None:
    late = LateLists(page)
    start_run(page, "Tried at once", steps=2)
    page.wait_for_selector("#train-try:visible")
    late.wait()
    page.click("#train-try")
    chosen = "document.querySelector('#text-to-image-accelerator input').value.startsWith('Tried at once')"
    page.wait_for_function(chosen)
    late.release()
    assert page.evaluate(chosen)
    assert page.broken == []


def test_settings_of_a_run_are_used_again_and_changes_to_it_are_shown_first(page) -> None:
    start_run(page, "Changing", steps=6000)
    page.click("#train-stop")
    page.wait_for_selector("#train-resume:visible")
    set_field(page, "num-steps", 33)
    page.click("#train-duplicate")
    wait_for_value(page, "num-steps", "6000")
    set_field(page, "learning-rate", 0.0001)
    page.click("#train-resume-changed")
    wait_for_words(page, "#train-differences", "learning_rate: 5e-05 -> 0.0001")
    page.click("#train-confirm-changed")
    page.wait_for_selector("#train-stop:visible")
    page.click("#train-stop")
    page.wait_for_selector("#train-resume:visible")


def test_the_scrubber_goes_back_in_time(page) -> None:
    start_run(page, "Scrubbed", steps=100)
    wait_for_words(page, ".scrubber h3", "step 100")
    newest = page.get_attribute("#train-samples .student img", "src")
    page.evaluate("""() => { const r = document.querySelector('[data-scrub]'); r.value = 0;
                     r.dispatchEvent(new Event('input', {bubbles: true})); }""")
    wait_for_words(page, ".scrubber h3", "Samples at step 0")
    assert page.get_attribute("#train-samples .student img", "src") != newest


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone(browser, studio_url: str, scheme) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(WAIT_MILLISECONDS)
    open_train(page, studio_url)
    start_run(page, f"On a phone, {scheme}", steps=6)
    page.wait_for_selector("#train-try:visible")
    for fold in page.locator(".fold > button:visible").all():
        fold.click()
    page.wait_for_timeout(800)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_a_public_space_says_why_there_is_no_training(browser, tmp_path) -> None:
    process, url = start_studio(tmp_path, "--engine", "fake", "--training", "off", program=STAND_IN)
    try:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector(".generate-button")
        page.click("role=tab[name='Train']")
        wait_for_words(page, "#train-off", "--training on")
        assert page.locator("#train-start").count() == 0
        page.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_real_run_from_a_zip_to_a_picture(browser, tmp_path: Path) -> None:
    process, url = start_studio(tmp_path / "data")
    try:
        page = browser.new_page()
        page.set_default_timeout(1_800_000)
        open_train(page, url)
        page.click("#train-bring button:has-text('Bring pictures')")
        page.set_input_files("#train-files input[type=file]", a_zip(tmp_path / "plain.zip", 6))
        wait_for_value(page, "files-title", "plain")
        page.click("#train-import")
        wait_for_words(page, "#train-dataset-card", "6 pictures kept")
        for title in ("Checkpoints", "Student and optimizer"):
            page.click(f".fold > button:has-text('{title}')")
        for name, value in (("batch-size", 2), ("num-held-out", 2), ("validate-every-steps", 2), ("warmup-steps", 1),
                            ("sample-every-steps", 4)):  # fmt: skip
            set_field(page, name, value)
        set_field(page, "num-steps", 4)
        page.click("#train-estimate")
        wait_for_words(page, "#train-report", "4 steps on cpu, measured just now")
        page.wait_for_selector("#train-start:enabled")
        page.click("#train-start")
        page.wait_for_selector("#train-try:visible")
        assert "untrained" in page.inner_text(".run-end")
        assert page.locator(".window-chart").count() == 4
        assert page.locator("#train-samples figure").count() == 4
        page.click("#train-try")
        page.wait_for_selector("#text-to-image-accelerator:visible")
        page.click(".generate-button")
        page.wait_for_selector("img.result")
        page.close()
    finally:
        process.terminate()
        process.wait(timeout=60)
