"""WebDataset shards read as a stream: plain tar, local or over HTTPS, nothing unpacked, nothing trusted.

A sample is a run of members with one name up to its first dot: `000123.jpg`, `000123.txt` (or `.json` with a caption).
Only regular members with these endings are read, into memory and bounded; links, devices and pickles are passed over
unread. The headers are parsed here because `tarfile` believes any length an extension header claims.
Format: POSIX.1-1988 (ustar), with GNU's long names and the path and size of pax headers.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from studio.errors import InvalidRequest, ModelUnavailable, UnsafeFile
from studio.types import MAX_PROMPT_CHARACTERS

BLOCK = 512
MAX_EXTENSION_BYTES = 1_000_000
MAX_PICTURE_BYTES = 64 * 2**20
MAX_TEXT_BYTES = 256 * 1024
MAX_SHARDS = 100_000
TIMEOUT_SECONDS = 30
PICTURES, TEXTS = ("jpg", "jpeg", "png", "webp"), ("txt", "text", "caption", "json")
CAPTION_KEYS = ("caption", "text", "prompt")
_BRACES = re.compile(r"\{(\d{1,8})\.\.(\d{1,8})\}")


@dataclass(frozen=True, kw_only=True)
class Raw:
    """One sample as it came: a picture's file, and its caption."""

    name: str
    content: bytes
    caption: str


class CutOff(UnsafeFile):
    """A shard ended before its end mark; over a network, asking again may help."""


def shards_of(pattern: str) -> tuple[str, ...]:
    """`https://host/{00000..00123}.tar` or `/folder/{0..9}.tar` written out. Raises `InvalidRequest`."""
    if not re.match(r"(https?://[^/@]+/|/)", pattern) or not pattern.endswith(".tar"):
        raise InvalidRequest("dataset", "shards like https://host/{00000..00123}.tar or /folder/{0..9}.tar", pattern)
    match = _BRACES.search(pattern)
    if match is None:
        return (pattern,)
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_SHARDS:
        raise InvalidRequest("dataset", f"1 to {MAX_SHARDS} shards", match[0])
    numbers = (str(number).zfill(len(match[1])) for number in range(first, last + 1))
    return tuple(pattern.replace(match[0], number, 1) for number in numbers)


@contextmanager
def opened(shard: str) -> Iterator[BinaryIO]:
    """A shard's bytes. Raises `ModelUnavailable`."""
    try:
        if shard.startswith("/"):
            with Path(shard).open("rb") as file:
                yield file
        else:
            with urllib.request.urlopen(shard, timeout=TIMEOUT_SECONDS) as answer:
                yield answer
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ModelUnavailable(f"The shard {shard} cannot be read ({reason}): check the address and the network, then "
                               "resume the run.") from error  # fmt: skip


def read_shard(file: BinaryIO, name: str) -> Iterator[Raw]:
    """The samples of a shard that have a picture. Raises `UnsafeFile` for what is no plain tar."""
    key, picture, caption = "", None, ""
    for member, size in _members(file, name):
        stem, _, ending = _parted(member)
        if stem != key:
            if picture is not None:
                yield Raw(name=key, content=picture, caption=caption)
            key, picture, caption = stem, None, ""
        if ending in PICTURES and size <= MAX_PICTURE_BYTES and picture is None:
            picture = _exactly(file, size, name)
        elif ending in TEXTS and size <= MAX_TEXT_BYTES:
            caption = _caption(_exactly(file, size, name), ending) or caption
        else:
            _skip(file, size, name)
        _skip(file, -size % BLOCK, name)
    if picture is not None:
        yield Raw(name=key, content=picture, caption=caption)


def _parted(member: str) -> tuple[str, str, str]:
    folder, slash, last = member.rpartition("/")
    stem, dot, ending = last.partition(".")
    return f"{folder}{slash}{stem}", dot, ending.lower()


def _caption(content: bytes, ending: str) -> str:
    try:
        text = content.decode()
        if ending == "json":
            values = json.loads(text)
            text = next((values[key] for key in CAPTION_KEYS if isinstance(values.get(key), str)), "")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return plain_caption(text)


def plain_caption(text: str) -> str:
    """One line of printable characters, of at most a prompt's length."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:MAX_PROMPT_CHARACTERS]


# --- tar --------------------------------------------------------------------------------------------------------


def _members(file: BinaryIO, name: str) -> Iterator[tuple[str, int]]:
    """Name and size of each regular member; the caller reads or skips its content and padding before the next."""
    long_name, long_size = "", None
    while len(header := _up_to(file, BLOCK)) == BLOCK and header.strip(b"\0"):
        kind, size = header[156:157], _number(header[124:136])
        if size is None or _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise _no_tar(name)
        if kind in (b"L", b"x"):
            if size > MAX_EXTENSION_BYTES:
                raise UnsafeFile(f"{name}: a member's name is {size} bytes long: this shard was made to harm.")
            content = _exactly(file, size, name)
            _skip(file, -size % BLOCK, name)
            if kind == b"L":
                long_name = content.rstrip(b"\0").decode("utf-8", "replace")
            else:
                told = _pax(content)
                long_name = told.get("path", long_name)
                long_size = int(told["size"]) if told.get("size", "").isdecimal() else long_size
            continue
        size = size if long_size is None else long_size
        if kind in (b"0", b"\0", b"7"):
            yield long_name or _header_name(header), size
        else:
            _skip(file, size + -size % BLOCK, name)
        long_name, long_size = "", None
    if len(header) < BLOCK:
        raise _cut_off(name)


def _header_name(header: bytes) -> str:
    short = header[:100].split(b"\0")[0].decode("utf-8", "replace")
    prefix = header[345:500].split(b"\0")[0].decode("utf-8", "replace") if header[257:262] == b"ustar" else ""
    return f"{prefix}/{short}" if prefix else short


def _pax(content: bytes) -> dict[str, str]:
    """The records `length key=value` of a pax header."""
    found: dict[str, str] = {}
    while match := re.match(rb"(\d{1,7}) ([^=]{1,100})=", content):
        length = int(match[1])
        if not match.end() < length <= len(content):
            break
        found[match[2].decode("utf-8", "replace")] = content[match.end() : length - 1].decode("utf-8", "replace")
        content = content[length:]
    return found


def _number(digits: bytes) -> int | None:
    """Octal, or GNU's binary for sizes from 8 GB; `None` for neither."""
    if digits[:1] == b"\x80":
        return int.from_bytes(digits[1:], "big")
    text = digits.strip(b" \0")
    return int(text, 8) if re.fullmatch(rb"[0-7]+", text) else None


def _up_to(file: BinaryIO, count: int) -> bytes:
    """`count` bytes, or fewer at the end."""
    parts = []
    while count and (part := file.read(min(count, 2**20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _exactly(file: BinaryIO, count: int, name: str) -> bytes:
    content = _up_to(file, count)
    if len(content) < count:
        raise _cut_off(name)
    return content


def _skip(file: BinaryIO, count: int, name: str) -> None:
    while count > 0:
        count -= len(_exactly(file, min(count, 2**20), name))


def _cut_off(name: str) -> CutOff:
    return CutOff(f"{name}: the shard is cut off: download or make it again, then resume the run.")


def _no_tar(name: str) -> UnsafeFile:
    return UnsafeFile(f"{name}: expected a plain tar of samples (not .tar.gz), got something else or a damaged one.")
