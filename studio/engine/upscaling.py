"""An enlarged picture, refined tile by tile; and the seams of a finished one, redone.

    small picture -> Lanczos -> per tile: encode, noise, guided steps (meeting its neighbours), decode -> one canvas

Each tile goes through `drawing.draw`, the loop of every picture: image-to-image whose latents are joined after each
step (`tiled_latents`). Autoencoder and networks only ever see a tile and a little of its surroundings; the canvas lies
in the machine's memory as pixels, and fills while tiles finish. Whoever has had enough keeps the tiles that are done.
A seam is redone by inpainting: a tile with the seam in its middle, a band along it masked, kept only where that helped.
It does not know models, files or events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFilter

from studio.conditions import InitialImage, Upscale
from studio.engine.beginning import begin, encode
from studio.engine.device import free_memory_bytes, or_out_of_memory
from studio.engine.drawing import SMALLER, Drawn, Order, decode_or_tile, draw
from studio.engine.tiled_latents import JoinedTile, TiledLatents, share_noise
from studio.errors import OutOfMemory
from studio.types import Enough, GenerationRequest, UpscaleReport
from studio.upscaling.enlarged import Enlarged
from studio.upscaling.measures import SHOWN_SIDE_PIXELS, Seam, fidelity, find_seams, seam_at
from studio.upscaling.tiles import Grid, Tile, lay

CONTEXT_PIXELS = 32
NOT_HELD = "No tile ControlNet held the tiles: they were drawn on from the enlarged picture alone."

Tell = Callable[[int, int, int, float, Image.Image | None], None]


class _HadEnough(Exception):
    """Leaves the loop in the middle of a tile. Never leaves this module."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """One enlargement, ready to be drawn: `order` is that of a tile, `mended` the picture whose seams are redone.

    `tell(tile, num_tiles, step, seconds, image)` hears of every step, and gets the canvas so far, small, after the last
    of each tile.
    """

    pipe: Any
    make_sampler: Callable[[], Any]
    order: Order
    first_step: int
    upscale: Upscale
    enlarged: Enlarged
    grid: Grid
    tell: Tell
    enough: Enough
    mended: Image.Image | None = None

    @property
    def num_steps(self) -> int:
        """The steps of one tile."""
        return len(self.order.plan.timesteps)


def grid_of(upscale: Upscale, size: tuple[int, int]) -> Grid:
    """The tiles of an enlargement to `size`."""
    return lay(*size, upscale.tile, upscale.overlap)


def num_canvas_bytes(request: GenerationRequest) -> int:
    """The machine's memory that grows with an enlargement: two pictures at 4 bytes a pixel, and latents per step."""
    num_pixels, num_steps = request.width * request.height, request.steps - request.first_step
    return num_pixels * 2 * 4 + num_pixels // 64 * 4 * 4 * (num_steps + 1)


def check_memory(request: GenerationRequest) -> None:
    """Refuse, before any work, a picture for which the machine has no memory. Raises `OutOfMemory`."""
    needed, free = num_canvas_bytes(request), free_memory_bytes(torch.device("cpu"))
    if needed > free:
        raise OutOfMemory(
            f"{request.width} x {request.height} pixels need {needed / 1e9:.1f} GB of this machine's memory, and "
            f"{free / 1e9:.1f} GB are free: choose a smaller factor."
        )


def upscale_picture(work: Work) -> tuple[Drawn, UpscaleReport] | None:
    """The refined picture, what it cost, and how it measures; nothing where no tile was done. Raises `OutOfMemory`."""
    made = _refine(work) if work.mended is None else _mend(work, work.mended)
    if made is None:
        return None
    drawn, num_tiles, num_refined, before = made
    seams = find_seams(drawn.image, work.enlarged, work.grid)
    return drawn, UpscaleReport(
        num_tiles=num_tiles,
        num_refined=num_refined,
        seam_ratio=seams.ratio,
        worst_seam=seams.worst,
        psnr=fidelity(drawn.image, work.enlarged.source),
        seam_ratio_before=before,
    )


# --- all tiles --------------------------------------------------------------------------------------------------------


