"""A blocking job as an iterator: order, errors in their place, and a close that stops and waits."""

from __future__ import annotations

import os
import threading

import pytest

from studio.engine.stream import Worker


@pytest.fixture
def worker():
    worker = Worker("engine-test")
    yield worker
    worker.close()


def test_events_come_in_order_and_end(worker):
    assert list(worker.stream(lambda emit: [emit(i) for i in range(5)])) == [0, 1, 2, 3, 4]


def test_none_is_an_event_like_any_other(worker):
    assert list(worker.stream(lambda emit: [emit(None), emit(1)])) == [None, 1]


def test_an_error_is_raised_after_the_events_before_it(worker):
    def job(emit):
        emit("first")
        raise ValueError("broken")

    events = worker.stream(job)
    assert next(events) == "first"
    with pytest.raises(ValueError, match="broken"):
        next(events)


def test_closing_stops_the_job_at_its_next_report_and_waits_for_it(worker):
    go_on, steps, ended = threading.Event(), [], threading.Event()

    def job(emit):
        try:
            for step in range(100):
                steps.append(step)
                emit(step)
                go_on.wait(5)
        finally:
            ended.set()

    events = worker.stream(job)
    assert next(events) == 0
    threading.Timer(0.05, go_on.set).start()
    events.close()
    assert ended.is_set()
    assert len(steps) <= 2


def test_jobs_share_one_thread_that_ends_when_the_worker_is_closed(worker):
    names = [name for _ in range(3) for name in worker.stream(lambda emit: emit(threading.current_thread().name))]
    assert len(set(names)) == 1
    assert names[0].startswith("engine-test")
    worker.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine-test")]
    assert list(worker.stream(lambda emit: emit("again"))) == ["again"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are a thing of Unix")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_gets_a_thread_of_its_own(worker):
    assert list(worker.stream(lambda emit: emit("parent"))) == ["parent"]
    child = os.fork()
    if child == 0:
        os._exit(0 if list(worker.stream(lambda emit: emit("child"))) == ["child"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
