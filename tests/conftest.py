"""One studio process for all tests that only talk to it over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.studio_process import StudioProcess

MAX_QUEUE, MAX_BODY_BYTES = 2, 2 * 1024 * 1024


@pytest.fixture(scope="session")
def studio_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio") / "data"


@pytest.fixture(scope="session")
def studio(studio_data_dir: Path) -> Iterator[StudioProcess]:
    """The fake engine behind the real server; a short line and small bodies, so that limits are soon met."""
    flags = ("--max-queue", str(MAX_QUEUE), "--max-body-bytes", str(MAX_BODY_BYTES))
    with StudioProcess(studio_data_dir, *flags) as process:
        yield process
