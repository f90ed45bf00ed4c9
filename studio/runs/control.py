"""What a person may ask of a run, checked against its state: stop, save, sample, pause, resume, delete.

Asking never writes how a process ended; that is the monitor's, once it has. Knows no pages and no catalogue.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

from studio.errors import Busy, InvalidRequest, NeedsConfirmation, StudioError
from studio.runs.config import TrainingConfig, differences
from studio.runs.exports import PREFIX
from studio.runs.folder import RunFolder, RunsFolder
from studio.runs.jobs import ACTIVE, ENDED, Job, Jobs
from studio.storage import storage_error

ASKED = ("stop", "save", "sample", "pause")
OUT_OF_THE_QUEUE = "It was taken out of the queue: resume puts it back."


class RunControl:
    """Requests to the runs of one studio; each raises a sentence where the run's state does not allow it."""

    def __init__(self, runs: RunsFolder, jobs: Jobs) -> None:
        self._runs, self._jobs = runs, jobs

    def ask(self, run: RunFolder, request: str) -> None:
        """One of `ASKED`. Raises `InvalidRequest`, `Busy`, `StorageError`."""
        if request not in ASKED:
            raise InvalidRequest("request", f"one of {', '.join(ASKED)}", request)
        if request == "stop":
            self._stop(run)
        elif request == "pause":
            self._pause(run)
        else:
            self._at_work(run)
            _leave(run, request)

    def _stop(self, run: RunFolder) -> None:
        if self._jobs.move(run.id, "stopped", only_from=("queued",), reason=OUT_OF_THE_QUEUE):
            return
        job = self._at_work(run)
        if job.state == "stopping" and job.process is not None:
            job.process.signal_group(signal.SIGTERM)
        _leave(run, "stop")
        self._jobs.move(run.id, "stopping", only_from=ACTIVE, requeue=0)

    def _pause(self, run: RunFolder) -> None:
        self._at_work(run)
        if not self._jobs.in_state("queued"):
            raise Busy(f"Nobody waits behind {run.id}, so it would go straight on: stop it instead, resume goes on "
                       "exactly where it was.")  # fmt: skip
        _leave(run, "stop")
        self._jobs.move(run.id, "stopping", only_from=ACTIVE, requeue=1)

    def _at_work(self, run: RunFolder) -> Job:
        job = self._jobs.get(run.id)
        if job is None or job.state not in ACTIVE:
            raise Busy(f"{run.id} is not at work ({job.state if job else 'unknown'}): there is nobody to ask.")
        return job

    def resume(self, run: RunFolder, changed: TrainingConfig | None, *, confirmed: bool) -> None:
        """Back into the queue, from the last checkpoint. What decides the result may change once a person agreed to
        it: until then `NeedsConfirmation` carries the lines. A finished run is resumed only with a change."""
        job, config = self._jobs.get(run.id), run.config()
        if job is not None and job.state not in ENDED:
            raise Busy(f"{run.id} is {job.state} already: it needs no resuming.")
        wanted = changed or config
        lines = differences(config, wanted)
        if job is not None and job.state == "finished" and not lines:
            raise Busy(f"{run.id} is finished: give it more steps, or duplicate it.")
        if lines and not confirmed:
            raise NeedsConfirmation(
                f"This changes what {run.id} learns: {'; '.join(lines)}. Confirm it to go on.", lines
            )
        if lines:
            run.confirm(wanted)
        if wanted != config:
            run.write_config(wanted)
        if lines:
            run.confirm(wanted)
        if not self._jobs.enqueue(run.id):
            raise Busy(f"{run.id} was resumed just now.")

    def delete(self, run: RunFolder) -> None:
        """Remove a run that is not at work and that no waiting or working run builds on."""
        for other in self._users(f"{PREFIX}{run.id}"):
            raise Busy(f"{run.id} is the base of {other}, which is not done with it: stop and delete that one first.")
        job = self._jobs.get(run.id)
        if job is not None and not self._jobs.remove(run.id):
            raise Busy(f"{run.id} is {job.state}: stop it first, then delete it.")
        try:
            run.delete()
        except OSError as error:
            raise storage_error(run.path, error) from error

    def _users(self, base_id: str) -> Iterable[str]:
        for job in self._jobs.in_state("queued", *ACTIVE):
            try:
                if self._runs.run(job.run_id).config().base.id == base_id:
                    yield job.run_id
            except StudioError:
                continue  # a run that cannot be read uses nothing


def _leave(run: RunFolder, request: str) -> None:
    """Put the request where the trainer looks between two steps."""
    try:
        run.ask(request)
    except OSError as error:
        raise storage_error(run.path, error) from error
