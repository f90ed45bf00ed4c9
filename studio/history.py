"""Pictures with their parameters inside, and a gallery that survives a restart.

The files are the truth: `outputs/<tab>/<date>/00001-<seed>.png` carry their own parameters, and `history.sqlite3` is an
index over them, brought in line with the files at every start. What a drawing followed (control maps, references,
initial pictures, masks) is kept beside them by content, `inputs/<sha256>.png`, for as long as a picture names it.
A file is staged, synced and renamed before its row exists, and removed before its row goes; so a crash leaves whole
files and at worst an index that the next start repairs, and a full disk leaves nothing at all. One studio per data
folder: the second is refused by a lock that the system releases when its owner dies.
This module does not know how pictures come to be, nor what a page is. Clients send ids, never paths.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image

from studio.errors import InvalidRequest, NotFound, StorageError, StudioError
from studio.history_index import HistoryIndex, Row
from studio.inputs import PictureStore
from studio.parameters import describe, encode_png, read_description, read_parameters
from studio.storage import PART, own_folder, storage_error, write_whole
from studio.types import GeneratedImage, GenerationRequest, GenerationResult

THUMBNAIL_PIXELS = 320
MAX_PAGE = 500
MAX_ZIP_IMAGES = 1000
EXPORT_SECONDS = 3600
_TAB = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_NUMBER = re.compile(r"(\d{5,})-\d+\.png")


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One saved picture. `created` is ISO 8601 in UTC; `request` draws this very picture alone."""

    id: str
    tab: str
    created: str
    path: Path
    thumbnail_path: Path
    request: GenerationRequest
    receipt: dict[str, Any]
    prompt: str
    model: str
    accelerator: str
    seed: int
    width: int
    height: int


