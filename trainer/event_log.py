"""Writes a run's events: whole lines, appended, by one process of the run.

A run outlives its log: when the disk refuses a line, the process says so on its own output and goes on. A line that an
earlier process left torn is closed first. Knows no meaning of any event.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from studio.runs.events import TrainingEvent, to_line

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EventLog:
    """`tell` appends an event. Only the main process of a run writes; the others' events go nowhere."""

    path: Path
    is_main: bool = True
    _is_torn: bool = field(default=True, init=False)

    def tell(self, event: TrainingEvent) -> None:
        """Append one event; a disk that refuses it is a warning in the process's own log."""
        if not self.is_main:
            return
        try:
            self._append(to_line(event).encode("utf-8", "surrogatepass"))
        except OSError as error:
            self._is_torn = True
            log.warning("an event could not be written (%s): %s", error.strerror or error, event)

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if self._is_torn and not _ends_whole(descriptor):
                line = b"\n" + line
            if os.write(descriptor, line) != len(line):
                raise OSError("only part of a line could be written")
            self._is_torn = False
        finally:
            os.close(descriptor)


def _ends_whole(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
