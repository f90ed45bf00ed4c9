"""Pictures that go into a drawing: taken from a stranger through one place, and kept under the hash of their content.

`take` opens what was uploaded and refuses, in a sentence, whatever a drawing cannot use; `PictureStore` keeps it as
`inputs/<sha256>.png`, so a request names its pictures by what they show and draws the same wherever they are.
This module does not know what a picture is for, beyond the words it is given.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from studio import pixels
from studio.errors import InvalidRequest, NotFound, UnsafeFile
from studio.parameters import FORMATS, MAX_IMAGE_PIXELS, check_image
from studio.storage import PART, storage_error, write_whole

MIN_SIDE_PIXELS = 16
MAX_KEPT_SIDE_PIXELS = 2048
MAX_ASPECT = 8.0
UNUSED_SECONDS = 24 * 3600
_FILE = re.compile(r"([0-9a-f]{64})\.png")


# --- taking ---------------------------------------------------------------------------------------------------------


def take(source: Path | str | Image.Image | None, what: str, *, shrinks: bool = True) -> Image.Image:
    """An uploaded picture as RGB, upright; shrunk to at most 2048 pixels a side, unless its every pixel counts.

    `what` is what errors call it ("control_image"). Raises `InvalidRequest` and `UnsafeFile`, each a sentence.
    """
    image = pixels.on_white(_open(source, what))
    return _bounded(image) if shrinks else image


def take_object(source: Path | str | Image.Image | None, what: str = "image") -> Image.Image:
    """The same, but what is transparent stays so, as RGBA: it tells an object from its background."""
    return _bounded(_open(source, what))


def take_map(source: Path | str | Image.Image | None, what: str = "control_image") -> Image.Image:
    """A picture that is a map already; one that shows the same everywhere steers nothing and is refused."""
    return check_map(take(source, what), what)


def take_mask(source: Path | str | Image.Image | None, of: Image.Image, what: str = "mask") -> Image.Image:
    """A mask of the same proportions as its picture: black and white, white where something is to happen."""
    mask = _open(source, what).convert("RGBA")
    grey = Image.composite(mask.convert("L"), Image.new("L", mask.size), mask.getchannel("A"))
    if abs(grey.width * of.height - grey.height * of.width) > max(grey.width, grey.height, of.width, of.height):
        raise InvalidRequest(
            what, f"a mask of its picture's proportions, {of.width} x {of.height}", f"{grey.width} x {grey.height}"
        )
    return check_mask(grey.resize(of.size, Image.Resampling.NEAREST), "where the picture is to be drawn anew", what)


def check_mask(mask: Image.Image, meaning: str, what: str = "mask") -> Image.Image:
    """A mask as black and white. Raises `InvalidRequest` where nothing is white; `meaning` says what white is for."""
    made = mask.convert("L").point([0] * 128 + [255] * 128)
    if made.getbbox() is None:
        raise InvalidRequest(what, f"white {meaning}", "a mask without any white")
    return made


def check_map(image: Image.Image, what: str = "control_image") -> Image.Image:
    """The same map. Raises `InvalidRequest` where it shows nothing."""
    if not np.ptp(np.asarray(image.convert("RGB")), axis=(0, 1)).any():
        raise InvalidRequest(
            what, "a map that shows something, made by another annotator or from another picture", "one even colour"
        )
    return image


def check_proportions(image: Image.Image, what: str) -> None:
    """Refuse slivers and specks."""
    width, height = image.size
    if min(width, height) < MIN_SIDE_PIXELS:
        raise InvalidRequest(what, f"sides of {MIN_SIDE_PIXELS} pixels or more", f"{width} x {height}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidRequest(
            what, f"sides that differ at most {MAX_ASPECT:g} times: cut it first", f"{width} x {height}"
        )


def _open(source: Path | str | Image.Image | None, what: str) -> Image.Image:
    """The whole picture in memory: upright, RGB, or RGBA where something may be transparent."""
    if source is None or source == "":
        raise InvalidRequest(what, "a picture", "nothing")
    if isinstance(source, Image.Image):
        image = source
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise InvalidRequest(what, f"at most {MAX_IMAGE_PIXELS} pixels", f"{image.width} x {image.height}")
    else:
        image = _read(Path(source), what)
    check_proportions(image, what)
    try:
        made, turn = pixels.plain(image)[0], pixels.turn_of(image)
    except ValueError as error:
        raise InvalidRequest(what, "a picture of grey, RGB or CMYK levels: save it so first", str(error)) from error
    return made if turn is None else made.transpose(turn)


def _read(path: Path, what: str) -> Image.Image:
    if not path.is_file():
        raise InvalidRequest(what, "a picture that was uploaded to this studio", path.name)
    if path.stat().st_size == 0:
        raise InvalidRequest(what, "a picture", "an empty file")
    kind, _, _ = check_image(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if kind != "MPO" and getattr(image, "n_frames", 1) > 1:  # an MPO is a camera's JPEG with its preview
                raise InvalidRequest(what, "a picture that stands still: save one of its frames", "an animation")
            if kind == "PNG":
                _verify(path)
            image.load()
            return image.copy()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnsafeFile(f"{path.name}: the picture is damaged or cut off; save it anew and try again.") from error


def _verify(path: Path) -> None:
    """The checksums of a PNG's chunks; loading alone draws garbage."""
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()