class History:
    """The pictures of one data folder; every method may be called from any thread.

    `served_dir` is where copies go that leave over HTTP (downloads, zips); nothing else of the folder is ever served.
    Raises `StorageError` when the folder cannot be written or another studio owns it.
    """

    def __init__(self, data_dir: Path, *, served_dir: Path | None = None) -> None:
        self._outputs_dir = data_dir / "outputs"
        self._thumbnails_dir = data_dir / "thumbnails"
        self._served_dir = served_dir or data_dir / "served"
        self._naming = threading.Lock()
        self._owner = own_folder(data_dir)
        try:
            for folder in (self._outputs_dir, self._thumbnails_dir, self._served_dir):
                folder.mkdir(parents=True, exist_ok=True)
            self.inputs = PictureStore(data_dir / "inputs")
            self._index = HistoryIndex(data_dir / "history.sqlite3")
            self._reconcile()
        except OSError as error:
            os.close(self._owner)
            raise storage_error(data_dir, error) from error
        except BaseException:
            os.close(self._owner)
            raise

    def close(self) -> None:
        """Let another studio have the folder."""
        self._index.close()
        os.close(self._owner)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading --------------------------------------------------------------------------------------------------

    def get(self, id: str) -> HistoryEntry:
        """The entry of an id. Raises `NotFound`."""
        row = self._index.get(id) if isinstance(id, str) else None
        if row is None:
            raise NotFound(f"There is no picture {id!r:.60} in the history (any more): reload the gallery.")
        return self._entry(row)

    def search(
        self, text: str = "", tab: str | None = None, limit: int = 60, before: str | None = None
    ) -> tuple[HistoryEntry, ...]:
        """Newest first, at most `limit` that are older than the entry `before`; all words of `text` must occur."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest("limit", f"a whole number from 1 to {MAX_PAGE}", limit)
        for name, value in (("text", text), ("tab", tab or ""), ("before", before or "")):
            if not isinstance(value, str) or len(value) > 2000:
                raise InvalidRequest(name, "text of at most 2000 characters", value)
        return tuple(map(self._entry, self._index.search(text=text, tab=tab, limit=limit, before=before)))

    def read_parameters(self, image_path: Path | str) -> GenerationRequest:
        """The request inside a picture, ours or a stranger's. Raises `UnsafeFile`, `InvalidRequest`."""
        return read_parameters(Path(image_path))

    # --- writing --------------------------------------------------------------------------------------------------

    def add(self, result: GenerationResult, image: GeneratedImage, *, tab: str = "text-to-image") -> HistoryEntry:
        """Save one picture of a result: file, thumbnail and row, or nothing at all. Raises `StorageError`."""
        if not _TAB.fullmatch(tab):
            raise InvalidRequest("tab", "lower-case letters, digits and dashes", tab)
        now = datetime.now(timezone.utc)
        id = f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        created = now.isoformat(timespec="milliseconds")
        description = {"id": id, "tab": tab, "created": created, **describe(result, image)}
        content = encode_png(image.image, description)
        folder = self._outputs_dir / tab / f"{now.astimezone():%Y-%m-%d}"
        try:
            with self._naming:
                path = folder / f"{_next_number(folder):05d}-{image.seed}.png"
                write_whole(path, content)
        except OSError as error:
            raise storage_error(folder, error) from error
        row = Row(id=id, tab=tab, created=created, file=self._relative(path), description=description)
        try:
            write_whole(self._thumbnail(row.file), _thumbnail(image.image), sync=False)
            self._index.add([row])
        except (OSError, StorageError) as error:
            self._remove_files(row.file)
            raise (storage_error(folder, error) if isinstance(error, OSError) else error) from error
        return self._entry(row)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove pictures for good, file first; unknown ids are passed over. Returns how many went."""
        rows = [row for row in map(self._index.get, ids) if row is not None]
        for row in rows:
            try:
                self._remove_files(row.file)
            except OSError as error:
                raise storage_error(self._outputs_dir, error) from error
            self._index.remove([row.id])
        self._drop_inputs({id for row in rows for id in row.request.pictures})
        return len(rows)

    def _drop_inputs(self, ids: set[str]) -> None:
        """Forget input pictures that no picture names any more."""
        if ids:
            try:
                self.inputs.drop(ids - self._index.input_pictures())
            except OSError as error:
                raise storage_error(self._outputs_dir, error) from error

    # --- leaving --------------------------------------------------------------------------------------------------

    def export(self, id: str) -> Path:
        """A copy of the original file, with its parameters, in the served folder. Raises `NotFound`."""
        source = self.get(id).path
        try:
            target = self._new_export_folder() / source.name
            shutil.copyfile(source, target)
        except FileNotFoundError as error:
            raise NotFound(f"The file of picture {id} is gone from the disk: reload the gallery.") from error
        except OSError as error:
            raise storage_error(self._served_dir, error) from error
        return target

    def export_file(self, name: str, content: bytes) -> Path:
        """Something made of saved pictures, under this name in the served folder. Raises `StorageError`."""
        try:
            target = self._new_export_folder() / name
            target.write_bytes(content)
        except OSError as error:
            raise storage_error(self._served_dir, error) from error
        return target

    def zip(self, ids: Sequence[str]) -> Path:
        """The originals of these pictures in one archive in the served folder. Raises `NotFound`."""
        if not 1 <= len(ids) <= MAX_ZIP_IMAGES:
            raise InvalidRequest("ids", f"1 to {MAX_ZIP_IMAGES} pictures", f"{len(ids)} pictures")
        entries = [self.get(id) for id in ids]
        try:
            target = self._new_export_folder() / f"perflow-studio-{len(entries)}.zip"
            # PNG is compressed already: store.
            with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
                for entry in entries:
                    archive.write(entry.path, self._relative(entry.path))
        except FileNotFoundError as error:
            raise NotFound("The file of one of these pictures is gone from the disk: reload the gallery.") from error
        except OSError as error:
            raise storage_error(self._served_dir, error) from error
        return target

    def _new_export_folder(self) -> Path:
        """A folder nobody can guess; those of an hour ago, which nobody fetches any more, go."""
        exports = self._served_dir / "exports"
        exports.mkdir(parents=True, exist_ok=True)
        for old in exports.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if old.stat().st_mtime < time.time() - EXPORT_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
        folder = exports / secrets.token_hex(16)
        folder.mkdir()
        return folder

    # --- files and rows -------------------------------------------------------------------------------------------

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._outputs_dir).as_posix()

    def _thumbnail(self, file: str) -> Path:
        return (self._thumbnails_dir / file).with_suffix(".jpg")

    def _entry(self, row: Row) -> HistoryEntry:
        request = row.request
        return HistoryEntry(
            id=row.id,
            tab=row.tab,
            created=row.created,
            path=self._outputs_dir / row.file,
            thumbnail_path=self._ensure_thumbnail(row.file),
            request=request,
            receipt=row.description.get("receipt", {}),
            prompt=request.prompt,
            model=request.model,
            accelerator=request.accelerator,
            seed=request.seed,
            width=request.width,
            height=request.height,
        )

    def _ensure_thumbnail(self, file: str) -> Path:
        """The thumbnail, made again if it is missing; the picture itself where that cannot be done."""
        thumbnail = self._thumbnail(file)
        if thumbnail.exists():
            return thumbnail
        try:
            with Image.open(self._outputs_dir / file, formats=("PNG",)) as image:
                write_whole(thumbnail, _thumbnail(image), sync=False)
        except (OSError, SyntaxError):
            return self._outputs_dir / file
        return thumbnail

    def _remove_files(self, file: str) -> None:
        """Unlink a picture and its thumbnail, if they truly lie in our folder."""
        path = self._outputs_dir / file
        if not path.resolve().is_relative_to(self._outputs_dir.resolve()):
            raise StorageError(f"{file!r} lies outside the outputs folder: it was left alone.")
        path.unlink(missing_ok=True)
        self._thumbnail(file).unlink(missing_ok=True)

    def _reconcile(self) -> None:
        """After a crash: drop staged halves, index the files without a row, forget the rows without a file."""
        present: set[str] = set()
        for folder, _, names in os.walk(self._outputs_dir):
            for name in names:
                path = Path(folder, name)
                if name.endswith(PART):
                    path.unlink(missing_ok=True)
                elif name.endswith(".png"):
                    present.add(self._relative(path))
        known = self._index.files()
        self._index.remove(id for file, id in known.items() if file not in present)
        self._index.add(row for file in sorted(present - known.keys()) if (row := self._read_row(file)))
        self.inputs.tidy(self._index.input_pictures())

    def _read_row(self, file: str) -> Row | None:
        """A row from the picture's own parameters; `None` for a picture that is not ours or is damaged."""
        try:
            description = read_description(self._outputs_dir / file)
            if description is None:
                return None
            GenerationRequest.from_json(description["request"])
            id, tab, created = (str(description[name]) for name in ("id", "tab", "created"))
        except (StudioError, KeyError, TypeError):
            return None
        return Row(id=id, tab=tab, created=created, file=file, description=description)


def _next_number(folder: Path) -> int:
    """One more than the highest number in a day's folder."""
    if not folder.is_dir():
        return 1
    found = (_NUMBER.fullmatch(name) for name in os.listdir(folder))
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _thumbnail(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=85)
    return file.getvalue()
