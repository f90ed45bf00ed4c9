"""Several processes do all parts, in an order that is allowed, and end when one of them fails, dies, or is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import pytest

from benchmarks.paper.workers import Advance, Part, PartFailed, Tally, in_turn, share

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 180  # seconds; of a machine with other work


def part(kind: str, name: str, rows: int, fill: Callable[[], object], *needs: str) -> Part:
    return Part(kind=kind, name=name, rows=rows, fill=fill, needs=needs)


def chain(folder: Path, advance: Advance) -> list[Part]:
    """Two that begin, two that need them, one that needs those; each tells when it began and ended, and by whom."""

    def fill(name: str) -> None:
        began = time.monotonic()
        advance(1000, name)  # more than any part is worth
        time.sleep(0.2)
        with (folder / name).open("x") as told:  # "x": not twice
            told.write(f"{began} {time.monotonic()} {os.getpid()}")

    plan = (("a", "a1", 5), ("a", "a2", 30), ("b", "b1", 10, "a"), ("b", "b2", 20, "a"), ("c", "c1", 40, "a", "b"))
    return [part(kind, name, rows, partial(fill, name), *needs) for kind, name, rows, *needs in plan]


def told(folder: Path) -> dict[str, tuple[float, float, int]]:
    found = {path.name: path.read_text().split() for path in folder.iterdir()}
    return {name: (float(began), float(ended), int(who)) for name, (began, ended, who) in found.items()}


def failing(folder: Path, advance: Advance) -> list[Part]:
    def fail() -> None:
        raise ZeroDivisionError("a part that fails on purpose")

    return [*chain(folder, advance), part("d", "d1", 90, fail)]


def dying(_advance: Advance) -> list[Part]:
    return [part("d", "d1", 90, lambda: os._exit(7)), part("e", "e1", 80, partial(time.sleep, TIMEOUT))]


def sleeping(advance: Advance) -> list[Part]:
    def sleep() -> None:
        advance(1, f"process {os.getpid()}")
        time.sleep(TIMEOUT)

    return [part("d", f"d{number}", 1, sleep) for number in range(2)]


def silent(_rows: int, _words: str) -> None:
    pass


def test_two_processes_do_every_part_once_and_after_what_it_needs(tmp_path) -> None:
    steps: list[int] = []
    share(chain(tmp_path, silent), partial(chain, tmp_path), 2, lambda rows, _words: steps.append(rows))
    times = told(tmp_path)
    assert set(times) == {"a1", "a2", "b1", "b2", "c1"}
    for earlier, later in (("a1", "b1"), ("a2", "b2"), ("b1", "c1"), ("b2", "c1")):
        assert times[earlier][1] <= times[later][0]
    assert len({who for _began, _ended, who in times.values()} - {os.getpid()}) == 2
    assert sum(steps) == 105


def test_one_process_begins_with_the_longest_that_may_begin(tmp_path) -> None:
    steps: list[int] = []
    tally = Tally(lambda rows, _words: steps.append(rows))
    in_turn(chain(tmp_path, tally.advance), tally)
    times = told(tmp_path)
    assert sorted(times, key=times.__getitem__) == ["a2", "a1", "b2", "b1", "c1"]
    assert sum(steps) == 105


def test_parts_that_need_one_another_are_refused() -> None:
    ring = [part("a", "a1", 1, list, "b"), part("b", "b1", 1, list, "a")]
    with pytest.raises(ValueError, match="a1, b1 need one another"):
        in_turn(ring, Tally(silent))


@pytest.mark.timeout(TIMEOUT)
def test_an_error_in_a_worker_is_raised_here_with_its_traceback(tmp_path) -> None:
    with pytest.raises(PartFailed, match="part 'd1'") as caught:
        share(failing(tmp_path, silent), partial(failing, tmp_path), 2, silent)
    assert "ZeroDivisionError: a part that fails on purpose" in str(caught.value)
    assert "in fail" in str(caught.value)
    assert not active_children()


@pytest.mark.timeout(TIMEOUT)
def test_a_worker_that_dies_ends_all(tmp_path) -> None:
    with pytest.raises(PartFailed, match="exit code 7, at the part 'd1'"):
        share(dying(silent), dying, 2, silent)
    assert not active_children()


STOPPED = """
import signal
from tests.benchmarks.test_workers import share, sleeping, silent
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
if __name__ == "__main__":
    share(sleeping(silent), sleeping, 2, lambda _rows, words: print(words, flush=True))
"""


@pytest.mark.timeout(TIMEOUT)
def test_ctrl_c_stops_every_process(tmp_path) -> None:
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:  # fmt: skip
        assert running.stdout
        words = [running.stdout.readline() for _ in range(4)]
        workers = [int(each.split()[1]) for each in words if each.startswith("process")]
        os.killpg(running.pid, signal.SIGINT)
        try:
            _, errors = running.communicate(timeout=60)
        finally:
            running.kill()
    assert errors.count("Traceback") == 1  # that of the first process alone
    assert "KeyboardInterrupt" in errors
    assert len(set(workers)) == 2
    assert not any(is_there(each) for each in workers)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
