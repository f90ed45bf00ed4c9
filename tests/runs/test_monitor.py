"""Runs as real processes: how they start, queue, end, are killed, and are taken up by the next studio."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.runs.config import TrainingConfig
from studio.runs.control import RunControl
from studio.runs.events import Started, StepLogged, read_events
from studio.runs.folder import RunFolder, RunsFolder
from studio.runs.jobs import ACTIVE, ENDED, Job, Jobs
from studio.runs.launch import ALLOWED, ALWAYS, Launcher
from studio.runs.lease import DeviceFile
from studio.runs.monitor import Monitor
from studio.runs.process import Process
from tests.runs import fake_trainer
from tests.runs.waiting import ENDLESS, config, is_running, until


class Desk:
    """A studio's runs without its page. `look` by hand, so that tests decide when something is noticed."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.runs = RunsFolder(folder / "runs")
        self.jobs = Jobs(folder / "jobs.sqlite3")
        self.device = DeviceFile(folder / "device.lock")
        self.launcher = Launcher(command=fake_trainer.COMMAND)
        self.monitor = Monitor(self.runs, self.jobs, self.device, self.launcher, **options)  # type: ignore[arg-type]
        self.control = RunControl(self.runs, self.jobs)
        self.children = self.monitor._children

    def submit(self, wanted: TrainingConfig) -> RunFolder:
        run = self.runs.create(wanted)
        assert self.jobs.enqueue(run.id)
        return run

    def job(self, run: RunFolder) -> Job:
        self.monitor.look()
        job = self.jobs.get(run.id)
        assert job is not None
        return job

    def until_state(self, run: RunFolder, *states: str) -> Job:
        return until(lambda: (job := self.job(run)).state in states and job)

    def working(self, run: RunFolder) -> Job:
        """Until it runs and has made a few steps."""
        self.until_state(run, "running")
        until(lambda: num_steps(run) > 2)
        return self.job(run)

    def forget(self) -> None:
        """As if the studio had been killed: nothing is told to anybody, and nobody waits for the children."""
        self.jobs.close()
        self.children.clear()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    for child in made.children.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def num_steps(run: RunFolder) -> int:
    return sum(isinstance(event, StepLogged) for event in read_events(run.events_path)[0])


# --- states -----------------------------------------------------------------------------------------------------


def test_a_run_goes_from_the_queue_to_its_end(desk: Desk) -> None:
    run = desk.submit(config(num_steps=30))
    assert desk.jobs.in_state("queued")[0].run_id == run.id
    assert desk.job(run).state == "starting"
    assert desk.until_state(run, "running", "finished")
    job = desk.until_state(run, "finished")
    assert (job.reason, job.last_lines) == ("", ())
    assert num_steps(run) == 30
    assert "training a-run" in run.log_path.read_text()
    assert desk.device.is_free()


@pytest.mark.parametrize(
    ("does", "state", "reason", "last_line"),
    [
        ("raise", "failed", "ended with status 1", "RuntimeError: the loss is made of cheese"),
        ("fail", "failed", "The disk is full: free 2 GB", "training a-run"),
        ("vanish", "interrupted", "ended without a word", "training a-run"),
    ],
)
def test_how_a_run_ended_is_said_with_reason_and_last_lines(
    desk: Desk, does: str, state: str, reason: str, last_line: str
) -> None:
    run = desk.submit(config(does=does))
    job = desk.until_state(run, *ENDED)
    assert job.state == state
    assert reason in job.reason
    assert job.last_lines[-1] == last_line


