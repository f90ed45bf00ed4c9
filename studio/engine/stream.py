"""A blocking job that reports through a callback, turned into an iterator that can be closed.

The stock pipelines block and call back; the studio wants to pull events and to stop by closing the iterator. So the job
runs on a worker thread of its own (one per job: a persistent thread would not survive a fork) and its events pass
through a queue. It does not know what the events mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Emit = Callable[[Item], None]


class Cancelled(Exception):
    """Raised inside a job, at its next report, once nobody listens any more. Never leaves this module."""


def stream(job: Callable[[Emit[Item]], object], *, name: str = "engine") -> Iterator[Item]:
    """Yield what `job(emit)` emits; an exception of the job is raised here, at its place in the order.

    Closing the iterator makes the job's next `emit` raise `Cancelled` and waits until the job has ended, so that
    whatever it used is free again when `close()` returns.
    """
    events: SimpleQueue[tuple[Item] | None] = SimpleQueue()
    closed = Event()

    def emit(item: Item) -> None:
        if closed.is_set():
            raise Cancelled
        events.put((item,))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) as worker:
        done = worker.submit(job, emit)
        done.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                yield event[0]
        finally:
            closed.set()
        done.result()
