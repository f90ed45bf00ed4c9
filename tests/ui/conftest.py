"""A real studio with the fake engine, and a real browser in front of it: one of each for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ui.running import BROWSER_ARGUMENTS, find_chromium, start_studio


@pytest.fixture(scope="session")
def studio_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running studio whose data folder starts empty."""
    process, url = start_studio(tmp_path_factory.mktemp("studio"), "--engine", "fake")
    yield url
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests; each test opens pages of its own."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium here: install Debian's package `chromium` to run the browser tests")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
