"""How a trainer is told to end: SIGTERM or SIGINT, at any moment; the request file is the run's business.

While things are being set up the signal ends them at once (`StopAsked`); while steps are made it only leaves a note
(`patient`), so that a checkpoint comes first. Torch-free, since it comes before everything.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class StopAsked(BaseException):
    """Not an error: somebody wants the process to end. No `except Exception` takes it for one."""


@dataclass(kw_only=True)
class Stopping:
    """`is_asked` after the first signal."""

    is_asked: bool = False
    _patience: int = field(default=0, init=False)

    def install(self) -> Stopping:
        """Take both signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)
        return self

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within, signals only leave the note."""
        self._patience += 1
        try:
            yield
        finally:
            self._patience -= 1

    def check(self) -> None:
        """Raises `StopAsked` if it is asked."""
        if self.is_asked:
            raise StopAsked

    def _heard(self, *_: Any) -> None:
        self.is_asked = True
        if not self._patience:
            raise StopAsked
