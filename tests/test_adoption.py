"""The studio's own process killed in the middle of a run, with kill -9, and what the next one finds."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from studio.runs.events import Started, StepLogged, Stopped, read_events
from studio.runs.folder import RunFolder
from studio.runs.jobs import Jobs
from studio.runs.launch import Launcher
from tests.runs import fake_trainer
from tests.runs.waiting import ENDLESS, is_running, until
from tests.studio_process import StudioProcess

FAKE = ("-m", "tests.runs.studio_with_fake_trainer")
REAL = ("app.py",)
FAKE_TRAINER = Launcher(command=fake_trainer.COMMAND)
ADOPTED_WITHIN_SECONDS = 5.0


class Run:
    """A run in a data folder, seen from outside."""

    def __init__(self, data_dir: Path, id: str) -> None:
        self.data_dir, self.id, self.path = data_dir, id, data_dir / "runs" / id

    @property
    def events(self) -> list[Any]:
        return read_events(self.path / "events.jsonl")[0]

    @property
    def num_steps(self) -> int:
        return sum(isinstance(event, StepLogged) for event in self.events)

    @property
    def pid(self) -> int:
        return next(event.pid for event in self.events if isinstance(event, Started))

    def state(self) -> str:
        jobs = Jobs(self.data_dir / "jobs.sqlite3")
        try:
            job = jobs.get(self.id)
            return job.state if job else "unknown"
        finally:
            jobs.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose trainers are gone in the end."""
    folder = tmp_path / "data"
    yield folder
    for path in (folder / "runs").glob("*"):
        if process := Launcher().find(RunFolder(path)) or FAKE_TRAINER.find(RunFolder(path)):
            process.signal_group(signal.SIGKILL)


@contextlib.contextmanager
def client_of(studio: StudioProcess) -> Iterator[Client]:
    client = Client(studio.url, verbose=False)
    try:
        yield client
    finally:
        client.close()


def begin(studio: StudioProcess, data_dir: Path, **settings: Any) -> Run:
    """A run through the API, until it has made a few steps."""
    with client_of(studio) as client:
        answer = client.predict(
            name="a run", recipe="cpu-accelerate", dataset="tabletop:4", settings={"num_steps": ENDLESS, **settings},
            api_name="/train_start",
        )  # fmt: skip
    run = Run(data_dir, answer["id"])
    until(lambda: run.num_steps > 2, seconds=900)
    return run


def kill_and_start_again(data_dir: Path, program: tuple[str, ...], **settings: Any) -> None:
    """Kill the server in mid-run; the run goes on; the next server adopts it in time, and its Stop ends it well."""
    with StudioProcess(data_dir, program=program) as first:
        run = begin(first, data_dir, **settings)
        first.terminate(signal.SIGKILL)
    steps = run.num_steps
    until(lambda: run.num_steps > steps + 1)
    assert run.state() == "running"
    with StudioProcess(data_dir, program=program) as second:
        listening = time.monotonic()
        with client_of(second) as client:
            status = client.predict(run.id, api_name="/train_status")
            assert time.monotonic() - listening < ADOPTED_WITHIN_SECONDS
            assert status["state"] == "running"
            assert f"adopted process {run.pid}" in second.log
            steps = run.num_steps
            until(lambda: run.num_steps > steps + 1)
            client.predict(run.id, api_name="/train_stop")
            until(lambda: client.predict(run.id, api_name="/train_status")["state"] == "stopped", seconds=240)
    assert not is_running(run.pid)
    assert isinstance(run.events[-1], Stopped)
    assert sum(isinstance(event, Started) for event in run.events) == 1


def test_a_server_killed_in_mid_run_is_followed_by_one_that_adopts_it(data_dir: Path) -> None:
    kill_and_start_again(data_dir, FAKE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_trainer_outlives_a_killed_server_and_is_adopted(data_dir: Path) -> None:
    settings = {"batch_size": 1, "num_held_out": 2, "sample_steps": [2], "validate_every_steps": 100_000,
                "sample_every_steps": 100_000, "warmup_steps": 1, "device": "cpu"}  # fmt: skip
    kill_and_start_again(data_dir, REAL, **settings)


@pytest.mark.slow
def test_a_trainer_that_ends_while_no_server_watches_is_told_truly_by_the_next(data_dir: Path) -> None:
    with StudioProcess(data_dir, program=FAKE) as first:
        run = begin(first, data_dir)
        first.terminate(signal.SIGKILL)
    os.kill(run.pid, signal.SIGKILL)
    until(lambda: not is_running(run.pid))
    with StudioProcess(data_dir, program=FAKE) as second, client_of(second) as client:
        status = client.predict(run.id, api_name="/train_status")
        assert (status["state"], status["can_resume"]) == ("interrupted", True)
        assert "nobody saw how" in status["reason"]
        client.predict(run.id, api_name="/train_resume")
        until(lambda: client.predict(run.id, api_name="/train_status")["state"] == "running")
        pids = [event.pid for event in run.events if isinstance(event, Started)]
        assert len(pids) == 2
        os.killpg(pids[1], signal.SIGKILL)


def test_a_second_server_on_one_data_folder_refuses_and_the_trainer_holds_no_servers_lock(data_dir: Path) -> None:
    with StudioProcess(data_dir, program=FAKE) as first:
        run = begin(first, data_dir)
        with pytest.raises(AssertionError, match="Another studio is using the data folder"):
            StudioProcess(data_dir, program=FAKE).__enter__()
        first.terminate(signal.SIGTERM)
    assert is_running(run.pid)
    with StudioProcess(data_dir, program=FAKE) as following, client_of(following) as client:
        assert client.predict(run.id, api_name="/train_status")["state"] == "running"
        client.predict(run.id, api_name="/train_stop")
        until(lambda: not is_running(run.pid))
