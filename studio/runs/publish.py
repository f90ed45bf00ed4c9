"""Puts a finished run's result on the Hugging Face Hub, by the trainer's own command in a process of its own.

The token goes into that process's environment and nowhere else: it is not kept, logged, shown or written down. New
repositories are private. Knows no page; what is uploaded is the run's `export/`.
"""

from __future__ import annotations

import os
import re
import subprocess

from studio.errors import InvalidRequest, StorageError, StudioError
from studio.runs.folder import RunFolder
from studio.runs.launch import Launcher, environment

REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
TOKEN = re.compile(r"hf_[A-Za-z0-9]{10,200}", re.ASCII)
TIMEOUT_SECONDS = 1800.0


class NotPublished(StudioError):
    """The hub did not take it; the text says why."""


def publish(run: RunFolder, repo: str, token: str, launcher: Launcher) -> str:
    """Upload, and return the address. Raises `InvalidRequest`, `NotPublished`, `StorageError`."""
    if not isinstance(repo, str) or not REPOSITORY_ID.fullmatch(repo):
        raise InvalidRequest("repository", "owner/name as on huggingface.co", repo)
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise InvalidRequest("token", "a Hugging Face token that may write (hf_...)", "something else")
    try:
        done = subprocess.run(
            [*launcher.command, "--publish", repo, str(run.path)], cwd=launcher.folder,
            env={**environment(os.environ), "HF_TOKEN": token}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NotPublished(f"The upload to {repo} took longer than {TIMEOUT_SECONDS / 60:.0f} minutes and was ended: "
                           "try again, what is there already is not sent twice.") from error  # fmt: skip
    except OSError as error:
        raise StorageError(f"The upload could not be started: {error.strerror}.") from error
    if done.returncode:
        raise NotPublished(_reason(done.stderr, repo, token))
    return f"https://huggingface.co/{repo}"


def _reason(output: str, repo: str, token: str) -> str:
    """The last thing the process said, without its time and name, and never with the token."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    last = re.sub(r"^\S+ \S+ [\w.]+: ", "", lines[-1]) if lines else "it gave no reason"
    return f"{repo} was not published: {last.replace(token, 'hf_...')[:400]}"
