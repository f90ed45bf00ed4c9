"""The parameters inside a picture: written beside the pixels, and read back from strangers' pictures.

A PNG carries two text chunks: `parameters`, the A1111 text other programs read, and `perflow_studio`, our own JSON,
which restores a request exactly and says what really ran. Reading prefers ours.
Whatever is read comes from a stranger: sizes are checked by the header, nothing is evaluated, and every value passes
the same validation as a request from the form. This module does not know whether a model's id exists.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from studio.errors import InvalidRequest, StudioError, UnsafeFile
from studio.types import MAX_UPSCALED_PIXELS, GeneratedImage, GenerationRequest, GenerationResult, Guidance

OWN_CHUNK = "perflow_studio"
A1111_CHUNK = "parameters"
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_IMAGE_BYTES = 64 * 1024 * 1024
MAX_IMAGE_PIXELS = 36_000_000
MAX_DRAWN_BYTES = 4 * MAX_UPSCALED_PIXELS
MAX_PARAMETER_CHARACTERS = 64 * 1024
EXIF_IFD, EXIF_USER_COMMENT = 0x8769, 0x9286
VERSION = 1


def describe(result: GenerationResult, image: GeneratedImage) -> dict[str, Any]:
    """What one picture remembers: the request that draws this very picture alone, and the receipt of what ran."""
    own = replace(result.request, seed=image.seed, num_images=1)
    return {
        "version": VERSION,
        "request": own.to_json(),
        "receipt": asdict(result.receipt),
        "seconds": result.seconds,
        "batch": {"seed": result.request.seed, "num_images": result.request.num_images},
    }


def encode_png(image: Image.Image, description: dict[str, Any]) -> bytes:
    """The picture's bytes with both text chunks."""
    request = GenerationRequest.from_json(description["request"])
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(A1111_CHUNK, to_a1111(request))
    chunks.add_itxt(OWN_CHUNK, json.dumps(description, ensure_ascii=False))
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=chunks)
    return file.getvalue()


def read_description(path: Path) -> dict[str, Any] | None:
    """Our own JSON of a picture, `None` where there is none. Raises `UnsafeFile` for what is not a picture."""
    text = _read_texts(path).get(OWN_CHUNK)
    if text is None:
        return None
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFile(f"The {OWN_CHUNK} parameters of {path.name} are not JSON: the file is damaged.") from error
    if not isinstance(description, dict) or not isinstance(description.get("request"), dict):
        raise UnsafeFile(f"The {OWN_CHUNK} parameters of {path.name} hold no request: the file is damaged.")
    return description


def read_parameters(path: Path) -> GenerationRequest:
    """The request that drew a picture: our JSON, else the A1111 text. Raises `UnsafeFile`, `InvalidRequest`."""
    description = read_description(path)
    if description is not None:
        return _request(description["request"])
    text = _read_texts(path).get(A1111_CHUNK)
    if text is None:
        raise InvalidRequest("image", "a picture that carries its parameters (a PNG as it was saved)", path.name)
    return from_a1111(text)


def _request(values: dict[str, Any]) -> GenerationRequest:
    try:
        return GenerationRequest.from_json(values)
    except StudioError:
        raise
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidRequest("image", "parameters that form a request", sorted(map(str, values))) from error


def check_image(
    path: Path, *, most_pixels: int = MAX_IMAGE_PIXELS, most_bytes: int = MAX_IMAGE_BYTES
) -> tuple[str, int, int]:
    """Format, width and height by the header alone. Raises `UnsafeFile` outside PNG, JPEG, WEBP or 36 megapixels."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes > most_bytes:
            raise UnsafeFile(f"{path.name}: expected at most {most_bytes} bytes, got {num_bytes}.")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            kind = image.format or ""
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UnsafeFile(f"{path.name}: expected a PNG, JPEG or WEBP picture, got something else.") from error
    if width * height > most_pixels:
        raise UnsafeFile(f"{path.name}: expected at most {most_pixels} pixels, got {width} x {height}.")
    return kind, width, height


def _read_texts(path: Path) -> dict[str, str]:
    """The text chunks of a PNG, or the EXIF comment of a JPEG or WEBP as A1111 leaves it, up to what is drawn here."""
    check_image(path, most_pixels=MAX_UPSCALED_PIXELS, most_bytes=MAX_DRAWN_BYTES)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if isinstance(image, PngImagePlugin.PngImageFile):
                texts = {str(key): str(value) for key, value in image.text.items()}
            else:
                comment = image.getexif().get_ifd(EXIF_IFD).get(EXIF_USER_COMMENT)
                texts = {} if comment is None else {A1111_CHUNK: _comment_text(comment)}
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnsafeFile(f"{path.name}: the picture is damaged, its parameters cannot be read.") from error
    return {key: text for key, text in texts.items() if len(text) <= MAX_PARAMETER_CHARACTERS}


def _comment_text(comment: bytes | str) -> str:
    if isinstance(comment, str):
        return comment
    code, text = comment[:8], comment[8:]
    return text.decode("utf-16-be" if code.startswith(b"UNICODE") else "utf-8", errors="replace")


# --- the A1111 text ---------------------------------------------------------------------------------------------

NEGATIVE = "Negative prompt: "
_SETTING = re.compile(r'\s*([A-Za-z][A-Za-z0-9 _/-]{0,60}):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def to_a1111(request: GenerationRequest) -> str:
    """The prompt, the negative prompt, and one line of settings, as A1111 and its many readers expect them."""
    scales = request.guidance.scales
    settings = {
        "Steps": request.steps,
        "Sampler": request.accelerator,
        "CFG scale": _plain(scales[0]),
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
        "Accelerator strength": _plain(request.accelerator_strength),
    }
    if len(scales) > 1:
        settings[f"CFG per {request.guidance.per}"] = "-".join(map(_plain, scales))
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(NEGATIVE + request.negative_prompt)
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items()))
    return "\n".join(lines)


def from_a1111(text: str) -> GenerationRequest:
    """The request an A1111 text describes; model and sampler are taken as ids and may name nothing here."""
    lines = text.strip().split("\n")
    settings = _settings(lines[-1])
    if "Steps" not in settings:
        raise InvalidRequest("image", "A1111 parameters ending in a line with Steps, Seed and Size", lines[-1])
    prompt, _, negative = "\n".join(lines[:-1]).partition(NEGATIVE)
    width, height = _size(settings.get("Size", "512x512"))
    return GenerationRequest(
        prompt=prompt.strip(),
        negative_prompt=negative.strip(),
        model=settings.get("Model") or "tabletop",
        accelerator=settings.get("Sampler") or "dpmpp",
        accelerator_strength=_number("Accelerator strength", settings.get("Accelerator strength", "1")),
        steps=int(_number("Steps", settings["Steps"])),
        guidance=_guidance(settings),
        width=width,
        height=height,
        seed=int(_number("Seed", settings.get("Seed", "0"))),
    )


def _plain(number: float) -> str:
    """Without an exponent, which other readers do not expect."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:"\n]', value) else value


def _settings(line: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _SETTING.findall(line):
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value.strip('"')
        found[name.strip()] = value.strip()
    return found


def _guidance(settings: dict[str, str]) -> Guidance:
    for per in ("window", "step"):
        scales = settings.get(f"CFG per {per}")
        if scales:
            return Guidance(scales=tuple(_number(f"CFG per {per}", part) for part in scales.split("-")), per=per)
    return Guidance.of(_number("CFG scale", settings.get("CFG scale", "1")))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match:
        raise InvalidRequest("Size", "width x height, like 512x512", text)
    return int(match[1]), int(match[2])


def _number(name: str, text: str) -> float:
    if not re.fullmatch(r"-?\d{1,12}(\.\d{1,12})?", text):
        raise InvalidRequest(name, "a number", text)
    return float(text)
