"""What a zip, a folder or a list of uploads holds, member by member, with limits before and while reading.

Nothing is ever unpacked: members are read into memory, bounded, and what is kept is written under our own numbers. A
source that was made to harm (names that leave the folder, bombs, a directory of millions) is refused whole, with
`UnsafeFile`; one file that cannot be used is refused alone, with `Refused`, and named in the manifest.
Knows nothing of pictures and captions.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from studio.errors import InvalidRequest, NotFound, UnsafeFile

MIB = 2**20
CHUNK_BYTES = 256 * 1024
RATIO_FROM_BYTES = 4 * MIB
MAX_DIRECTORY_BYTES = 64 * MIB
MAX_NAME_CHARACTERS = 512


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a source may hold. `max_ratio` is bytes unpacked for each byte packed."""

    max_files: int = 100_000
    max_file_bytes: int = 64 * MIB
    max_total_bytes: int = 64 * 1024 * MIB
    max_ratio: int = 100
    max_pixels: int = 36_000_000
    min_side: int = 32
    max_aspect: float = 8.0


class Refused(Exception):
    """One file cannot be used: `kind` groups, `reason` is the sentence. Never leaves this package."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind, self.reason = kind, reason
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a source, by its name in it (`/` between parts). `refusal` says why it will not even be read."""

    name: str
    num_bytes: int
    open: Callable[[], AbstractContextManager[BinaryIO]]
    packed_bytes: int | None = None
    refusal: Refused | None = None


@dataclass(kw_only=True)
class Budget:
    """What may still be read and written, over the whole import. Raises `UnsafeFile` when it is spent."""

    limits: Limits
    spent_bytes: int = 0

    def spend(self, num_bytes: int) -> None:
        """Count bytes that were unpacked or written."""
        self.spent_bytes += num_bytes
        if self.spent_bytes > self.limits.max_total_bytes:
            raise UnsafeFile(
                f"The pictures unpack to more than {_in_words(self.limits.max_total_bytes)}: nothing was kept. "
                "Import them in parts."
            )


def read_member(member: Member, budget: Budget, max_bytes: int | None = None) -> bytes:
    """A member's bytes, counted while they stream, whatever the source claims their number to be.

    Raises `Refused` for this file alone, `UnsafeFile` for a bomb.
    """
    if member.refusal is not None:
        raise member.refusal
    most = budget.limits.max_file_bytes if max_bytes is None else max_bytes
    chunks, count = [], 0
    try:
        with member.open() as file:
            while chunk := file.read(CHUNK_BYTES):
                count += len(chunk)
                budget.spend(len(chunk))
                _check_ratio(member, count, budget.limits)
                if count > most:
                    raise Refused("too_large", f"larger than {_in_words(most)}: save it smaller")
                chunks.append(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Refused("damaged", "damaged in the archive: pack it again") from error
    except OSError as error:
        raise Refused("unreadable", f"cannot be read ({error.strerror or error})") from error
    return b"".join(chunks)


def _check_ratio(member: Member, count: int, limits: Limits) -> None:
    packed = member.packed_bytes
    if packed is not None and count > RATIO_FROM_BYTES and count > limits.max_ratio * max(packed, 1):
        raise UnsafeFile(
            f"{member.name!r} unpacks to more than {limits.max_ratio} times its size: a zip bomb. Nothing was kept."
        )


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / 1024**3:g} GiB" if num_bytes >= 1024**3 else f"{num_bytes / MIB:g} MiB"


# --- names ------------------------------------------------------------------------------------------------------


def plain_name(raw: str) -> str:
    """A member's name with `/` between parts. Raises `UnsafeFile` for one that would lead out of a folder."""
    name = raw.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise UnsafeFile(
            f"The member {raw[:80]!r} would be written outside the dataset's folder: expected plain names. Nothing was "
            "kept; pack the folder again with an ordinary program."
        )
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _odd_name(name: str) -> Refused | None:
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        return Refused("odd_name", f"its name has control characters, is no text, or is longer than "
                                   f"{MAX_NAME_CHARACTERS} characters: rename it")  # fmt: skip
    last = name.rsplit("/", 1)[-1]
    if last.startswith(".") or "__MACOSX" in name.split("/") or last.lower() in ("thumbs.db", "desktop.ini"):
        return Refused("system", "a system's own file, no picture")
    return None


def _shown(name: str) -> str:
    """A name that can be written down, whatever bytes it had."""
    safe = name.encode("utf-8", "backslashreplace").decode()
    safe = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in safe)
    return safe if len(safe) <= 120 else f"{safe[:100]}...{safe[-17:]}"


# --- zip --------------------------------------------------------------------------------------------------------


