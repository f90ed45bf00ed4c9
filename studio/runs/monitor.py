"""Watches the trainers: starts the next of the queue, sees processes end, and takes up what an earlier studio left.

One thread, one round after another. An end is written only here, from what the process itself left: its last event,
else its exit status, else the bare fact that it is gone. Waiting is measured on the monotonic clock.
Knows no pages, no models and no device but its lease.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from studio.errors import NotFound, StorageError
from studio.runs.events import Failed, Finished, Stopped, read_events
from studio.runs.folder import RunFolder, RunsFolder
from studio.runs.jobs import ACTIVE, Job, Jobs, State
from studio.runs.launch import Launcher, last_lines
from studio.runs.lease import DeviceFile
from studio.runs.process import Process

LOG = logging.getLogger(__name__)
POLL_SECONDS = 0.5
TERMINATE_AFTER_SECONDS, KILL_AFTER_SECONDS = 60.0, 900.0
OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP)
NEVER_STARTED = "It was prepared and never started: resume starts it."


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run's process ended; `reason` is a sentence where there is more to say than the state."""

    state: State
    reason: str = ""


class Monitor:
    """The one who starts trainers and writes how they end. `reconcile` first, then `start` (a thread) or `look`.

    `before_start` may make room on the device, `on_finished` is called before a run counts as finished.
    """

    def __init__(
        self, runs: RunsFolder, jobs: Jobs, device: DeviceFile, launcher: Launcher, *,
        before_start: Callable[[], None] = lambda: None, on_finished: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._runs, self._jobs, self._device, self._launcher = runs, jobs, device, launcher
        self._before_start, self._on_finished, self._clock = before_start, on_finished, clock
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stop_seen: dict[str, float] = {}
        self._heard: dict[str, tuple[int, float]] = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # --- the thread ---

    def start(self) -> None:
        """Watch from a thread of its own until `close`."""
        self._thread = threading.Thread(target=self._watch, name="runs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now rather than in half a second."""
        self._wake.set()

    def close(self) -> None:
        """Stop watching. Trainers go on; the next studio takes them up."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                self.look()
            except StorageError as error:
                LOG.warning("the runs could not be looked after, trying again: %s", error)
            except Exception:
                LOG.exception("looking after the runs failed, trying again")
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()

    def look(self) -> None:
        """One round: who has begun, who has ended, who is next."""
        for job in self._jobs.in_state(*ACTIVE):
            self._look_at(job)
        if not self._jobs.in_state(*ACTIVE):
            self._start_next()

    def silent_seconds(self, run_id: str) -> float:
        """How long a run at work has written nothing, on the monotonic clock of this studio."""
        heard = self._heard.get(run_id)
        return 0.0 if heard is None else self._clock() - heard[1]

    # --- at work ---

    def _look_at(self, job: Job) -> None:
        run = RunFolder(self._runs.path / job.run_id)
        if not self._is_alive(job):
            self._end(job, run)
            return
        self._listen(run)
        if job.state == "starting" and _events(run, job):  # it speaks
            self._jobs.move(job.run_id, "running", only_from=("starting",))
        elif job.state == "stopping":
            self._hurry(job)

    def _is_alive(self, job: Job) -> bool:
        child = self._children.get(job.run_id)
        if child is not None:
            return child.poll() is None
        return job.process is not None and job.process.is_alive()

    def _listen(self, run: RunFolder) -> None:
        size = sum(path.stat().st_size for path in (run.events_path, run.log_path) if path.exists())
        if run.id not in self._heard or self._heard[run.id][0] != size:
            self._heard[run.id] = (size, self._clock())

    def _hurry(self, job: Job) -> None:
        """A trainer that does not answer a request to stop is told by signal, and at long last ended."""
        waited = self._clock() - self._stop_seen.setdefault(job.run_id, self._clock())
        if job.process is not None and waited > TERMINATE_AFTER_SECONDS:
            job.process.signal_group(signal.SIGKILL if waited > KILL_AFTER_SECONDS else signal.SIGTERM)

    def _end(self, job: Job, run: RunFolder) -> None:
        child = self._children.pop(job.run_id, None)
        ending = ending_of(run, job, None if child is None else child.returncode)
        if job.process is not None and (orphans := job.process.kill_orphans()):
            LOG.warning("%s left %d processes behind; they were ended", job.run_id, orphans)
        if ending.state == "finished":
            self._on_finished()
        lines = last_lines(run.log_path) if ending.state in ("failed", "interrupted") else ()
        self._stop_seen.pop(job.run_id, None)
        self._heard.pop(job.run_id, None)
        self._jobs.move(job.run_id, ending.state, only_from=ACTIVE, reason=ending.reason, last_lines=lines)
        LOG.info("run %s: %s %s", job.run_id, ending.state, ending.reason)
        if job.requeue and ending.state == "stopped":
            self._jobs.enqueue(job.run_id)

    # --- the queue ---

    def _start_next(self) -> None:
        queued = self._jobs.in_state("queued")
        if not queued or (lease := self._device.take()) is None:
            return
        try:
            self._launch(queued[0], lease)
        finally:
            os.close(lease)  # the trainer has its own

    def _launch(self, job: Job, lease: int) -> None:
        try:
            run = self._runs.run(job.run_id)
        except NotFound:
            self._jobs.remove(job.run_id)
            return
        offset = run.events_path.stat().st_size if run.events_path.exists() else 0
        shutil.rmtree(run.requests_dir, ignore_errors=True)  # whatever was asked of an earlier process
        if not self._jobs.move(job.run_id, "starting", only_from=("queued",), events_offset=offset):
            return
        try:
            self._before_start()
            child = self._children[job.run_id] = self._launcher.start(run, lease=lease)
        except StorageError as error:
            self._jobs.move(job.run_id, "failed", only_from=ACTIVE, reason=str(error))
            return
        if process := Process.of(child.pid):
            self._jobs.move(job.run_id, "starting", only_from=("starting",), process=process)
            self._jobs.move(job.run_id, "stopping", only_from=("stopping",), process=process)
        LOG.info("run %s: started as process %d", job.run_id, child.pid)

    # --- what an earlier studio left ---

    def reconcile(self) -> None:
        """Make the table say what is true: adopt what runs, end what is gone, list folders that have no row."""
        folders = {run.id: run for run in self._runs.all()}
        for job in self._jobs.all():
            if job.run_id not in folders:
                self._forget(job)
            elif job.state in ACTIVE:
                self._take_up(job, folders[job.run_id])
        known = {job.run_id for job in self._jobs.all()}
        for run in reversed(folders.values()):
            if run.id not in known:
                self._list(run)

    def _forget(self, job: Job) -> None:
        if job.process is not None:
            job.process.signal_group(signal.SIGTERM)
        self._jobs.remove(job.run_id, only_from=(job.state,))

    def _take_up(self, job: Job, run: RunFolder) -> None:
        process = job.process or self._launcher.find(run)
        if process is not None and process.is_alive():
            self._jobs.move(job.run_id, job.state, only_from=ACTIVE, process=process)
            LOG.info("run %s: adopted process %d", job.run_id, process.pid)
        elif process is None and job.state == "starting":
            self._jobs.move(job.run_id, "queued", only_from=("starting",))  # it never came to a process
        else:
            self._end(job, run)

    def _list(self, run: RunFolder) -> None:
        """A folder without a row: made by hand, or the table was lost."""
        job = Job(run_id=run.id, state="starting")
        if process := self._launcher.find(run):
            self._jobs.put(Job(run_id=run.id, state="running", process=process))
        elif run.events_path.exists():
            self._jobs.put(job)
            self._end(job, run)
        else:
            self._jobs.put(Job(run_id=run.id, state="stopped", reason=NEVER_STARTED))


def ending_of(run: RunFolder, job: Job, exit_status: int | None) -> Ending:
    """How a process that is gone ended: what its events say, else what its exit status says (`None`: nobody saw it)."""
    last = next((each for each in reversed(_events(run, job)) if isinstance(each, Finished | Failed | Stopped)), None)
    if isinstance(last, Finished):
        return Ending(state="finished", reason=last.words)
    if isinstance(last, Failed):
        return Ending(state="failed", reason=last.reason)
    if isinstance(last, Stopped):
        return Ending(state="stopped")
    if job.state == "stopping" and (exit_status is None or exit_status == 0 or -exit_status in OURS):
        return Ending(state="stopped", reason="It was ended before it could say so: resume goes on from the last "
                                              "checkpoint.")  # fmt: skip
    if exit_status is not None and exit_status > 0:
        return Ending(state="failed", reason=f"The trainer ended with status {exit_status}; its last lines say why.")
    return Ending(state="interrupted", reason=f"{_killed_by(exit_status)}: resume goes on from the last checkpoint.")


def _killed_by(exit_status: int | None) -> str:
    if exit_status is None:
        return "The trainer's process is gone (killed, or the machine went down) and nobody saw how"
    if exit_status == 0:
        return "The trainer's process ended without a word"
    name = signal.Signals(-exit_status).name if -exit_status in set(signal.Signals) else f"signal {-exit_status}"
    hint = " (often the system, when memory runs out)" if exit_status == -signal.SIGKILL else ""
    return f"The trainer was killed by {name}{hint}"


def _events(run: RunFolder, job: Job) -> list:
    """What happened since this job's process was started."""
    return read_events(run.events_path, job.events_offset)[0]
