"""A store with one dataset in it, so that "unchanged" means something."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.datasets.store import DatasetStore
from tests.datasets.making import picture, zip_of


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    made = DatasetStore(tmp_path / "data" / "datasets")
    made.import_zip(zip_of(tmp_path / "old.zip", {"old.png": picture(99), "old.txt": "an old picture"}), "Old")
    return made
