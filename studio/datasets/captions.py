"""Words for pictures: .txt sidecars, metadata.jsonl, metadata.csv (the imagefolder form), one caption for all.

The nearest wins: a picture's own sidecar, then the metadata of its folder, then the caption for all. A metadata file
without its columns is refused; a bad line of it is named and passed over. Knows nothing of pixels.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from studio.datasets.sources import MIB, Member, Refused, plain_name
from studio.errors import InvalidRequest, UnsafeFile
from studio.types import MAX_PROMPT_CHARACTERS

MAX_SIDECAR_BYTES = 64 * 1024
MAX_METADATA_BYTES = 64 * MIB
MAX_WARNINGS = 100
CAPTION_COLUMNS = ("text", "caption", "prompt")
METADATA = ("metadata.jsonl", "metadata.csv")
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp"})

Read = Callable[[Member, int], bytes]


@dataclass
class Captions:
    """Captions by picture name. `files` are the members that hold captions, `warnings` what was wrong with some."""

    for_all: str = ""
    files: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    _sidecars: dict[str, str] = field(default_factory=dict)
    _metadata: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """The caption of a picture; empty where nothing is said."""
        return self._sidecars.get(_stem(name)) or self._metadata.get(name) or self.for_all

    def warn(self, words: str) -> None:
        """Remember a sentence, up to a number."""
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(words)


def read_captions(members: tuple[Member, ...], read: Read, for_all: str = "") -> Captions:
    """Every caption a source holds. Raises `InvalidRequest` for metadata that cannot mean anything."""
    captions = Captions(for_all=checked_caption(for_all))
    usable = {member.name: member for member in members if member.refusal is None}
    pictures = {name for name in usable if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES}
    stems = {_stem(name) for name in pictures}
    for name, member in usable.items():
        last = PurePosixPath(name).name.lower()
        if last in METADATA:
            _read_metadata(captions, name, _metadata_text(name, member, read), pictures)
        elif last.endswith(".txt") and _stem(name) in stems:
            _read_sidecar(captions, name, member, read)
    return captions


def checked_caption(text: str) -> str:
    """A caption given for all pictures. Raises `InvalidRequest`."""
    if not isinstance(text, str) or len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest("caption", f"text of at most {MAX_PROMPT_CHARACTERS} characters", text)
    return _plain(text)


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name


def _plain(text: str) -> str:
    """One line of printable characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _fitting(captions: Captions, name: str, text: str) -> str:
    plain = _plain(text)
    if len(plain) > MAX_PROMPT_CHARACTERS:
        captions.warn(f"{name}: its caption has {len(plain)} characters and was cut at {MAX_PROMPT_CHARACTERS}.")
    return plain[:MAX_PROMPT_CHARACTERS]


def _decoded(content: bytes) -> str:
    """UTF-8, or UTF-16 with its mark. Raises `UnicodeDecodeError`."""
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _metadata_text(name: str, member: Member, read: Read) -> str:
    try:
        return _decoded(read(member, MAX_METADATA_BYTES))
    except Refused as refused:
        raise UnsafeFile(f"{name}: {refused.reason}. Without it no caption is known.") from refused
    except UnicodeDecodeError as error:
        raise UnsafeFile(f"{name}: expected text in UTF-8, got something else. Save it as UTF-8.") from error


def _read_sidecar(captions: Captions, name: str, member: Member, read: Read) -> None:
    captions.files.add(name)
    try:
        text = _decoded(read(member, MAX_SIDECAR_BYTES))
    except UnicodeDecodeError:
        captions.warn(f"{name}: expected text in UTF-8, got something else; this caption is missing.")
        return
    except Refused as refused:
        captions.warn(f"{name}: {refused.reason}; this caption is missing.")
        return
    captions._sidecars[_stem(name)] = _fitting(captions, name, text)


def _read_metadata(captions: Captions, name: str, text: str, pictures: set[str]) -> None:
    captions.files.add(name)
    folder = PurePosixPath(name).parent
    rows = _json_rows if name.lower().endswith(".jsonl") else _csv_rows
    unknown = 0
    for line, row in rows(captions, name, text):
        file_name, caption = row.get("file_name"), next((row[key] for key in CAPTION_COLUMNS if row.get(key)), "")
        if not isinstance(file_name, str) or not isinstance(caption, str):
            captions.warn(f"{name}, line {line}: expected a file_name and a text, got {str(row)[:80]}.")
            continue
        picture = plain_name(f"{folder.as_posix()}/{file_name}" if folder.name else file_name)
        unknown += picture not in pictures
        captions._metadata[picture] = _fitting(captions, f"{name}, line {line}", caption)
    if unknown:
        captions.warn(f"{name} names {unknown} pictures that are not there.")


def _json_rows(captions: Captions, name: str, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Objects by line. Raises `InvalidRequest` when no line is one with a file_name."""
    good = 0
    for line, words in enumerate(text.splitlines(), 1):
        if not words.strip():
            continue
        try:
            row = json.loads(words)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or "file_name" not in row:
            captions.warn(f"{name}, line {line}: expected a JSON object with file_name and text, got {words[:60]!r}.")
            continue
        good += 1
        yield line, row
    if not good:
        raise InvalidRequest(name, 'lines like {"file_name": "a.png", "text": "a caption"}', text[:60])


def _csv_rows(captions: Captions, name: str, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows by line. Raises `InvalidRequest` without the columns."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = tuple(rows.fieldnames or ())
        if "file_name" not in columns or not set(CAPTION_COLUMNS) & set(columns):
            raise InvalidRequest(name, "the columns file_name and text (or caption)", ", ".join(columns)[:60])
        for row in rows:
            yield rows.line_num, {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        captions.warn(f"{name}, line {rows.line_num}: {error}; what follows it was not read.")
