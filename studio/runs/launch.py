"""Starts a trainer: detached, in a session of its own, with an allow-listed environment and its output in the run.

The command line is exactly `python -m trainer RUN` (`--preflight RUN` for the two measured steps). The process outlives
the studio; it gets one descriptor, the device's lease, and no token. Knows no states and no table.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StorageError
from studio.runs.folder import RunFolder
from studio.runs.process import Process, find
from studio.storage import storage_error

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TRAINER = (sys.executable, "-m", "trainer")
MAX_LOG_BYTES = 64 * 1024 * 1024

# What a trainer needs to find libraries, models and devices. Nothing with a secret in it, and so no proxy either.
ALLOWED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "HF_HOME", "HF_HUB_CACHE",
    "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "XDG_CACHE_HOME", "TORCH_HOME", "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
})  # fmt: skip
# The hub's library would otherwise read the token that a login left in the home folder.
ALWAYS = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull, "HF_HUB_DISABLE_TELEMETRY": "1",
          "PYTHONUNBUFFERED": "1"}  # fmt: skip


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What of our environment a trainer may see."""
    return {name: value for name, value in ours.items() if name in ALLOWED} | ALWAYS


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """How trainers are started; `command` is replaced by tests alone."""

    command: tuple[str, ...] = TRAINER
    folder: Path = REPOSITORY

    def start(self, run: RunFolder, *, lease: int | None = None, preflight: bool = False) -> subprocess.Popen[bytes]:
        """Start a run's process; it inherits the `lease` descriptor. Raises `StorageError` when it cannot be."""
        arguments = [*self.command, *(["--preflight"] if preflight else []), str(run.path)]
        try:
            _shorten(run.log_path)
            with run.log_path.open("ab") as log:
                return subprocess.Popen(
                    arguments,
                    cwd=self.folder,
                    env=environment(os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=() if lease is None else (lease,),
                )
        except OSError as error:
            raise storage_error(run.path, error) from error

    def find(self, run: RunFolder) -> Process | None:
        """The process that trains a run, by its command line: for runs whose process nobody wrote down."""
        return find((*self.command[1:], str(run.path)))


def last_lines(path: Path, count: int = 20, *, max_bytes: int = 16 * 1024) -> tuple[str, ...]:
    """The end of a log as plain text, an overwritten line counted once; a missing file has none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}.") from error
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    return tuple([line for line in lines if line][-count:])


def _shorten(path: Path) -> None:
    """A log that grew without bound over many resumptions starts anew; the events hold what matters."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.unlink()
