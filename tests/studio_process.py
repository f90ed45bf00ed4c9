"""A real studio on a free loopback port, as a process of its own, with the fake engine: for tests over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120


class StudioProcess:
    """`with StudioProcess(data_dir) as studio:` until it listens; `studio.url`, `studio.log`, `studio.terminate()`."""

    def __init__(
        self, data_dir: Path, *flags: str, environment: dict[str, str] | None = None,
        program: tuple[str, ...] = ("app.py",),
    ) -> None:  # fmt: skip
        command = [sys.executable, *program, "--engine", "fake", "--port", "0", "--data-dir", str(data_dir), *flags]
        self.lines: list[str] = []
        self.url = ""
        self._listens = threading.Event()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listens at (http://\S+)", line):
                self.url = found[1]
                self._listens.set()
        self._listens.set()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").split("/")[0]

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        return status

    def __enter__(self) -> StudioProcess:
        self._listens.wait(START_SECONDS)
        if not self.url:
            self.__exit__()
            raise AssertionError(f"the studio did not start: {self.log}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)
        self._reader.join(timeout=10)
        if self.process.stderr is not None:
            self.process.stderr.close()
