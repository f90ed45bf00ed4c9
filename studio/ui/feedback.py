"""Words for what happens: events, waiting, downloads, errors beside their field, and things that broke on our side.

A person learns what the studio is doing and what to do next. A `StudioError` is shown as it is; anything else is a
bug: logged whole, shown as one sentence without its text. This module does not know gradio components.
"""

from __future__ import annotations

import logging
from html import escape

from studio.errors import InvalidRequest, StudioError
from studio.specs import ModelSpec
from studio.types import GenerationRequest, GenerationResult, Loading, StepDone, Waiting
from studio.ui.windows_view import plural, where_in_words

LOG = logging.getLogger(__name__)
BROKE = "Something broke on our side. It is written in the log; your settings are still here, please try again."
FIELD_NAMES = {"accelerator_strength": "Strength", "guidance": "CFG", "num_images": "Batch count"}


def event_in_words(event: Waiting | Loading | StepDone) -> str:
    """What is going on right now, for the line under the picture."""
    if isinstance(event, Waiting):
        about = "" if event.seconds is None else f", about {seconds_in_words(event.seconds)}"
        return f"Waiting for the device: {event.num_ahead} ahead{about}."
    if isinstance(event, Loading):
        share = "" if event.fraction is None else f" {event.fraction:.0%}"
        return f"{event.message.rstrip('.…')}…{share}"
    words = where_in_words(event)
    return f"{words[0].upper()}{words[1:]}"


def result_in_words(result: GenerationResult) -> str:
    """What was drawn and what it cost."""
    receipt = result.receipt
    words = (
        f"{plural(len(result.images), 'picture')} in {seconds_in_words(result.seconds)}: "
        f"{plural(len(receipt.plan.timesteps), 'step')}, {plural(receipt.num_network_calls, 'network call')} "
        f"on {receipt.device}."
    )
    return " ".join((words, *receipt.warnings))


def seconds_in_words(seconds: float) -> str:
    """`0.31 s`, `8 s`, `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def bytes_in_words(count: int) -> str:
    """`5 kB`, `134 MB`, `1.7 GB`."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def alt_text(request: GenerationRequest, seed: int) -> str:
    """The alternative text of a picture, made from what was asked for."""
    prompt = " ".join(request.prompt.split()) or "no prompt"
    return f"Generated picture: {prompt} (seed {seed})"


def availability(spec: ModelSpec, *, on_disk: bool) -> str:
    """Whether a model can draw at once: `built in`, `on disk`, `2.1 GB to download`."""
    if spec.kind == "builtin":
        return "built in" if on_disk else "its files are missing"
    if spec.download_bytes is None:
        return "on disk" if on_disk else "not on disk"
    return f"{bytes_in_words(spec.download_bytes)} {'on disk' if on_disk else 'to download'}"


def licence_html(license: str) -> str:
    """A licence, marked when it forbids commercial use."""
    marked = ' class="noncommercial"' if "-nc" in license.lower() else ""
    note = " · not for commercial use" if marked else ""
    return f"<span{marked}>licence: {escape(license)}{note}</span>"


def field_error_html(error: InvalidRequest) -> str:
    """An error for the place beside its field, without repeating the field's machine name."""
    words = str(error)
    prefix = f"{error.field}: "
    if words.startswith(prefix):
        words = f"{FIELD_NAMES.get(error.field, error.field.replace('_', ' ').capitalize())}: {words[len(prefix) :]}"
    return f'<p class="field-error" role="alert">{escape(words)}</p>'


def failure_in_words(error: Exception) -> str:
    """The sentence to show for an error that belongs to no field; bugs are logged here."""
    if isinstance(error, StudioError):
        return str(error)
    LOG.error("An unexpected error reached the page.", exc_info=error)
    return BROKE


def failure_html(error: Exception) -> str:
    """An error that belongs to no field, where the page has a place for it."""
    return f'<p class="field-error" role="alert">{escape(failure_in_words(error))}</p>'
