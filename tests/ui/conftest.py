"""A real studio with the fake engine, and a real browser in front of it: one of each for the whole session."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BROWSER_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def start_studio(data_dir: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """Start the app on a free loopback port; returns the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "app.py", "--engine", "fake", "--port", "0", "--data-dir", str(data_dir), *flags],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: Queue[str] = Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()], daemon=True).start()
    seen = []
    try:
        while True:
            seen.append(lines.get(timeout=90))
            found = re.search(r"listens at (http://\S+)", seen[-1])
            if found:
                return process, found[1]
    except Empty:
        process.kill()
        pytest.fail(f"The studio did not start: {''.join(seen) or 'no output'}")


def chromium() -> str | None:
    """The browser to drive, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def studio_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running studio whose data folder starts empty."""
    process, url = start_studio(tmp_path_factory.mktemp("studio"))
    yield url
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests; each test opens pages of its own."""
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium here: install Debian's package `chromium` to run the browser tests")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
