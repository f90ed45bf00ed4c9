"""The datasets of a studio, kept by name so that nobody uploads twice: import, list, get, delete.

Clients send ids, never paths. Every method may be called from any thread. Deleting renames first, so that a dataset
half deleted is never listed; what a crash left is swept when the studio starts.
Knows nothing of training.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.datasets.importer import DOOMED, Import, Report, import_members, sweep
from studio.datasets.manifest import DatasetSummary, Manifest
from studio.datasets.sources import Limits, open_folder, open_uploads, open_zip
from studio.errors import InvalidRequest, NotFound, StorageError
from studio.storage import storage_error

_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
MAX_MANIFEST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class StoredDataset:
    """One dataset on disk. Nothing is created by looking, except in `cache_dir`, which the trainer fills."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """The kept pictures, in the order of training."""
        return tuple(self.path / entry.file for entry in self.manifest.kept)

    @property
    def thumbnail_paths(self) -> tuple[Path, ...]:
        """Their thumbnails, in the same order."""
        return tuple(self.path / "thumbnails" / f"{Path(entry.file).stem}.jpg" for entry in self.manifest.kept)

    @property
    def cache_dir(self) -> Path:
        """Where encoded pictures and captions are kept; may be deleted at any time."""
        return self.path / "cache"

    def summary(self, *, resolution: int = 512, multiple: int | None = None, batch_size: int = 1) -> DatasetSummary:
        """What a person wants to see of it."""
        return self.manifest.summary(self.id, resolution=resolution, multiple=multiple, batch_size=batch_size)


def read_dataset(path: Path) -> StoredDataset:
    """The dataset in a folder. Raises `NotFound`, or `StorageError` for a damaged manifest."""
    try:
        text = (path / "manifest.json").read_text(encoding="utf-8")
        return StoredDataset(path, Manifest.from_json(json.loads(text)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no dataset {path.name!r} (any more): import the pictures again.") from error
    except (ValueError, InvalidRequest, OSError) as error:
        raise StorageError(f"The manifest of dataset {path.name!r} is damaged ({error}): import it again.") from error


class DatasetStore:
    """All datasets below one folder."""

    def __init__(self, path: Path, *, limits: Limits | None = None) -> None:
        self.path = path
        self.limits = limits or Limits()
        self._read: dict[str, tuple[tuple[int, int], StoredDataset]] = {}
        sweep(path)

    def import_zip(
        self, path: Path, title: str, *, caption: str = "", report: Report = lambda *_: None
    ) -> StoredDataset:
        """A dataset from a zip. Raises `UnsafeFile`, `InvalidRequest`, `StorageError`, and then nothing is left."""
        order = Import(title=title, caption=caption)
        with open_zip(path, self.limits) as members:
            return self.get(import_members(self.path, members, order, self.limits, report))

    def import_folder(
        self, path: Path, title: str, *, caption: str = "", report: Report = lambda *_: None
    ) -> StoredDataset:
        """A dataset from a folder of this machine; for its owner's command line, never for a client's word."""
        order = Import(title=title, caption=caption)
        with open_folder(path, self.limits) as members:
            return self.get(import_members(self.path, members, order, self.limits, report))

    def import_uploads(
        self, files: Sequence[tuple[str, Path]], title: str, *, caption: str = "", report: Report = lambda *_: None
    ) -> StoredDataset:
        """A dataset from uploaded files, as (original name, where it lies); one zip alone is opened."""
        if len(files) == 1 and _begins_as_zip(files[0][1]):
            return self.import_zip(files[0][1], title, caption=caption, report=report)
        order = Import(title=title, caption=caption)
        with open_uploads(files, self.limits) as members:
            return self.get(import_members(self.path, members, order, self.limits, report))

    def get(self, id: str) -> StoredDataset:
        """The dataset of an id. Raises `NotFound`, `StorageError`."""
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise NotFound(f"There is no dataset {str(id)[:80]!r}: it was deleted, or never existed.")
        path = self.path / id
        try:
            status = os.stat(path / "manifest.json")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"There is no dataset {id!r}: it was deleted, or never existed.") from error
        version = (status.st_mtime_ns, status.st_ino)
        known = self._read.get(id)
        if known is None or known[0] != version:
            known = self._read[id] = (version, read_dataset(path))
        return known[1]

    def all(self) -> tuple[StoredDataset, ...]:
        """Every dataset whose manifest can be read, newest first."""
        found = []
        for path in self.path.glob("*/manifest.json"):
            try:
                found.append(self.get(path.parent.name))
            except (NotFound, StorageError):
                continue
        return tuple(sorted(found, key=lambda dataset: (dataset.manifest.created, dataset.id), reverse=True))

    def delete(self, id: str) -> None:
        """Remove a dataset and its caches. Raises `NotFound`, `StorageError`."""
        path = self.get(id).path
        doomed = path.with_name(f"{DOOMED}{id}-{time.time_ns()}")
        try:
            path.rename(doomed)
        except FileNotFoundError as error:
            raise NotFound(f"There is no dataset {id!r}: it was deleted already.") from error
        except OSError as error:
            raise storage_error(self.path, error) from error
        self._read.pop(id, None)
        shutil.rmtree(doomed, ignore_errors=True)


def _begins_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError as error:
        raise NotFound(f"The upload cannot be read ({error.strerror or error}): upload it again.") from error