def test_a_killed_trainer_is_interrupted_and_one_call_resumes_it(desk: Desk) -> None:
    run = desk.submit(config(num_steps=ENDLESS))
    job = desk.working(run)
    desk.control.ask(run, "save")
    until(lambda: list(run.checkpoints_dir.glob("*")))
    assert job.process is not None
    os.kill(job.process.pid, signal.SIGKILL)
    job = desk.until_state(run, *ENDED)
    assert job.state == "interrupted"
    assert "killed by SIGKILL" in job.reason
    assert job.last_lines == ("training a-run",)
    assert desk.device.is_free()
    desk.control.resume(run, None, confirmed=False)
    desk.until_state(run, "running")
    first, second = (event for event in read_events(run.events_path)[0] if isinstance(event, Started))
    assert first.step == 0
    assert second.step == int(next(run.checkpoints_dir.glob("*")).name)


def test_stop_is_a_checkpoint_and_then_the_end_and_only_the_end_is_written_as_one(desk: Desk) -> None:
    run = desk.submit(config(num_steps=ENDLESS))
    desk.working(run)
    desk.control.ask(run, "stop")
    assert desk.jobs.get(run.id).state == "stopping"  # type: ignore[union-attr]
    assert desk.until_state(run, *ENDED).state == "stopped"
    assert list(run.checkpoints_dir.glob("*"))


def test_a_trainer_deaf_to_requests_hears_the_second_stop_as_a_signal(desk: Desk) -> None:
    run = desk.submit(config(does="deaf", num_steps=ENDLESS))
    desk.working(run)
    desk.control.ask(run, "stop")
    desk.control.ask(run, "stop")
    assert desk.until_state(run, *ENDED).state == "stopped"


def test_a_deaf_trainer_is_told_by_signal_after_a_minute_of_the_monotonic_clock(tmp_path: Path) -> None:
    now = [0.0]
    desk = Desk(tmp_path, clock=lambda: now[0])
    run = desk.submit(config(does="deaf", num_steps=ENDLESS))
    desk.working(run)
    desk.control.ask(run, "stop")
    for now[0] in (1.0, 60.0):
        assert desk.job(run).state == "stopping"
    steps = num_steps(run)
    until(lambda: num_steps(run) > steps + 3)  # nobody told it yet
    now[0] = 62.0
    assert desk.until_state(run, *ENDED).state == "stopped"


def frozen(tmp_path: Path) -> tuple[list[float], Desk, RunFolder, int]:
    """A trainer that stands still; the desk's clock, the desk, the run and the process."""
    now = [0.0]
    desk = Desk(tmp_path, clock=lambda: now[0])
    run = desk.submit(config(num_steps=ENDLESS))
    job = desk.working(run)
    assert job.process is not None
    os.kill(job.process.pid, signal.SIGSTOP)
    return now, desk, run, job.process.pid


def test_a_frozen_trainer_is_ended_at_long_last(tmp_path: Path) -> None:
    now, desk, run, _ = frozen(tmp_path)
    desk.control.ask(run, "stop")
    desk.job(run)
    now[0] = 1000.0
    assert desk.until_state(run, *ENDED).state == "stopped"


def test_how_long_a_run_has_been_silent_is_measured_on_the_monotonic_clock(tmp_path: Path) -> None:
    now, desk, run, pid = frozen(tmp_path)
    until(lambda: [num_steps(run), desk.job(run), num_steps(run)][0] == num_steps(run))
    now[0] += 300.0
    desk.job(run)
    assert desk.monitor.silent_seconds(run.id) == 300.0
    os.killpg(pid, signal.SIGKILL)
    desk.until_state(run, *ENDED)
    assert desk.monitor.silent_seconds(run.id) == 0.0


def test_what_a_killed_trainer_leaves_behind_is_ended_with_it(desk: Desk) -> None:
    run = desk.submit(config(does="orphan", num_steps=ENDLESS))
    assert desk.until_state(run, *ENDED).state == "interrupted"
    child = int((run.path / "child").read_text())
    until(lambda: not is_running(child))
    assert until(desk.device.is_free)


