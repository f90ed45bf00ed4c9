"""The picture given: its object cut out, recentred and scaled on white, as Wonder3D was trained to see it.

Ways to find the background, tried in this order: the picture's own transparency, one plain colour all around, GrabCut
(OpenCV, where it is installed). Everything that was found is shown before it is used, and each way it can fail has its
sentence. This module does not know what becomes of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from studio.conditions import Background, check_background
from studio.errors import InvalidRequest

WORKING_SIDE_PIXELS = 512
FILLED_SHARE = 0.75  # of the square's side, by the longer side of the object: 192 of 256, as published
PLAIN_TOLERANCE = 0.10
PLAIN_BORDER_SHARE = 0.95
MIN_AREA, MAX_AREA = 0.004, 0.97
GRABCUT_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A square picture of the object on white, how it was found, and what to know about it."""

    image: Image.Image
    way: Background
    notes: tuple[str, ...] = ()


def prepare(image: Image.Image, size: int, way: str = "auto") -> Prepared:
    """Cut out, recentre, scale. Raises `InvalidRequest` with the field `image` where no object is found."""
    check_background(way)
    picture = _working_copy(image)
    pixels = np.asarray(picture, dtype=np.float32) / 255
    found, mask = _object(pixels, way)
    mask = _without_specks(mask > 0.5) * mask
    _check(mask)
    notes = []
    if _touches_border(mask):
        notes.append("The object reaches the edge of the picture: what lies beyond it has to be guessed.")
    return Prepared(image=framed(pixels[..., :3], mask, size), way=found, notes=tuple(notes))


def framed(pixels: np.ndarray, mask: np.ndarray, size: int) -> Image.Image:
    """The object of `[H, W, 3]` pixels under a soft `[H, W]` mask, centred on white; its longer side fills 3/4."""
    rows, columns = np.nonzero(mask > 0.02)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    levels = np.concatenate([pixels, mask[..., None]], axis=-1)[top:bottom, left:right]
    cut = Image.fromarray((levels * 255).round().astype(np.uint8), "RGBA")
    scale = FILLED_SHARE * size / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), "white")
    square.paste(cut, ((size - cut.width) // 2, (size - cut.height) // 2), cut)
    return square


def _working_copy(image: Image.Image) -> Image.Image:
    """RGBA, at most 512 pixels a side; sixteen bits and palettes are brought to eight and to colours."""
    if min(image.size) < 16:
        raise InvalidRequest("image", "a picture of at least 16 x 16 pixels", f"{image.width} x {image.height}")
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image, dtype=np.float64)
        span = max(float(levels.max() - levels.min()), 1e-9)
        image = Image.fromarray(((levels - levels.min()) / span * 255).astype(np.uint8))
    picture = image.convert("RGBA")
    picture.thumbnail((WORKING_SIDE_PIXELS, WORKING_SIDE_PIXELS), Image.Resampling.LANCZOS)
    if min(picture.size) < 8:
        raise InvalidRequest("image", "a picture at most 64 times as long as wide", f"{image.width} x {image.height}")
    return picture


def _object(pixels: np.ndarray, way: str) -> tuple[Background, np.ndarray]:
    alpha = pixels[..., 3]
    if way == "alpha" or (way == "auto" and float(alpha.min()) < 0.5):
        return "alpha", alpha
    if way in ("auto", "plain"):
        mask, share = _plain(pixels[..., :3])
        if way == "plain" or share >= PLAIN_BORDER_SHARE:
            return "plain", mask
    return "grabcut", _grabcut(pixels[..., :3])


def _plain(rgb: np.ndarray) -> tuple[np.ndarray, float]:
    """What differs from the border's usual colour or is not joined to the border; the border's share of that colour."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    usual = np.median(border, axis=0)
    alike = np.abs(rgb - usual).max(axis=-1) < PLAIN_TOLERANCE
    regions, _ = ndimage.label(alike)  # pyright: ignore[reportGeneralTypeIssues]
    edge = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    outside = np.isin(regions, edge[edge > 0])
    share = float((np.abs(border - usual).max(axis=-1) < PLAIN_TOLERANCE).mean())
    return (~outside).astype(np.float32), share


def _grabcut(rgb: np.ndarray) -> np.ndarray:
    """OpenCV's GrabCut from a rectangle a little inside the picture, the middle taken for object."""
    try:
        import cv2
    except ImportError as error:
        raise InvalidRequest(
            "image", "an object on one plain colour, or a transparent background (OpenCV, which finds others, is not "
            "installed)", "a varied background",
        ) from error  # fmt: skip
    height, width = rgb.shape[:2]
    marks = np.full((height, width), cv2.GC_BGD, np.uint8)
    edge_y, edge_x = max(1, height // 25), max(1, width // 25)
    marks[edge_y:-edge_y, edge_x:-edge_x] = cv2.GC_PR_BGD
    marks[height // 6 : -(height // 6), width // 6 : -(width // 6)] = cv2.GC_PR_FGD
    levels = np.ascontiguousarray((rgb[..., ::-1] * 255).round().astype(np.uint8))
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.setRNGSeed(0)
        whole = (0, 0, width, height)  # asked for, and not used where marks are given
        cv2.grabCut(levels, marks, whole, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error as error:
        raise _nothing_found() from error
    return np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """The largest piece, and others of at least a twentieth of it."""
    regions, count = ndimage.label(mask, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    if count == 0:
        return mask
    areas = np.bincount(regions.ravel())
    areas[0] = 0
    return (areas >= areas.max() / 20)[regions]


def _check(mask: np.ndarray) -> None:
    area = float((mask > 0.5).mean())
    if area < MIN_AREA:
        raise _nothing_found()
    if area > MAX_AREA:
        raise InvalidRequest(
            "image", "an object with some background around it (the whole picture looks like one object)",
            f"an object over {area:.0%} of the picture",
        )  # fmt: skip


def _nothing_found() -> InvalidRequest:
    return InvalidRequest(
        "image", "one object that stands out: on a plain colour, or cut out with a transparent background",
        "no object found",
    )  # fmt: skip


def _touches_border(mask: np.ndarray) -> bool:
    solid = mask > 0.5
    return any(float(edge.mean()) > 0.02 for edge in (solid[0], solid[-1], solid[:, 0], solid[:, -1]))
