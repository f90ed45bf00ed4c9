"""What a dataset is: every file that came, with its hash, size and caption, kept or dropped and why.

Plain frozen values, JSON both ways. The order of entries is the order of training; the fingerprint covers what training
sees (pixels and captions of the kept pictures, in that order) and nothing else. Knows nothing of folders and pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, TypeVar

from studio.datasets.buckets import Bucket, Size, plan_buckets, size_multiple
from studio.errors import InvalidRequest

FORMAT = 1
NUM_EXAMPLES = 5
NUM_CAPTIONS = 12
SIDES = (128, 256, 512, 768, 1024)
_FILE = re.compile(r"images/\d{5,8}\.(png|jpg|webp)")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One file. `file` is where its picture lies in the dataset, empty when dropped; `kind` groups the reasons.

    `width` and `height` are those of the upright picture, `sha256` that of the file as it came, `pixels_sha256` that
    of the picture's size and RGB values. `changes` says what was done to it ("turned upright").
    """

    name: str
    num_bytes: int
    sha256: str = ""
    width: int = 0
    height: int = 0
    caption: str = ""
    kept: bool = False
    kind: str = ""
    reason: str = ""
    rotated: bool = False
    changes: tuple[str, ...] = ()
    file: str = ""
    pixels_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why files were dropped: how many for this kind of reason, and the first of them by name with their sentences."""

    kind: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SideCount:
    """How many pictures have their shorter side from `low` up to, not including, `high` (`None`: no end) pixels."""

    low: int
    high: int | None
    count: int


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """A dataset at a glance, for one resolution and batch size."""

    id: str
    title: str
    created: str
    fingerprint: str
    num_files: int
    num_kept: int
    num_dropped: int
    num_rotated: int
    num_without_caption: int
    num_smaller: int
    num_bytes: int
    reasons: tuple[Reason, ...]
    sides: tuple[SideCount, ...]
    resolution: int
    buckets: tuple[Bucket, ...]
    captions: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal summary."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: object) -> DatasetSummary:
        """The inverse of `to_json`. Raises `InvalidRequest`."""
        parts = {"reasons": Reason, "sides": SideCount, "buckets": Bucket}
        return _built(cls, values, **parts)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A dataset's whole record. `created` is ISO 8601 in UTC; `warnings` are sentences about captions and the like."""

    title: str
    created: str
    entries: tuple[ManifestEntry, ...]
    warnings: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[ManifestEntry, ...]:
        """The pictures, in the order of training."""
        return tuple(entry for entry in self.entries if entry.kept)

    @property
    def fingerprint(self) -> str:
        """The hash of what training sees."""
        seen = [[entry.pixels_sha256, entry.caption] for entry in self.kept]
        return hashlib.sha256(json.dumps(seen, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal manifest."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"format": FORMAT, "fingerprint": self.fingerprint, **values}

    @classmethod
    def from_json(cls, values: object) -> Manifest:
        """The inverse of `to_json`. Raises `InvalidRequest` for what is no manifest, or was changed since."""
        if not isinstance(values, dict):
            raise InvalidRequest("manifest", "a JSON object", values)
        given = dict(values)
        if (version := given.pop("format", None)) != FORMAT:
            raise InvalidRequest("format", f"{FORMAT}, the one this version reads", version)
        fingerprint = given.pop("fingerprint", None)
        manifest = _built(cls, given, entries=ManifestEntry)
        for entry in manifest.kept:
            if not _FILE.fullmatch(entry.file) or not _SHA256.fullmatch(entry.pixels_sha256):
                raise InvalidRequest("manifest", "kept files in images/ with their hash", entry.file)
        if fingerprint != manifest.fingerprint:
            raise InvalidRequest("fingerprint", f"{manifest.fingerprint} as of the entries", fingerprint)
        return manifest

    def summary(
        self, id: str, *, resolution: int = 512, multiple: int | None = None, batch_size: int = 1
    ) -> DatasetSummary:
        """What a person wants to see before the launch. `multiple` None: what goes with the resolution."""
        kept = self.kept
        sizes = [(entry.width, entry.height) for entry in kept]
        plan = plan_buckets(
            sizes, resolution, multiple=multiple or size_multiple(resolution), batch_size=batch_size
        )  # fmt: skip
        return DatasetSummary(
            id=id,
            title=self.title,
            created=self.created,
            fingerprint=self.fingerprint,
            num_files=len(self.entries),
            num_kept=len(kept),
            num_dropped=len(self.entries) - len(kept),
            num_rotated=sum(entry.rotated for entry in kept),
            num_without_caption=sum(not entry.caption for entry in kept),
            num_smaller=sum(width * height < resolution * resolution for width, height in sizes),
            num_bytes=sum(entry.num_bytes for entry in kept),
            reasons=_reasons(self.entries),
            sides=_sides(sizes),
            resolution=resolution,
            buckets=plan.buckets,
            captions=_spread(tuple(dict.fromkeys(entry.caption for entry in kept if entry.caption))),
            warnings=self.warnings + plan.words,
        )


def _reasons(entries: tuple[ManifestEntry, ...]) -> tuple[Reason, ...]:
    """Dropped files by kind, the most frequent first."""
    groups: dict[str, list[ManifestEntry]] = defaultdict(list)
    for entry in entries:
        if not entry.kept:
            groups[entry.kind].append(entry)
    found = [
        Reason(kind=kind, count=len(group),
               examples=tuple(f"{entry.name}: {entry.reason}" for entry in group[:NUM_EXAMPLES]))
        for kind, group in groups.items()
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda reason: (-reason.count, reason.kind)))


def _sides(sizes: list[Size]) -> tuple[SideCount, ...]:
    """The histogram of shorter sides, empty bins included."""
    counts = Counter(sum(min(size) >= side for side in SIDES) for size in sizes)
    lows, highs = (0, *SIDES), (*SIDES, None)
    return tuple(
        SideCount(low=low, high=high, count=counts[place])
        for place, (low, high) in enumerate(zip(lows, highs, strict=True))
    )


def _spread(captions: tuple[str, ...]) -> tuple[str, ...]:
    """A few captions from all over the dataset."""
    stride = max(1, len(captions) // NUM_CAPTIONS)
    return captions[::stride][:NUM_CAPTIONS]


def _built(kind: type[Value], values: object, **parts: type) -> Value:
    """A frozen dataclass from JSON; `parts` names the fields that hold lists of other such values."""
    if not isinstance(values, dict):
        raise InvalidRequest(kind.__name__, "a JSON object", values)
    try:
        ready: dict[str, Any] = {
            key: tuple(_built(parts[key], each) if key in parts else each for each in value)
            if isinstance(value, list)
            else value
            for key, value in values.items()
        }
        for each in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
            wanted = {"str": str, "int": int, "bool": bool}.get(str(each.type))
            if wanted and each.name in ready and type(ready[each.name]) is not wanted:
                raise InvalidRequest(each.name, f"a value of type {each.type}", ready[each.name])
            if str(each.type).startswith("tuple") and not isinstance(ready.get(each.name, ()), tuple):
                raise InvalidRequest(each.name, "a list", ready[each.name])
        return kind(**ready)
    except TypeError as error:
        raise InvalidRequest(kind.__name__, "exactly its own fields", sorted(map(str, values))) from error
