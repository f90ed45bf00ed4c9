"""The device's line: first come, first served, and everyone leaves it on every way out."""

from __future__ import annotations

import threading
import time

import pytest

from studio.errors import QueueFull
from studio.gpu import DeviceLease, on_space_gpu
from studio.types import Waiting


def test_a_free_device_is_had_at_once() -> None:
    lease = DeviceLease()
    with lease.enter() as ticket:
        assert list(ticket.wait()) == []
        assert lease.num_waiting == 0


def test_first_come_first_served_with_positions() -> None:
    lease = DeviceLease()
    first, second, third = (lease.enter() for _ in range(3))
    assert list(first.wait()) == []
    assert next(second.wait()).num_ahead == 1
    assert next(third.wait()).num_ahead == 2
    with first:
        pass
    assert list(second.wait()) == []
    assert next(third.wait()).num_ahead == 1
    # The second gives up while holding; the third is next.
    with pytest.raises(KeyError), second:
        raise KeyError("broken")
    assert list(third.wait()) == []


def test_who_gives_up_waiting_leaves_the_line() -> None:
    lease = DeviceLease()
    first, second, third = (lease.enter() for _ in range(3))
    assert list(first.wait()) == []
    with second:
        assert next(second.wait()).num_ahead == 1
    assert next(third.wait()).num_ahead == 1


def test_estimates_come_from_what_work_took_and_start_unknown() -> None:
    now = [0.0]
    lease = DeviceLease(clock=lambda: now[0])

    def work(seconds: float, kind: str = "generation") -> None:
        with lease.enter(kind) as ticket:
            assert list(ticket.wait()) == []
            now[0] += seconds

    running, waiting = lease.enter(), lease.enter()
    assert list(running.wait()) == []
    assert next(waiting.wait()) == Waiting(num_ahead=1, seconds=None)
    for ticket in (running, waiting):
        with ticket:
            pass
    for seconds in (4.0, 4.0, 100.0):
        work(seconds)
    running, second, third = (lease.enter() for _ in range(3))
    assert list(running.wait()) == []
    now[0] += 1.0
    assert next(second.wait()) == Waiting(num_ahead=1, seconds=3.0)
    assert next(third.wait()) == Waiting(num_ahead=2, seconds=7.0)


def test_failed_and_cancelled_work_teaches_no_estimate() -> None:
    lease = DeviceLease()
    ticket = lease.enter()
    assert list(ticket.wait()) == []
    with pytest.raises(KeyError), ticket:
        raise KeyError("broken")
    running, waiting = lease.enter(), lease.enter()
    list(running.wait())
    assert next(waiting.wait()).seconds is None


def test_a_full_line_refuses_and_a_timeout_gives_up() -> None:
    lease = DeviceLease(max_waiting=1)
    running, waiting = lease.enter(), lease.enter()
    list(running.wait())
    with pytest.raises(QueueFull, match="line holds 1"):
        lease.enter()
    with pytest.raises(QueueFull, match="was not free within"), waiting:
        list(waiting.wait(timeout_seconds=0.05))
    assert lease.num_waiting == 0


def test_one_at_a_time_under_many_threads() -> None:
    lease = DeviceLease(max_waiting=100)
    inside, most, done = [0], [0], []

    def visit(number: int) -> None:
        with lease.enter() as ticket:
            for _ in ticket.wait():
                pass
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= 1
            done.append(number)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert (most[0], sorted(done)) == (1, list(range(30)))


def test_elsewhere_than_on_a_space_the_device_needs_no_asking() -> None:
    assert on_space_gpu(len) is len
