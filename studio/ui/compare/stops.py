"""One piece of work per session and tab: who may begin, and how it is told to stop. Knows nothing of the work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stops:
    """The stop events of what is being drawn, by session."""

    def __init__(self) -> None:
        self._stops: dict[str | None, threading.Event] = {}
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, session: str | None) -> Iterator[threading.Event | None]:
        """The event that says stop, for as long as the work lasts; `None` while other work of the session lasts."""
        event = threading.Event()
        with self._lock:
            is_first = self._stops.setdefault(session, event) is event
        try:
            yield event if is_first else None
        finally:
            if is_first:
                self._stops.pop(session, None)

    def stop(self, session: str | None) -> bool:
        """Tell the session's work to stop; whether there was any."""
        event = self._stops.get(session)
        if event is None:
            return False
        event.set()
        return True
