"""Runs a preflight as the process it is about, waits for its report, and leaves nothing behind.

The report comes from the trainer's own two steps. What ends without one (killed for memory, say) becomes a refusal in
a sentence. Knows nothing of queues and pages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess

from studio.errors import StudioError
from studio.runs.folder import RunFolder
from studio.runs.launch import Launcher, last_lines
from studio.runs.preflight import PreflightReport, read_report

LOG = logging.getLogger(__name__)
TIMEOUT_SECONDS = 600.0


def measure(
    run: RunFolder, launcher: Launcher, lease: int, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> PreflightReport:
    """The report of a run's preflight. Takes `lease` and the folder over: both are gone afterwards."""
    try:
        process = launcher.start(run, lease=lease, preflight=True)
        status = _wait(process, timeout_seconds)
        return _report(run, status, timeout_seconds)
    finally:
        os.close(lease)
        shutil.rmtree(run.path, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], timeout_seconds: float) -> int | None:
    """The exit status, or `None` when it took too long and was ended."""
    try:
        return process.wait(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _report(run: RunFolder, status: int | None, timeout_seconds: float) -> PreflightReport:
    if status is None:
        words = (
            f"Two steps took longer than {timeout_seconds / 60:.0f} minutes here: choose smaller pictures, a smaller "
        )
        return PreflightReport(refusals=(f"{words}batch or a smaller base.",))
    try:
        return read_report(run)
    except StudioError as error:
        lines = last_lines(run.log_path)
        LOG.warning("the preflight left no report (status %s, %s): %s", status, error, " | ".join(lines))
        return PreflightReport(refusals=(_in_words(status, lines),))


def _in_words(status: int, lines: tuple[str, ...]) -> str:
    if status == -signal.SIGKILL:
        return "Memory ran out, most likely: the system ended the two steps. Choose a smaller batch or size."
    said = f": {lines[-1][:300]}" if lines else "."
    return f"The two steps could not be made (status {status}){said}"
