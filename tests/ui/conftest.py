"""A real studio with the fake engine, and a real browser in front of it: one of each for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from studio.catalog import Catalog
from studio.engine.fake import FakeEngine
from studio.gpu import DeviceLease
from studio.history import History
from studio.services import Services
from studio.settings import Settings
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


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The services of a studio with the fake engine, without a page."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("studio"))
    catalog = Catalog.load(settings.presets_dir)
    with History(settings.data_dir, served_dir=settings.served_dir) as history:
        engine = FakeEngine(catalog, step_seconds=0.001, open_picture=history.inputs.open)
        yield Services(settings, catalog, engine, history, DeviceLease())
