"""Running the real thing for tests and screenshots: the studio as its own process, and a browser to look at it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, Queue
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_SECONDS = 300


def start_studio(
    data_dir: Path, *flags: str, program: tuple[str, ...] = ("app.py",), num_threads: int = 1
) -> tuple[subprocess.Popen[str], str]:
    """Start the app, or a program that is one, on a free loopback port; returns the process and its address."""
    process = subprocess.Popen(
        [sys.executable, *program, "--port", "0", "--data-dir", str(data_dir), *flags],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": str(num_threads)},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: Queue[str] = Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()], daemon=True).start()
    seen: list[str] = []
    try:
        while True:
            seen.append(lines.get(timeout=START_SECONDS))
            if found := re.search(r"listens at (http://\S+)", seen[-1]):
                return process, found[1]
    except Empty as error:
        process.kill()
        raise RuntimeError(f"The studio did not start: {''.join(seen) or 'no output'}") from error


def find_chromium() -> str | None:
    """The browser to drive, or `None`."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def watched(page: Any, timeout_milliseconds: int) -> Any:
    """A page with every request it makes in `page.requested` and every script error in `page.broken`."""
    page.requested, page.broken = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.broken.append(str(error)))
    page.set_default_timeout(timeout_milliseconds)
    return page


def open_tab(page: Any, title: str) -> None:
    """A tab, from the menu where the page is too narrow for all."""
    tab = page.locator(f"role=tab[name='{title}']")
    if not tab.is_visible():
        page.click(".overflow-menu > button")
        tab = page.locator(f".overflow-dropdown button:has-text('{title}')")
    tab.click()


class LateLists:
    """Holds back every answer that brings the text-to-image form's lists, as a slow line would, until `release`."""

    ASKED_BY = """() => {
      const { components, dependencies } = window.gradio_config;
      const ids = ['model', 'accelerator'].map(
        field => components.find(each => each.props.elem_id === 'text-to-image-' + field).id);
      const onlyLists = each => each.outputs.length === 3 && ids.every(id => each.outputs.includes(id));
      return dependencies.filter(onlyLists).map(each => each.id);
    }"""

    def __init__(self, page: Any) -> None:
        self._page, self._held, self._is_slow = page, [], True
        self._asked_by = page.evaluate(self.ASKED_BY)
        page.route("**/run/predict*", self._answer)

    def _answer(self, route: Any) -> None:
        if route.request.post_data_json["fn_index"] not in self._asked_by:
            route.continue_()
            return
        response = route.fetch()
        if self._is_slow and '"choices"' in response.text():
            self._held.append((route, response))
        else:
            route.fulfill(response=response)

    def wait(self) -> None:
        """Until one is held."""
        while not self._held:
            self._page.wait_for_timeout(100)

    def release(self) -> None:
        """Let them come, and hold no other; back when the page has taken them in."""
        self._is_slow = False
        for route, response in self._held:
            route.fulfill(response=response)
        self._page.unroute_all(behavior="ignoreErrors")
        self._page.wait_for_timeout(1000)
