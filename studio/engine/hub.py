"""Weights on disk: found in `assets/`, in the hub's cache or where the owner said, downloaded when missing.

Only configuration, tokenizer and safetensors files are ever fetched: no pickles, no code. A file that is in the cache
is used without asking the network; without network a missing one is a `ModelUnavailable` within seconds.
Knows files, not tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from tqdm import tqdm

from studio.engine.stream import Cancelled
from studio.errors import ModelUnavailable, UnsafeFile

NETWORK_TIMEOUT_SECONDS = 5.0
UNUSED_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
WEIGHTLESS_COMPONENTS = ("scheduler", "tokenizer", "tokenizer_2")
TRUSTED_LIBRARIES = ("diffusers", "transformers")
DELTA_NAMES = ("delta_weights.safetensors", "diffusion_pytorch_model.safetensors")
LORA_NAME = "pytorch_lora_weights.safetensors"
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[A-Za-z0-9_-]+?))?(?:-\d{5}-of-\d{5})?\.safetensors"
)

Say = Callable[[str, "float | None"], None]
Choose = Callable[[list[str]], list[str]]


class Hub:
    """The Hugging Face hub through its cache. `offline=None` follows the HF_HUB_OFFLINE environment variable."""

    def __init__(self, cache: Path | None = None, offline: bool | None = None) -> None:
        self.cache = cache
        self.offline = constants.HF_HUB_OFFLINE if offline is None else offline

    def cached(self, source: str, name: str, revision: str | None = None) -> Path | None:
        """Where a file of a repository lies in the cache, if it does."""
        found = try_to_load_from_cache(source, name, cache_dir=self.cache, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def download(self, source: str, revision: str | None, choose: Choose, say: Say) -> Path:
        """Fetch the files that `choose` picks from the repository's names; returns the snapshot's folder."""
        if self.offline:
            raise unavailable(source, "it is not on disk and the studio runs offline")
        try:
            info = HfApi().model_info(source, revision=revision, timeout=NETWORK_TIMEOUT_SECONDS, files_metadata=True)
        except Exception as error:
            raise unavailable(source, f"it is not on disk and the hub did not answer ({_short(error)})") from error
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
        names = choose(list(sizes))
        if not names:
            raise unavailable(source, "the repository has none of the files that are needed")
        progress = _Progress(source, sum(sizes[name] for name in names), say)
        path = Path()
        for name in names:
            path = self._fetch(source, name, info.sha, progress)
            progress.finish(sizes[name])
        return Path(str(path).removesuffix(names[-1]))

    def _fetch(self, source: str, name: str, revision: str | None, progress: _Progress) -> Path:
        try:
            return Path(
                hf_hub_download(
                    source,
                    name,
                    revision=revision,
                    cache_dir=self.cache,
                    etag_timeout=NETWORK_TIMEOUT_SECONDS,
                    tqdm_class=progress.bar(),
                )
            )
        except Cancelled:
            raise
        except Exception as error:
            raise unavailable(source, f"the download of {name} failed ({_short(error)})") from error


class _Progress:
    """Bytes of several downloads as one fraction."""

    def __init__(self, source: str, total_bytes: int, say: Say) -> None:
        self._source, self._total, self._say = source, max(total_bytes, 1), say
        self._finished = 0

    def finish(self, size: int) -> None:
        self._finished += size
        self.show(0)

    def show(self, current: int) -> None:
        done = min(self._finished + current, self._total)
        text = f"Downloading {self._source}: {done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB"
        self._say(text, done / self._total)

    def bar(self) -> type[tqdm]:
        """A progress bar class, as the hub's library wants it, that reports here and draws nothing."""
        show = self.show

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> None:
                self.n += n or 0
                show(int(self.n))

        return Bar


def unavailable(source: str, why: str) -> ModelUnavailable:
    """The error for missing weights, with the command that helps."""
    return ModelUnavailable(
        f"{source} cannot be used: {why}. Where there is a network, run `hf download {source}` "
        f"(or copy that machine's Hugging Face cache here), or choose a model that is on disk."
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100] if str(error).strip() else 'no details'}"


# --- what a folder must hold ------------------------------------------------------------------------------------


def pipeline_files(variant: str | None, *, weights: bool = True) -> Choose:
    """Choose the files of a pipeline: its configuration and, per component, the variant's weights or the plain ones."""

    def choose(names: list[str]) -> list[str]:
        chosen = [name for name in names if name == "model_index.json"]
        for component in sorted({name.split("/")[0] for name in names if name.count("/") == 1}):
            if component in UNUSED_COMPONENTS:
                continue
            inside = [name for name in names if name.startswith(f"{component}/")]
            chosen += [name for name in inside if name.endswith((".json", ".txt")) and "index" not in name]
            if weights:
                chosen += weight_files(inside, variant)
        return chosen

    return choose


def weight_files(names: Iterable[str], variant: str | None) -> list[str]:
    """The safetensors of the variant, or without one the plain ones; shards come with their index."""
    groups: dict[str | None, list[str]] = {}
    for name in names:
        if match := WEIGHTS.fullmatch(name.split("/")[-1]):
            groups.setdefault(match["variant"], []).append(name)
    wanted = variant if variant in groups else None
    found = sorted(groups.get(wanted, []))
    if len(found) > 1:
        infix = f".{wanted}" if wanted else ""
        found += [name for name in names if name.endswith(f".safetensors.index{infix}.json")]
    return found


def missing_parts(folder: Path, variant: str | None) -> list[str]:
    """What a pipeline's folder lacks, by component; empty when it can be loaded."""
    components = read_components(folder)
    missing = []
    for component in components:
        inside = folder / component
        names = [path.name for path in inside.glob("*")] if inside.is_dir() else []
        if component in WEIGHTLESS_COMPONENTS:
            complete = bool(names)
        else:
            complete = "config.json" in names and has_all_shards(inside, weight_files(names, variant))
        if not complete:
            missing.append(component)
    return missing if components else ["model_index.json"]


def read_components(folder: Path) -> dict[str, list[str]]:
    """The components that `model_index.json` names and we use; classes of any other library are refused."""
    index = folder / "model_index.json"
    if not index.is_file():
        return {}
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsafeFile(f"{index}: expected JSON, got something else ({error}).") from error
    components = {}
    for name, entry in entries.items():
        if name.startswith("_") or name in UNUSED_COMPONENTS or not isinstance(entry, list) or entry[0] is None:
            continue
        if entry[0] not in TRUSTED_LIBRARIES:
            raise UnsafeFile(f"{index}: {name} wants code from {entry[0]!r}; only diffusers and transformers are run.")
        components[name] = entry
    return components


def has_all_shards(folder: Path, names: list[str]) -> bool:
    """Whether these weight files are all of them: one file, or every shard that an index names."""
    indices = [name for name in names if name.endswith(".json")]
    if not indices:
        return len(names) == 1
    shards = json.loads((folder / indices[0]).read_text(encoding="utf-8"))["weight_map"].values()
    return all((folder / shard).is_file() for shard in set(shards))