def _refine(work: Work) -> tuple[Drawn, int, int, None] | None:
    vae_scale, channels = work.pipe.vae_scale_factor, work.pipe.unet.config.in_channels
    latents = TiledLatents(work.grid.canvas, channels, vae_scale, work.order.seed)
    canvas = _Canvas(work.enlarged.whole())
    total, done = Drawn(image=canvas.image), list[Tile]()
    for tile in work.grid.tiles():
        number = len(done) + 1
        try:
            drawn = _draw_tile(work, latents, tile, _teller(work, number, len(work.grid)))
        except _HadEnough:
            break
        image, note = _decode(work.pipe.vae, latents, tile, work.order.prompt.embeds.device)
        canvas.lay_on(image, tile)
        done.append(tile)
        _add(total, drawn, [note] if note else [])
        work.tell(number, len(work.grid), work.num_steps, drawn.seconds_steps[-1], canvas.small)
    if len(done) < len(work.grid):
        total.image = _fade_out(canvas.image, work, done)
        total.warnings.append(
            f"Stopped early: {len(done)} of {len(work.grid)} tiles were refined, the rest is merely enlarged."
        )
    return (total, len(work.grid), len(done), None) if done else None


def _draw_tile(work: Work, latents: TiledLatents, tile: Tile, show: Any) -> Drawn:
    """One tile with all its steps, joined to its neighbours; its latents stay on the canvases."""
    if work.enough():
        raise _HadEnough
    device = work.order.prompt.embeds.device
    sampler = work.make_sampler()
    share_noise(sampler, tile, latents)
    beginning = JoinedTile(
        latents=_encode(work, tile, device),
        first_step=work.first_step,
        picture=work.enlarged.piece(tile.box),
        tile=tile,
        latents_of_all=latents,
    )
    conditions = work.order.conditions.of_tile(beginning, _followed(work, tile))
    order = replace(work.order, conditions=conditions, noise=latents.noise(tile).to(device), is_decoded=False)
    return draw(work.pipe, sampler, order, None, show)


def _encode(work: Work, tile: Tile, device: torch.device) -> torch.Tensor:
    """The latents of a tile of the enlarged picture, read with some of what surrounds it."""
    width, height = work.grid.canvas
    left, top, right, bottom = tile.box
    before = min(left, CONTEXT_PIXELS), min(top, CONTEXT_PIXELS)
    box = left - before[0], top - before[1], min(right + CONTEXT_PIXELS, width), min(bottom + CONTEXT_PIXELS, height)
    piece = work.enlarged.piece(box)
    wide = or_out_of_memory("reading a tile", SMALLER, lambda: encode(work.pipe.vae, piece, device))
    scale = work.pipe.vae_scale_factor
    x, y, side = before[0] // scale, before[1] // scale, tile.side // scale
    return wide[:, :, y : y + side, x : x + side]


def _decode(vae: Any, latents: TiledLatents, tile: Tile, device: torch.device) -> tuple[Image.Image, str | None]:
    """A finished tile as pixels, decoded with some of its neighbours at its left and its top."""
    left, top, right, bottom = tile.box
    before = min(left, CONTEXT_PIXELS), min(top, CONTEXT_PIXELS)
    clean = latents.clean((left - before[0], top - before[1], right, bottom)).to(device)
    image, note = decode_or_tile(vae, clean)
    return image.crop((*before, before[0] + tile.side, before[1] + tile.side)), note


def _fade_out(picture: Image.Image, work: Work, done: list[Tile]) -> Image.Image:
    """Where refined tiles end before the picture does, they fade into what is merely enlarged."""
    mask = Image.new("L", picture.size)
    paint = ImageDraw.Draw(mask)
    for tile in done:
        left, top, right, bottom = tile.box
        paint.rectangle((left, top, right - 1, bottom - 1), fill=255)
    soft = mask.filter(ImageFilter.BoxBlur(work.upscale.overlap / 2)).point([max(0, 2 * v - 255) for v in range(256)])
    return Image.composite(picture, work.enlarged.whole(), soft)


# --- seams only -------------------------------------------------------------------------------------------------------


def _mend(work: Work, picture: Image.Image) -> tuple[Drawn, int, int, float] | None:
    seams = find_seams(picture, work.enlarged, work.grid)
    shown = seams.above(work.upscale.threshold)
    canvas = _Canvas(picture.copy())
    total, num_better, num_done = Drawn(image=canvas.image), 0, 0
    for seam in shown:
        try:
            drawn = _redraw(work, canvas.image, seam, num_done + 1, len(shown))
        except _HadEnough:
            break
        num_done += 1
        num_better += _put_if_better(work, canvas, drawn.image, seam)
        _add(total, drawn, drawn.warnings)
        work.tell(num_done, len(shown), work.num_steps, drawn.seconds_steps[-1], canvas.small)
    total.image = canvas.image
    if num_done < len(shown):
        total.warnings.append(f"Stopped early: {num_done} of {len(shown)} seams were redone.")
    if num_better < num_done:
        total.warnings.append(f"{num_done - num_better} of {num_done} stay as they were: redoing made them no better.")
    return (total, len(shown), num_better, seams.ratio) if num_done else None


