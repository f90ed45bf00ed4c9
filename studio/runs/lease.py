"""The device's lease between processes: one trainer at a time, and a way to ask it for a pause.

The lease is an flock on a file. The studio takes it, the trainer inherits the descriptor, and the kernel gives it back
when the last process that has it is gone: a studio that was killed and started again cannot start a second trainer
beside the first, and no crash leaves the device taken.

A pause is asked for by the file `requests/pause`, locked by who asks. The trainer looks between two steps
(`is_wanted`): as long as the lock is held it waits, and a file whose asker died is removed by whoever sees it.

Who asks for a pause, and when, is `studio.sharing`'s policy. Knows no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from studio.errors import StorageError
from studio.runs.folder import RunFolder
from studio.storage import storage_error


class DeviceFile:
    """The lease on one device, by its file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> int | None:
        """The descriptor that holds the lease, or `None` while another process does. Close it to give it back."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(self._path, error) from error
        if _locked(descriptor, fcntl.LOCK_EX):
            return descriptor
        os.close(descriptor)
        return None

    def is_free(self) -> bool:
        """Whether nobody holds the lease."""
        descriptor = self.take()
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None


# --- pauses -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def pausing(run: RunFolder) -> Iterator[None]:
    """Ask a run's trainer to stay out of the way until the end of the block, or of this process."""
    path = run.requests_dir / "pause"
    staged = path.with_name(f"pause.{os.getpid()}.part")
    descriptor = -1
    try:
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            staged.rename(path)  # locked before it can be seen
        except OSError as error:
            raise storage_error(path, error) from error
        yield
    finally:
        if descriptor >= 0:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def is_wanted(run: RunFolder) -> bool:
    """Whether somebody who is alive asks this run for a pause: the trainer's question between two steps."""
    path = run.requests_dir / "pause"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not _locked(descriptor, fcntl.LOCK_SH):
            return True
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)


# --- one process a run ------------------------------------------------------------------------------------------


def own_run(run: RunFolder) -> int:
    """For the trainer itself (rank 0): no second process trains this run while the descriptor is open.

    Raises `StorageError` when another does, in whatever way it was started.
    """
    try:
        descriptor = os.open(run.path / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(run.path, error) from error
    if not _locked(descriptor, fcntl.LOCK_EX):
        os.close(descriptor)
        raise StorageError(f"{run.id}: another process trains this run already. Stop that one first.")
    return descriptor


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
