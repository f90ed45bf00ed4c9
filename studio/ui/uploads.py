"""What a browser or a program uploaded, as files of this studio's own upload folder and nothing else.

A request names its uploads by path, and may name any path: whatever does not lie in the folder that uploads go to, or
is no plain file, is refused. This module does not know what the files are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.errors import InvalidRequest

MAX_FILES = 10_000


def uploaded_files(paths: Sequence[str], served_dir: Path) -> list[tuple[str, Path]]:
    """(Original name, where it lies) of every upload. Raises `InvalidRequest`."""
    if not 1 <= len(paths) <= MAX_FILES:
        raise InvalidRequest("files", f"a zip, or 1 to {MAX_FILES:,} files", f"{len(paths)} files")
    return [_uploaded(path, served_dir.resolve()) for path in paths]


def uploaded_file(file: Any, field: str, served_dir: Path) -> Path:
    """Where the upload of an API's `FileData` lies; `field` is what errors call it. Raises `InvalidRequest`."""
    path = file.get("path") if isinstance(file, dict) else getattr(file, "path", None)
    if not isinstance(path, str) or not path:
        raise InvalidRequest(field, "a picture that was uploaded to this studio", "nothing")
    return _uploaded(path, served_dir.resolve())[1]


def _uploaded(path: str, folder: Path) -> tuple[str, Path]:
    found = Path(path).resolve()
    if not found.is_relative_to(folder) or not found.is_file():
        raise InvalidRequest("files", "files that were uploaded to this studio", Path(path).name)
    return found.name, found