@contextmanager
def open_zip(path: Path, limits: Limits) -> Iterator[tuple[Member, ...]]:
    """The members of a zip, by name. Raises `UnsafeFile` for one that is broken, encrypted or made to harm."""
    _check_directory(path, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            yield _zip_members(archive, path, limits)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise _no_zip(path, f"broken ({error})") from error


def _zip_members(archive: zipfile.ZipFile, path: Path, limits: Limits) -> tuple[Member, ...]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > limits.max_files:
        raise _too_many(len(infos), limits)
    if any(info.flag_bits & 0x1 for info in infos):
        raise UnsafeFile(f"{path.name} is encrypted: expected a zip without a password. Pack it again without one.")
    size = path.stat().st_size
    if sum(info.compress_size for info in infos) > size:
        raise UnsafeFile(f"{path.name}: its members overlap: a zip bomb. Nothing was kept.")
    total = sum(info.file_size for info in infos)
    if total > max(RATIO_FROM_BYTES, limits.max_ratio * size):
        raise UnsafeFile(
            f"{path.name} says it unpacks to {total / size:.0f} times its size, expected at most {limits.max_ratio}: "
            "a zip bomb. Nothing was kept."
        )
    Budget(limits=limits).spend(total)
    return _once_each(_zip_member(archive, info) for info in infos)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    name = plain_name(info.orig_filename)
    mode = info.external_attr >> 16
    refusal = _odd_name(name)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        refusal = Refused("link", "a link or a device, no file: pack the picture itself")
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refusal = refusal or Refused("packed_oddly", "packed by an unusual method: pack it with plain zip")

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with archive.open(info) as file:
            yield file  # pyright: ignore[reportReturnType]

    return Member(name=_shown(name) if refusal else name, num_bytes=info.file_size, open=opened,
                  packed_bytes=info.compress_size, refusal=refusal)  # fmt: skip


def _check_directory(path: Path, limits: Limits) -> None:
    """The end record of a zip, before anything parses the directory it announces."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - 66_000))
            tail = file.read()
    except OSError as error:
        raise NotFound(f"{path.name} cannot be read ({error.strerror or error}): upload it again.") from error
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        raise _no_zip(path, "no zip, or one that was cut off")
    count, directory_bytes = struct.unpack_from("<HI", tail, place + 10)
    wide = tail.rfind(b"PK\x06\x06", 0, place)
    if wide >= 0 and len(tail) >= wide + 48:
        count, directory_bytes = struct.unpack_from("<QQ", tail, wide + 32)
    if count > limits.max_files:
        raise _too_many(count, limits)
    if directory_bytes > min(MAX_DIRECTORY_BYTES, size):
        raise _no_zip(path, f"a directory of {directory_bytes} bytes")


def _no_zip(path: Path, what: str) -> UnsafeFile:
    return UnsafeFile(f"{path.name}: expected a whole zip of pictures, got {what}. Pack and upload it again.")


def _too_many(count: int, limits: Limits) -> UnsafeFile:
    return UnsafeFile(f"Expected at most {limits.max_files} files, got {count}: import them in parts.")


# --- folders and uploads ----------------------------------------------------------------------------------------


@contextmanager
def open_folder(path: Path, limits: Limits) -> Iterator[tuple[Member, ...]]:
    """The files below a folder. Links are named and not followed. Raises `NotFound`."""
    if not path.is_dir():
        raise NotFound(f"{path} is no folder (any more).")
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        found += [Path(folder, name) for name in names]
        found += [link for name in folders if (link := Path(folder, name)).is_symlink()]
        if len(found) > limits.max_files:
            raise _too_many(len(found), limits)
    found += [
        Path(folder, name) for folder, names, _ in os.walk(path) for name in names if Path(folder, name).is_symlink()
    ]
    yield _once_each(_file_member(each, each.relative_to(path).as_posix()) for each in found)


@contextmanager
def open_uploads(files: Sequence[tuple[str, Path]], limits: Limits) -> Iterator[tuple[Member, ...]]:
    """Uploaded files as (the name they came with, where they lie now)."""
    if len(files) > limits.max_files:
        raise _too_many(len(files), limits)
    if not files:
        raise InvalidRequest("files", "at least one file", 0)
    yield _once_each(_file_member(path, plain_name(name)) for name, path in files)


def _file_member(path: Path, name: str) -> Member:
    refusal = _odd_name(name)
    num_bytes = 0
    try:
        status = path.lstat()
        num_bytes = status.st_size
        if stat.S_ISLNK(status.st_mode):
            refusal = Refused("link", "a link: copy the picture itself into the folder")
        elif not stat.S_ISREG(status.st_mode):
            refusal = Refused("link", "no file but a device, pipe or socket")
    except OSError as error:
        refusal = Refused("unreadable", f"cannot be read ({error.strerror or error})")

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            yield file

    return Member(name=_shown(name) if refusal else name, num_bytes=num_bytes, open=opened, refusal=refusal)


def _once_each(members: Iterator[Member]) -> tuple[Member, ...]:
    """In the order of names; of two files with one name the second is refused."""
    seen: set[str] = set()
    found = []
    for member in sorted(members, key=lambda member: member.name):
        if member.name in seen and member.refusal is None:
            member = Member(name=member.name, num_bytes=member.num_bytes, open=member.open,
                            refusal=Refused("same_name", "a second file of the same name: rename one"))  # fmt: skip
        seen.add(member.name)
        found.append(member)
    return tuple(found)
