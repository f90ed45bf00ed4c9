"""What may be asked of a finished run: its result on the Hugging Face Hub, or LoRA files beside its delta weights.

Both are the trainer's own commands, each in a process of its own. A token goes into that process's environment and
nowhere else: it is not kept, logged, shown or written down. New repositories are private. Knows no page.
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
MAX_RANK = 1024
TIMEOUT_SECONDS = 1800.0


class NotDone(StudioError):
    """What was asked of a finished run did not work; the text says why."""


def publish(run: RunFolder, repo: str, token: str, launcher: Launcher) -> str:
    """Upload the result, and return its address. Raises `InvalidRequest`, `NotDone`, `StorageError`."""
    if not isinstance(repo, str) or not REPOSITORY_ID.fullmatch(repo):
        raise InvalidRequest("repository", "owner/name as on huggingface.co", repo)
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise InvalidRequest("token", "a Hugging Face token that may write (hf_...)", "something else")
    _ask(run, ["--publish", repo], launcher, f"{repo} was not published", {"HF_TOKEN": token})
    return f"https://huggingface.co/{repo}"


def lora(run: RunFolder, rank: int, launcher: Launcher) -> str:
    """LoRA files of a rank in the layouts of diffusers and kohya, in the result's folder; what they lose, in words.

    Raises `InvalidRequest`, `NotDone`, `StorageError`.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise InvalidRequest("rank", f"a whole number from 1 to {MAX_RANK}", rank)
    return _ask(run, ["--lora", str(rank)], launcher, "The LoRA files were not made", {})


def _ask(run: RunFolder, what: list[str], launcher: Launcher, otherwise: str, secret: dict[str, str]) -> str:
    """The last thing the process said."""
    try:
        done = subprocess.run(
            [*launcher.command, *what, str(run.path)], cwd=launcher.folder, env={**environment(os.environ), **secret},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NotDone(
            f"{otherwise}: it took longer than {TIMEOUT_SECONDS / 60:.0f} minutes and was ended. Try again."
        ) from error
    except OSError as error:
        raise StorageError(f"{otherwise}: its process could not be started ({error.strerror}).") from error
    said = _last_words(done.stderr, secret)
    if done.returncode:
        raise NotDone(f"{otherwise}: {said or 'no reason was given'}")
    return said


def _last_words(output: str, secret: dict[str, str]) -> str:
    """The last line without its time and name, and never with a secret in it."""
    lines = [line for line in output.splitlines() if line.strip()]
    last = re.sub(r"^\S+ \S+ [\w.]+: ", "", lines[-1]) if lines else ""
    for value in secret.values():
        last = last.replace(value, "(secret)")
    return last[:400]
