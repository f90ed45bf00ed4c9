"""Where everything is drawn and looked at: one base, the judge, the prompts, and the shelf that remembers.

A `Group` is a list of prompts with its noise; everybody draws a group from the same noise. `look` gives what is kept
of a set of pictures: the judge's features, which pictures show the things asked for, and a few of them small.
Knows no claim and no table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.drawing import NOISE_SEED, Bench, Contestant, Scales, Steps, contestants, noise_of, unseen_scenes
from benchmarks.measures import Eye, frechet_distance, interval, kernel_distance
from benchmarks.measures.distances import Difference, Distance, difference
from benchmarks.paper.shelf import Row, Shelf
from benchmarks.paper.sizes import Sizes
from studio.perflow import weights_sha256
from studio.perflow.guidance import num_network_calls
from studio.specs import AcceleratorSpec
from trainer.tabletop.captions import full_caption
from trainer.tabletop.judge import things_found
from trainer.tabletop.scenes import Scene

NUM_SHOWN = 6
TEACHER_STEPS = 25
# Places of prompts that no other group has.
REFERENCE_FIRST, RACE_FIRST, DOUBLES_FIRST = 100_000, 200_000, 300_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Prompts, what they ask for, and the noise they are drawn from; `name` tells it from all others."""

    name: str
    scenes: list[Scene]
    texts: list[str]
    noise: torch.Tensor

    def first(self, count: int) -> Group:
        """Its first prompts."""
        return Group(
            name=f"{self.name}[:{count}]",
            scenes=self.scenes[:count],
            texts=self.texts[:count],
            noise=self.noise[:count],
        )


