"""The typed endpoints for programs: /text_to_image, /models, /history and /picture; those that draw after pictures are
in control.py, enlarging in upscale.py, contests' and grids' in compare.py, views' in multiview.py,
training's in training.py.

They take the page's path through `Services`, so they refuse in the page's words. A `StudioError` reaches the client as
it is; anything else is logged whole and told as "something broke", never by its text. Endpoints that work for a while
are generators: a client that cancels or goes away stops the work within a step.
Annotations are evaluated here (no `from __future__ import annotations`), because gradio documents the API from them.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.data_classes import FileData

from studio.errors import StorageError, StudioError
from studio.history import HistoryEntry
from studio.services import RANDOM_SEED, Services
from studio.types import GenerationEvent, GenerationRequest, GenerationResult, Loading, StepDone, Waiting
from studio.ui.api.compare import compare_endpoints
from studio.ui.api.control import control_endpoints
from studio.ui.api.multiview import multiview_endpoints
from studio.ui.api.training import training_endpoints
from studio.ui.api.upscale import upscale_endpoints

LOG = logging.getLogger(__name__)
BROKEN = "Something broke on our side. It has been logged; please try again."

Function = TypeVar("Function", bound=Callable[..., Any])
Files = list[FileData]
Json = dict[str, Any]


def register(services: Services) -> None:
    """Offer the endpoints; call it inside the page's `gr.Blocks`."""

    def text_to_image(
        prompt: str,
        negative_prompt: str = "",
        model: str | None = None,
        accelerator: str | None = None,
        accelerator_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | list[float] | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = RANDOM_SEED,
        num_images: int = 1,
    ) -> Iterator[tuple[Files, Json]]:
        """Draw pictures from a prompt: the original PNG files, and JSON of parameters, timings and effective grid.

        Left out or null means the recommended value of that model and accelerator (see /models); seed -1 is random,
        and image i of a batch uses seed + i. guidance is one scale, or a list with one per time window; 1 is off.
        Until the pictures are there the files are empty and the JSON tells the state.
        """
        request = services.resolve(
            prompt=prompt,
            negative_prompt=negative_prompt,
            model=model,
            accelerator=accelerator,
            accelerator_strength=accelerator_strength,
            steps=steps,
            guidance=guidance,
            width=width,
            height=height,
            seed=seed,
            num_images=num_images,
        )
        yield from drawn(services, request, tab="text-to-image")

    def models() -> list[Json]:
        """Every model with its accelerators and controls, their recommended values, and whether they are on disk."""
        return [
            {
                **asdict(status.spec),
                "on_disk": status.on_disk,
                "accelerators": [asdict(each) for each in services.accelerators(status.spec.id)],
                "controls": [
                    {**asdict(each.spec), "on_disk": each.on_disk} for each in services.controls(status.spec.id)
                ],
            }
            for status in services.models()
        ]

    def history(text: str = "", tab: str | None = None, limit: int = 60, before: str | None = None) -> list[Json]:
        """Saved pictures, newest first. All words of text must occur; before is the last id of the page before."""
        return [_entry(entry) for entry in services.history.search(text=text, tab=tab, limit=limit, before=before)]

    def picture(id: str) -> FileData:
        """The original PNG of a saved picture, by its id from /history or /text_to_image."""
        return _file(services.history.export(id))

    following, at_once = control_endpoints(services, drawn)
    compared = compare_endpoints(services, _file, _state)
    enlarged, views = upscale_endpoints(services, drawn), multiview_endpoints(services)
    for function in (text_to_image, *following, *enlarged, *compared, *views):
        stepwise = _in_sentences(_yielding(function, tuple[Files, Json]))
        gr.api(stepwise, api_name=function.__name__, concurrency_limit=None)
    for function in (models, history, picture, *at_once, *training_endpoints(services)):
        gr.api(_in_sentences(function), api_name=function.__name__, concurrency_limit=None)


def drawn(services: Services, request: GenerationRequest, *, tab: str) -> Iterator[tuple[Files, Json]]:
    """The steps of a generation as JSON, and last its files with the report."""
    for event in services.generate(request, tab=tab, previews=False):
        if isinstance(event, GenerationResult):
            yield _files(services, event), _report(event)
        else:
            yield [], _state(event)


def _yielding(function: Function, kind: Any) -> Function:
    """Tell gradio what one yield carries; it documents return types and does not look inside `Iterator`."""
    function.__signature__ = inspect.signature(function).replace(return_annotation=kind)
    return function


def _in_sentences(function: Function) -> Function:
    """Errors as gradio shows them: ours by their text, all others by a sentence that tells nothing."""

    @wraps(function)
    def stepwise(*arguments: Any) -> Iterator[Any]:
        with _translated():
            yield from function(*arguments)

    @wraps(function)
    def at_once(*arguments: Any) -> Any:
        with _translated():
            return function(*arguments)

    return stepwise if inspect.isgeneratorfunction(function) else at_once  # pyright: ignore[reportReturnType]


@contextmanager
def _translated() -> Iterator[None]:
    """Turn any error inside into a `gr.Error` that may be shown."""
    try:
        yield
    except StudioError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        LOG.exception("an API call failed")
        raise gr.Error(BROKEN, print_exception=False) from error


def _files(services: Services, result: GenerationResult) -> Files:
    unsaved = [image.seed for image in result.images if image.history_id is None]
    if unsaved:
        raise StorageError(f"The pictures were drawn but could not be saved. {result.receipt.warnings[-1]}")
    return [_file(services.history.export(image.history_id)) for image in result.images if image.history_id]


def _file(path: Path) -> FileData:
    return FileData(path=str(path), orig_name=path.name, mime_type="image/png", size=path.stat().st_size)


def _report(result: GenerationResult) -> Json:
    receipt = result.receipt
    return {
        "state": "finished",
        "parameters": result.request.to_json(),
        "images": [{"seed": image.seed, "history_id": image.history_id} for image in result.images],
        "timings": {
            "seconds": result.seconds,
            "seconds_load": receipt.seconds_load,
            "seconds_steps": list(receipt.seconds_steps),
            "seconds_decode": receipt.seconds_decode,
        },
        "grid": asdict(receipt.plan),
        "receipt": {name: value for name, value in asdict(receipt).items() if name != "plan"},
    }


def _state(event: GenerationEvent) -> Json:
    if isinstance(event, Waiting):
        return {"state": "waiting", "num_ahead": event.num_ahead, "seconds": event.seconds}
    if isinstance(event, Loading):
        return {"state": "loading", "message": event.message, "fraction": event.fraction}
    assert isinstance(event, StepDone)
    place = ("image_index", "num_images", "step", "num_steps", "timestep", "window", "num_time_windows")
    if event.num_tiles:
        place = (*place, "tile", "num_tiles")
    return {"state": "drawing", **{name: getattr(event, name) for name in place}}


def _entry(entry: HistoryEntry) -> Json:
    return {
        "id": entry.id,
        "tab": entry.tab,
        "created": entry.created,
        "file": entry.path.name,
        "parameters": entry.request.to_json(),
        "receipt": entry.receipt,
    }
