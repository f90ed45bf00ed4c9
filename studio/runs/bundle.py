"""A run's result as one archive to take home: its weights, its description and its card.

Knows nothing of who asks; the archive lies below the folder it is given, under a name nobody can guess.
"""

from __future__ import annotations

import secrets
import shutil
import zipfile
from pathlib import Path

from studio.errors import NotFound, StorageError
from studio.storage import storage_error

SPARE_BYTES = 64 * 1024 * 1024


def zip_folder(source: Path, exports_dir: Path, name: str) -> Path:
    """All files of a folder, stored in `exports_dir/<unguessable>/<name>.zip`. Raises `NotFound`, `StorageError`."""
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        raise NotFound(f"{name} has no result to take home.")
    folder = exports_dir / secrets.token_hex(16)
    try:
        folder.mkdir(parents=True)
        needed, free = sum(path.stat().st_size for path in files) + SPARE_BYTES, shutil.disk_usage(folder).free
        if needed > free:
            raise StorageError(
                f"The archive needs {needed // 2**20} MB and {free // 2**20} MB are free: free some space."
            )
        # Weights do not compress: store.
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_STORED) as archive:
            for path in files:
                archive.write(path, f"{name}/{path.relative_to(source).as_posix()}")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise storage_error(exports_dir, error) from error
    except StorageError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / f"{name}.zip"
