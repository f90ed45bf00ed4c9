"""A dataset of the hub as a stream, through the `datasets` library, which is imported only here and only then.

Pictures are taken undecoded, so that they pass the same checks as any other; no code of the dataset's is ever run.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfFileSystem
from huggingface_hub.constants import ENDPOINT

from studio.errors import InvalidRequest, ModelUnavailable
from trainer.order import drawn
from trainer.shards import MAX_PICTURE_BYTES, Raw, plain_caption

SHUFFLE_BUFFER = 1000
TIMEOUT_SECONDS = 8
IMAGE_COLUMNS, CAPTION_COLUMNS = ("image", "jpg", "png", "webp"), ("text", "caption", "prompt", "txt")


@dataclass(kw_only=True, eq=False)
class HubStream:
    """`datasets` in streaming mode. `dataset` is its iterable, whose pictures come undecoded."""

    id: str
    dataset: Any
    seed: int
    num_held_out: int
    image: str
    caption: str | None

    @classmethod
    def of(cls, id: str, seed: int, num_held_out: int) -> HubStream:
        """The training split of a dataset id. Raises `InvalidRequest`, `ModelUnavailable`."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", id):
            raise InvalidRequest("dataset", "an id of the hub such as owner/name", id)
        try:
            import datasets
            from datasets.exceptions import DatasetsError
        except ImportError as error:
            raise ModelUnavailable("Datasets of the hub need one more package: pip install datasets==5.2.0") from error
        try:
            with urllib.request.urlopen(f"{ENDPOINT}/api/datasets/{id}", timeout=TIMEOUT_SECONDS):
                pass  # the library would ask five times over half a minute
            found = datasets.load_dataset(id, split="train", streaming=True)
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            raise _unreadable(id, error) from error
        return cls.reading(found, id, seed, num_held_out)

    @classmethod
    def reading(cls, dataset: Any, id: str, seed: int, num_held_out: int) -> HubStream:
        """Of an iterable dataset, by the names its columns have. Raises `InvalidRequest`."""
        from datasets import Image

        columns = tuple(dataset.column_names or ())
        image = next((name for name in IMAGE_COLUMNS if name in columns), None)
        if image is None:
            words = f"a picture column ({', '.join(IMAGE_COLUMNS)}) in {id}"
            raise InvalidRequest("dataset", words, ", ".join(columns))
        caption = next((name for name in CAPTION_COLUMNS if name in columns), None)
        plain = dataset.cast_column(image, Image(decode=False))
        return cls(id=id, dataset=plain, seed=seed, num_held_out=num_held_out, image=image, caption=caption)

    def epoch(self, number: int, skip: int) -> Iterator[Raw]:
        """Through a shuffle buffer, by (seed, epoch)."""
        rest = self.dataset.skip(self.num_held_out)
        shuffled = rest.shuffle(seed=drawn(self.seed, "hub", number) % 2**32, buffer_size=SHUFFLE_BUFFER)
        yield from self._samples(shuffled.skip(skip), skip)

    def first(self, count: int) -> list[Raw]:
        """The first samples as they are listed."""
        return list(self._samples(self.dataset.take(min(count, self.num_held_out)), 0))

    def _samples(self, dataset: Any, first: int) -> Iterator[Raw]:
        from datasets.exceptions import DatasetsError

        try:
            yield from map(self._raw, enumerate(dataset, first))
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            raise _unreadable(self.id, error) from error

    def _raw(self, numbered: tuple[int, dict[str, Any]]) -> Raw:
        number, values = numbered
        picture = values[self.image] or {}
        text = values.get(self.caption) if self.caption else ""
        content, path = picture.get("bytes") or b"", str(picture.get("path") or "")
        if not content and path.startswith("hf://"):
            hub: Any = HfFileSystem()
            with hub.open(path, "rb") as file:
                content = file.read(MAX_PICTURE_BYTES)
        caption = plain_caption(text if isinstance(text, str) else "")
        return Raw(name=f"sample {number}", content=content, caption=caption)


def _unreadable(id: str, error: Exception) -> ModelUnavailable:
    reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
    return ModelUnavailable(
        f"The dataset {id} cannot be read ({reason}): check its id and the network; only public ones can be streamed. "
        "Then resume the run."
    )
