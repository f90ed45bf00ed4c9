"""What the page and the API may call to compare accelerators: a fair contest, drawn in turn, with its numbers.

choices -> `resolve` (every refusal before any work) -> `run`: a first pass that is shown, then timed rounds without
previews in an order that turns; each drawing is one ordinary generation (line, device, engine, history), so a
contestant's picture is the one text-to-image makes of the same request. Times leave out loading and putting weights
on. Where models differ, each is timed right after its own pass instead, so that none is loaded anew in every round.
While a training shares the device, times are not fair, and the result says so.
This module knows neither gradio nor torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from studio.adherence import adherence, asked_for
from studio.catalog import Catalog
from studio.comparing.contest import (
    CONTESTANT_FIELDS,
    MAX_CONTESTANTS,
    MIN_CONTESTANTS,
    Comparison,
    replace_steps,
    steps_within,
    with_steps,
)
from studio.comparing.numbers import Numbers, latent_error
from studio.engine.judging import Judges
from studio.errors import InvalidRequest
from studio.pixels import psnr
from studio.specs import AcceleratorSpec
from studio.types import GeneratedImage, GenerationEvent, GenerationRequest, GenerationResult, StepPlan

TAB = "compare"
REFERENCE_STEPS = 50
SHARED = "A training run shared the device meanwhile: times are longer than they need be, and not fair."

Generate = Callable[..., Iterator[GenerationEvent]]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A step, a wait or a load of one contestant; `round` is 0 for the pass that is shown."""

    index: int
    round: int
    event: GenerationEvent


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One contestant's picture and what it cost.

    `seconds` is the median of its timed rounds (of the first pass where there were none): steps and decoding.
    """

    index: int
    title: str
    result: GenerationResult
    numbers: Numbers
    seconds: float
    seconds_rounds: tuple[float, ...] = ()

    @property
    def request(self) -> GenerationRequest:
        """What really ran."""
        return self.result.request

    @property
    def image(self) -> GeneratedImage:
        """Its only picture."""
        return self.result.images[0]

    @property
    def plan(self) -> StepPlan:
        """The effective grid."""
        return self.result.receipt.plan


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparisonResult:
    """The last event: every contestant in its place, and what there is to say."""

    comparison: Comparison
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()


ComparisonEvent = Drawing | Entry | ComparisonResult


@dataclass(kw_only=True, eq=False)
class _State:
    """What has been drawn of a contest so far."""

    comparison: Comparison
    entries: dict[int, Entry] = field(default_factory=dict)
    is_shared: bool = False

    @property
    def is_one_model(self) -> bool:
        return len({each.model for each in self.comparison.contestants}) == 1


class Comparisons:
    """Contests, on the house's terms; built by `Services`.

    `resolve` completes and checks a request, `plan` tells its grid, `generate` draws it; `is_training` says whether a
    run shares the device now.
    """

    def __init__(
        self, catalog: Catalog, resolve: Callable[..., GenerationRequest],
        plan: Callable[[GenerationRequest], StepPlan], generate: Generate, judges: Judges,
        is_training: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._catalog, self._resolve, self._plan, self._generate = catalog, resolve, plan, generate
        self._judges, self._is_training = judges, is_training

    def suggested(self, model_id: str) -> tuple[list[dict[str, Any]], int | None]:
        """Contestants to begin with, and which is the reference: LCM against PeRFlow, and the bare model in many steps.

        A model lacks some of them where nothing of the kind fits it; a merged one has PeRFlow alone.
        """
        fitting = self._catalog.accelerators_for(model_id)
        found: list[AcceleratorSpec] = []
        for fits in (_is_lcm, _is_perflow):
            found += [each for each in fitting if fits(each)][:1]
        contestants = [
            {"model": model_id, "accelerator": each.id, "accelerator_strength": 1.0,
             "steps": each.recommended_steps, "guidance": list(each.recommended_guidance)}
            for each in found
        ]  # fmt: skip
        teacher = next((each for each in fitting if each.kind == "none" and each.sampler == "ddim"), None)
        if teacher is None:
            return contestants, None
        scales = list((found[-1] if found else teacher).teachers_guidance)
        contestants.append({"model": model_id, "accelerator": teacher.id, "accelerator_strength": 1.0,
                            "steps": REFERENCE_STEPS, "guidance": scales})  # fmt: skip
        return contestants, len(contestants) - 1

    def resolve(
        self,
        *,
        prompt: str,
        contestants: Sequence[Mapping[str, Any]],
        negative_prompt: str = "",
        width: int | None = None,
        height: int | None = None,
        seed: int = -1,
        equal: str = "own",
        budget: float | None = None,
        reference: int | None = None,
        rounds: int = 3,
    ) -> Comparison:
        """What a person typed, completed and checked; each contestant is a mapping of `CONTESTANT_FIELDS`.

        The canvas is the first contestant's model's own where none is given, the seed one for all. Raises
        `InvalidRequest` naming the contestant and its field.
        """
        if isinstance(contestants, str) or not isinstance(contestants, Sequence):
            raise InvalidRequest("contestants", "a list of objects", contestants)
        if not MIN_CONTESTANTS <= len(contestants) <= MAX_CONTESTANTS:
            raise InvalidRequest("contestants", f"{MIN_CONTESTANTS} to {MAX_CONTESTANTS} of them", len(contestants))
        requests: list[GenerationRequest] = []
        common: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative_prompt, "width": width,
                                  "height": height, "seed": seed}  # fmt: skip
        for number, choices in enumerate(contestants, 1):
            requests.append(self._contestant(number, choices, common))
            first = requests[0]
            common |= {"width": first.width, "height": first.height, "seed": first.seed}
        comparison = Comparison(
            contestants=tuple(requests),
            equal=equal,  # pyright: ignore[reportArgumentType]  # checked there
            budget=_whole(budget),
            reference=reference,
            rounds=rounds,
        )
        return with_steps(comparison, self._cost)

    def _contestant(self, number: int, choices: Mapping[str, Any], common: Mapping[str, Any]) -> GenerationRequest:
        if not isinstance(choices, Mapping):
            raise InvalidRequest("contestants", "an object for each", choices)
        unknown = sorted(map(str, set(choices) - set(CONTESTANT_FIELDS)))
        if unknown:
            raise InvalidRequest("contestants", f"only {', '.join(CONTESTANT_FIELDS)}", unknown[0])
        try:
            return self._resolve(**common, **choices)
        except InvalidRequest as error:
            raise InvalidRequest(
                "contestants", f"for number {number}, {error.field}, {error.expected}", error.got
            ) from error

    def plans(self, comparison: Comparison) -> tuple[StepPlan, ...]:
        """The effective grid of every contestant, before any work (with equal time: before the time is measured)."""
        return tuple(map(self._plan, comparison.contestants))

    def _cost(self, request: GenerationRequest) -> int:
        return self._plan(request).num_network_calls

    def title(self, request: GenerationRequest) -> str:
        """What a contestant is called: its accelerator, steps and guidance; its model is said where models differ."""
        scales = "-".join(f"{scale:g}" for scale in request.guidance.scales)
        steps = f"{request.steps} {'step' if request.steps == 1 else 'steps'}"
        return f"{self._catalog.accelerator(request.accelerator).title}, {steps}, CFG {scales}"

    # --- running ---

    def run(self, comparison: Comparison) -> Iterator[ComparisonEvent]:
        """`Drawing` for each step, an `Entry` as each picture is there, and last the `ComparisonResult`.

        Entries come again with their timed rounds in the result. Closing the iterator stops within a step; pictures
        that are done by then are in the history. Raises what `Services.generate` raises.
        """
        state = _State(comparison=comparison)
        if comparison.equal == "time":
            yield from self._measure_pace(state)
        for index in state.comparison.order:
            yield from self._first_pass(state, index)
            if not state.is_one_model:  # another model means loading: nobody is asked to load in every round
                for number in range(comparison.rounds):
                    yield from self._timed(state, index, number + 1)
        if state.is_one_model:
            for number in range(comparison.rounds):
                for index in state.comparison.round_order(number):
                    yield from self._timed(state, index, number + 1)
        entries = tuple(state.entries[index] for index in range(len(comparison.contestants)))
        notes = [SHARED] if state.is_shared else []
        yield ComparisonResult(comparison=state.comparison, entries=entries, warnings=tuple(notes))

    def _first_pass(self, state: _State, index: int) -> Iterator[ComparisonEvent]:
        request = state.comparison.contestants[index]
        result = yield from self._draw(state, request, index, 0)
        state.entries[index] = Entry(
            index=index, title=self.title(request), result=result, numbers=self._numbers(state, result),
            seconds=seconds_of(result),
        )  # fmt: skip
        yield state.entries[index]

    def _timed(self, state: _State, index: int, round: int) -> Iterator[ComparisonEvent]:
        entry = state.entries[index]
        result = yield from self._draw(state, entry.request, index, round)
        rounds = (*entry.seconds_rounds, seconds_of(result))
        memory = max(entry.result.receipt.memory_bytes or 0, result.receipt.memory_bytes or 0) or None
        receipt = replace(entry.result.receipt, memory_bytes=memory)
        state.entries[index] = replace(
            entry, seconds=statistics.median(rounds), seconds_rounds=rounds,
            result=replace(entry.result, receipt=receipt),
        )  # fmt: skip

    def _measure_pace(self, state: _State) -> Iterator[ComparisonEvent]:
        """Give everyone but the reference the steps that fit into the budget, by a warm measured drawing of each."""
        comparison = state.comparison
        paces: dict[int, tuple[float, float]] = {}
        for number in (1, 2):  # the first one warms up
            for index in comparison.order:
                if index != comparison.reference:
                    receipt = (yield from self._draw(state, comparison.contestants[index], index, number)).receipt
                    steps = receipt.seconds_steps
                    paces[index] = (statistics.median(steps), receipt.seconds_decode)
        budget = comparison.budget
        if budget is None:
            first = min(paces)
            budget = paces[first][0] * comparison.contestants[first].steps + paces[first][1]
        changed = list(comparison.contestants)
        for index, (pace, fixed) in paces.items():
            changed[index] = replace_steps(changed[index], steps_within(budget, pace, fixed))
        state.comparison = replace(comparison, contestants=tuple(changed), budget=budget)

    def _draw(
        self, state: _State, request: GenerationRequest, index: int, round: int
    ) -> Iterator[ComparisonEvent]:  # returns the result
        """One drawing as `Drawing` events. Only the first pass is shown and saved."""
        state.is_shared |= self._is_training()
        shown = round == 0
        with closing(self._generate(request, tab=TAB, previews=shown, keep=shown)) as events:  # pyright: ignore[reportArgumentType]
            for event in events:
                if isinstance(event, GenerationResult):
                    state.is_shared |= self._is_training()
                    return event
                yield Drawing(index=index, round=round, event=event)
        raise RuntimeError("a generation ended without a result")

    # --- numbers ---

    def _numbers(self, state: _State, result: GenerationResult) -> Numbers:
        reference = state.entries.get(-1 if state.comparison.reference is None else state.comparison.reference)
        numbers = self.judged(result.request, result.images[0])
        if reference is None or not _is_comparable(result, reference.result):
            return numbers
        own, other = result.images[0], reference.image
        error = None
        if own.latents is not None and other.latents is not None:
            error = latent_error(own.latents, other.latents)
        return replace(numbers, latent_error=error, psnr=psnr(own.image, other.image))

    def judged(self, request: GenerationRequest, image: GeneratedImage) -> Numbers:
        """What the judge of the model's family, or CLIP, makes of a picture."""
        family = self._catalog.model(request.model).family
        vocabulary = self._judges.vocabulary(family)
        if vocabulary is not None:
            asked = asked_for(request.prompt, vocabulary)
            seen = self._judges.see(family, [image.image]) if asked else None
            return Numbers(adherence=adherence(asked, seen[0], vocabulary) if asked and seen else None)
        scores = self._judges.clip_score(request.prompt, [image.image])
        return Numbers(clip_score=scores[0] if scores else None)


def seconds_of(result: GenerationResult) -> float:
    """Steps and decoding, without loading."""
    return sum(result.receipt.seconds_steps) + result.receipt.seconds_decode


def _is_comparable(result: GenerationResult, reference: GenerationResult) -> bool:
    """Whether both came from one base: another's pictures and latents are simply others."""
    return result is not reference and result.receipt.base_sha256 == reference.receipt.base_sha256


def _is_perflow(spec: AcceleratorSpec) -> bool:
    return spec.sampler == "perflow"


def _is_lcm(spec: AcceleratorSpec) -> bool:
    return spec.sampler == "lcm"


def _whole(value: float | None) -> float | None:
    return int(value) if isinstance(value, float) and value.is_integer() else value
