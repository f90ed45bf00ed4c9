"""Everything the Train tab and the API may call about datasets and runs, built once by `app.py`.

One straight path: what a person typed -> `choices.config_of` (recipe's defaults, ids resolved, refusals before any
work) -> `preflight` (two real steps) -> `start` (a folder, a row in the queue) -> a process of its own. From then on
the run's folder is the truth: any number of viewers read `status`, `events`, `reading` and see the same.
Clients send ids, never paths. This module knows neither gradio nor torch, and does not train: it starts the trainer.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from studio.catalog import Catalog
from studio.datasets.manifest import DatasetSummary
from studio.datasets.store import DatasetStore, StoredDataset
from studio.errors import Busy, CatalogError, InvalidRequest, NotFound, QueueFull, StorageError, StudioError, TurnedOff
from studio.runs import finished
from studio.runs.commands import CommandLine, command_lines
from studio.runs.config import TrainingConfig
from studio.runs.control import RunControl
from studio.runs.digest import RunDigest, RunFollower
from studio.runs.events import SampleSaved, TrainingEvent, read_events
from studio.runs.exports import Export, accelerator_of, control_of, model_of, read_export
from studio.runs.folder import RunFolder, RunsFolder
from studio.runs.jobs import ACTIVE, Job, Jobs
from studio.runs.launch import Launcher, last_lines
from studio.runs.lease import DeviceFile
from studio.runs.measuring import measure
from studio.runs.monitor import NEVER_STARTED, Monitor
from studio.runs.preflight import PreflightReport
from studio.settings import Settings
from studio.storage import storage_error
from studio.training.choices import TrainingChoices
from studio.training.status import RunStatus

LOG = logging.getLogger(__name__)
MAX_QUEUED = 16
MIN_FREE_BYTES = 256 * 1024 * 1024


class TrainingServices:
    """What a studio can do about training; `with TrainingServices(...) as training:` while it serves.

    Raises `TurnedOff` from everything that works or writes when the owner has not turned training on.
    `make_room` is called before a trainer starts, to free the device of what the studio keeps there.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, *, launcher: Launcher | None = None,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.settings, self.catalog = settings, catalog
        self._launcher, self._make_room = launcher or Launcher(), make_room
        self._runs = RunsFolder(settings.runs_dir)
        self._store = DatasetStore(settings.datasets_dir)
        self.choices = TrainingChoices(settings, catalog, self._store)
        self._jobs = Jobs(_made(settings.data_dir) / "jobs.sqlite3")
        self._control = RunControl(self._runs, self._jobs)
        self._device = DeviceFile(settings.data_dir / "device.lock")
        self._followers: dict[str, RunFollower] = {}
        self._lock, self._listing = threading.Lock(), threading.Lock()
        self._monitor = Monitor(
            self._runs, self._jobs, self._device, self._launcher, before_start=make_room, on_finished=self.list_results
        )

    def __enter__(self) -> TrainingServices:
        """Take up what an earlier studio left, list its results, and watch from now on."""
        shutil.rmtree(self._preflights.path, ignore_errors=True)
        self._monitor.reconcile()
        self.list_results()
        self._monitor.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching. Runs go on; the next studio adopts them."""
        self._monitor.close()
        self._jobs.close()

    @property
    def is_on(self) -> bool:
        """Whether people may train and import here."""
        return self.settings.training

    def command_line(self, config: TrainingConfig, num_processes: int = 1, nodes: int = 1) -> tuple[CommandLine, ...]:
        """The lines that train this elsewhere: torchrun, accelerate, Hugging Face Jobs. Raises `InvalidRequest`."""
        return command_lines(config, num_processes, nodes)

    # --- runs ---

    def preflight(self, config: TrainingConfig) -> PreflightReport:
        """Two real steps and one sample, on this machine: about a minute. Nothing of it is kept.

        Refusals stand in the report, as sentences. Raises `Busy` while a run has the device.
        """
        self._check_on()
        self._check_config(config)
        lease = self._device.take()
        if lease is None:
            raise Busy("The device is training, and an estimate made beside it would be wrong: wait for that run, or "
                       "start this one without an estimate and it waits its turn.")  # fmt: skip
        self._make_room()
        return measure(self._preflights.create(config), self._launcher, lease)

    def start(self, config: TrainingConfig) -> RunStatus:
        """A new run at the end of the queue. The same configuration, name included, that is waiting or at work already
        is that run and no second one. Raises `QueueFull`, `InvalidRequest`, `StorageError`."""
        self._check_on()
        self._check_config(config)
        with self._lock:
            waiting = self._jobs.in_state("queued", *ACTIVE)
            if twin := next((job for job in waiting if self._is_of(job, config)), None):
                return self.status(twin.run_id)
            if len(waiting) >= MAX_QUEUED:
                raise QueueFull(f"{len(waiting)} runs are waiting or at work: stop one, or wait for one to end.")
            run = self._runs.create(config)
            self._jobs.enqueue(run.id)
        self._monitor.wake()
        return self.status(run.id)

    def runs(self) -> tuple[RunStatus, ...]:
        """Every run, newest first; one whose configuration cannot be read is logged and left out."""
        found = []
        for run in self._runs.all():
            try:
                found.append(self.status(run.id))
            except StudioError as error:
                LOG.warning("run %s is not listed: %s", run.id, error)
        return tuple(found)

    def status(self, run_id: str) -> RunStatus:
        """How a run stands. Raises `NotFound`."""
        run = self._runs.run(run_id)
        config, job = run.config(), self._job(run)
        with self.reading(run_id) as digest:
            return RunStatus(
                id=run.id, state=job.state, config=config, reason=job.reason, last_lines=job.last_lines,
                num_ahead=self._num_ahead(job) if job.state == "queued" else None,
                silent_seconds=self._monitor.silent_seconds(run.id) if job.state in ACTIVE else 0.0,
                step=digest.step, num_steps=digest.num_steps or config.num_steps, eta_seconds=digest.eta_seconds,
                loss=digest.last.loss if digest.last else None, paused=digest.paused and job.state in ACTIVE,
                checkpoint_step=digest.checkpoints[-1].step if digest.checkpoints else None, export=_export(run),
            )  # fmt: skip

    def reading(self, run_id: str) -> AbstractContextManager[RunDigest]:
        """Curves, samples, phase and end of a run, read on from where the last viewer stopped. Raises `NotFound`."""
        run = self._runs.run(run_id)
        return self._followers.setdefault(run.id, RunFollower(run.events_path)).reading()

    def events(self, run_id: str, offset: int = 0) -> tuple[list[TrainingEvent], int]:
        """What happened after a byte offset, and the offset to ask from next. Raises `NotFound`."""
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise InvalidRequest("offset", "a whole number from 0", offset)
        return read_events(self._runs.run(run_id).events_path, offset)

    def log_tail(self, run_id: str, count: int = 40) -> tuple[str, ...]:
        """The last lines of the process's own output. Raises `NotFound`."""
        return last_lines(self._runs.run(run_id).log_path, count)

    def samples(self, run_id: str) -> tuple[SampleSaved, ...]:
        """Every sample grid whose picture is there, oldest first. Raises `NotFound`."""
        folder = self.samples_dir(run_id)
        with self.reading(run_id) as digest:
            found = [each for by_steps in digest.samples.values() for each in by_steps.values()]
        return tuple(each for each in found if Path(each.file).name == each.file and (folder / each.file).is_file())

    def samples_dir(self, run_id: str) -> Path:
        """Where a run's sample grids lie, for pages that show them. Raises `NotFound`."""
        return self._runs.run(run_id).samples_dir

    def export_dir(self, run_id: str) -> Path:
        """Where a run's result lies, for downloads. Raises `NotFound` while there is none."""
        run = self._runs.run(run_id)
        if read_export(run) is None:
            raise NotFound(f"{run_id} has no result yet.")
        return run.export_dir

    def publish(self, run_id: str, repo: str, token: str) -> str:
        """Put a run's result on the Hugging Face Hub, private if the repository is new; the address.

        The token is used for this alone. Raises `NotFound`, `InvalidRequest`, `NotDone`, `TurnedOff`.
        """
        self._check_on()
        self.export_dir(run_id)
        return finished.publish(self._runs.run(run_id), repo, token, self._launcher)

    def lora(self, run_id: str, rank: int) -> str:
        """LoRA files beside a run's delta weights, in its result's folder; what they lose, in words.

        Raises `NotFound`, `InvalidRequest`, `NotDone`, `TurnedOff`.
        """
        self._check_on()
        self.export_dir(run_id)
        return finished.lora(self._runs.run(run_id), rank, self._launcher)

    # --- asking something of a run ---

    def ask(self, run_id: str, request: str) -> RunStatus:
        """Ask a run for something; raises `Busy` where its state does not allow it, `InvalidRequest`, `NotFound`.

        stop: a checkpoint and then the end, or out of the queue; a second time tells it by signal. save, sample: now.
        pause: a checkpoint, the device to the next in the queue, and back into the queue.
        """
        self._check_on()
        self._control.ask(self._runs.run(run_id), request)
        self._monitor.wake()
        return self.status(run_id)

    def resume(self, run_id: str, changed: TrainingConfig | None = None, confirmed: bool = False) -> RunStatus:
        """Take a run up again, exactly where its last checkpoint stands. Under a changed configuration it raises
        `NeedsConfirmation` with the differences as `lines`, until called with `confirmed`. Raises `Busy` too."""
        self._check_on()
        run = self._runs.run(run_id)
        self._check_config(changed or run.config())
        self._control.resume(run, changed, confirmed=confirmed)
        self._monitor.wake()
        return self.status(run_id)

    def duplicate(self, run_id: str, changes: Mapping[str, Any] | None = None) -> TrainingConfig:
        """A run's configuration with changes, to look at and then `start`; the new run's folder gets a name of its own.
        Raises `InvalidRequest`, `NotFound`."""
        return self.choices.changed(self._runs.run(run_id).config(), changes or {})

    def delete(self, run_id: str) -> None:
        """Remove a run and all of it, its result too. Raises `Busy` while it is at work, `NotFound`."""
        self._check_on()
        self._control.delete(self._runs.run(run_id))
        self._followers.pop(run_id, None)
        self.list_results()

    def list_results(self) -> None:
        """Make the catalogue show the results of all runs as they are on disk now."""
        with self._listing:
            found = [(run, export) for run in self._runs.all() if (export := _export(run))]
            models = [model_of(run, each, default_accelerator=self._default_of(each)) for run, each in found]
            accelerators = [accelerator_of(run, each) for run, each in found]
            controls = [control_of(run, each) for run, each in found]
            self.catalog.show_results(
                models=filter(None, models), accelerators=filter(None, accelerators), controls=filter(None, controls)
            )

    # --- datasets ---

    def datasets(self) -> tuple[DatasetSummary, ...]:
        """Every stored dataset at a glance, newest first; the endless "tabletop" is not among them."""
        return tuple(each.summary() for each in self._store.all())

    def dataset(self, dataset_id: str) -> StoredDataset:
        """A stored dataset with its manifest and thumbnails. Raises `NotFound`."""
        return self._store.get(dataset_id)

    def import_dataset(
        self, files: Sequence[tuple[str, Path]], title: str, *, caption: str = "",
        report: Callable[[float, str], None] = lambda *_: None,
    ) -> StoredDataset:  # fmt: skip
        """A dataset from uploaded files, as (original name, where it lies): pictures with captions, or one zip.

        `caption` is for pictures without one; `report` hears a fraction and words. Raises `UnsafeFile`,
        `InvalidRequest`, `StorageError`, `TurnedOff`; nothing is left behind then.
        """
        self._check_on()
        return self._store.import_uploads(files, title, caption=caption, report=report)

    def delete_dataset(self, dataset_id: str) -> None:
        """Remove a dataset. Raises `Busy` while a run waits for it or works on it, `NotFound`."""
        self._check_on()
        for job in self._jobs.in_state("queued", *ACTIVE):
            if self._runs.run(job.run_id).config().dataset.id == dataset_id:
                raise Busy(f"The run {job.run_id} needs {dataset_id}: stop it first, then delete the dataset.")
        self._store.delete(dataset_id)

    # --- inside ---

    @property
    def at_work(self) -> RunFolder | None:
        """The run whose trainer has the device, `None` when there is none."""
        jobs = self._jobs.in_state(*ACTIVE)
        return RunFolder(self._runs.path / jobs[0].run_id) if jobs else None

    @property
    def _preflights(self) -> RunsFolder:
        return RunsFolder(self.settings.data_dir / "preflights")

    def _check_on(self) -> None:
        if not self.is_on:
            raise TurnedOff("Training and imports are off in this studio: its owner turns them on with --training on.")

    def _check_config(self, config: TrainingConfig) -> None:
        """What may have gone since the configuration was made, and what no run can begin with."""
        self.choices.base_of(config.base.id)
        self.choices.dataset_of(config.dataset.id)
        free = shutil.disk_usage(self.settings.data_dir).free
        if free < MIN_FREE_BYTES:
            raise StorageError(f"{free // 2**20} MB are free in {self.settings.data_dir}, too little for any run: "
                               "delete runs or pictures first.")  # fmt: skip

    def _job(self, run: RunFolder) -> Job:
        return self._jobs.get(run.id) or Job(run_id=run.id, state="stopped", reason=NEVER_STARTED)

    def _num_ahead(self, job: Job) -> int:
        waiting = self._jobs.in_state("queued", *ACTIVE)
        return sum(each.state != "queued" or each.place < job.place for each in waiting)

    def _is_of(self, job: Job, config: TrainingConfig) -> bool:
        try:
            return self._runs.run(job.run_id).config() == config
        except StudioError:
            return False

    def _default_of(self, export: Export) -> str:
        """What a fine-tuned model begins with: its base's own default, which fits since the family is the same."""
        try:
            return self.catalog.model(export.base_id).default_accelerator
        except InvalidRequest:
            return "dpmpp"


def _export(run: RunFolder) -> Export | None:
    """A run's result, `None` too when its description is broken."""
    try:
        return read_export(run)
    except CatalogError as error:
        LOG.warning("a result is not listed: %s", error)
        return None


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder
