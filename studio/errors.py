"""Every error a person may see, as one tree.

    StudioError                 safe to show: one sentence of what was expected, what came, what to do
    |- InvalidRequest           a field of a request makes no sense (names the field)
    |- CatalogError             a preset file says something it must not
    |- ModelUnavailable         weights are neither on disk nor to be had from the hub
    |- IncompatibleWeights      delta weights do not fit this base (family, head, keys, shapes)
    |- UnsafeFile               a file was refused before its content was used
    |- OutOfMemory              the device ran out of memory; what was freed, what to try
    |- QueueFull                too many people are waiting
    |- NotFound                 an id that names nothing
    |- NeedsConfirmation        what is asked changes something a person must agree to (carries the lines)
    |- TurnedOff                this studio's owner has not turned this on
    |- Busy                     not now: something else is at work that it would disturb
    `- StorageError             the disk is full, read-only, or owned by another studio

What is not a `StudioError` is a bug: it is logged whole and shown as "something broke", never as its text.
This module imports nothing of the project.
"""

from __future__ import annotations


class StudioError(Exception):
    """The base of all errors whose text may be shown to a person as it is."""


class InvalidRequest(StudioError):
    """A field of a request is out of range. `field` is the name the form and the API use."""

    def __init__(self, field: str, expected: str, got: object) -> None:
        shown = repr(got)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        self.field, self.expected, self.got = field, expected, got
        super().__init__(f"{field}: expected {expected}, got {shown}.")


class CatalogError(StudioError):
    """A preset file is malformed: names the file, the entry and the key."""


class ModelUnavailable(StudioError):
    """Weights are missing here and could not be downloaded; the text says which command or setting helps."""


class IncompatibleWeights(StudioError):
    """Delta weights do not belong on this base; the text names the first mismatch and the model is unchanged."""


class UnsafeFile(StudioError):
    """A file from outside was refused by its content or size; nothing of it was used."""


class OutOfMemory(StudioError):
    """The device ran out of memory; the engine is usable again when this is raised."""


class QueueFull(StudioError):
    """The waiting line is full; try again in a while."""


class NotFound(StudioError):
    """An id was given that names nothing (any more)."""


class NeedsConfirmation(StudioError):
    """Ask the person first. `lines` says what would change, one line each."""

    def __init__(self, text: str, lines: tuple[str, ...]) -> None:
        self.lines = lines
        super().__init__(text)


class TurnedOff(StudioError):
    """The owner of this studio has not turned this on; the text says which flag does."""


class Busy(StudioError):
    """What is asked would disturb work in progress; the text says what to do first."""


class StorageError(StudioError):
    """The data folder cannot be written, or belongs to another running studio."""
