"""What somebody may ask of a finished run: its result on the hub (with a token, never by itself), or as a LoRA."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from studio.errors import StudioError
from studio.runs.exports import read_export
from studio.runs.folder import RunFolder
from trainer.exporting import lora

log = logging.getLogger(__name__)


def publish(folder: Path, repo: str, token: str) -> int:
    """Upload `export/` to a model repository, made private if it is new; the exit status."""
    run = RunFolder(folder)
    try:
        found = read_export(run)
    except StudioError as error:
        log.error("%s", error)
        return 1
    if found is None:
        log.error("%s has no result yet: let it finish first.", run.id)
        return 1
    if not token:
        log.error("Publishing needs a token that may write: set HF_TOKEN for this command.")
        return 2
    try:
        api = HfApi(token=token)
        api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=run.export_dir, commit_message=f"{found.title}, step {found.step}")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        log.error("%s could not be published: %s", repo, str(error).splitlines()[0][:300])
        return 1
    log.info("published as https://huggingface.co/%s", repo)
    return 0


def write_lora(folder: Path, rank: int) -> int:
    """LoRA files beside the delta weights; the exit status."""
    try:
        lost = lora(RunFolder(folder), rank)
    except (StudioError, OSError) as error:
        log.error("%s", error)
        return 1
    log.info("written to export/lora-%d; it loses %.1f %% of the delta weights' norm", rank, 100 * lost)
    return 0
