"""The checks every value of a request shares: text, ids, whole numbers, numbers, pictures named by their content.

Each raises `InvalidRequest` naming field, range and value. Knows no request.
"""

from __future__ import annotations

import re

from studio.errors import InvalidRequest

_PICTURE = re.compile(r"[0-9a-f]{64}")


def check_text(name: str, value: object, longest: int) -> None:
    """Text of at most `longest` characters."""
    if not isinstance(value, str):
        raise InvalidRequest(name, "text", value)
    if len(value) > longest:
        raise InvalidRequest(name, f"at most {longest} characters", f"{len(value)} characters")


def check_id(name: str, value: object) -> None:
    """The form of a catalogue's id; whether it exists is the catalogue's business."""
    if not isinstance(value, str) or not 1 <= len(value) <= 100:
        raise InvalidRequest(name, "an id from the catalogue", value)


def check_count(name: str, value: object, low: int, high: int) -> None:
    """A whole number in a range, both ends included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(name, f"a whole number from {low} to {high}", value)


def check_number(name: str, value: object, low: float, high: float) -> None:
    """A finite number in a range, both ends included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN is not
        raise InvalidRequest(name, f"a number from {low:g} to {high:g}", value)


def check_picture(name: str, value: object) -> None:
    """The name of a kept picture: 64 hexadecimal digits of its content."""
    if not isinstance(value, str) or not _PICTURE.fullmatch(value):
        raise InvalidRequest(name, "a picture kept by this studio, by the 64 digits of its content", value)