def _redraw(work: Work, picture: Image.Image, seam: Seam, number: int, count: int) -> Drawn:
    """A tile with the seam in its middle, drawn anew in a band along it."""
    if work.enough():
        raise _HadEnough
    tile = work.grid.tile_on(seam.line)
    initial = InitialImage(image=work.upscale.image, strength=work.upscale.creativity)
    beginning = or_out_of_memory(
        "reading a tile", SMALLER,
        lambda: begin(
            work.pipe.vae, initial, Enlarged(source=picture, factor=1).piece(tile.box), _band(work, seam, tile),
            size=(tile.side, tile.side), first_step=work.first_step, device=work.order.prompt.embeds.device,
        ),
    )  # fmt: skip
    conditions = work.order.conditions.of_tile(beginning, _followed(work, tile))
    order = replace(work.order, conditions=conditions, seed=work.order.seed + number)
    return draw(work.pipe, work.make_sampler(), order, None, _teller(work, number, count))


def _band(work: Work, seam: Seam, tile: Tile) -> Image.Image:
    """The mask of a seam within its tile: as wide as an overlap."""
    line, reach = seam.line, work.upscale.overlap // 2
    box = (line.at - reach, line.start, line.at + reach, line.stop)
    if not line.is_vertical:
        box = (line.start, line.at - reach, line.stop, line.at + reach)
    left, top, right, bottom = box
    mask = Image.new("L", (tile.side, tile.side))
    mask.paste(255, (left - tile.left, top - tile.top, right - tile.left, bottom - tile.top))
    return mask


def _put_if_better(work: Work, canvas: _Canvas, image: Image.Image, seam: Seam) -> bool:
    tile = work.grid.tile_on(seam.line)
    before = canvas.image.crop(tile.box), seam_at(canvas.image, work.enlarged, seam.line).ratio
    canvas.lay_on(image, tile)
    if seam_at(canvas.image, work.enlarged, seam.line).ratio < before[1]:
        return True
    canvas.lay_on(before[0], tile)
    return False


# --- both -------------------------------------------------------------------------------------------------------------


class _Canvas:
    """The picture as it is so far, and the same small, for whoever looks on."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._scale = min(1.0, SHOWN_SIDE_PIXELS / max(image.size))
        width, height = (max(1, round(side * self._scale)) for side in image.size)
        self._small = image.resize((width, height), Image.Resampling.BILINEAR)

    def lay_on(self, image: Image.Image, tile: Tile) -> None:
        """Put a tile in its place, faded in over its neighbours; what hangs over the edge is cut."""
        mask = Image.fromarray((tile.weights() * 255).round().astype("uint8"))
        self.image.paste(image, (tile.left, tile.top), mask)
        left, top, right, bottom = (round(edge * self._scale) for edge in tile.box)
        size = max(1, right - left), max(1, bottom - top)
        self._small.paste(image.resize(size), (left, top), mask.resize(size))

    @property
    def small(self) -> Image.Image:
        """A copy of at most 1024 pixels a side."""
        return self._small.copy()


def _followed(work: Work, tile: Tile) -> dict[str, Any]:
    """What the tile ControlNet reads, where there is one: the tile as it is merely enlarged."""
    if work.order.conditions.control is None:
        return {}
    return {
        "image": work.enlarged.piece(tile.box),
        "controlnet_conditioning_scale": float(work.upscale.weight),
        "control_guidance_start": 0.0,
        "control_guidance_end": 1.0,
    }


def _teller(work: Work, number: int, count: int) -> Callable[[int, float, Image.Image | None], None]:
    """What `draw` calls after each step of a tile; the last one is told once the tile is on the canvas."""

    def show(step: int, seconds: float, _image: Image.Image | None) -> None:
        if step < work.num_steps:
            if work.enough():
                raise _HadEnough
            work.tell(number, count, step, seconds, None)

    return show


def _add(total: Drawn, drawn: Drawn, warnings: list[str]) -> None:
    """Costs of a tile on top of the others', step by step, so that a receipt stays short."""
    before = total.seconds_steps or [0.0] * len(drawn.seconds_steps)
    total.seconds_steps = [a + b for a, b in zip(before, drawn.seconds_steps, strict=True)]
    total.seconds_decode += drawn.seconds_decode
    total.num_network_calls += drawn.num_network_calls
    total.warnings += [each for each in warnings if each not in total.warnings]
