"""Pictures, zips and folders for the tests of datasets, good ones and bad ones."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Content = bytes | str
Members = dict[str, Content] | Iterable[tuple[str | zipfile.ZipInfo, Content]]


def pixels(seed: int, width: int = 64, height: int = 64) -> np.ndarray:
    """`[height, width, 3]` uint8: a smooth picture of its own for every seed."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC))


def picture(seed: int = 0, width: int = 64, height: int = 64, kind: str = "PNG", **how: Any) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, width, height)).save(file, format=kind, **how)
    return file.getvalue()


def turned_picture(orientation: int, seed: int = 0, width: int = 96, height: int = 64) -> bytes:
    """A JPEG whose EXIF says how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture(seed, width, height, "JPEG", exif=exif, quality=95)


def zip_of(path: Path, members: Members, **how: Any) -> Path:
    """A zip with these members, whatever their names."""
    pairs = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(path, "w", how.pop("compression", zipfile.ZIP_DEFLATED), **how) as archive:
        for name, content in pairs:
            archive.writestr(name, content)
    return path


def folder_of(path: Path, files: dict[str, Content]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content, hidden ones too: what "nothing was left behind" compares."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }
