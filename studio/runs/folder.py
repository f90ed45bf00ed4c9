"""A run's folder: where everything of it lies, under one id.

    <runs>/<id>/config.json       what was asked (TrainingConfig)
                confirmed.json    the changed configuration a person agreed to resume under, if any
                events.jsonl      what happened (events)
                log.txt           the process's own output
                requests/         what a person asks of the running process: files named stop, save, sample, pause
                checkpoints/      step-00000200/ ..., the newest complete one wins
                samples/          00000100-4.png: step and number of steps
                export/           the result: delta weights (or LoRA, ControlNet, base) with its card

Ids are made here and are the only thing clients send: lower-case letters, digits and dashes, never a path.
Torch-free; knows nothing of processes (`jobs`, `launch`) and pixels.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from studio.errors import InvalidRequest, NotFound
from studio.runs.config import TrainingConfig
from studio.storage import write_whole

_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
REQUESTS = ("stop", "save", "sample", "pause")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Nothing is created by looking."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def requests_dir(self) -> Path:
        return self.path / "requests"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples_dir(self) -> Path:
        return self.path / "samples"

    @property
    def export_dir(self) -> Path:
        return self.path / "export"

    def config(self) -> TrainingConfig:
        """What was asked. Raises `NotFound` or `InvalidRequest`."""
        try:
            return TrainingConfig.from_json(json.loads(self.config_path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise NotFound(f"{self.id}: this run has no config.json (any more).") from error
        except (ValueError, UnicodeDecodeError) as error:
            raise InvalidRequest("config.json", "a training configuration as JSON", str(error)) from error

    def write_config(self, config: TrainingConfig) -> None:
        """All or nothing."""
        write_whole(self.config_path, (json.dumps(config.to_json(), indent=1) + "\n").encode())

    def confirm(self, config: TrainingConfig) -> None:
        """Note that a person agreed to go on under this configuration, whatever the checkpoints were made with."""
        write_whole(self.path / "confirmed.json", (json.dumps({"config_sha256": config.sha256}) + "\n").encode())

    def is_confirmed(self, config: TrainingConfig) -> bool:
        """Whether a person agreed to this very configuration."""
        try:
            noted = json.loads((self.path / "confirmed.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(noted, dict) and noted.get("config_sha256") == config.sha256

    def ask(self, request: str) -> None:
        """Leave a request for the running process."""
        if request not in REQUESTS:
            raise InvalidRequest("request", f"one of {', '.join(REQUESTS)}", request)
        write_whole(self.requests_dir / request, b"", sync=False)

    def take(self, request: str) -> bool:
        """Whether a request is there; taking it removes it."""
        try:
            (self.requests_dir / request).unlink()
        except FileNotFoundError:
            return False
        return True

    def is_asked(self, request: str) -> bool:
        """Whether a request is there; it stays."""
        return (self.requests_dir / request).exists()

    def delete(self) -> None:
        """Remove the run, all of it. Renamed first, so that a half-deleted run is never listed."""
        doomed = self.path.with_name(f".deleted-{self.id}-{time.time_ns()}")
        self.path.rename(doomed)
        shutil.rmtree(doomed)


@dataclass(frozen=True)
class RunsFolder:
    """All runs of a studio."""

    path: Path

    def create(self, config: TrainingConfig) -> RunFolder:
        """A new run; a name that is taken gets a number behind it."""
        stem = re.sub(r"[^a-z0-9]+", "-", config.name.lower()).strip("-")[:48] or "run"
        for number in range(1, 10_000):
            run = RunFolder(self.path / (stem if number == 1 else f"{stem}-{number}"))
            try:
                run.path.mkdir(parents=True)
            except FileExistsError:
                continue
            run.write_config(config)
            return run
        raise InvalidRequest("name", "a name that is not taken ten thousand times", config.name)

    def run(self, id: str) -> RunFolder:
        """The run of an id. Raises `NotFound`; an id is never a path."""
        if not isinstance(id, str) or not _ID.fullmatch(id) or not (self.path / id / "config.json").is_file():
            raise NotFound(f"There is no training run {str(id)[:80]!r}: it was deleted, or never existed.")
        return RunFolder(self.path / id)

    def all(self) -> tuple[RunFolder, ...]:
        """Every run, newest first."""
        found = [path.parent for path in self.path.glob("*/config.json") if _ID.fullmatch(path.parent.name)]
        return tuple(RunFolder(path) for path in sorted(found, key=lambda path: -path.stat().st_ctime))
