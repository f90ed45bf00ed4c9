"""What is told of one image while it is drawn: its steps, its previews, its tiles. It does not know how it is drawn."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from studio.engine.stream import Emit
from studio.types import GenerationEvent, StepDone, StepPlan, StepPreview


class Lens:
    """The steps of one image as events; `is_seen` is false where nobody wants pictures of them."""

    def __init__(
        self, plan: StepPlan, emit: Emit[GenerationEvent], *, image_index: int = 0, num_images: int = 1,
        is_seen: bool = True,
    ) -> None:  # fmt: skip
        self._plan, self._emit, self._is_seen = plan, emit, is_seen
        self._index, self._num_images = image_index, num_images
        self.previews: list[StepPreview] = []

    def show(self, step: int, seconds: float, image: Image.Image | None) -> None:
        """A step of the picture."""
        done = self._done(step, seconds)
        if image is None:
            self._emit(done)
            return
        preview = StepPreview(**vars(done), image=image)
        self.previews.append(preview)
        self._emit(preview)

    def tell(self, tile: int, num_tiles: int, step: int, seconds: float, image: Image.Image | None) -> None:
        """A step of one of its tiles, and after the last one the picture so far."""
        done = replace(self._done(step, seconds), tile=tile, num_tiles=num_tiles)
        self._emit(StepPreview(**vars(done), image=image) if image is not None and self._is_seen else done)

    def _done(self, step: int, seconds: float) -> StepDone:
        plan = self._plan
        return StepDone(
            image_index=self._index,
            num_images=self._num_images,
            step=step,
            num_steps=len(plan.timesteps),
            timestep=plan.timesteps[step - 1],
            window=plan.windows[step - 1],
            num_time_windows=plan.num_time_windows,
            guidance=plan.guidance[step - 1],
            seconds=seconds,
        )