def _bounded(image: Image.Image) -> Image.Image:
    """At most 2048 pixels a side."""
    image = image.copy()  # the caller's own stays as it was
    image.thumbnail((MAX_KEPT_SIDE_PIXELS, MAX_KEPT_SIDE_PIXELS), Image.Resampling.LANCZOS)
    return image


# --- keeping --------------------------------------------------------------------------------------------------------


def picture_id(image: Image.Image) -> str:
    """The hash of a picture's content: mode, size and pixels, whatever file they came in."""
    head = f"{image.mode} {image.width}x{image.height}\n".encode()
    return hashlib.sha256(head + np.asarray(image.convert("L") if image.mode == "1" else image).tobytes()).hexdigest()


class PictureStore:
    """The input pictures of one data folder, each once; every method may be called from any thread and process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, image: Image.Image) -> str:
        """Keep a picture (RGB, RGBA or L) and return its id. Raises `StorageError`."""
        id = picture_id(image)
        path = self._path(id)
        if path.exists():
            os.utime(path)  # used again: not to be tidied away now
            return id
        file = io.BytesIO()
        image.save(file, format="PNG")
        try:
            write_whole(path, file.getvalue())
        except OSError as error:
            raise storage_error(self._folder, error) from error
        return id

    def open(self, id: str) -> Image.Image:
        """The picture of an id. Raises `NotFound` where it is not here, or its file no longer holds that content."""
        path = self._path(id)
        try:
            with Image.open(path, formats=("PNG",)) as image:
                image.load()
                found = image.copy()
        except (OSError, SyntaxError, ValueError) as error:
            raise NotFound(
                f"An input picture of this drawing ({id[:12]}) is not kept in this studio: choose the picture again."
            ) from error
        if picture_id(found) != id:
            raise NotFound(f"An input picture ({id[:12]}) was changed on the disk: choose the picture again.")
        return found

    def path(self, id: str) -> Path | None:
        """Where a picture lies, if it is kept."""
        path = self._path(id)
        return path if path.is_file() else None

    def drop(self, ids: Collection[str]) -> None:
        """Forget these pictures; those that are not here are passed over. Raises `OSError`."""
        for id in ids:
            self._path(id).unlink(missing_ok=True)

    def tidy(self, used: Collection[str]) -> None:
        """Forget what no drawing names and what has lain here for a day, and staged halves of a crash."""
        long_ago = time.time() - UNUSED_SECONDS
        for path in self._folder.iterdir():
            match = _FILE.fullmatch(path.name)
            unused = match is not None and match[1] not in used and path.stat().st_mtime < long_ago
            if unused or path.name.endswith(PART):
                path.unlink(missing_ok=True)

    def _path(self, id: str) -> Path:
        if not _FILE.fullmatch(f"{id}.png"):
            raise NotFound("An input picture is named by 64 hexadecimal digits of its content.")
        return self._folder / f"{id}.png"
