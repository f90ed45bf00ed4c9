"""Writing that is all or nothing, and one owner per folder: what everything that keeps files agrees on.

This module does not know what is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from studio.errors import StorageError

PART = ".part"


def write_whole(path: Path, content: bytes, *, sync: bool = True) -> None:
    """All or nothing: staged beside its place, synced, renamed; a failure removes the staged half. Raises `OSError`.

    `sync=False` spares the wait for the disk, for what can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
        if sync:
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def own_folder(folder: Path) -> int:
    """Lock a folder for this process, making it if need be. The lock lasts while the descriptor returned is open, and
    the system releases it when its owner dies. Raises `StorageError` when another process has it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "studio.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageError(
            f"Another studio is using the data folder {folder}: stop it, or start this one with another --data-dir."
        ) from error
    return descriptor


def storage_error(folder: Path, error: OSError) -> StorageError:
    """The sentence for a folder that the system refuses to write."""
    return StorageError(
        f"{folder} cannot be written ({error.strerror or error}): free space or mend its permissions, "
        "or start with another --data-dir."
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
