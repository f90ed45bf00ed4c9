"""Blocking jobs that report through a callback, turned into iterators that can be closed.

The stock pipelines block and call back; the studio wants to pull events and to stop by closing the iterator. So jobs
run on a worker thread, one after the other, and their events pass through a queue. The thread outlives its jobs: a new
one starts with cold memory and a cold pool of compute threads. It does not know what the events mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any, TypeVar

Item = TypeVar("Item")
Emit = Callable[[Item], None]


class Cancelled(Exception):
    """Raised inside a job, at its next report, once nobody listens any more. Never leaves this module."""


class Worker:
    """One thread, started with the first job, and anew in a forked process (ZeroGPU), where threads do not survive."""

    def __init__(self, name: str = "engine") -> None:
        self._name = name
        self._lock = Lock()
        self._pid = -1
        self._thread: ThreadPoolExecutor | None = None

    def stream(self, job: Callable[[Emit[Item]], object]) -> Iterator[Item]:
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

        done = self._submit(job, emit)
        done.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                yield event[0]
        finally:
            closed.set()
            done.exception()  # waits; what is raised after closing is heard by nobody
        done.result()

    def close(self) -> None:
        """End the thread once its job has ended; the next job starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            thread.shutdown()

    def _submit(self, job: Callable[..., object], emit: Callable[[Any], None]) -> Future[object]:
        with self._lock:
            if self._thread is None or self._pid != os.getpid():
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
                self._pid = os.getpid()
            return self._thread.submit(job, emit)