def test_a_trainer_sees_no_token_and_reads_none(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "PERFLOW_STUDIO_USERS"):
        monkeypatch.setenv(name, "a secret")
    run = desk.submit(config())
    desk.until_state(run, "finished")
    seen = json.loads((run.path / "environment.json").read_text())
    assert "a secret" not in seen.values()
    assert set(seen) <= ALLOWED | set(ALWAYS) | {"PWD", "SHLVL", "_", "LC_CTYPE"}
    assert not Path(seen["HF_TOKEN_PATH"]).is_file()


def test_a_run_that_cannot_be_started_fails_with_the_systems_word(desk: Desk) -> None:
    run = desk.submit(config())
    run.log_path.mkdir()
    job = desk.until_state(run, *ENDED)
    assert job.state == "failed"
    assert "cannot be written" in job.reason


# --- the queue --------------------------------------------------------------------------------------------------


def test_one_at_a_time_in_the_order_of_the_queue(desk: Desk) -> None:
    runs = [desk.submit(config(f"run {number}", num_steps=3)) for number in range(4)]
    order: list[str] = []

    def done() -> bool:
        desk.monitor.look()
        active = desk.jobs.in_state(*ACTIVE)
        assert len(active) <= 1
        if active and active[0].run_id not in order:
            order.append(active[0].run_id)
        return not active and not desk.jobs.in_state("queued")

    until(done)
    assert order == [run.id for run in runs]
    assert {job.state for job in desk.jobs.all()} == {"finished"}


def test_a_pause_gives_the_device_to_the_next_and_queues_again(desk: Desk) -> None:
    first = desk.submit(config("first", num_steps=ENDLESS))
    desk.working(first)
    with pytest.raises(Exception, match="Nobody waits behind"):
        desk.control.ask(first, "pause")
    second = desk.submit(config("second", num_steps=3))
    desk.control.ask(first, "pause")
    desk.until_state(second, "finished")
    desk.until_state(first, "running")
    begun = [event.step for event in read_events(first.events_path)[0] if isinstance(event, Started)]
    assert begun[0] == 0
    assert begun[1] > 0


def test_a_stop_in_the_queue_needs_no_process(desk: Desk) -> None:
    first, second = desk.submit(config("first", num_steps=ENDLESS)), desk.submit(config("second"))
    desk.working(first)
    desk.control.ask(second, "stop")
    assert desk.job(second).state == "stopped"
    assert not second.events_path.exists()


def test_while_another_process_has_the_device_a_run_waits(desk: Desk) -> None:
    lease = desk.device.take()
    assert lease is not None
    run = desk.submit(config())
    assert desk.job(run).state == "queued"
    os.close(lease)
    assert desk.until_state(run, "finished")


def test_a_request_of_yesterday_does_not_stop_todays_process(desk: Desk) -> None:
    run = desk.submit(config(num_steps=5))
    run.ask("stop")
    assert desk.until_state(run, *ENDED).state == "finished"


# --- the next studio --------------------------------------------------------------------------------------------


def test_the_next_studio_adopts_what_runs_and_sees_it_end(desk: Desk, tmp_path: Path) -> None:
    run = desk.submit(config(num_steps=ENDLESS))
    process = desk.working(run).process
    child = desk.children[run.id]
    desk.forget()
    following = Desk(tmp_path)
    following.monitor.reconcile()
    adopted = following.jobs.get(run.id)
    assert adopted is not None
    assert (adopted.state, adopted.process) == ("running", process)
    other = following.submit(config("another"))
    assert following.job(other).state == "queued"  # the device is the adopted one's
    following.control.ask(run, "stop")
    assert following.until_state(run, *ENDED).state == "stopped"
    assert following.until_state(other, *ENDED).state == "finished"
    child.wait()


