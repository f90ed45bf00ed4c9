"""What a preflight measured: two real steps and one sample of a run, before anybody waits for it.

`python -m trainer --preflight RUN` writes `preflight.json` into the run's folder and exits with 0, also when the answer
is that the run cannot work; then `refusals` says why. Torch-free: studio and trainer agree on this file here.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from studio.errors import InvalidRequest, NotFound
from studio.runs.config import read_fields
from studio.runs.folder import RunFolder
from studio.storage import write_whole

NAME = "preflight.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PreflightReport:
    """What a run will take, measured on this machine; `None` where it was not reached.

    `seconds_per_step` is a warm optimizer step (all its forwards), `seconds_total` the whole run with its samples,
    measurements and checkpoints. `peak_memory_bytes` is the most that was in use at once, `resident_memory_bytes` what
    stays in use between two steps, both on the device (on a processor: of the process). `refusals` are sentences that
    say why the run cannot work and what to change, `notes` what a person should know and may ignore.
    """

    seconds_per_step: float | None = None
    seconds_per_sample: float | None = None
    seconds_start: float | None = None
    seconds_total: float | None = None
    samples_per_second: float | None = None
    peak_memory_bytes: int | None = None
    resident_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    disk_needed_bytes: int = 0
    disk_free_bytes: int = 0
    device: str = "cpu"
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_possible(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.refusals

    def cost(self, hourly_rate: float) -> float | None:
        """What the whole run costs at a rate per hour, `None` while its length is unknown."""
        return None if self.seconds_total is None else self.seconds_total / 3600 * hourly_rate


def write_report(run: RunFolder, report: PreflightReport) -> None:
    """All or nothing."""
    values = {"format": FORMAT, **dataclasses.asdict(report)}
    write_whole(run.path / NAME, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def read_report(run: RunFolder) -> PreflightReport:
    """Raises `NotFound` when there is none, `InvalidRequest` when it is broken."""
    try:
        values: Any = json.loads((run.path / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{run.id}: the preflight left no report.") from error
    except (OSError, ValueError) as error:
        raise InvalidRequest(NAME, "a report as JSON", str(error)) from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise InvalidRequest(NAME, f"a JSON object of format {FORMAT}", values)
    return read_fields(PreflightReport, NAME, values)
