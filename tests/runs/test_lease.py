"""The lease between processes: who holds it, who inherits it, and how a pause is asked for and never forgotten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studio.errors import StorageError
from studio.runs.events import Paused, read_events
from studio.runs.folder import RunFolder
from studio.runs.launch import REPOSITORY, last_lines
from studio.runs.lease import DeviceFile, is_wanted, own_run, pausing
from studio.runs.process import Process, find
from tests.runs import fake_trainer
from tests.runs.waiting import ENDLESS, config, until


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "a-run")
    folder.path.mkdir(parents=True)
    folder.write_config(config(num_steps=ENDLESS))
    return folder


def test_the_lease_is_one_processs_and_its_heirs(tmp_path: Path) -> None:
    device = DeviceFile(tmp_path / "device.lock")
    lease = device.take()
    assert lease is not None
    assert device.take() is None
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lease,))
    os.close(lease)
    assert not device.is_free()
    heir.kill()
    heir.wait()
    assert device.is_free()


def test_a_lease_is_not_handed_to_other_children(tmp_path: Path) -> None:
    device = DeviceFile(tmp_path / "device.lock")
    lease = device.take()
    assert lease is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        os.close(lease)
        deadline = time.monotonic() + 10  # a thread elsewhere may be between fork and exec
        while not device.is_free() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert device.is_free()
        child.kill()


def test_a_pause_lasts_as_long_as_who_asked(run: RunFolder) -> None:
    assert not is_wanted(run)
    with pausing(run):
        assert is_wanted(run)
        assert is_wanted(run)
    assert not is_wanted(run)


def test_a_pause_whose_asker_was_killed_ends(run: RunFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path; from studio.runs.folder import RunFolder\n"
        "from studio.runs.lease import pausing\n"
        "with pausing(RunFolder(Path(sys.argv[1]))): print('asked', flush=True); time.sleep(600)"
    )
    asker = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert asker.stdout is not None
    assert asker.stdout.readline() == "asked\n"
    assert is_wanted(run)
    asker.kill()
    asker.wait()
    assert not is_wanted(run)
    assert not (run.requests_dir / "pause").exists()


def test_a_trainer_pauses_between_steps_and_goes_on(run: RunFolder) -> None:
    trainer = subprocess.Popen([*fake_trainer.COMMAND, str(run.path)], cwd=REPOSITORY, stdout=subprocess.DEVNULL)

    def pauses() -> list[bool]:
        return [event.paused for event in read_events(run.events_path)[0] if isinstance(event, Paused)]

    until(lambda: run.events_path.exists() and run.events_path.stat().st_size > 500)
    with pausing(run):
        until(lambda: pauses() == [True])
    until(lambda: pauses() == [True, False])
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(timeout=60) == 0


def test_no_second_process_trains_a_run(run: RunFolder) -> None:
    trainer = subprocess.Popen([*fake_trainer.COMMAND, str(run.path)], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    until(run.events_path.exists)
    with pytest.raises(StorageError, match="another process trains this run"):
        own_run(run)
    assert find((*fake_trainer.COMMAND[1:], str(run.path))) == Process.of(trainer.pid)
    trainer.kill()
    trainer.wait()
    os.close(own_run(run))
    assert find((*fake_trainer.COMMAND[1:], str(run.path))) is None


def test_a_process_is_known_by_more_than_its_pid() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = Process.of(child.pid)
        assert process is not None
        assert process.is_alive()
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not process.is_alive())  # a zombie until it is waited for
        assert child.returncode is None
        assert not process.signal_group(signal.SIGTERM)
    assert Process.of(child.pid) is None


def test_the_end_of_a_log_is_read_whatever_is_in_it(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert last_lines(log) == ()
    log.write_bytes(b"first\n" + b"x" * 100_000 + b"\n\xff\xfe\x1b[A\n  10%\r 50%\r100%\n\nlast")
    assert last_lines(log, 3) == ("\ufffd\ufffd", "100%", "last")
    assert len(last_lines(log)) <= 20
