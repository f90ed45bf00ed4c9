"""From a source to a dataset: captions, pictures and manifest into a folder made aside, renamed whole.

    <datasets>/<id>/manifest.json              every file, kept or dropped and why
                    images/00000.png           kept pictures under our own numbers
                    thumbnails/00000.jpg

Until the rename there is no dataset; whatever goes wrong, the folder made aside is removed. One bad picture of a
thousand is named and skipped. A crash leaves a folder that the next `sweep` knows to be ownerless by its lock.
Knows nothing of zips and folders (`sources`) nor of what a picture is (`pictures`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from studio.datasets.captions import Captions, read_captions
from studio.datasets.manifest import Manifest, ManifestEntry
from studio.datasets.pictures import Picture, picture_of
from studio.datasets.sources import Budget, Limits, Member, Refused, read_member
from studio.errors import InvalidRequest, StorageError, UnsafeFile
from studio.storage import storage_error

ASIDE, DOOMED = ".importing-", ".deleted-"
SPARE_BYTES = 64 * 2**20

Report = Callable[[float, str], None]


@dataclass(frozen=True, kw_only=True)
class Import:
    """What a person says of a dataset: its title, and the caption of pictures that have none of their own."""

    title: str
    caption: str = ""

    def __post_init__(self) -> None:
        title = self.title
        if not isinstance(title, str) or not 1 <= len(title.strip()) <= 80 or not title.isprintable():
            raise InvalidRequest("title", "1 to 80 printable characters", title)


def import_members(
    datasets: Path, members: tuple[Member, ...], order: Import, limits: Limits, report: Report = lambda *_: None
) -> str:
    """Make a dataset of a source's members and return its id.

    `report(fraction, words)` may raise to cancel. Raises `UnsafeFile`, `InvalidRequest`, `StorageError`; then nothing
    of it is left.
    """
    try:
        _check_space(datasets, members)
        with _made_aside(datasets) as aside:
            manifest = _Making(aside, limits, report).manifest(members, order)
            _write_manifest(aside, manifest)
            return _into_place(datasets, aside, order.title)
    except OSError as error:
        raise storage_error(datasets, error) from error


def sweep(datasets: Path) -> None:
    """Remove what a crash or a torn delete left: folders made aside that nobody holds any more."""
    for path in [*datasets.glob(f"{ASIDE}*"), *datasets.glob(f"{DOOMED}*")]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _locked(path) as ours:
            if ours:
                shutil.rmtree(path, ignore_errors=True)


@dataclass
class _Making:
    """The pictures of one import, one after the other."""

    aside: Path
    limits: Limits
    report: Report

    def __post_init__(self) -> None:
        self._budget = Budget(limits=self.limits)
        self._first_of: dict[str, str] = {}

    def manifest(self, members: tuple[Member, ...], order: Import) -> Manifest:
        """Every member's entry. Raises `UnsafeFile` when no picture is left."""
        captions = read_captions(members, lambda member, most: read_member(member, self._budget, most), order.caption)
        entries: list[ManifestEntry] = []
        wanted = [member for member in members if member.name not in captions.files]
        for number, member in enumerate(wanted):
            self.report(number / len(wanted), f"picture {number + 1} of {len(wanted)}")
            entries.append(self._entry(member, captions))
        if not any(entry.kept for entry in entries):
            raise _nothing_left(entries)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return Manifest(
            title=order.title.strip(), created=now, entries=tuple(entries), warnings=tuple(captions.warnings)
        )

    def _entry(self, member: Member, captions: Captions) -> ManifestEntry:
        """One file's record; its picture and thumbnail are written if it is kept."""
        entry = ManifestEntry(name=member.name, num_bytes=member.num_bytes)
        try:
            if PurePosixPath(member.name).suffix.lower() == ".txt" and member.refusal is None:
                raise Refused("caption_alone", "a caption for a picture that is not there")
            content = read_member(member, self._budget)
            entry = replace(entry, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            picture = picture_of(content, self.limits)
            entry = replace(entry, width=picture.width, height=picture.height, pixels_sha256=picture.pixels_sha256)
            if first := self._first_of.get(picture.pixels_sha256):
                raise Refused("duplicate", f"the same picture as {first}")
        except Refused as refused:
            return replace(entry, kind=refused.kind, reason=refused.reason)
        file = self._write(picture)
        self._first_of[picture.pixels_sha256] = member.name
        return replace(
            entry, kept=True, file=file, rotated=picture.rotated, changes=picture.changes,
            caption=captions.of(member.name),
        )  # fmt: skip

    def _write(self, picture: Picture) -> str:
        number = f"{len(self._first_of):05d}"
        self._budget.spend(len(picture.content))
        (self.aside / "images" / f"{number}.{picture.suffix}").write_bytes(picture.content)
        (self.aside / "thumbnails" / f"{number}.jpg").write_bytes(picture.thumbnail)
        return f"images/{number}.{picture.suffix}"


def _nothing_left(entries: list[ManifestEntry]) -> StorageError | UnsafeFile:
    """The refusal of a source without one usable picture: why, by frequency, with an example."""
    if not entries:
        return UnsafeFile("Expected PNG, JPEG or WebP pictures, got no files at all.")
    examples = {entry.kind: f"{entry.name} is {entry.reason}" for entry in reversed(entries)}
    counts = Counter(entry.kind for entry in entries).most_common(3)
    reasons = "; ".join(f"{count} like this: {examples[kind]}" for kind, count in counts)
    return UnsafeFile(f"None of the {len(entries)} files is a picture that can be trained on ({reasons}).")


# --- folders ----------------------------------------------------------------------------------------------------


def _check_space(datasets: Path, members: tuple[Member, ...]) -> None:
    datasets.mkdir(parents=True, exist_ok=True)
    needed = SPARE_BYTES + sum(member.num_bytes for member in members if member.refusal is None)
    free = shutil.disk_usage(datasets).free
    if needed > free:
        raise StorageError(
            f"The pictures need {needed / 2**20:.0f} MiB and {datasets} has {free / 2**20:.0f} MiB free: "
            "free some space, or import them in parts."
        )


@contextmanager
def _made_aside(datasets: Path) -> Iterator[Path]:
    """A folder nobody lists, locked while it is made, and gone afterwards unless it was renamed."""
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=datasets))
    try:
        with _locked(aside):
            (aside / "images").mkdir()
            (aside / "thumbnails").mkdir()
            yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder's lock could be had; it is held inside and dies with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _write_manifest(aside: Path, manifest: Manifest) -> None:
    """The manifest, last; then everything reaches the disk before the rename says that it is there."""
    text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=1)
    (aside / "manifest.json").write_text(text + "\n", encoding="utf-8")
    os.sync()


def _into_place(datasets: Path, aside: Path, title: str) -> str:
    """Rename to an id made of the title; a name that is taken gets a number behind it."""
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:48].strip("-") or "dataset"
    aside.chmod(0o755)
    for number in range(1, 10_000):
        id = stem if number == 1 else f"{stem}-{number}"
        try:
            aside.rename(datasets / id)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                continue
            raise
        return id
    raise InvalidRequest("title", "a name that is not taken ten thousand times", title)