def mixed_group(name: str, count: int, first: int, noise_seed: int) -> Group:
    """Prompts of scenes with one thing and with two, in turn."""
    halves = [unseen_scenes(things, count // 2, first) for things in (1, 2)]
    scenes = [scene for pair in zip(*halves, strict=True) for scene in pair]
    return _group(f"{name}-{first}-{count}-{noise_seed}", scenes, noise_of(count, noise_seed))


def double_group(count: int) -> Group:
    """Prompts of scenes with two things."""
    scenes = unseen_scenes(2, count, DOUBLES_FIRST)
    return _group(f"doubles-{count}", scenes, noise_of(count, NOISE_SEED + 2))


def seeds_group(count: int, num_seeds: int) -> Group:
    """Each prompt several times, from as many noises."""
    singles = [scene for pair in zip(*(unseen_scenes(n, count // 2) for n in (1, 2)), strict=True) for scene in pair]
    scenes = [scene for scene in singles for _ in range(num_seeds)]
    return _group(f"seeds-{count}-{num_seeds}", scenes, noise_of(len(scenes), NOISE_SEED + 3))


def _group(name: str, scenes: list[Scene], noise: torch.Tensor) -> Group:
    return Group(name=name, scenes=scenes, texts=[full_caption(scene) for scene in scenes], noise=noise)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What is kept of a set of pictures."""

    features: torch.Tensor
    right: np.ndarray
    shown: np.ndarray
    accuracies: dict[str, float]
    seconds: float


@dataclass(kw_only=True, eq=False)
class Room:
    """The base at `base` (or the shipped one) with everything it can wear.

    `cache` has rendered scenes, `style_cache` the fine-tuned base; `advance` hears of every batch that is drawn.
    """

    assets: Path
    shelf: Shelf
    sizes: Sizes
    guidance: float
    cache: Path
    style_cache: Path
    base: Path | None = None
    advance: Callable[[int, str], None] = lambda _rows, _words: None
    bench: Bench = field(init=False)
    eye: Eye = field(init=False)
    all: list[Contestant] = field(init=False)
    facts: dict[str, Any] = field(init=False)
    _prompts: dict[str, torch.Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.bench = Bench(self.assets, 2, base=self.base)
        self.bench.advance = self.advance
        self.eye = Eye.load(self.assets)
        self.all = contestants(self.assets)
        pipe = self.bench.pipe
        self.facts = {
            "unet": self.bench.worn.base_sha256, "vae": weights_sha256(pipe.vae),
            "text_encoder": weights_sha256(pipe.text_encoder), "judge": self.eye.sha256,
        }  # fmt: skip
        self.hashes = {each.id: self.bench.wear(each) for each in self.all}

    # --- who ---

    @cached_property
    def perflow(self) -> Contestant:
        """The shipped delta weights."""
        return next(each for each in self.all if each.spec.kind == "perflow_delta")

    @cached_property
    def lcm(self) -> Contestant | None:
        """The consistency rival, if its weights are there."""
        return next((each for each in self.all if each.spec.sampler == "lcm"), None)

    @cached_property
    def rivals(self) -> list[Contestant]:
        """Trained methods other than PeRFlow."""
        return [each for each in self.all if each.is_trained and each.spec.sampler != "perflow"]

    @cached_property
    def racer(self) -> Contestant | None:
        """PeRFlow with the size and the training of its rivals: the LoRA of their rank."""
        ranks = {each.recipe.lora_rank for each in self.rivals if each.recipe}
        found = (each for each in self._perflows if each.recipe and {each.recipe.lora_rank} == ranks)
        return next(found, None)

    @cached_property
    def fixed(self) -> Contestant | None:
        """The first PeRFlow that has guidance in its weights."""
        return next((each for each in self._perflows if each.baked is not None), None)

    @cached_property
    def sync(self) -> Contestant | None:
        """The first PeRFlow that leaves guidance to the sampler."""
        return next((each for each in self._perflows if each.baked is None), None)

    @cached_property
    def _perflows(self) -> list[Contestant]:
        return [each for each in self.all if each.spec.sampler == "perflow"]

    @cached_property
    def teacher(self) -> Contestant:
        """The base itself by its best solver."""
        return self.bare("dpmpp")

    def bare(self, sampler: Any) -> Contestant:
        """The base itself by a plain solver."""
        spec = AcceleratorSpec(id=sampler, title=f"None ({sampler})", kind="none", sampler=sampler,
                               families=("tabletop",))  # fmt: skip
        return next((each for each in self.all if each.id == sampler), Contestant(spec=spec))

    def calls(self, who: Contestant, steps: Steps, guidance: Scales) -> int:
        """Network rows for one picture."""
        return num_network_calls(self.bench.scales(who, steps, guidance))

    # --- groups ---

    @cached_property
    def main(self) -> Group:
        """The prompts everybody is compared on."""
        return mixed_group("main", self.sizes.num_pictures, 0, NOISE_SEED)

    @cached_property
    def others(self) -> Group:
        """The prompts of the teacher samples that are a reference: others, from other noise."""
        return mixed_group("reference", self.sizes.num_pictures, REFERENCE_FIRST, NOISE_SEED + 1)

    @cached_property
    def raced(self) -> Group:
        """The prompts of the race."""
        return mixed_group("race", self.sizes.num_raced, RACE_FIRST, NOISE_SEED + 4)

    def teacher_samples(self, count: int | None = None) -> torch.Tensor:
        """Features of the teacher's pictures at the house's guidance; of as many as are compared."""
        whole = self.look(self.teacher, TEACHER_STEPS, self.guidance, self.others)
        return whole.features[:count]

    # --- drawing ---

    def decided(self, what: str, who: Contestant, steps: Steps, guidance: Scales, group: Group, **more: Any) -> Any:
        """All that decides a row."""
        return {
            "what": what, "who": who.id, "weights": self.hashes.get(who.id), "steps": steps, "guidance": guidance,
            "group": group.name, **self.facts, **more,
        }  # fmt: skip

    def look(self, who: Contestant, steps: Steps, guidance: Scales, group: Group) -> Pictures:
        """Draw a group and keep what is to be kept; or take it from the shelf."""
        decides = self.decided("pictures", who, steps, guidance, group)
        row = self.shelf.row(decides, lambda: self._look(self.latents(who, steps, guidance, group), group))
        return Pictures(
            features=torch.from_numpy(row.arrays["features"]), right=row.arrays["right"], shown=row.arrays["shown"],
            accuracies=row.numbers["accuracies"], seconds=row.numbers["seconds"],
        )  # fmt: skip

    def latents(self, who: Contestant, steps: Steps, guidance: Scales, group: Group,
                negative: list[str] | None = None) -> torch.Tensor:  # fmt: skip
        """Drawn now."""
        against = None if negative is None else self.bench.embed(negative)
        prompts = self.prompts(group)
        return self.bench.draw(who, steps, guidance, group.noise, prompts=prompts, negative=against)

    def prompts(self, group: Group) -> torch.Tensor:
        """A group's prompts `[N, 64, 192]`, read once."""
        if group.name not in self._prompts:
            self._prompts[group.name] = self.bench.embed(group.texts)
        return self._prompts[group.name]

    def _look(self, latents: torch.Tensor, group: Group) -> Row:
        start = time.monotonic()
        pixels = self.bench.pixels(latents)
        shown = ((pixels[:NUM_SHOWN] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        seen = self.eye.logits(pixels)
        right = np.array(things_found(seen["pairs"], group.scenes))
        arrays = {"features": seen["features"].numpy(), "shown": shown.numpy(), "right": right}
        accuracies = self.eye.accuracies(pixels, group.scenes)
        return Row(numbers={"accuracies": accuracies, "seconds": time.monotonic() - start}, arrays=arrays)

    # --- distances, kept as well ---

    def distance(self, name: str, features: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
        """`fd` with its interval, or `kid`."""
        measure = MEASURES[name]

        def make() -> Row:
            value = measure(features, reference)
            if name == "kid":
                return Row(numbers={"value": value})
            found = interval(measure, features, reference, num_resamples=self.sizes.num_resamples)
            return Row(numbers={"value": value, "low": found.low, "high": found.high})

        decides = {"what": name, "sets": [_hash(features), _hash(reference)], "resamples": self.sizes.num_resamples}
        return self.shelf.row(decides, make).numbers

    def difference(self, features: torch.Tensor, others: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
        """How much larger the FD of the first is than that of the second, whose rows belong together."""

        def make() -> Row:
            found: Difference = difference(
                frechet_distance, features, others, reference, num_resamples=self.sizes.num_resamples
            )
            return Row(numbers={"value": found.value, "low": found.interval.low, "high": found.interval.high})

        sets = [_hash(each) for each in (features, others, reference)]
        return self.shelf.row({"what": "difference", "sets": sets, "resamples": self.sizes.num_resamples}, make).numbers


MEASURES: dict[str, Distance] = {"fd": frechet_distance, "kid": kernel_distance}


def _hash(features: torch.Tensor) -> str:
    return weights_sha256({"features": features})


def share_difference(first: np.ndarray, second: np.ndarray, num_resamples: int = 1000) -> dict[str, float]:
    """How much larger the share of `True` is in the first than in the second, pictures paired; 95 % of a bootstrap."""
    return mean_interval(first.astype(float) - second.astype(float), num_resamples)


def mean_interval(values: np.ndarray, num_resamples: int = 1000) -> dict[str, float]:
    """The mean with 95 % of its bootstrap."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (num_resamples, len(values))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}
