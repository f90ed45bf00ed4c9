"""A blocking job as an iterator: order, errors in their place, and a close that stops and waits."""

from __future__ import annotations

import threading

import pytest

from studio.engine.stream import stream


def test_events_come_in_order_and_end():
    assert list(stream(lambda emit: [emit(i) for i in range(5)])) == [0, 1, 2, 3, 4]


def test_none_is_an_event_like_any_other():
    assert list(stream(lambda emit: [emit(None), emit(1)])) == [None, 1]


def test_an_error_is_raised_after_the_events_before_it():
    def job(emit):
        emit("first")
        raise ValueError("broken")

    events = stream(job)
    assert next(events) == "first"
    with pytest.raises(ValueError, match="broken"):
        next(events)


def test_closing_stops_the_job_at_its_next_report_and_waits_for_it():
    go_on, steps, ended = threading.Event(), [], threading.Event()

    def job(emit):
        try:
            for step in range(100):
                steps.append(step)
                emit(step)
                go_on.wait(5)
        finally:
            ended.set()

    events = stream(job)
    assert next(events) == 0
    threading.Timer(0.05, go_on.set).start()
    events.close()
    assert ended.is_set()
    assert len(steps) <= 2


def test_the_job_runs_on_a_thread_of_its_own_that_ends_with_it():
    names = list(stream(lambda emit: emit(threading.current_thread().name), name="engine-test"))
    assert names[0].startswith("engine-test")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine-test")]
