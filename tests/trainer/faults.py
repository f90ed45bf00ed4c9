"""System calls that change something, listed by strace and then failed one by one.

A `Call` is the k-th call of its name in a process; `run_with(call, "signal=KILL", ...)` runs the same process again and
lets exactly that call fail. The same program with the same input makes the same calls, which `run_with` checks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MUTATING = (
    "open,openat,creat,write,pwrite64,writev,copy_file_range,sendfile,rename,renameat,renameat2,unlink,unlinkat,mkdir,"
    "mkdirat,rmdir,fsync,fdatasync,ftruncate,truncate,fallocate,link,linkat,symlink,symlinkat,fchmod,chmod,fchmodat"
)
KILL, FULL_DISK, IO_ERROR = "signal=KILL", "error=ENOSPC", "error=EIO"

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed (Debian has it as 'strace')"
)


@dataclass(frozen=True)
class Call:
    """The `count`-th call of `name` in the process; `line` is how strace printed it."""

    name: str
    count: int
    line: str

    def __str__(self) -> str:
        return f"{self.name}-{self.count}"


def environment() -> dict[str, str]:
    """One thread, and no bytecode files, so that every run makes the same calls."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


def calls_on(folder: Path, *arguments: str) -> list[Call]:
    """Every call of a whole run that changes something below `folder` (or, by descriptor, a file opened there)."""
    trace = folder.with_name(f"{folder.name}.trace")
    command = ["strace", "-f", "-qq", "-yy", "-e", f"trace={MUTATING}", "-o", str(trace), sys.executable, *arguments]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=300)
    seen: Counter[str] = Counter()
    found = []
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"\d+\s+(\w+)\(", line)
        if match is None:
            continue
        name = match[1]
        seen[name] += 1
        reads = name in ("open", "openat") and "O_CREAT" not in line
        if str(folder) in line and not reads:
            found.append(Call(name, seen[name], line))
    return found


def run_with(call: Call, fault: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The process again, with `fault` at `call`."""
    inject = f"inject={call.name}:{fault}:when={call.count}"
    command = ["strace", "-f", "-qq", "-e", f"trace={call.name}", "-e", inject, "-o", "/dev/null"]
    return subprocess.run(
        [*command, sys.executable, *arguments],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
