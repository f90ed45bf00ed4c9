"""A grid as one picture: cells in rows and columns with labelled axes, and everything it was made of inside the PNG.

Shapes: RGB pictures of any sizes; a cell takes the largest. Sheets of a third axis stand below each other, each under
its own title. Knows no history and no files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from studio.comparing.grid import Axis, Grid

OWN_CHUNK = "perflow-studio-grid"
GAP = 4
MARGIN = 12
LINE_PIXELS = 18
LABEL_CHARACTERS = 60
EMPTY, INK, PAPER = (236, 232, 240), (30, 26, 38), (255, 255, 255)
SMALLEST_CELL = 96
MAX_SHEET_PIXELS = 64_000_000


def compose(grid: Grid, pictures: Mapping[int, Image.Image]) -> Image.Image:
    """The sheet; cells without a picture stay pale. Shrinks its cells where all of them would exceed 64 megapixels."""
    columns, rows, sheets = grid.shape
    width, height = _cell_size(grid, pictures)
    font = ImageFont.load_default(size=LINE_PIXELS - 4)
    left = MARGIN + _widest(grid.y, font)
    top = MARGIN + LINE_PIXELS * (2 if grid.z is None else 3)
    sheet_height = top + rows * (height + GAP) + MARGIN
    picture = Image.new("RGB", (left + columns * (width + GAP) + MARGIN, sheets * sheet_height), PAPER)
    paint = ImageDraw.Draw(picture)
    for sheet in range(sheets):
        _label_sheet(paint, grid, sheet, (left, sheet * sheet_height + MARGIN), (width, height), font, top - MARGIN)
    for cell, (column, row, sheet) in enumerate(grid.places()):
        corner = (left + column * (width + GAP), sheet * sheet_height + top + row * (height + GAP))
        if cell in pictures:
            picture.paste(_fitted(pictures[cell], (width, height)), corner)
        else:
            paint.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), fill=EMPTY)
    return picture


def encode(sheet: Image.Image, grid: Grid, requests: Mapping[int, Mapping[str, Any]]) -> bytes:
    """PNG with the grid and each drawn cell's request as our JSON."""
    notes = {"version": 1, "grid": grid.to_json(), "cells": {str(cell): dict(each) for cell, each in requests.items()}}
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(OWN_CHUNK, json.dumps(notes, ensure_ascii=False))
    file = io.BytesIO()
    sheet.save(file, format="PNG", pnginfo=chunks)
    return file.getvalue()


def _cell_size(grid: Grid, pictures: Mapping[int, Image.Image]) -> tuple[int, int]:
    width = max((each.width for each in pictures.values()), default=SMALLEST_CELL)
    height = max((each.height for each in pictures.values()), default=SMALLEST_CELL)
    scale = min(1.0, (MAX_SHEET_PIXELS / (grid.num_cells * width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    shown = Image.new("RGB", size, EMPTY)
    small = picture.copy()
    small.thumbnail(size)
    shown.paste(small, ((size[0] - small.width) // 2, (size[1] - small.height) // 2))
    return shown


def _widest(axis: Axis | None, font: Any) -> int:
    if axis is None:
        return 0
    words = [axis.title, *(_short(axis, index) for index in range(len(axis.values)))]
    return int(max(font.getlength(each) for each in words)) + MARGIN


def _short(axis: Axis, index: int) -> str:
    label = " ".join(axis.label(index).split())
    return label if len(label) <= LABEL_CHARACTERS else label[: LABEL_CHARACTERS - 1] + "…"


def _label_sheet(
    paint: ImageDraw.ImageDraw, grid: Grid, sheet: int, corner: tuple[int, int], cell: tuple[int, int], font: Any,
    head: int,
) -> None:  # fmt: skip
    """The names of a sheet's axes and values, around its cells."""
    left, top = corner
    if grid.z is not None:
        paint.text((left, top), f"{grid.z.title}: {_short(grid.z, sheet)}", fill=INK, font=font)
        top += LINE_PIXELS
    paint.text((left, top), grid.x.title, fill=INK, font=font)
    for column in range(len(grid.x.values)):
        words = _cut(_short(grid.x, column), cell[0], font)
        paint.text((left + column * (cell[0] + GAP), top + LINE_PIXELS), words, fill=INK, font=font)
    if grid.y is None:
        return
    paint.text((MARGIN, top + LINE_PIXELS), grid.y.title, fill=INK, font=font)
    below = corner[1] + head
    for row in range(len(grid.y.values)):
        middle = below + row * (cell[1] + GAP) + cell[1] // 2 - LINE_PIXELS // 2
        paint.text((MARGIN, middle), _short(grid.y, row), fill=INK, font=font)


def _cut(words: str, width: int, font: Any) -> str:
    """As much as fits over a column."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"
