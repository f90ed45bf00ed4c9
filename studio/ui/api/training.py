"""The typed endpoints for training: /datasets, /dataset_import, /train_preflight, /train_start, /train_runs,
/train_status, /train_stop and /train_resume.

They take the page's path through `TrainingServices`, so they refuse in the page's words; datasets, models and runs go
by id, never by path. Annotations are evaluated here (no `from __future__ import annotations`), because gradio documents
the API from them.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

from studio.datasets.manifest import DatasetSummary
from studio.errors import InvalidRequest
from studio.runs.digest import RunDigest
from studio.runs.events import Failed, Finished, Stopped
from studio.services import Services
from studio.training import RunStatus, TrainingServices
from studio.ui.uploads import uploaded_files

Json = dict[str, Any]
TOLD = ("id", "state", "num_ahead", "reason", "step", "num_steps", "eta_seconds", "loss", "paused", "checkpoint_step")


def training_endpoints(services: Services) -> list[Callable[..., Any]]:
    """The functions to offer; none where the studio cannot train at all."""
    training = services.training
    if training is None:
        return []
    return [
        *_about_datasets(training, services.settings.served_dir),
        *_about_starting(training),
        *_about_runs(training),
    ]


def _about_datasets(training: TrainingServices, served_dir: Path) -> list[Callable[..., Any]]:
    def datasets(resolution: int = 512, batch_size: int = 1) -> list[Json]:
        """Every kept dataset: counts, why files were dropped, sizes, and the shapes it is trained in at a resolution.

        The built-in scenes have the id "tabletop" and are not listed.
        """
        return [_summary(training, each.id, resolution, batch_size) for each in training.datasets()]

    def dataset_import(files: list[FileData], title: str = "My pictures", caption: str = "") -> Json:
        """Bring pictures: one zip, or pictures with their .txt, metadata.jsonl or metadata.csv; answers like /datasets.

        caption is for pictures that have none of their own. Every file is kept or dropped with a reason.
        """
        found = uploaded_files([each["path"] if isinstance(each, dict) else each.path for each in files], served_dir)
        kept = training.import_dataset(found, title, caption=caption)
        return _summary(training, kept.id, 512, 1)

    return [datasets, dataset_import]


def _about_starting(training: TrainingServices) -> list[Callable[..., Any]]:
    def train_preflight(
        name: str,
        recipe: str | None = None,
        base: str | None = None,
        dataset: str | None = None,
        settings: dict[str, Any] | None = None,
        hourly_rate: float = 0.0,
    ) -> Json:
        """Two real steps and one sample of what /train_start would train: seconds, memory, disk, cost, refusals."""
        report = training.preflight(training.choices.config_of(_choices(name, recipe, base, dataset, settings)))
        cost = report.cost(hourly_rate) if hourly_rate else None
        return {**asdict(report), "is_possible": report.is_possible, "cost": cost}

    def train_start(
        name: str,
        recipe: str | None = None,
        base: str | None = None,
        dataset: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Json:
        """Start a run in the background and answer with its state, its id first of all.

        recipe is the name of a file of presets/training ("cpu-accelerate"), base an id of /models, dataset one of
        /datasets or "tabletop"; settings holds any field of the training form, such as {"num_steps": 200}. Left out
        means the recipe's value, else the default. The same request again, while that run waits or works, is that run.
        """
        return _status(training.start(training.choices.config_of(_choices(name, recipe, base, dataset, settings))))

    return [train_preflight, train_start]


def _about_runs(training: TrainingServices) -> list[Callable[..., Any]]:
    def train_runs() -> list[Json]:
        """Every run, newest first."""
        return [_status(each) for each in training.runs()]

    def train_status(run: str, num_log_lines: int = 20) -> Json:
        """How a run stands: state, step, time left, losses, held-out errors per window beside the untrained student's.

        When it is finished, result is the id under which /models lists what it brought forth.
        """
        if not 0 <= num_log_lines <= 1000:
            raise InvalidRequest("num_log_lines", "a whole number from 0 to 1000", num_log_lines)
        with training.reading(run) as digest:
            told = _told(digest)
        log = list(training.log_tail(run, num_log_lines)) if num_log_lines else []
        return {**_status(training.status(run)), **told, "log": log}

    def train_stop(run: str) -> Json:
        """Ask a run to write a checkpoint and end; while it waits in the queue it leaves it."""
        return _status(training.ask(run, "stop"))

    def train_resume(run: str, settings: dict[str, Any] | None = None, confirmed: bool = False) -> Json:
        """Take a run up again exactly where its last checkpoint stands.

        With settings that decide the result the answer is an error that lists what would change, until confirmed.
        """
        changed = training.duplicate(run, settings) if settings else None
        return _status(training.resume(run, changed, confirmed))

    return [train_runs, train_status, train_stop, train_resume]


def _choices(
    name: str, recipe: str | None, base: str | None, dataset: str | None, settings: dict[str, Any] | None
) -> dict[str, Any]:
    """The arguments of `config_of`; what is said twice is refused."""
    if settings is not None and not isinstance(settings, dict):
        raise InvalidRequest("settings", "an object with fields of the training form", settings)
    given = {"name": name, "recipe": recipe, "base": base, "dataset": dataset}
    if taken := sorted(set(given) & set(settings or {})):
        raise InvalidRequest("settings", f"no {taken[0]}: it is an argument of its own", settings)
    return {**given, **(settings or {})}


def _summary(training: TrainingServices, id: str, resolution: int, batch_size: int) -> Json:
    summary: DatasetSummary = training.dataset(id).summary(resolution=resolution, batch_size=batch_size)
    return summary.to_json()


def _status(status: RunStatus) -> Json:
    config = status.config.to_json()
    config["base"], config["dataset"] = status.config.base.id, status.config.dataset.id
    return {
        **{name: getattr(status, name) for name in TOLD},
        "can_resume": status.can_resume,
        "result": status.catalog_id if status.export is not None else None,
        "config": config,
    }


def _told(digest: RunDigest) -> Json:
    """What the events say beyond the state."""
    last, end = digest.last, digest.end
    return {
        "phase": None if digest.phase is None else digest.phase.words,
        "learning_rate": None if last is None else last.learning_rate,
        "seconds_per_step": digest.seconds_per_step,
        "held_out": [
            {"step": each.step, "endpoint_errors": list(each.endpoint_errors), "untrained": list(each.untrained)}
            for each in digest.validated
        ],
        "error_ratio": digest.error_ratio,
        "beats_untrained": end.beats_untrained if isinstance(end, Finished) else None,
        "words": _end_in_words(digest),
        "warnings": [{"step": each.step, "kind": each.kind, "words": each.words} for each in digest.warnings],
    }


def _end_in_words(digest: RunDigest) -> str:
    if isinstance(digest.end, Finished):
        return digest.end.words
    if isinstance(digest.end, Failed):
        return digest.end.reason
    return f"Stopped at step {digest.end.step}." if isinstance(digest.end, Stopped) else ""