def test_a_run_that_ended_between_two_studios_gets_its_true_end(desk: Desk, tmp_path: Path) -> None:
    done, killed = desk.submit(config("done", num_steps=20)), desk.submit(config("killed", num_steps=ENDLESS))
    desk.working(done)
    desk.children[done.id].wait()
    desk.forget()
    second = Desk(tmp_path)
    second.monitor.reconcile()
    assert second.jobs.get(done.id).state == "finished"  # type: ignore[union-attr]
    job = second.working(killed)
    child = second.children[killed.id]
    os.killpg(job.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    child.wait()
    second.forget()
    third = Desk(tmp_path)
    third.monitor.reconcile()
    ended = third.jobs.get(killed.id)
    assert ended is not None
    assert ended.state == "interrupted"
    assert "nobody saw how" in ended.reason
    assert ended.last_lines == ("training killed",)


def test_a_studio_killed_before_it_wrote_the_pid_down_finds_the_process(desk: Desk, tmp_path: Path) -> None:
    run = desk.submit(config(num_steps=ENDLESS))
    process = desk.working(run).process
    desk.jobs.put(Job(run_id=run.id, state="starting"))
    child = desk.children[run.id]
    desk.forget()
    following = Desk(tmp_path)
    following.monitor.reconcile()
    assert following.jobs.get(run.id).process == process  # type: ignore[union-attr]
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def test_a_studio_killed_before_it_started_the_process_starts_it(desk: Desk, tmp_path: Path) -> None:
    run = desk.runs.create(config())
    desk.jobs.put(Job(run_id=run.id, state="starting"))
    desk.monitor.reconcile()
    assert desk.jobs.get(run.id).state == "queued"  # type: ignore[union-attr]
    assert desk.until_state(run, *ENDED).state == "finished"


@pytest.mark.parametrize("changed", [{"started": "1"}, {"boot_id": "another boot"}])
def test_a_stranger_with_the_same_pid_is_neither_adopted_nor_signalled(desk: Desk, changed: dict[str, str]) -> None:
    ours = Process.of(os.getpid())
    assert ours is not None
    stranger = Process(**{"pid": ours.pid, "started": ours.started, "boot_id": ours.boot_id, **changed})  # type: ignore[arg-type]
    run = desk.runs.create(config())
    run.events_path.write_text("")
    desk.jobs.put(Job(run_id=run.id, state="running", process=stranger))
    desk.monitor.reconcile()
    assert desk.jobs.get(run.id).state == "interrupted"  # type: ignore[union-attr]
    assert stranger.signal_group(signal.SIGKILL) is False
    assert ours.is_alive()


def test_a_lost_table_is_made_again_from_the_folders(desk: Desk, tmp_path: Path) -> None:
    finished = desk.submit(config("finished", num_steps=2))
    failed = desk.submit(config("failed", does="fail"))
    desk.until_state(failed, *ENDED)
    never = desk.runs.create(config("never"))
    running = desk.submit(config("running", num_steps=ENDLESS))
    process = desk.working(running).process
    child = desk.children[running.id]
    desk.forget()
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database at all" * 100)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"jobs.sqlite3{suffix}").unlink(missing_ok=True)
    following = Desk(tmp_path)
    following.monitor.reconcile()
    states = {job.run_id: job.state for job in following.jobs.all()}
    assert states == {finished.id: "finished", failed.id: "failed", never.id: "stopped", running.id: "running"}
    assert following.jobs.get(running.id).process == process  # type: ignore[union-attr]
    assert (tmp_path / "jobs.damaged").exists()
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def test_a_row_whose_folder_is_gone_is_forgotten(desk: Desk) -> None:
    run = desk.submit(config())
    run.delete()
    desk.monitor.reconcile()
    assert desk.jobs.all() == ()


def test_the_order_of_the_queue_outlives_a_clock_set_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1e9, 5e8, 1.0, 2e9])
    monkeypatch.setattr("studio.runs.jobs.time.time", lambda: next(times, 0.0))
    ids = [desk.submit(config(f"run {number}")).id for number in range(3)]
    assert [job.run_id for job in desk.jobs.in_state("queued")] == ids
