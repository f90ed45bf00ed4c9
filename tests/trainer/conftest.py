"""What the trainer's tests share: one process that has imported everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trainer.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    found = Zygote()
    yield found
    found.close()
